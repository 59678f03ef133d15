"""The edges of words in the audio, near the times at which a model finds their letters.

A CTC model writes a letter in one frame within the sound, and attention is broad. Where a word
begins and ends is seen in the energy: at the edge of a pause, or else where the energy between two
words is lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tynda.heads.base import AlignedWord
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["refine"]

Floats = NDArray[np.float32]

_RATE = 200
"""Frames of energy in a second."""
_FRAME = SAMPLE_RATE // 50
_OUTSIDE: Final = 1.5
"""Seconds before the first and after the last letter in which a word may begin and end."""
_AROUND: Final = 0.3
"""Seconds on either side of a gap whose loudest frames are the level of the speech."""
_REACH: Final = 0.04
"""Seconds by which a letter may be found outside of its sound: a frame of a model."""
_BELOW: Final = 30.0
"""Decibels below the level of the speech at which a pause begins."""
_ABOVE: Final = 6.0
"""Decibels above the faintest frame up to which a noisy pause is one."""
_PAUSE: Final = 0.06
"""The minimum of a pause in seconds: the closure of a plosive is shorter."""
_LONG_PAUSE: Final = 0.25
"""The minimum of a pause that corrects a time found by attention, which counts pauses to words."""
_INSIDE: Final = 0.2
"""Seconds around the time between two words by attention within which a pause begins or ends, and
which remain of each word."""


def refine(samples: Floats, words: Sequence[AlignedWord]) -> list[AlignedWord]:
    """Return words with the edges that the audio shows; ``samples [n]`` are float32 at 16 kHz.

    Letters of a word follow each other without a gap, as is usual in Praat.
    """
    if not words:
        return []
    level, seconds = _level(samples), len(samples) / SAMPLE_RATE
    first, last = words[0], words[-1]
    before = max(0.0, _first(first) - _OUTSIDE)
    after = min(seconds, _last(last) + _OUTSIDE)
    edges = [_edges(level, before, _first(first), first.start, first.start, bool(first.letters))[1]]
    for a, b in pairwise(words):
        edges += _edges(level, _last(a), _first(b), a.end, b.start, bool(a.letters))
    edges.append(_edges(level, _last(last), after, last.end, last.end, bool(last.letters))[0])
    return [
        _placed(word, min(start, seconds), min(max(start, end), seconds))
        for word, start, end in zip(words, edges[::2], edges[1::2], strict=True)
    ]


def _first(word: AlignedWord) -> float:
    """Return a time that is certainly within the beginning of a word, or in what follows it."""
    if word.letters:
        return _middle(word.letters[0])
    return word.end - min(_INSIDE, (word.end - word.start) / 2)


def _last(word: AlignedWord) -> float:
    """Return a time that is certainly within the end of a word, or in what precedes it."""
    if word.letters:
        return _middle(word.letters[-1])
    return word.start + min(_INSIDE, (word.end - word.start) / 2)


def _middle(letter: AlignedWord) -> float:
    return (letter.start + letter.end) / 2


def _edges(
    level: Floats, start: float, end: float, left: float, right: float, by_letters: bool
) -> tuple[float, float]:
    """Return the edges of the words on both sides of a gap; ``left`` and ``right`` are those of the
    model, which stay where attention found them, unless there is a long pause."""
    if by_letters:
        return _gap(level, start, end, _PAUSE)
    a, b = _gap(level, start, end, _LONG_PAUSE)
    is_there = b > a and a <= right + _INSIDE and b >= left - _INSIDE
    return (a, b) if is_there else (left, right)


def _gap(level: Floats, start: float, end: float, pause: float) -> tuple[float, float]:
    """Return where the sound before a gap ends, and where that after it begins, in seconds.

    The gap lies between ``start`` and ``end``. Without a ``pause`` of so many seconds, both are
    the point with the least energy.
    """
    low, high = round((start - _REACH) * _RATE), round((end + _REACH) * _RATE)
    low, high = max(0, low), min(max(high, low + 1), len(level))
    around = level[max(0, low - round(_AROUND * _RATE)) : high + round(_AROUND * _RATE)]
    inside = level[low:high]
    if not len(inside):
        return start, start
    speech, floor = float(np.percentile(around, 95)), float(inside.min())
    is_quiet = inside < max(speech - _BELOW, min(floor + _ABOVE, speech - _ABOVE))
    bounds = np.flatnonzero(np.diff(np.r_[False, is_quiet, False]))
    runs = bounds.reshape(-1, 2)
    if len(runs):
        a, b = runs[(runs[:, 1] - runs[:, 0]).argmax()]
        if b - a >= pause * _RATE:
            return float(low + a) / _RATE, float(low + b) / _RATE
    at = float(low + inside.argmin()) / _RATE
    return at, at


def _placed(word: AlignedWord, start: float, end: float) -> AlignedWord:
    """Return a word between two times, with its letters between them."""
    if not word.letters:
        return replace(word, start=start, end=end)
    between = [(a.end + b.start) / 2 for a, b in pairwise(word.letters)]
    bounds = [start, *(min(max(at, start), end) for at in between), end]
    letters = [
        replace(letter, start=a, end=b)
        for letter, a, b in zip(word.letters, bounds, bounds[1:], strict=False)
    ]
    return replace(word, start=start, end=end, letters=tuple(letters))


def _level(samples: Floats) -> Floats:
    """Return the level in decibels of the 20 ms around each 5 ms ``[frames]``."""
    hop = SAMPLE_RATE // _RATE
    padded = np.pad(samples.astype(np.float64) ** 2, (_FRAME // 2, _FRAME // 2 + hop))
    total = np.concatenate([[0.0], np.cumsum(padded)])
    at = np.arange(0, len(samples) + 1, hop)
    power = (total[at + _FRAME] - total[at]) / _FRAME
    levels: Floats = (10 * np.log10(np.maximum(power, 1e-10))).astype(np.float32)
    return levels
