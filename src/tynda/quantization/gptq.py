"""GPTQ: each input's rounding error is made good by the inputs that come after it.

Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained
transformers", sections 3.2 and 3.3; inputs in the order of how much they count (their
``act-order``), with the steps settled before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.quant.coded import Steps, coded, nearest, spread
from tynda.quant.grid import Grid
from tynda.quant.weight import Floats, Quantized, by_tap

__all__ = ["gptq"]

# Added to the diagonal, as a share of its mean.
_DAMPING = 0.01
# Inputs whose corrections are gathered before they go to all others.
_BLOCK = 128


def gptq(weight: Floats, grid: Grid, steps: Steps, hessian: NDArray[np.float64]) -> Quantized:
    """Round ``weight [out, ...]``.

    ``hessian [in, in]``: mean of the products of any two inputs, over calibration data.
    """
    rows = by_tap(weight).astype(np.float32, copy=True)
    inputs = rows.shape[1]
    step, offset = (spread(v, grid, inputs).astype(np.float32) for v in steps[1:])
    diagonal = np.diag(hessian)
    order = np.argsort(-diagonal, kind="stable")
    root = _inverse_root(hessian[np.ix_(order, order)])
    rows, step, offset = rows[:, order], step[:, order], offset[:, order]
    scale, levels = steps.scale, np.empty(rows.shape, np.uint8)
    table = np.array(grid.table, np.float32)
    for begin in range(0, inputs, _BLOCK):
        end = min(begin + _BLOCK, inputs)
        errors = np.empty((len(rows), end - begin), np.float32)
        for i in range(begin, end):
            codes = nearest(rows[:, i], grid, scale, step[:, i], offset[:, i])
            whole = table[codes] if grid.table else codes * step[:, i] + offset[:, i]
            error = (rows[:, i] - scale * whole) / root[i, i]
            rows[:, i:end] -= np.outer(error, root[i, i:end])
            levels[:, i], errors[:, i - begin] = codes, error
        rows[:, end:] -= errors @ root[begin:end, end:]
    unsorted = np.empty_like(levels)
    unsorted[:, order] = levels
    return coded(weight.shape, grid, steps, unsorted)


def _inverse_root(hessian: NDArray[np.float64]) -> Floats:
    """Upper triangular ``u`` with ``u.T @ u`` the inverse of the damped ``hessian``."""
    diagonal = np.diag(hessian).copy()
    damped = hessian + np.diag(_DAMPING * max(diagonal.mean(), 1e-12) + (diagonal == 0))
    # The Cholesky factor of the inverse, from that of the matrix in reverse order.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    inverse = np.linalg.solve(lower, np.eye(len(lower)))
    return inverse[::-1, ::-1].astype(np.float32)
