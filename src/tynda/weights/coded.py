"""A weight on a `Grid`: how it is held in few bits, and rounding to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import LEAST_SCALE, Grid
from tynda.weights.pack import pack, unpack
from tynda.weights.weight import Floats, Quantized, by_tap

__all__ = [
    "Coded",
    "Steps",
    "coded",
    "joined",
    "nearest",
    "settle",
    "spread",
    "symmetric",
    "to_grid",
]


class Steps(NamedTuple):
    """Which values the codes of a row have: ``scale * (step * code + offset)``."""

    scale: Floats
    """``[out]``, as f16 holds it."""
    step: NDArray[np.uint8]
    """``[out, groups]``, at least 1. (With a table, 1: its numbers take the codes' place.)"""
    offset: NDArray[np.int8]
    """``[out, groups]``."""

    def within(self, grid: Grid) -> bool:
        """Whether all values lie from -127 to 127, whatever the codes are."""
        if grid.table:
            return bool((self.step == 1).all() and (self.offset == 0).all())
        last = self.offset + (grid.levels - 1) * self.step.astype(np.int32)
        return bool((self.step > 0).all() and (self.offset > -128).all() and (last <= 127).all())


class Coded(Quantized):
    """``[out, ...]`` in few bits; where numbers are needed, a `Quantized` in 8."""

    grid: Grid
    steps: Steps
    packed: NDArray[np.uint8]
    """Codes as `pack` has them, a row for each output; of a convolution's taps by `by_tap`."""

    def __init__(
        self, shape: tuple[int, ...], grid: Grid, steps: Steps, packed: NDArray[np.uint8]
    ) -> None:
        parts = {"grid": grid, "steps": steps, "packed": packed, "scale": steps.scale}
        for name, value in {"_shape": shape, **parts}.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        shape: tuple[int, ...] = self.__dict__["_shape"]
        return shape

    @property
    def inputs(self) -> int:
        """Of a row, taps and all."""
        return int(np.prod(self.shape[1:]))

    @property
    def codes(self) -> NDArray[np.int8]:
        """In 8 bits, from -127 to 127, of the weight's shape."""
        out, used, *taps = self.shape
        codes = self.by_tap().codes.reshape(out, *taps, used)
        return np.moveaxis(codes, -1, 1)

    def by_tap(self) -> Quantized:
        """See `Quantized.by_tap`."""
        levels = unpack(self.packed, self.grid.bits, self.inputs)
        return Quantized(_values(levels, self.grid, self.steps), self.scale)

    def dequantize(self) -> Floats:
        """The weight as float32."""
        return Quantized(self.codes, self.scale).dequantize()

    def __getitem__(self, index: Any) -> Quantized:
        """Some of the rows."""
        if not isinstance(index, slice):
            return Quantized(self.codes, self.scale)[index]
        scale, step, offset = self.steps
        steps = Steps(scale[index], step[index], offset[index])
        packed = self.packed[index]
        return Coded((len(packed), *self.shape[1:]), self.grid, steps, packed)


def spread(parts: NDArray[Any], grid: Grid, inputs: int) -> NDArray[Any]:
    """What each group has, ``[out, groups]``, for each of its inputs: ``[out, inputs]``."""
    return np.repeat(parts, grid.size(inputs), axis=1)[:, :inputs]


def symmetric(grid: Grid, step: NDArray[Any]) -> NDArray[np.int8]:
    """The offsets with which the values of whole-numbered steps lie about 0."""
    if grid.table:
        return np.zeros(step.shape, np.int8)
    return (-(step.astype(np.int32) * (grid.levels - 1) // 2)).astype(np.int8)


def settle(grid: Grid, step: Floats, middle: Floats | None = None) -> Steps:
    """The nearest steps that can be stored.

    ``step [out, groups]``: how far apart values are to be, or with a table how far its 127 is
    from 0; ``middle``, of the same shape: what lies in their midst, 0 by default.
    """
    most = step.max(1)
    if grid.table:
        scale = np.maximum(most / 127, LEAST_SCALE).astype(np.float16).astype(np.float32)
        return Steps(scale, np.ones(step.shape, np.uint8), np.zeros(step.shape, np.int8))
    if middle is not None:  # the values to both sides must lie from -127 to 127
        reach = np.abs(middle) + step * np.float32((grid.levels - 1) / 2)
        most = np.maximum(most, reach.max(1) * np.float32(grid.most / 127))
    scale = (
        np.maximum(most / np.float32(grid.most), LEAST_SCALE).astype(np.float16).astype(np.float32)
    )
    whole = np.clip(np.rint(step / scale[:, None]), 1, grid.most).astype(np.uint8)
    offset = symmetric(grid, whole)
    if middle is not None:
        moved = offset + np.rint(middle / scale[:, None]).astype(np.int32)
        offset = np.clip(moved, -127, 127 - whole.astype(np.int32) * (grid.levels - 1))
    return Steps(scale, whole, offset.astype(np.int8))


def nearest(rows: Floats, grid: Grid, scale: Floats, step: Any, offset: Any) -> Any:
    """Codes (uint8) of numbers, each beside what belongs to it (shapes broadcast)."""
    if grid.table:
        borders = (np.array(grid.table[1:]) + np.array(grid.table[:-1])) / 2
        return np.searchsorted(borders, rows / scale).astype(np.uint8)
    exact = (rows / scale - offset) / step
    return np.clip(np.rint(exact), 0, grid.levels - 1).astype(np.uint8)


def to_grid(weight: Floats, grid: Grid, steps: Steps) -> Quantized:
    """Each value of ``weight [out, ...]`` as the nearest one that its row and group have."""
    rows = by_tap(weight)
    step, offset = (spread(v, grid, rows.shape[1]).astype(np.float32) for v in steps[1:])
    levels = nearest(rows, grid, steps.scale[:, None], step, offset)
    return coded(weight.shape, grid, steps, levels)


def coded(shape: tuple[int, ...], grid: Grid, steps: Steps, levels: NDArray[np.uint8]) -> Quantized:
    """A weight of codes ``[out, in]`` by tap: `Coded`, or in 8 bits as ever."""
    if grid.bits < 8:
        return Coded(shape, grid, steps, pack(levels, grid.bits))
    codes = _values(levels, grid, steps).reshape(shape[0], *shape[2:], shape[1])
    return Quantized(np.moveaxis(codes, -1, 1), steps.scale)


def joined(parts: Sequence[Quantized]) -> Quantized:
    """Rows of a weight, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    scale = np.concatenate([part.scale for part in parts])
    shape = (len(scale), *parts[0].shape[1:])
    if not isinstance(parts[0], Coded):
        return Quantized(np.concatenate([part.codes for part in parts]), scale)
    some = [part for part in parts if isinstance(part, Coded)]
    step, offset = (np.concatenate([part.steps[i] for part in some]) for i in (1, 2))
    packed = np.concatenate([part.packed for part in some])
    return Coded(shape, some[0].grid, Steps(scale, step, offset), packed)


def _values(levels: NDArray[np.uint8], grid: Grid, steps: Steps) -> NDArray[np.int8]:
    """Codes of few bits in 8."""
    if grid.table:
        values: NDArray[np.int8] = np.array(grid.table, np.int8)[levels]
        return values
    step, offset = (spread(v, grid, levels.shape[1]) for v in steps[1:])
    whole: NDArray[np.int8] = (levels.astype(np.int16) * step + offset).astype(np.int8)
    return whole
