"""Group scales for a weight, fitted to its values and to the importance of its inputs.

All functions accept rows float32 ``[out, in]`` (`tynda.weights.weight.by_tap`). ``importance``,
float32 ``[in]``, weights the squared error of each input; with the mean square of each input, the
sum is the squared error of the products if inputs are uncorrelated. The default is 1 for all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.integers import float16_scale
from tynda.weights.scales import Scales, nearest_codes, round_scales, symmetric_offset
from tynda.weights.weight import Floats

__all__ = [
    "clipped_scales",
    "group_importance",
    "group_rows",
    "hqq_scales",
    "kmeans_table",
    "max_scales",
    "mean_scales",
    "relative_scales",
    "row_blocks",
]

# Shares of a group's maximum absolute value that are tried as the largest value of its grid.
_CLIPS = np.linspace(0.35, 1.0, 40, dtype=np.float32)
# Number of values that are fitted at a time, in whole rows, so that they stay in the processor's
# cache.
_MAX_VALUES = 1 << 16


def max_scales(rows: Floats, grid: Grid) -> Scales:
    """Return scales with which the largest value of a grid is the group's maximum absolute value.

    This is round-to-nearest (RTN), as most engines do it.
    """
    return round_scales(grid, np.abs(group_rows(rows, grid)).max(2) * _scale_per_max(grid))


def mean_scales(rows: Floats, grid: Grid) -> Scales:
    """Return scales in proportion to the mean absolute value of each group.

    Source: Ma et al. 2024, "The era of 1-bit LLMs" (BitNet b1.58), equation 3; for other widths,
    the factor is that of the minimum error for Gaussian numbers (`Grid.gaussian_scale`).
    """
    sizes = np.where(_not_padding(rows, grid), np.abs(group_rows(rows, grid)), np.nan)
    return round_scales(grid, np.nanmean(sizes, 2) * grid.gaussian_scale)


def clipped_scales(rows: Floats, grid: Grid, importance: Floats | None = None) -> Scales:
    """Return the scales with the minimum squared error, of 40 that clip each group differently.

    Values beyond the largest value of the grid are clipped to it.
    """
    inputs = group_importance(rows, grid, importance)
    blocks = [_clipped(group_rows(rows[i], grid), grid, inputs) for i in row_blocks(rows)]
    return round_scales(grid, np.concatenate(blocks))


def _clipped(groups: Floats, grid: Grid, importance: Floats) -> Floats:
    max_abs = np.abs(groups).max(2)
    min_error = np.full(max_abs.shape, np.inf, np.float32)
    best: Floats = max_abs.copy()
    half = np.float32((grid.levels - 1) / 2)
    table = np.array(grid.table, np.float32)
    for clip in _CLIPS:
        tried = np.maximum(max_abs * clip * _scale_per_max(grid), np.float32(1e-12))
        scale = (tried / 127 if grid.table else tried)[..., None]
        codes = nearest_codes(groups, grid, scale, np.float32(1), -half)
        values = table[codes] if grid.table else codes - half
        error: Floats = np.einsum("ogi,gi->og", np.square(values * scale - groups), importance)
        better = error < min_error
        min_error, best = np.where(better, error, min_error), np.where(better, tried, best)
    return best


def relative_scales(rows: Floats, grid: Grid) -> Scales:
    """Return scales of rows in proportion to the root mean square of each row, for entropy coding.

    They are larger where the largest value of a row would have a code above 127.
    """
    size = np.sqrt(np.square(rows, dtype=np.float64).mean(1)) * grid.relative_step
    # f16 may round a scale down, by at most a part in 2048.
    smallest = np.abs(rows).max(1) / np.float32(126.9)
    row = float16_scale(np.maximum(size, smallest)).astype(np.float32)
    ones = np.ones((len(rows), 1), np.uint8)
    return Scales(row, ones, symmetric_offset(grid, ones))


def hqq_scales(rows: Floats, grid: Grid, rounds: int = 20) -> Scales:
    """Return scales and offsets by half-quadratic splitting (Badri & Shaji 2023, "HQQ").

    The zero point of each group minimises the l_0.7 norm of the rounding error, which counts
    outliers less than a squared error does. No calibration set is needed.
    """
    groups, used = group_rows(rows, grid), _not_padding(rows, grid)
    low, high = (f(np.where(used, groups, 0), axis=2, keepdims=True) for f in (np.min, np.max))
    scale = np.maximum((high - low) / (grid.levels - 1), 1e-12)
    zero_point, beta = -low / scale, 10.0  # A value is (code - zero point) * scale.
    best, min_error = zero_point, np.full(scale.shape, np.inf)
    for _ in range(rounds):
        codes = np.clip(np.rint(groups / scale + zero_point), 0, grid.levels - 1)
        error = groups - (codes - zero_point) * scale
        mean = np.abs(error).mean(2, keepdims=True, where=used)
        best, min_error = np.where(mean < min_error, zero_point, best), np.minimum(mean, min_error)
        power = np.power(np.abs(error) + 1e-8, 0.7 - 1)
        shrunk = np.sign(error) * np.maximum(np.abs(error) - power / beta, 0)
        zero_point = (codes - (groups - shrunk) / scale).mean(2, keepdims=True, where=used)
        beta *= 1.01
    centre = ((grid.levels - 1) / 2 - best) * scale
    return round_scales(grid, scale[..., 0].astype(np.float32), centre[..., 0].astype(np.float32))


def kmeans_table(rows: Floats, bits: float, rounds: int = 30) -> Grid:
    """Return a grid with a table for a weight: the centres of k-means (Lloyd 1982) of its values.

    The values of each row are divided by their maximum absolute value, and counted in a histogram
    of 4096 bins.
    """
    levels = Grid(bits).levels
    values = (rows / np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12)).ravel()
    counts, edges = np.histogram(values, 4096, (-1, 1))
    bins = (edges[1:] + edges[:-1]) / 2
    cumulative = np.cumsum(counts) / max(counts.sum(), 1e-12)
    centres = np.interp((np.arange(levels) + 0.5) / levels, cumulative, bins)
    for _ in range(rounds):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, bins)
        total = np.bincount(nearest, counts, levels)
        means = np.bincount(nearest, counts * bins, levels) / np.maximum(total, 1e-12)
        centres = np.where(total > 0, means, centres)
    integers = np.clip(np.rint(np.sort(centres) * 127), -127, 127).astype(int)
    return Grid(bits, table=tuple(integers.tolist()))


def row_blocks(rows: Floats) -> Iterator[slice]:
    """Yield slices of consecutive rows that are small enough to be fitted in the cache."""
    count = max(1, _MAX_VALUES // max(1, rows.shape[1]))
    return (slice(i, i + count) for i in range(0, len(rows), count))


def group_rows(rows: Floats, grid: Grid) -> Floats:
    """Return rows as groups ``[out, groups, size]``, with zeros after the last input."""
    size = max(1, grid.group_size(rows.shape[1]))
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % size))).reshape(len(rows), -1, size)


def group_importance(rows: Floats, grid: Grid, importance: Floats | None) -> Floats:
    """Return the importance of the inputs of each group, ``[groups, size]``; padding has 0."""
    ones = np.ones(rows.shape[1], np.float32)
    found: Floats = group_rows((ones if importance is None else importance)[None], grid)[0]
    return found


def _scale_per_max(grid: Grid) -> np.float32:
    """Return the quotient of a scale and the largest value of the grid."""
    return np.float32(1 if grid.table else 2 / (grid.levels - 1))


def _not_padding(rows: Floats, grid: Grid) -> NDArray[np.bool_]:
    """Return which numbers of `group_rows` are not padding: ``[1, groups, size]``."""
    return group_rows(np.ones((1, rows.shape[1]), np.float32), grid) > 0
