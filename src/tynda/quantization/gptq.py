"""GPTQ: the rounding error of each input is compensated by the inputs that are rounded after it.

Source: Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained
transformers", sections 3.2 and 3.3. Inputs are rounded in decreasing order of the Hessian's
diagonal (``act-order`` in their code), with scales that were fitted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.rounding import from_codes
from tynda.weights.scales import Scales, nearest_codes, repeat_groups
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["gptq"]

# The share of its mean that is added to the Hessian's diagonal.
_DAMPING = 0.01
# Number of inputs whose corrections are collected before they are applied to all others.
_BLOCK = 128
# Number of rows that are rounded at a time, so that these inputs of theirs stay in the cache.
_ROWS = 2048


def gptq(
    weight: Floats, grid: Grid, scales: Scales, hessians: Sequence[NDArray[np.float64]]
) -> Weight:
    """Round ``weight [out, ...]`` to ``grid``.

    ``hessians`` has the means, over the calibration set, of the products of any two inputs,
    float64 ``[in, in]``; or several such matrices for consecutive blocks of inputs, in which case
    errors are compensated within a block only (`InputStatistics.hessians`).
    """
    rows = by_tap(weight)
    group, offset = (repeat_groups(v, grid, rows.shape[1]).astype(np.float32) for v in scales[1:])
    codes, start = np.empty(rows.shape, np.uint8), 0
    for hessian in hessians:
        inputs = slice(start, start + len(hessian))
        order = np.argsort(-np.diag(hessian), kind="stable")
        factor = _inverse_factor(hessian, order)
        for first in range(0, len(rows), _ROWS):
            some = slice(first, first + _ROWS)
            fixed = scales.row[some], group[some, inputs], offset[some, inputs]
            codes[some, inputs] = _round_rows(rows[some, inputs], grid, fixed, order, factor)
        start = inputs.stop
    return from_codes(weight.shape, grid, scales, codes)


def _round_rows(
    rows: Floats,
    grid: Grid,
    scales: tuple[Floats, Floats, Floats],
    order: NDArray[np.int64],
    factor: Floats,
) -> NDArray[np.uint8]:
    """Return codes ``[out, in]``; ``scales`` are those of rows ``[out]``, those of groups and
    offsets, both ``[out, in]``."""
    row = scales[0]
    # Inputs are stored as rows, since they are read and written one after the other.
    remaining, group, offset = (np.ascontiguousarray(v.T[order]) for v in (rows, *scales[1:]))
    ordered = np.empty(remaining.shape, np.uint8)
    table = np.array(grid.table, np.float32)
    for first in range(0, len(remaining), _BLOCK):
        stop = min(first + _BLOCK, len(remaining))
        errors = np.empty((stop - first, len(rows)), np.float32)
        for i in range(first, stop):
            codes = nearest_codes(remaining[i], grid, row, group[i], offset[i])
            integers = table[codes] if grid.table else codes * group[i] + offset[i]
            error = (remaining[i] - row * integers) / factor[i, i]
            remaining[i:stop] -= np.outer(factor[i, i:stop], error)
            ordered[i], errors[i - first] = codes, error
        remaining[stop:] -= factor[first:stop, stop:].T @ errors
    found = np.empty_like(ordered)
    found[order] = ordered
    return found.T


def _inverse_factor(hessian: NDArray[np.float64], order: NDArray[np.int64]) -> Floats:
    """Return an upper triangular ``u``, where ``u.T @ u`` is the inverse of the damped Hessian.

    Its rows and columns are in the given ``order``.
    """
    # Factors of a matrix in reverse order, inverted and reversed again, are those of its inverse.
    damped = hessian[np.ix_(order[::-1], order[::-1])]
    diagonal = np.diag(damped)
    damping = _DAMPING * max(diagonal.mean(), 1e-12) + (diagonal == 0)
    damped.ravel()[:: len(damped) + 1] += damping
    inverse = _invert_triangular(np.linalg.cholesky(damped))
    return inverse[::-1, ::-1].astype(np.float32)


def _invert_triangular(lower: NDArray[Any]) -> NDArray[Any]:
    """Invert a lower triangular matrix by blocks, which is faster than a general inverse."""
    half = len(lower) // 2
    if half < _BLOCK:
        return np.linalg.inv(lower)
    first, second = _invert_triangular(lower[:half, :half]), _invert_triangular(lower[half:, half:])
    inverse = np.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = first, second
    inverse[half:, :half] = -second @ (lower[half:, :half] @ first)
    return inverse
