"""Statistics of the inputs of a weight over the calibration set."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tynda.weights.weight import Floats

__all__ = ["InputStatistics", "hessian_bytes"]

# Up to this number of inputs, the products of any two inputs are summed. With more inputs, only
# products within blocks are, since memory grows with the square.
_MAX_INPUTS = 4096


def _blocks(inputs: int) -> list[slice]:
    """Divide the inputs into the fewest blocks of equal size with at most `_MAX_INPUTS`."""
    edges = np.linspace(0, inputs, -(-inputs // _MAX_INPUTS) + 1).astype(int)
    return [slice(*pair) for pair in pairwise(edges.tolist())]


def hessian_bytes(inputs: int) -> int:
    """Return the memory of the Hessians of a weight with this number of inputs, in bytes."""
    return sum(8 * (block.stop - block.start) ** 2 for block in _blocks(inputs))


class InputStatistics:
    """Sums over the input rows of a matrix product."""

    def __init__(self, inputs: int, *, diagonal: bool = False) -> None:
        """With ``diagonal``, only squares are summed, which needs far less memory; `hessians` is
        then empty."""
        self.count = 0
        """Number of rows that were added."""
        self.max_abs = np.zeros(inputs, np.float32)
        """The maximum absolute value of each input, float32 ``[in]``."""
        self._squares = np.zeros(inputs)
        self._products: list[NDArray[np.float64]] = []
        if not diagonal:
            self._products = [np.zeros((b.stop - b.start,) * 2) for b in _blocks(inputs)]

    def add(self, rows: Floats) -> None:
        """Add ``rows``, float32 ``[n, in]``."""
        self._squares += np.square(rows).sum(0)
        for block, products in zip(_blocks(rows.shape[1]), self._products, strict=False):
            products += rows[:, block].T @ rows[:, block]
        self.max_abs = np.maximum(self.max_abs, np.abs(rows).max(0, initial=0))
        self.count += len(rows)

    @property
    def mean_squares(self) -> Floats:
        """The mean square of each input, float32 ``[in]``."""
        return (self._squares / max(self.count, 1)).astype(np.float32)

    @property
    def hessians(self) -> list[NDArray[np.float64]]:
        """The means of the products of any two inputs, float64 ``[in, in]``.

        They are half the Hessian of a row's squared error. With more than 4096 inputs there are
        several matrices, for consecutive blocks of inputs.
        """
        return [products / max(self.count, 1) for products in self._products]
