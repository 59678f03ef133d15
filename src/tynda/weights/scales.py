"""The scales of a weight's rows and groups, which determine the values of its codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.integers import float16_scale

__all__ = [
    "Scales",
    "int8_codes",
    "nearest_codes",
    "repeat_groups",
    "round_scales",
    "symmetric_offset",
]

Floats = NDArray[np.float32]


class Scales(NamedTuple):
    """The parameters of a weight's values: code ``u`` is ``row * (group * u + offset)``.

    In the terms of other engines, ``row * group`` is the scale of a group, and ``-offset / group``
    its zero point, which need not be an integer here: a grid need not have the value 0.
    """

    row: Floats
    """Scales of rows, float32 ``[out]``; f16 can represent them where the weight has fewer than 8
    bits."""
    group: NDArray[np.uint8]
    """Integer scales of groups relative to their row, uint8 ``[out, groups]``, at least 1; a file
    calls them ``step``. With a table they are 1."""
    offset: NDArray[np.int8]
    """int8 ``[out, groups]``: the integer of code 0."""

    def are_valid(self, grid: Grid) -> bool:
        """Return whether the integers of all possible codes are from -127 to 127."""
        if grid.table:
            return bool((self.group == 1).all() and (self.offset == 0).all())
        last = self.offset + np.multiply(self.group, grid.levels - 1, dtype=np.int32)
        return bool((self.group > 0).all() and (self.offset > -128).all() and (last <= 127).all())

    def select(self, index: Any) -> Scales:
        """Return the scales of some rows, selected by a slice or an array of integers."""
        return Scales(self.row[index], self.group[index], self.offset[index])


def repeat_groups(values: NDArray[Any], grid: Grid, inputs: int) -> NDArray[Any]:
    """Repeat values of groups ``[out, groups]`` for their inputs: ``[out, inputs]``."""
    return np.repeat(values, grid.group_size(inputs), axis=1)[:, :inputs]


def symmetric_offset(grid: Grid, group: NDArray[Any]) -> NDArray[np.int8]:
    """Return offsets int8 with which values are symmetric about 0, for integer scales ``group``."""
    if grid.table:
        return np.zeros(group.shape, np.int8)
    return np.asarray(-(group.astype(np.int32) * (grid.levels - 1) // 2), np.int8)


def round_scales(grid: Grid, scale: Floats, centre: Floats | None = None) -> Scales:
    """Return the nearest scales and offsets that can be stored.

    ``scale [out, groups]``, float32, is the distance between adjacent values or, with a table, the
    value of its entry 127. ``centre``, of the same shape, is the mean of the smallest and the
    largest value; the default is 0.
    """
    max_scale = scale.max(1)
    if grid.table:
        row = float16_scale(max_scale / 127).astype(np.float32)
        return Scales(row, np.ones(scale.shape, np.uint8), np.zeros(scale.shape, np.int8))
    if centre is not None:  # The integers of both ends must be from -127 to 127.
        max_abs = np.abs(centre) + scale * np.float32((grid.levels - 1) / 2)
        max_scale = np.maximum(max_scale, max_abs.max(1) * np.float32(grid.max_group_scale / 127))
    row = float16_scale(max_scale / np.float32(grid.max_group_scale)).astype(np.float32)
    group = np.clip(np.rint(scale / row[:, None]), 1, grid.max_group_scale).astype(np.uint8)
    offset = symmetric_offset(grid, group)
    if centre is not None:
        shifted = offset + np.rint(centre / row[:, None]).astype(np.int32)
        offset = np.clip(shifted, -127, 127 - group.astype(np.int32) * (grid.levels - 1))
    return Scales(row, group, offset.astype(np.int8))


def nearest_codes(rows: Floats, grid: Grid, row: Floats, group: Any, offset: Any) -> Any:
    """Return the codes (uint8) of the nearest values; the shapes of all arrays broadcast."""
    if grid.table:
        borders = (np.array(grid.table[1:]) + np.array(grid.table[:-1])) / 2
        return np.searchsorted(borders, rows / row).astype(np.uint8)
    return np.clip(np.rint((rows / row - offset) / group), 0, grid.levels - 1).astype(np.uint8)


def int8_codes(codes: NDArray[np.uint8], grid: Grid, scales: Scales) -> NDArray[np.int8]:
    """Convert codes ``[out, inputs]`` in few bits to codes in 8 bits with the scale of the row."""
    if grid.table:
        values: NDArray[np.int8] = np.array(grid.table, np.int8)[codes]
        return values
    group, offset = (repeat_groups(v, grid, codes.shape[1]) for v in scales[1:])
    integers: NDArray[np.int8] = (codes.astype(np.int16) * group + offset).astype(np.int8)
    return integers
