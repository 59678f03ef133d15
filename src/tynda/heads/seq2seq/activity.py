"""No words where nobody speaks: speech activity decides what is decoded and which text remains.

A decoder that was trained on subtitles writes text for noise and silence as well. Therefore a
window without speech is not encoded, a segment without speech is dropped, a window in which the
detector is unsure keeps only text of which the decoder is sure, and a phrase that is repeated over
and over is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.words import TimedSegment
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.silero import CHUNK, MIN_SPEECH, Detector

__all__ = [
    "LONG_SILENCE",
    "MARGIN",
    "Activity",
    "Evidence",
    "cut_repetitions",
    "without_repetitions",
]

Floats = NDArray[np.float32]

MARGIN = 0.5
"""Seconds by which a segment's times may be wrong, and by which skipped windows overlap."""
LONG_SILENCE = 2.0
"""Seconds of silence that do not belong to the segment that follows them."""
_CHUNKS_AT_ONCE = 1000
"""Chunks in which a part that is skipped is read: half a minute."""
_REPETITIONS = 3
"""Number of times from which on a phrase in a row is a repetition."""


class Evidence(Enum):
    """The evidence of speech in a stretch of a recording."""

    NONE = 0
    """Every probability is below half of the threshold."""
    DOUBTFUL = 1
    """Less than 0.13 s reach the threshold."""
    SPEECH = 2


class Activity:
    """Detects speech in a recording, only as far as it is asked for."""

    def __init__(self, samples: Callable[[int, int], Floats], threshold: float) -> None:
        """``samples(start, stop)`` returns samples ``[stop - start]`` at 16 kHz, or fewer at the
        end of the recording; no sample is asked for twice. ``threshold`` is a probability above
        0."""
        self._samples, self._threshold = samples, threshold
        self._detector = Detector()
        self._probabilities = np.zeros(0, np.float32)
        self._is_complete = False

    def evidence(self, start: float, end: float) -> Evidence:
        """Return what is found from ``start`` to ``end``, in seconds of the recording."""
        first, last = max(0, int(start * SAMPLE_RATE) // CHUNK), self._chunks(end)
        self._detect(last)
        found = self._probabilities[first : max(first, last)]
        if not (found >= self._threshold / 2).any():
            return Evidence.NONE
        enough = (found >= self._threshold).sum() >= MIN_SPEECH
        return Evidence.SPEECH if enough else Evidence.DOUBTFUL

    def skip(self, end: float) -> None:
        """Detect speech up to ``end``, in seconds, without holding more than a few samples."""
        last = self._chunks(end)
        while not self._is_complete and (done := len(self._probabilities)) < last:
            self._detect(min(done + _CHUNKS_AT_ONCE, last))

    def _chunks(self, end: float) -> int:
        """Return the number of chunks up to ``end`` seconds."""
        return max(0, -(-int(end * SAMPLE_RATE) // CHUNK))

    def _detect(self, last: int) -> None:
        """Find the probabilities of the chunks before ``last``, as far as there are any."""
        done = len(self._probabilities)
        if self._is_complete or last <= done:
            return
        samples = self._samples(done * CHUNK, last * CHUNK)
        found = self._detector.add(samples)
        self._is_complete = len(samples) < (last - done) * CHUNK
        if len(found) < -(-len(samples) // CHUNK):
            found = np.concatenate([found, self._detector.finish()])
        self._probabilities = np.concatenate([self._probabilities, found])

    def begin(self, start: float, end: float) -> float:
        """Return the time from ``start`` to ``end`` from which on there may be speech, in seconds:
        later than ``start`` only where silence of more than `LONG_SILENCE` precedes it."""
        first, last = max(0, int(start * SAMPLE_RATE) // CHUNK), self._chunks(end)
        self._detect(last)
        (speech,) = np.nonzero(self._probabilities[first:last] >= self._threshold / 2)
        if not len(speech):
            return start
        begin = (first + int(speech[0])) * CHUNK / SAMPLE_RATE
        return round(begin - MARGIN, 2) if begin - start > LONG_SILENCE else start

    def includes(self, start: float, end: float) -> bool:
        """Return whether there may be speech from ``start`` to ``end``, in seconds."""
        return self.evidence(start, end) is not Evidence.NONE


def cut_repetitions(found: Sequence[TimedSegment], tokenizer: Any) -> list[TimedSegment]:
    """Return the segments of a text that repeats itself, with each phrase in a row once.

    A phrase is one or more tokens, or the text of a segment; three in a row are a repetition.
    Timestamps stay.
    """
    segments = list[TimedSegment]()
    for segment in found:
        inner = [t for t in segment.tokens if t < tokenizer.eot]
        once = without_repetitions(inner)
        if once != inner:
            begin = segment.tokens[: segment.tokens.index(inner[0])]
            stamps = [t for t in segment.tokens[len(begin) :] if t >= tokenizer.eot]
            tokens = [*begin, *once, *stamps]
            segment = replace(segment, tokens=tokens, text=tokenizer.decode(tokens))
        segments.append(segment)
    texts = [segment.text for segment in segments]
    return [
        segment
        for i, segment in enumerate(segments)
        if not any(
            i > 0 and texts[i] == texts[i - 1] and len(set(texts[j : j + _REPETITIONS])) == 1
            for j in range(max(0, i - _REPETITIONS + 1), min(i, len(texts) - _REPETITIONS) + 1)
        )
    ]


def without_repetitions(tokens: list[int]) -> list[int]:
    """Return ``tokens`` where each sequence that comes three times or more in a row comes once."""
    for size in range(1, len(tokens) // _REPETITIONS + 1):
        i = 0
        while i + _REPETITIONS * size <= len(tokens):
            phrase, end = tokens[i : i + size], i + size
            while tokens[end : end + size] == phrase:
                end += size
            if end - i >= _REPETITIONS * size:
                tokens = tokens[: i + size] + tokens[end:]
            i += 1
    return tokens
