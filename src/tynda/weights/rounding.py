"""Rounding a weight to a `Grid` whose steps are settled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.pack import pack
from tynda.weights.steps import Steps, int8_codes, nearest, spread
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["from_codes", "to_grid"]


def to_grid(weight: Floats, grid: Grid, steps: Steps) -> Weight:
    """Each value of ``weight [out, ...]`` as the nearest one that its row and group have."""
    rows = by_tap(weight)
    step, offset = (spread(v, grid, rows.shape[1]).astype(np.float32) for v in steps[1:])
    codes = nearest(rows, grid, steps.scale[:, None], step, offset)
    return from_codes(weight.shape, grid, steps, codes)


def from_codes(
    shape: tuple[int, ...], grid: Grid, steps: Steps, codes: NDArray[np.uint8]
) -> Weight:
    """A weight of this ``shape`` from its codes, uint8 ``[out, taps * in]``.

    Fewer than 8 bits are packed; codes of 8 become those of a weight in 8 bits as any other.
    """
    if grid.bits < 8:
        return Weight.packed(shape, grid, steps, pack(codes, grid.bits))
    whole = int8_codes(codes, grid, steps).reshape(shape[0], *shape[2:], shape[1])
    return Weight.int8(np.moveaxis(whole, -1, 1), steps.scale)
