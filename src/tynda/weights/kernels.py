"""How the native kernels hold a weight, and how its rows reach them.

Lowering and the native backend ask here, so that neither has to know how a weight is stored.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tynda.weights.coded import Coded
from tynda.weights.tensors import forget
from tynda.weights.weight import Pending, Quantized, by_tap, floats

__all__ = ["is_integer", "kernel_format", "put_rows"]


def is_integer(weight: Any) -> bool:
    """Whether products with this weight are computed in 8 bits, and not in float32."""
    return isinstance(weight, Quantized)


def kernel_format(weight: Any) -> tuple[int, int]:
    """In how many bits the kernels hold a weight, and how many inputs share a group (0: all).

    The bits are 32 (float32), 8, or 4, 3 and 2; 1.58 bits count as 2. Wider grids and tables are
    held in 8 bits, since the products would gain nothing from fewer.
    """
    if not is_integer(weight):
        return 32, 0
    if isinstance(weight, Coded) and weight.grid.bits <= 4 and not weight.grid.table:
        return math.ceil(weight.grid.bits), weight.grid.group
    return 8, 0


def put_rows(matrix: Any, kernels: Any, weight: Any, rows: slice, at: int, bits: int) -> None:
    """Copy ``rows`` of a weight into a ``_native.Matrix``, from its output ``at`` on.

    ``bits``: of the matrix, those of `kernel_format`, or 32 for any weight. The memory that the
    rows of a mapped file took is given back at once.
    """
    if bits < 8:
        part = weight[rows]
        matrix.put_few(at, part.packed, part.grid.bits == 1.58, *part.steps)
        forget(part.packed)
    elif bits == 8 and isinstance(weight, Pending):
        part = weight.weight[rows]
        matrix.put_rounded(kernels, at, by_tap(part))
        forget(part)
    elif bits == 8:
        part = weight[rows].by_tap()
        scale = np.ascontiguousarray(part.scale, np.float32)
        matrix.put_8(at, np.ascontiguousarray(part.codes), scale)
    else:
        part = floats(weight[rows])
        matrix.put(at, by_tap(part).astype(np.float32, copy=False))
        forget(part)
