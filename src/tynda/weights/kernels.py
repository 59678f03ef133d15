"""How the native kernels hold a weight, and how its rows reach them.

Lowering and the native backend ask here, so that neither has to know how a weight is stored.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tynda.weights.tensors import forget
from tynda.weights.weight import Tensor, Weight, by_tap, floats, is_integer

__all__ = ["is_integer", "kernel_format", "put_rows"]

# The kernels multiply packed codes of up to so many bits; more would gain nothing over 8.
_MAX_PACKED = 4


def kernel_format(weight: Tensor) -> tuple[int, int]:
    """In how many bits the kernels hold a weight, and how many inputs share a group (0: all).

    The bits are 32 (float32), 8, or 4, 3 and 2; 1.58 bits count as 2. Wider grids and tables are
    held in 8 bits.
    """
    if not is_integer(weight):
        return 32, 0
    grid = weight.grid if isinstance(weight, Weight) else None
    if grid and grid.bits <= _MAX_PACKED and not grid.table:
        return math.ceil(grid.bits), grid.group
    return 8, 0


def put_rows(matrix: Any, kernels: Any, weight: Tensor, rows: slice, at: int, bits: int) -> None:
    """Copy ``rows`` of a weight into a ``_native.Matrix``, from its output ``at`` on.

    ``bits``: of the matrix, those of `kernel_format`, or 32 for any weight. The memory that the
    rows of a mapped file took is given back at once.
    """
    part: Any = weight[rows]
    if bits == 32:
        values = floats(part)
        matrix.put(at, by_tap(values).astype(np.float32, copy=False))
        forget(values)
    elif bits < 8:
        matrix.put_few(at, part.rows, part.grid.bits == 1.58, *part.steps)
    elif part.grid is None:
        matrix.put_rounded(kernels, at, by_tap(part.rows))
        forget(part.rows)
    else:
        codes, scale = part.by_tap().integers()
        matrix.put_8(at, np.ascontiguousarray(codes), np.ascontiguousarray(scale, np.float32))
