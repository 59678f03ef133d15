"""Splits recordings at quiet points, and detects speech.

`split` uses energy alone: nothing is dropped, and every sample is in exactly one piece. `speech`
uses a neural network, Silero VAD (``sound.silero``), and `SpeechDetector` does so as the recording
comes.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.sound import silero

__all__ = ["Spans", "SpeechDetector", "speech", "split"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE * 30 // 1000
# Frames of the moving average (0.3 s): as long as a pause between words, longer than the closure
# of a "t".
SMOOTHED = 10
CHUNK = silero.CHUNK
_SECONDS = CHUNK / SAMPLE_RATE


def split(
    blocks: Iterable[Floats], max_seconds: float = 8.0, min_seconds: float = 3.0
) -> Iterator[tuple[float, Floats]]:
    """Cut a recording, given as blocks float32 `[any length]` at 16 kHz, into pieces.

    Yields `(start, samples)`: the start in seconds, and the samples, float32 `[n]`, of at
    most `max_seconds`. Each cut is where the energy, averaged over 0.3 s, is lowest between
    `min_seconds` and `max_seconds` after the previous cut, so that words stay whole. A
    recording of at most `max_seconds` is one piece; the last piece may be shorter than
    `min_seconds`; no samples give no piece. The concatenated pieces equal the input. At most
    `max_seconds` and one block are held in memory.

    Raises ValueError unless 0 < min_seconds <= max_seconds.
    """
    if not 0 < min_seconds <= max_seconds:
        raise ValueError(
            f"0 < min_seconds <= max_seconds must hold, not {min_seconds} and {max_seconds}"
        )
    max_samples = max(1, int(max_seconds * SAMPLE_RATE))
    min_samples = max(1, int(min_seconds * SAMPLE_RATE))
    start = 0
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        # Another piece follows only if there is at least one sample more than the maximum.
        while len(waiting) > max_samples:
            cut = _quietest(waiting[:max_samples], min_samples)
            yield start / SAMPLE_RATE, waiting[:cut]
            start, waiting = start + cut, waiting[cut:]
    if len(waiting):
        yield start / SAMPLE_RATE, waiting


def speech(samples: Floats, **settings: float) -> list[tuple[float, float]]:
    """Return start and end, in seconds, of each span of speech in ``samples [n]`` at 16 kHz.

    ``settings`` are those of `Spans`.
    """
    spans = Spans(**settings)
    found = [span for block in silero.probabilities([samples]) for span in spans.add(block)]
    return found + spans.finish(len(samples) / SAMPLE_RATE)


class SpeechDetector:
    """Detects the spans of speech in a recording that comes block by block."""

    def __init__(self, max_seconds: float = math.inf, **settings: float) -> None:
        """See `Spans` for ``max_seconds`` and ``settings``."""
        self._detector, self._samples = silero.Detector(), 0
        self._spans = Spans(max_seconds, **settings)

    def add(self, samples: Floats) -> list[tuple[float, float]]:
        """Return start and end, in seconds, of each span that ends in ``samples [n]``."""
        self._samples += len(samples)
        return self._spans.add(self._detector.add(samples))

    def finish(self) -> list[tuple[float, float]]:
        """Return the spans up to the end of the recording."""
        found = self._spans.add(self._detector.finish())
        return found + self._spans.finish(self._samples / SAMPLE_RATE)

    @property
    def settled(self) -> float:
        """Seconds before which none of the spans to come begins."""
        return self._spans.settled


class Spans:
    """Spans of speech from the probabilities of Silero VAD (Silero Team 2021), one for 32 ms.

    Speech starts where the probability reaches ``threshold`` and ends where it stays 0.15 below
    that for ``min_silence`` seconds. Spans shorter than ``min_speech`` seconds are dropped; the
    others are extended by ``pad`` seconds on both sides. A longer span than ``max_seconds`` comes
    in parts of this length, each as soon as it is known.
    """

    def __init__(
        self,
        max_seconds: float = math.inf,
        *,
        threshold: float = 0.5,
        min_silence: float = 0.5,
        min_speech: float = 0.1,
        pad: float = 0.2,
    ) -> None:
        self._max_seconds, self._threshold, self._pad = max_seconds, threshold, pad
        self._min_silence, self._min_speech = min_silence, min_speech
        self._chunks = 0  # number of probabilities up to now
        self._begin = self._quiet = -1  # indices of chunks; -1 means no speech, no silence
        self._part: float | None = None  # the beginning of the next part of a long span
        self._last: tuple[float, float] | None = None  # a span whose end the next one may change

    def add(self, probabilities: Iterable[Any]) -> list[tuple[float, float]]:
        """Return start and end, in seconds, of each span that is known after ``probabilities``."""
        found: list[tuple[float, float]] = []
        for p in map(float, probabilities):
            i, self._chunks = self._chunks, self._chunks + 1
            if p >= self._threshold:
                self._begin, self._quiet = (i if self._begin < 0 else self._begin), -1
                if (i + 1 - self._begin) * _SECONDS > self._max_seconds:
                    found += self._parts((i + 1) * _SECONDS)
            elif self._begin >= 0 and p < self._threshold - silero.HYSTERESIS:
                self._quiet = i if self._quiet < 0 else self._quiet
                if (i - self._quiet) * CHUNK >= self._min_silence * SAMPLE_RATE:
                    found += self._end()
        if self._last is not None and self._next_begin >= self._last[1]:
            found, self._last = [*found, self._last], None
        return found

    def finish(self, duration: float) -> list[tuple[float, float]]:
        """Return the last spans of a recording of ``duration`` seconds."""
        silence = round(self._min_silence * SAMPLE_RATE / CHUNK) + 1
        found = self.add([0.0] * silence)
        found, self._last = found + [span for span in (self._last,) if span], None
        return [(start, min(duration, end)) for start, end in found]

    @property
    def settled(self) -> float:
        """Seconds before which none of the spans to come begins."""
        return self._next_begin if self._last is None else self._last[0]

    @property
    def _next_begin(self) -> float:
        """Seconds before which no span begins that has not ended yet."""
        if self._part is not None:
            return self._part
        return (self._chunks if self._begin < 0 else self._begin) * _SECONDS - self._pad

    def _end(self) -> list[tuple[float, float]]:
        """End the span; return the one before it, which is known now."""
        begin, quiet, part = self._begin, self._quiet, self._part
        self._begin, self._quiet, self._part = -1, -1, None
        if part is None and (quiet - begin) * CHUNK < self._min_speech * SAMPLE_RATE:
            return []
        before, end = self._last, quiet * CHUNK / SAMPLE_RATE + self._pad
        start = max(0.0, begin * CHUNK / SAMPLE_RATE - self._pad) if part is None else part
        if before is not None and start < before[1]:  # split the silence between the two spans
            start = (start + before[1]) / 2
            before = before[0], start
        self._last = start, end
        return [] if before is None else [before]

    def _parts(self, spoken: float) -> list[tuple[float, float]]:
        """Return the whole parts of a long span, in which speech goes on at ``spoken`` seconds."""
        found = []
        if self._part is None:
            found = [span for span in (self._last,) if span]
            self._part = max(0.0, self._begin * CHUNK / SAMPLE_RATE - self._pad)
            if found:
                self._part = max(self._part, found[0][1])
        self._last = None
        while spoken - self._part > self._max_seconds:
            found.append((self._part, self._part + self._max_seconds))
            self._part += self._max_seconds
        return found


def _quietest(samples: Floats, min_samples: int) -> int:
    """Return where to cut `samples` `[n]`: the quietest point from `min_samples` to `n`."""
    window = samples[min_samples:]
    frames = len(window) // FRAME
    if frames == 0:
        return len(samples)
    energy = np.square(window[: frames * FRAME].reshape(frames, FRAME)).mean(axis=1)
    smoothed = np.convolve(energy, np.ones(min(SMOOTHED, frames)), "valid")
    # Find the quietest span; of equally quiet ones (digital silence) the last, for long pieces.
    quiet = len(smoothed) - 1 - int(smoothed[::-1].argmin())
    # Choose the quietest frame within it: a cut in the middle could hit the edge of a word.
    stretch = energy[quiet : quiet + SMOOTHED]
    lowest = np.flatnonzero(stretch == stretch.min())
    frame = quiet + int(lowest[len(lowest) // 2])
    return min_samples + frame * FRAME + FRAME // 2
