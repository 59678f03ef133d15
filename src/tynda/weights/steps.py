"""The steps of a grid, which determine the values of a row's codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.integers import float16_scale

__all__ = ["Steps", "int8_codes", "nearest", "settle", "spread", "symmetric"]

Floats = NDArray[np.float32]


class Steps(NamedTuple):
    """The parameters of a weight's values: code ``u`` is ``scale * (step * u + offset)``.

    In the terms of other engines, ``scale * step`` is the scale of a group, and ``-offset / step``
    its zero point, which need not be an integer here: a grid need not have the value 0.
    """

    scale: Floats
    """float32 ``[out]``; numbers that f16 can represent where the weight has fewer than 8 bits."""
    step: NDArray[np.uint8]
    """uint8 ``[out, groups]``, at least 1; with a table, which replaces codes, 1."""
    offset: NDArray[np.int8]
    """int8 ``[out, groups]``: the integer of code 0."""

    def within(self, grid: Grid) -> bool:
        """Return whether the integers of all possible codes are from -127 to 127."""
        if grid.table:
            return bool((self.step == 1).all() and (self.offset == 0).all())
        last = self.offset + (grid.levels - 1) * self.step.astype(np.int32)
        return bool((self.step > 0).all() and (self.offset > -128).all() and (last <= 127).all())

    def rows(self, index: Any) -> Steps:
        """Return the steps of some rows, selected by a slice or an array of integers."""
        return Steps(self.scale[index], self.step[index], self.offset[index])


def spread(parts: NDArray[Any], grid: Grid, inputs: int) -> NDArray[Any]:
    """Repeat values of groups ``[out, groups]`` for their inputs: ``[out, inputs]``."""
    return np.repeat(parts, grid.group_size(inputs), axis=1)[:, :inputs]


def symmetric(grid: Grid, step: NDArray[Any]) -> NDArray[np.int8]:
    """Return the offsets int8 with which the values of integer steps are symmetric about 0."""
    if grid.table:
        return np.zeros(step.shape, np.int8)
    return (-(step.astype(np.int32) * (grid.levels - 1) // 2)).astype(np.int8)


def settle(grid: Grid, step: Floats, middle: Floats | None = None) -> Steps:
    """Return the nearest steps that can be stored.

    ``step [out, groups]``, float32, is the distance between adjacent values or, with a table, the
    value of its entry 127. ``middle``, of the same shape, is the mean of the smallest and the
    largest value; the default is 0.
    """
    largest = step.max(1)
    if grid.table:
        scale = float16_scale(largest / 127).astype(np.float32)
        return Steps(scale, np.ones(step.shape, np.uint8), np.zeros(step.shape, np.int8))
    if middle is not None:  # The integers of both ends must be from -127 to 127.
        max_abs = np.abs(middle) + step * np.float32((grid.levels - 1) / 2)
        largest = np.maximum(largest, max_abs.max(1) * np.float32(grid.max_step / 127))
    scale = float16_scale(largest / np.float32(grid.max_step)).astype(np.float32)
    integer_step = np.clip(np.rint(step / scale[:, None]), 1, grid.max_step).astype(np.uint8)
    offset = symmetric(grid, integer_step)
    if middle is not None:
        shifted = offset + np.rint(middle / scale[:, None]).astype(np.int32)
        offset = np.clip(shifted, -127, 127 - integer_step.astype(np.int32) * (grid.levels - 1))
    return Steps(scale, integer_step, offset.astype(np.int8))


def nearest(rows: Floats, grid: Grid, scale: Floats, step: Any, offset: Any) -> Any:
    """Return the codes (uint8) of the nearest values; the shapes of all arrays broadcast."""
    if grid.table:
        borders = (np.array(grid.table[1:]) + np.array(grid.table[:-1])) / 2
        return np.searchsorted(borders, rows / scale).astype(np.uint8)
    with_float_products = (rows / scale - offset) / step
    return np.clip(np.rint(with_float_products), 0, grid.levels - 1).astype(np.uint8)


def int8_codes(codes: NDArray[np.uint8], grid: Grid, steps: Steps) -> NDArray[np.int8]:
    """Convert codes ``[out, inputs]`` in few bits to codes in 8 bits with the scale of the row."""
    if grid.table:
        values: NDArray[np.int8] = np.array(grid.table, np.int8)[codes]
        return values
    step, offset = (spread(v, grid, codes.shape[1]) for v in (steps.step, steps.offset))
    integers: NDArray[np.int8] = (codes.astype(np.int16) * step + offset).astype(np.int8)
    return integers
