"""GPTQ: each input's rounding error is made good by the inputs that come after it.

Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained
transformers", sections 3.2 and 3.3; inputs in the order of how much they count (their
``act-order``), with the steps settled before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import Grid
from tynda.weights.rounding import from_codes
from tynda.weights.steps import Steps, nearest, spread
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["gptq"]

# Added to the diagonal, as a share of its mean.
_DAMPING = 0.01
# Inputs whose corrections are gathered before they go to all others.
_BLOCK = 128
# Rows at a time, so that those inputs' stay near the processor.
_ROWS = 2048


def gptq(
    weight: Floats, grid: Grid, steps: Steps, hessians: Sequence[NDArray[np.float64]]
) -> Weight:
    """Round ``weight [out, ...]``.

    ``hessians``: mean of the products of any two inputs ``[in, in]``, over calibration data; or
    for blocks of inputs, one after the other, of which none makes good the errors of another.
    """
    rows = by_tap(weight)
    step, offset = (spread(v, grid, rows.shape[1]).astype(np.float32) for v in steps[1:])
    levels, start = np.empty(rows.shape, np.uint8), 0
    for hessian in hessians:
        part = slice(start, start + len(hessian))
        order = np.argsort(-np.diag(hessian), kind="stable")
        root = _inverse_root(hessian, order)
        for first in range(0, len(rows), _ROWS):
            few = slice(first, first + _ROWS)
            settled = steps.scale[few], step[few, part], offset[few, part]
            levels[few, part] = _levels(rows[few, part], grid, settled, order, root)
        start = part.stop
    return from_codes(weight.shape, grid, steps, levels)


def _levels(
    rows: Floats,
    grid: Grid,
    settled: tuple[Floats, Floats, Floats],
    order: NDArray[np.int64],
    root: Floats,
) -> NDArray[np.uint8]:
    """Codes ``[out, in]``. ``settled``: scale ``[out]``, step and offset ``[out, in]``."""
    scale, step, offset = settled
    # Inputs in rows: one after the other is read and written.
    left = np.ascontiguousarray(rows.T[order])
    step, offset = np.ascontiguousarray(step.T[order]), np.ascontiguousarray(offset.T[order])
    levels = np.empty(left.shape, np.uint8)
    table = np.array(grid.table, np.float32)
    for begin in range(0, len(left), _BLOCK):
        end = min(begin + _BLOCK, len(left))
        errors = np.empty((end - begin, len(rows)), np.float32)
        for i in range(begin, end):
            codes = nearest(left[i], grid, scale, step[i], offset[i])
            whole = table[codes] if grid.table else codes * step[i] + offset[i]
            error = (left[i] - scale * whole) / root[i, i]
            left[i:end] -= np.outer(root[i, i:end], error)
            levels[i], errors[i - begin] = codes, error
        left[end:] -= root[begin:end, end:].T @ errors
    found = np.empty_like(levels)
    found[order] = levels
    return found.T


def _inverse_root(hessian: NDArray[np.float64], order: NDArray[np.int64]) -> Floats:
    """Upper triangular ``u`` with ``u.T @ u`` the inverse of the damped ``hessian``.

    With rows and columns in another ``order``.
    """
    # The Cholesky factor of the inverse, from that of the matrix in reverse order.
    damped = hessian[np.ix_(order[::-1], order[::-1])]
    diagonal = np.diag(damped)
    damping = _DAMPING * max(diagonal.mean(), 1e-12) + (diagonal == 0)
    damped.ravel()[:: len(damped) + 1] += damping
    inverse = _inverse(np.linalg.cholesky(damped))
    return inverse[::-1, ::-1].astype(np.float32)


def _inverse(lower: NDArray[Any]) -> NDArray[Any]:
    """That of a lower triangular matrix, by halves."""
    half = len(lower) // 2
    if half < _BLOCK:
        return np.linalg.inv(lower)
    first, second = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    found = np.zeros_like(lower)
    found[:half, :half], found[half:, half:] = first, second
    found[half:, :half] = -second @ (lower[half:, :half] @ first)
    return found
