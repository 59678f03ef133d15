"""Asymmetric quantisation: groups whose values have an offset, and therefore a zero point.

Published weights have groups whose mean is far from 0. A grid that is symmetric about 0 has values
where such a group has no weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.quantization.fit import clipped_scales, group_importance, group_rows, row_blocks
from tynda.weights.grid import Grid
from tynda.weights.scales import Scales, nearest_codes, round_scales
from tynda.weights.weight import Floats

__all__ = ["fit_asymmetric", "fit_scales", "is_worthwhile"]

# Shares of a group's range with which the search for its grid begins.
_RANGE_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6)
# Rounds of the search from each of them.
_ROUNDS = 4


def fit_scales(rows: Floats, grid: Grid, importance: Floats | None = None) -> Scales:
    """Return asymmetric scales where they are worth their bytes, else symmetric ones.

    ``rows`` float32 ``[out, in]``; ``importance`` float32 ``[in]``, as in `tynda.quantization.fit`.
    Groups of whole rows are symmetric, since a file then stores neither scales nor offsets of
    groups.
    """
    symmetric = clipped_scales(rows, grid, importance)
    if grid.table or grid.bits == 8 or not grid.group:
        return symmetric
    asymmetric = fit_asymmetric(rows, grid, importance)
    return asymmetric if is_worthwhile(rows, grid, symmetric, asymmetric, importance) else symmetric


def is_worthwhile(
    rows: Floats,
    grid: Grid,
    symmetric: Scales,
    asymmetric: Scales,
    importance: Floats | None = None,
) -> bool:
    """Return whether offsets reduce the squared error more than their bytes would as longer codes.

    One more bit for each code divides the squared error by 4. An offset is one byte for each
    group: ``8 / size`` bits for each code.
    """
    bits = 8 / grid.group_size(rows.shape[1])
    before, after = (_total_error(rows, grid, s, importance) for s in (symmetric, asymmetric))
    return after < before * 4**-bits


def fit_asymmetric(rows: Floats, grid: Grid, importance: Floats | None = None) -> Scales:
    """Return the scales and offsets with the minimum squared error that a search finds.

    The search begins with several shares of a group's range. It alternately rounds values to the
    nearest codes, and fits the line of least squares through codes and values (Lloyd's algorithm
    on a uniform grid). The stored integers are then chosen near that line, for the minimum error.
    """
    inputs = group_importance(rows, grid, importance)
    blocks = [_fit_groups(group_rows(rows[i], grid), grid, inputs) for i in row_blocks(rows)]
    return Scales(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _fit_groups(groups: Floats, grid: Grid, importance: Floats) -> Scales:
    """Return the scales of ``groups [out, groups, size]``; ``importance [groups, size]``."""
    half = np.float32((grid.levels - 1) / 2)
    low, high = _ranges(groups, importance)
    best_scale, best_centre = (
        np.maximum(high - low, np.float32(1e-12)) / (2 * half),
        (high + low) / 2,
    )
    min_error = np.full(low.shape, np.inf, np.float32)
    total = np.maximum(importance.sum(1), np.float32(1e-30))
    mean = np.einsum("ogi,gi->og", groups, importance) / total
    for share in _RANGE_SHARES:
        scale, centre = (high - low) * np.float32(share) / (2 * half), (high + low) / 2
        for _ in range(_ROUNDS):
            scale = np.maximum(scale, np.float32(1e-12))
            codes = np.rint((groups - centre[..., None]) / scale[..., None] + half)
            codes = np.clip(codes, 0, grid.levels - 1) - half
            values = codes * scale[..., None] + centre[..., None]
            error = _squared_error(values - groups, importance)
            better = error < min_error
            min_error = np.where(better, error, min_error)
            best_scale = np.where(better, scale, best_scale)
            best_centre = np.where(better, centre, best_centre)
            # Fit the line of least squares through codes and values.
            mean_code = np.einsum("ogi,gi->og", codes, importance) / total
            centred = codes - mean_code[..., None]
            variance = _squared_error(centred, importance)
            covariance = np.einsum("ogi,ogi,gi->og", centred, groups, importance)
            slope = covariance / np.maximum(variance, np.float32(1e-30))
            scale = np.where(variance > 0, slope, scale)
            centre = mean - scale * mean_code
    scales = round_scales(grid, best_scale, best_centre)
    return _search_integers(groups, grid, importance, scales, best_centre)


def _search_integers(
    groups: Floats, grid: Grid, importance: Floats, scales: Scales, exact_centre: Floats
) -> Scales:
    """Return the integer scales and offsets with the minimum error, of those next to ``scales``."""
    row, last = scales.row[:, None], grid.levels - 1
    centre = exact_centre / row
    best_group, best_offset = scales.group, scales.offset
    min_error = np.full(scales.group.shape, np.inf, np.float32)
    for more in (0, -1, 1):
        group = np.clip(scales.group.astype(np.int32) + more, 1, grid.max_group_scale)
        for shift in (0, -1, 1):
            offset = np.rint(centre - group * (last / 2)).astype(np.int32) + shift
            offset = np.clip(offset, -127, 127 - group * last)
            values = _nearest_values(groups, grid, row[..., None], group, offset)
            error = _squared_error(values - groups, importance)
            better = error < min_error
            min_error = np.where(better, error, min_error)
            best_group = np.where(better, group, best_group)
            best_offset = np.where(better, offset, best_offset)
    return Scales(scales.row, best_group.astype(np.uint8), best_offset.astype(np.int8))


def _nearest_values(
    groups: Floats, grid: Grid, row: Floats, group: NDArray[Any], offset: NDArray[Any]
) -> Floats:
    """Round ``groups [out, groups, size]``; ``group`` and ``offset [out, groups]`` are integers."""
    scale, start = (v[..., None].astype(np.float32) for v in (group, offset))
    values: Floats = (nearest_codes(groups, grid, row, scale, start) * scale + start) * row
    return values


def _ranges(groups: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Return minimum and maximum of each group ``[out, groups]``, without padding at its end."""
    used = np.flip(np.maximum.accumulate(np.flip(importance, 1), 1), 1) > 0
    filled = np.where(used, groups, groups[..., :1])
    return filled.min(2), filled.max(2)


def _squared_error(difference: Floats, importance: Floats) -> Floats:
    """Return the weighted sum of squares of each group ``[out, groups]``."""
    error: Floats = np.einsum("ogi,ogi,gi->og", difference, difference, importance)
    return error


def _total_error(rows: Floats, grid: Grid, scales: Scales, importance: Floats | None) -> float:
    """Return the weighted squared error of all rows."""
    inputs, total = group_importance(rows, grid, importance), 0.0
    for block in row_blocks(rows):
        groups, (row, group, offset) = group_rows(rows[block], grid), scales.select(block)
        values = _nearest_values(groups, grid, row[:, None, None], group, offset)
        total += float(_squared_error(values - groups, inputs).sum(dtype=np.float64))
    return total
