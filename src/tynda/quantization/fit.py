"""Steps for a weight, from its values and from what it is multiplied with.

All work on rows ``[out, in]`` (`tynda.weights.weight.by_tap`) and give what `to_grid` rounds to.
``weight``, where there is one, says how much an input counts: the mean of its squares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.steps import Steps, nearest, settle
from tynda.weights.weight import Floats

__all__ = ["absmax", "absmean", "clipped", "group_rows", "half_quadratic", "kmeans", "shares"]

# Shares of the largest value that are tried as the end of a grid.
_CLIPS = np.linspace(0.35, 1.0, 40, dtype=np.float32)
# Numbers at a time, in whole rows, so that what is tried stays near the processor.
_NUMBERS = 1 << 16


def absmax(rows: Floats, grid: Grid) -> Steps:
    """The largest value of a group is the end of its grid: rounding to nearest, as it is."""
    parts = group_rows(rows, grid)
    return settle(grid, np.abs(parts).max(2) * _reach(grid))


def absmean(rows: Floats, grid: Grid) -> Steps:
    """Steps from the mean size, as BitNet b1.58 does (Ma et al. 2024, equation 3)."""
    parts = group_rows(rows, grid)
    return settle(
        grid, np.nanmean(np.where(_real(rows, grid), np.abs(parts), np.nan), 2) * grid.gaussian
    )


def clipped(rows: Floats, grid: Grid, weight: Floats | None = None) -> Steps:
    """The end of each group's grid that gives the least error, out of forty."""
    count, inputs = max(1, _NUMBERS // max(1, rows.shape[1])), shares(rows, grid, weight)
    step = np.concatenate(
        [
            _clipped(group_rows(rows[i : i + count], grid), grid, inputs)
            for i in range(0, len(rows), count)
        ]
    )
    return settle(grid, step)


def _clipped(parts: Floats, grid: Grid, weight: Floats) -> Floats:
    most = np.abs(parts).max(2)
    least = np.full(most.shape, np.inf, np.float32)
    best: Floats = most.copy()
    half = np.float32((grid.levels - 1) / 2)
    for clip in _CLIPS:
        step = np.maximum(most * clip * _reach(grid), np.float32(1e-12))
        unit = step / 127 if grid.table else step
        scale, one = unit[..., None], np.float32(1)
        codes = nearest(parts, grid, scale, one, -half)
        values = _table(grid)[codes] if grid.table else codes - half
        error: Floats = np.einsum("ogi,gi->og", np.square(values * scale - parts), weight)
        better = error < least
        least, best = np.where(better, error, least), np.where(better, step, best)
    return best


def half_quadratic(rows: Floats, grid: Grid, rounds: int = 20) -> Steps:
    """Steps and offsets for which few values are far off (Badri & Shaji 2023, "HQQ").

    Half-quadratic splitting with the l_0.7 norm, which forgives outliers; without any data.
    """
    parts = group_rows(rows, grid)
    real = _real(rows, grid)
    low, high = (f(np.where(real, parts, 0), axis=2, keepdims=True) for f in (np.min, np.max))
    step = np.maximum((high - low) / (grid.levels - 1), 1e-12)
    zero, beta = -low / step, 10.0  # a value is (code - zero) * step
    best, least = zero, np.full(step.shape, np.inf)
    for _ in range(rounds):
        codes = np.clip(np.rint(parts / step + zero), 0, grid.levels - 1)
        error = parts - (codes - zero) * step
        size = np.abs(error).mean(2, keepdims=True, where=real)
        best, least = np.where(size < least, zero, best), np.minimum(size, least)
        power = np.power(np.abs(error) + 1e-8, 0.7 - 1)
        kept = np.sign(error) * np.maximum(np.abs(error) - power / beta, 0)
        zero = (codes - (parts - kept) / step).mean(2, keepdims=True, where=real)
        beta *= 1.01
    middle = ((grid.levels - 1) / 2 - best) * step
    return settle(grid, step[..., 0].astype(np.float32), middle[..., 0].astype(np.float32))


def kmeans(rows: Floats, bits: float, rounds: int = 30) -> Grid:
    """A table for a whole weight, its rows brought to the same largest value (Lloyd 1982)."""
    grid = Grid(bits)
    values = (rows / np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12)).ravel()
    counts, edges = np.histogram(values, 4096, (-1, 1))
    places = (edges[1:] + edges[:-1]) / 2
    passed = np.cumsum(counts) / max(counts.sum(), 1e-12)
    centres = np.interp((np.arange(grid.levels) + 0.5) / grid.levels, passed, places)
    for _ in range(rounds):
        owner = np.searchsorted((centres[1:] + centres[:-1]) / 2, places)
        total = np.bincount(owner, counts, grid.levels)
        moved = np.bincount(owner, counts * places, grid.levels) / np.maximum(total, 1e-12)
        centres = np.where(total > 0, moved, centres)
    whole = np.clip(np.rint(np.sort(centres) * 127), -127, 127).astype(int)
    return Grid(bits, table=tuple(whole.tolist()))


def _reach(grid: Grid) -> np.float32:
    """A step, as a share of the distance from 0 to the end of the grid."""
    return np.float32(1 if grid.table else 2 / (grid.levels - 1))


def _table(grid: Grid) -> Floats:
    return np.array(grid.table, np.float32)


def group_rows(rows: Floats, grid: Grid) -> Floats:
    """``[out, groups, size]``, zeros behind the last."""
    size = max(1, grid.group_size(rows.shape[1]))
    short = -rows.shape[1] % size
    return np.pad(rows, ((0, 0), (0, short))).reshape(len(rows), -1, size)


def _real(rows: Floats, grid: Grid) -> NDArray[np.bool_]:
    """Which of `_groups` are no filling: ``[1, groups, size]``."""
    return group_rows(np.ones((1, rows.shape[1]), np.float32), grid) > 0


def shares(rows: Floats, grid: Grid, weight: Floats | None) -> Floats:
    """How much each of a row's inputs counts ``[groups, size]``."""
    ones = np.ones(rows.shape[1], np.float32)
    found: Floats = group_rows((ones if weight is None else weight)[None], grid)[0]
    return found
