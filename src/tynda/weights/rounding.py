"""Rounding of a weight to a `Grid` with given scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.pack import pack
from tynda.weights.scales import Scales, int8_codes, nearest_codes, repeat_groups
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["from_codes", "round_to_nearest"]


def round_to_nearest(weight: Floats, grid: Grid, scales: Scales) -> Weight:
    """Round each value of ``weight [out, ...]`` to the nearest value of its row and group."""
    rows = by_tap(weight)
    group, offset = (repeat_groups(v, grid, rows.shape[1]).astype(np.float32) for v in scales[1:])
    codes = nearest_codes(rows, grid, scales.row[:, None], group, offset)
    return from_codes(weight.shape, grid, scales, codes)


def from_codes(
    shape: tuple[int, ...], grid: Grid, scales: Scales, codes: NDArray[np.uint8]
) -> Weight:
    """Return a weight of this ``shape`` from its codes, uint8 ``[out, taps * in]``.

    Codes in fewer than 8 bits are packed; those in 8 bits become int8 codes.
    """
    if grid.bits < 8:
        return Weight.packed(shape, grid, scales, pack(codes, grid.bits))
    codes_8 = int8_codes(codes, grid, scales).reshape(shape[0], *shape[2:], shape[1])
    return Weight.int8(np.moveaxis(codes_8, -1, 1), scales.row, grid)
