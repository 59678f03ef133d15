"""Texts that are nearly the same as earlier ones, found in bounded memory.

The similarity of two texts is the Jaccard index of their sets of letter 4-grams. MinHash estimates
it (Broder 1997): of 64 random orders of all 4-grams, the share in which both texts have the same
first one. Texts are compared where 4 of the 64 agree in one of 16 bands (Leskovec et al. 2020,
"Mining of Massive Datasets", section 3.4). Libraries for this keep all texts; here the memory is
fixed, and the oldest texts are forgotten.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Duplicates", "signature"]

_GRAM = 4
_BANDS, _ROWS = 16, 4
_HASHES: Final = _BANDS * _ROWS
_MAX_LETTERS = 20_000
"""Letters of a text that are compared; longer ones would need much memory at once."""

Signature = NDArray[np.uint32]

_DRAWN: Final = np.random.Generator(np.random.PCG64(2_1_2022)).integers(
    0, 1 << 64, (3, _HASHES), np.uint64
)
# Multiply-shift hashing needs odd factors (Dietzfelbinger et al. 1997).
_FACTORS, _OFFSETS = _DRAWN[0] | np.uint64(1), _DRAWN[1]
_WEIGHTS: Final = _DRAWN[2, :_GRAM] | np.uint64(1)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


def signature(text: str) -> Signature:
    """Return the MinHash ``[64]`` of a text."""
    letters = np.frombuffer(f" {text[:_MAX_LETTERS]} ".encode("utf-32-le", "surrogatepass"), "<u4")
    letters = np.pad(letters, (0, max(0, _GRAM - len(letters)))).astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(letters, _GRAM)
    grams = (windows * _WEIGHTS).sum(1, dtype=np.uint64)
    grams ^= grams >> np.uint64(29)
    grams = np.unique(grams * _MIX)
    orders = _FACTORS[:, None] * grams[None] + _OFFSETS[:, None]
    result: Signature = (orders >> np.uint64(32)).min(1).astype(np.uint32)
    return result


class Duplicates:
    """The texts that came before, of which the last ``capacity`` are remembered.

    A text is a duplicate where its estimated similarity to one of them is at least ``threshold``.
    """

    def __init__(self, threshold: float = 0.7, capacity: int = 500_000) -> None:
        self._threshold, self._capacity, self._count = threshold, capacity, 0
        slots = 1 << (2 * capacity - 1).bit_length()
        # Pages of zeros need no memory until something is written to them.
        self._signatures = np.zeros((capacity, _HASHES), np.uint32)
        self._tables = np.zeros((_BANDS, slots), np.int64)
        self._mask = np.uint64(slots - 1)

    def add(self, text: str) -> bool:
        """Return whether a text is a duplicate; one that is not is remembered."""
        own = signature(text)
        rows = own.reshape(_BANDS, _ROWS).astype(np.uint64)
        keys = (rows * _FACTORS[:_ROWS]).sum(1, dtype=np.uint64) * _MIX
        slots = ((keys >> np.uint64(20)) & self._mask).astype(np.int64)
        bands = np.arange(_BANDS)
        # An entry is the number of a text, from 1 on; 0 is no text.
        found = np.unique(self._tables[bands, slots])
        found = found[found > max(0, self._count - self._capacity)]
        if len(found):
            others = self._signatures[(found - 1) % self._capacity]
            if float((others == own).mean(1).max()) >= self._threshold:
                return True
        self._signatures[self._count % self._capacity] = own
        self._count += 1
        self._tables[bands, slots] = self._count
        return False
