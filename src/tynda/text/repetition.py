"""Texts that say the same again and again, as recognisers and language models do when they fail."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["is_repetitive"]

_PHRASE = 4
"""The maximum number of words of a phrase that is repeated."""
_TIMES = 4
_LONG = 8
"""Words of a text from which on half of its pairs have to be different."""


def is_repetitive(words: Sequence[str]) -> bool:
    """Return whether a phrase of up to 4 words comes 4 times in a row, or most pairs of words of a
    longer text come more than once."""
    for size in range(1, _PHRASE + 1):
        run = 0
        for i in range(size, len(words)):
            run = run + 1 if words[i] == words[i - size] else 0
            if run >= size * (_TIMES - 1):
                return True
    pairs = list(itertools.pairwise(words))
    return len(words) >= _LONG and len(set(pairs)) < len(pairs) / 2
