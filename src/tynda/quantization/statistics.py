"""Statistics of what a weight is multiplied with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tynda.weights.weight import Floats

__all__ = ["InputStatistics", "inputs_bytes"]

# Inputs up to which the products of any two are kept; of more inputs, those within blocks.
_MAX_INPUTS = 4096


def _blocks(inputs: int) -> list[slice]:
    """The inputs, in as few blocks of equal size as have at most `_MAX_INPUTS`."""
    edges = np.linspace(0, inputs, -(-inputs // _MAX_INPUTS) + 1).astype(int)
    return [slice(*pair) for pair in pairwise(edges.tolist())]


def inputs_bytes(inputs: int) -> int:
    """Bytes that `InputStatistics` of so many inputs take."""
    return sum(8 * (block.stop - block.start) ** 2 for block in _blocks(inputs))


class InputStatistics:
    """Sums over the input rows of a product.

    ``diagonal``: keep the squares of inputs alone, which take far less room than the products of
    any two.
    """

    def __init__(self, inputs: int, *, diagonal: bool = False) -> None:
        self.count = 0
        """Rows that were added."""
        self.peak = np.zeros(inputs, np.float32)
        """float32 ``[in]``: the largest size."""
        self._own = np.zeros(inputs)
        self._squares: list[NDArray[np.float64]] = []
        if not diagonal:
            self._squares = [np.zeros((b.stop - b.start,) * 2) for b in _blocks(inputs)]

    def add(self, rows: Floats) -> None:
        """Add ``rows``, float32 ``[n, in]``."""
        self._own += np.square(rows).sum(0)
        for block, squares in zip(_blocks(rows.shape[1]), self._squares, strict=False):
            squares += rows[:, block].T @ rows[:, block]
        self.peak = np.maximum(self.peak, np.abs(rows).max(0, initial=0))
        self.count += len(rows)

    @property
    def mean_squares(self) -> Floats:
        """float32 ``[in]``: the mean square of each input."""
        return (self._own / max(self.count, 1)).astype(np.float32)

    @property
    def hessians(self) -> list[NDArray[np.float64]]:
        """The means of the products of any two inputs, float64 ``[in, in]``.

        With more than 4096 inputs there are several such matrices, for blocks of inputs that
        follow each other; products between two blocks are not kept.
        """
        return [squares / max(self.count, 1) for squares in self._squares]
