"""Conversion of weights to the formats of the native kernels.

Lowering and the native backend use these functions, so that they do not depend on the format of a
stored weight.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.tensors import check_unchanged, release_memory
from tynda.weights.weight import Tensor, Weight, by_tap, floats, is_integer

__all__ = ["copy_rows", "is_integer", "kernel_arrays", "kernel_format"]

# The kernels multiply packed codes of at most 4 bits; with more, they would be no faster than with
# 8.
_MAX_PACKED = 4


def kernel_format(weight: Tensor) -> tuple[int, int]:
    """Return the bits of a weight in the kernels, and the number of inputs in a group (0: all).

    The bits are 32 (float32), 8, 4, 3 or 2. Weights in 1.58 bits have 2 bits; grids with more than
    4 bits, and tables, have 8.
    """
    if not is_integer(weight):
        return 32, 0
    grid = weight.grid if isinstance(weight, Weight) else None
    if grid and grid.bits <= _MAX_PACKED and not grid.table:
        return math.ceil(grid.bits), grid.group
    return 8, 0


def copy_rows(matrix: Any, kernels: Any, weight: Tensor, rows: slice, at: int, bits: int) -> None:
    """Copy ``rows`` of a weight to a ``_native.Matrix``, whose first row for them is ``at``.

    ``bits`` are those of the matrix: the result of `kernel_format`, or 32 for any weight. The
    memory of rows of a mapped file is released immediately. Raises `TyndaError` where the file has
    changed.
    """
    part: Any = weight[rows]
    check_unchanged(part.rows if isinstance(part, Weight) else part)
    if bits == 8 and part.grid is None:  # The kernels round faster than NumPy.
        matrix.pack_rounded(kernels, at, by_tap(part.rows))
        release_memory(part.rows)
        return
    kind, arrays = kernel_arrays(part, bits)
    if kind == "float32":
        matrix.pack_float32(at, *arrays)
        release_memory(part)
    elif kind == "int8":
        matrix.pack_int8(at, *arrays)
    else:
        codes, *scales = arrays
        matrix.pack_few(at, codes, kind == "ternary", *scales)


def kernel_arrays(part: Tensor, bits: int) -> tuple[str, list[NDArray[Any]]]:
    """Return some rows of a weight as arrays for the kernels, and the name of their format.

    The arrays of ``float32`` are numbers ``[n, inputs]``, those of ``int8`` codes ``[n, inputs]``
    and scales float32 ``[n]``. Those of ``packed`` and, in 1.58 bits, ``ternary`` are codes uint8
    ``[n, bytes]``, scales of rows, and scales uint8 and offsets int8 of groups ``[n, groups]``.
    The inputs of a convolution are ordered by tap. ``bits`` are those of `copy_rows`.
    """
    if bits == 32:
        return "float32", [by_tap(floats(part)).astype(np.float32, copy=False)]
    weight: Any = part
    if bits < 8:
        kind = "ternary" if weight.grid.bits == 1.58 else "packed"
        return kind, [weight.rows, *weight.scales]
    codes, scale = weight.by_tap().integers()
    return "int8", [np.ascontiguousarray(codes), np.ascontiguousarray(scale, np.float32)]
