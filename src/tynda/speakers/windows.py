"""Embeds the speech of a recording in short windows, while the recording passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tynda.sound.tape import Tape
from tynda.sound.vad import SAMPLE_RATE, SpeechDetector

__all__ = ["WindowEmbedder", "Windows"]

Floats = NDArray[np.float32]

_SIZE, _HOP = 1.5, 0.25
"""Seconds of a window and between two of them. A shorter window has less of a voice, a longer one
more of the next speaker."""
_PAD = 0.1
"""Seconds before and after speech that belong to it."""
_MAX_SPAN = 30.0
"""Seconds after which a span of speech is cut, so that memory does not grow with it."""


@dataclass(frozen=True)
class Windows:
    """Windows of speech in the order of time, each with the part of the recording it stands for."""

    parts: NDArray[np.float64]
    """Start and end ``[windows, 2]`` of the parts, in seconds: those of one span of speech follow
    each other without gaps, cut in the middle between the centres of two windows."""
    voices: Floats
    """Embeddings ``[windows, size]``, of length 1."""
    overlaps: Floats
    """Probability ``[windows]`` that several people speak in the part."""


class WindowEmbedder:
    """Embeds the speech of one recording that comes block by block.

    Memory holds the samples of one span of speech, and an embedding for each quarter of a second
    of speech: 74 MB for ten hours and 128 numbers.
    """

    def __init__(
        self,
        embed: Callable[[Floats], Floats],
        size: int,
        overlap: Callable[[Floats], Floats] | None = None,
        min_silence: float = 0.5,
    ) -> None:
        """``embed`` gives the embedding ``[size]``, of length 1, of samples ``[n]`` at 16 kHz;
        ``overlap`` the probabilities ``[frames]`` that several people speak in them, which are 0
        without it; ``min_silence`` is that of `Spans`."""
        self._embed, self._size, self._overlap = embed, size, overlap
        self._detector = SpeechDetector(_MAX_SPAN, pad=_PAD, min_silence=min_silence)
        self._tape = Tape()
        self._parts: list[tuple[float, float]] = []
        self._voices: list[Floats] = []
        self._overlaps: list[float] = []

    def add(self, samples: Floats) -> None:
        """Continue with float32 samples ``[n]`` at 16 kHz."""
        self._tape.append(samples)
        self._embed_spans(self._detector.add(samples))
        self._tape.forget(_sample(self._detector.settled))

    def finish(self) -> Windows:
        """Return the windows of the whole recording, or since `take`; perhaps none."""
        self._embed_spans(self._detector.finish())
        return self.take()

    def take(self) -> Windows:
        """Return the windows of the speech that has ended, and forget them."""
        voices = np.array(self._voices, np.float32).reshape(-1, self._size)
        parts = np.array(self._parts, np.float64).reshape(-1, 2)
        overlaps = np.array(self._overlaps, np.float32)
        self._voices, self._parts, self._overlaps = [], [], []
        return Windows(parts, voices, overlaps)

    def _embed_spans(self, spans: Sequence[tuple[float, float]]) -> None:
        for start, end in spans:
            windows = _windows(start, end)
            centres = windows.mean(1)
            cuts = np.array([start, *(centres[:-1] + centres[1:]) / 2, end])
            self._overlaps += self._overlaps_of(cuts)
            for (first, last), part in zip(windows, pairwise(cuts), strict=True):
                samples = self._tape.read(_sample(first), _sample(last))
                self._voices.append(self._embed(samples))
                self._parts.append((float(part[0]), float(part[1])))

    def _overlaps_of(self, cuts: NDArray[np.float64]) -> list[float]:
        """Return the mean probability between each of ``cuts [n]``, in seconds, and the next; of
        each and its neighbours the median, since two people seldom speak at once for a moment."""
        if self._overlap is None:
            return [0.0] * (len(cuts) - 1)
        found = self._overlap(self._tape.read(_sample(cuts[0]), _sample(cuts[-1])))
        if not len(found):
            return [0.0] * (len(cuts) - 1)
        # Frames have one duration, and the last one may go beyond the end.
        frames = (cuts - cuts[0]) / (cuts[-1] - cuts[0]) * len(found)
        parts = zip(frames[:-1].astype(int), np.ceil(frames[1:]).astype(int), strict=True)
        means = np.pad([found[first:end].mean() for first, end in parts], 1, "edge")
        medians: list[float] = np.median([means[:-2], means[1:-1], means[2:]], axis=0).tolist()
        return medians


def _sample(seconds: float) -> int:
    """Return the nearest sample: sums of seconds are not exact."""
    return max(0, round(seconds * SAMPLE_RATE))


def _windows(start: float, end: float) -> NDArray[np.float64]:
    """Return start and end ``[n, 2]`` of the windows of a span; the last one ends with it."""
    count = max(1, int(np.ceil((end - start - _SIZE) / _HOP)) + 1)
    last = max(start, end - _SIZE)
    starts = np.minimum(start + _HOP * np.arange(count), last)
    return np.stack([starts, np.minimum(starts + _SIZE, end)], 1)
