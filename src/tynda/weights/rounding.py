"""Rounding of a weight to a `Grid` with given steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.pack import pack
from tynda.weights.steps import Steps, int8_codes, nearest, spread
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["from_codes", "to_grid"]


def to_grid(weight: Floats, grid: Grid, steps: Steps) -> Weight:
    """Round each value of ``weight [out, ...]`` to the nearest value of its row and group."""
    rows = by_tap(weight)
    step, offset = (spread(v, grid, rows.shape[1]).astype(np.float32) for v in steps[1:])
    codes = nearest(rows, grid, steps.scale[:, None], step, offset)
    return from_codes(weight.shape, grid, steps, codes)


def from_codes(
    shape: tuple[int, ...], grid: Grid, steps: Steps, codes: NDArray[np.uint8]
) -> Weight:
    """Return a weight of this ``shape`` from its codes, uint8 ``[out, taps * in]``.

    Codes in fewer than 8 bits are packed; those in 8 bits become int8 codes.
    """
    if grid.bits < 8:
        return Weight.packed(shape, grid, steps, pack(codes, grid.bits))
    codes_8 = int8_codes(codes, grid, steps).reshape(shape[0], *shape[2:], shape[1])
    return Weight.int8(np.moveaxis(codes_8, -1, 1), steps.scale)
