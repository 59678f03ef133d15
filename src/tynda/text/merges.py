"""The merges of a byte pair encoding, from the order of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ordered_merges"]

_MAX_LENGTH = 256
"""Longer pieces are not merged: the search takes quadratic time, and GPT-2's longest has 128."""


def ordered_merges(names: Sequence[str]) -> NDArray[np.int32]:
    """Return the pairs of tokens ``[merges, 2]``, in the order in which they are merged.

    ``names`` are the pieces, indexed by token; an unused token has an empty name. Tokens must be
    numbered in the order of their merges, as those of GPT-2 are (Sennrich et al. 2016, "Neural
    Machine Translation of Rare Words with Subword Units", section 3.2). A piece is then what the
    merges before its own leave in two parts. A piece of which more than two are left has no merge.
    """
    known = {name: token for token, name in enumerate(names) if name}
    merges = []
    for name, token in known.items():
        if 1 < len(name) <= _MAX_LENGTH:
            parts = _split(name, token, known)
            if len(parts) == 2:
                merges.append([known.get(part, -1) for part in parts])
    pairs = np.array(merges, np.int32).reshape(-1, 2)
    return pairs[(pairs >= 0).all(1)]


def _split(name: str, token: int, known: dict[str, int]) -> list[str]:
    """Merge the letters of a piece with merges of lower tokens, down to two parts at least."""
    parts = list(name)
    while len(parts) > 2:
        first, at = token, -1
        for i in range(len(parts) - 1):
            pair = known.get(parts[i] + parts[i + 1], token)
            if pair < first:
                first, at = pair, i
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
