"""How the native kernels hold a weight, and how its rows reach them.

Lowering and the native backend ask here, so that neither has to know how a weight is stored.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.tensors import forget
from tynda.weights.weight import Tensor, Weight, by_tap, floats, is_integer

__all__ = ["is_integer", "kernel_arrays", "kernel_format", "put_rows"]

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
    if bits == 8 and part.grid is None:  # rounded by the kernels, which take less time
        matrix.pack_rounded(kernels, at, by_tap(part.rows))
        forget(part.rows)
        return
    kind, arrays = kernel_arrays(part, bits)
    if kind == "float32":
        matrix.pack_float32(at, *arrays)
        forget(part)
    elif kind == "int8":
        matrix.pack_int8(at, *arrays)
    else:
        codes, *steps = arrays
        matrix.pack_few(at, codes, kind == "ternary", *steps)


def kernel_arrays(part: Tensor, bits: int) -> tuple[str, list[NDArray[Any]]]:
    """The arrays from which the kernels' form of some rows of a weight is made, and their kind.

    ``float32``: numbers ``[n, inputs]``. ``int8``: codes ``[n, inputs]`` and scales float32
    ``[n]``. ``packed`` and, in 1.58 bits, ``ternary``: codes uint8 ``[n, bytes]``, scales, and
    steps uint8 and offsets int8 ``[n, groups]``. Inputs lie by tap. ``bits`` are as `put_rows`
    takes them; rows that are rounded when they are read are rounded.
    """
    if bits == 32:
        return "float32", [by_tap(floats(part)).astype(np.float32, copy=False)]
    weight: Any = part
    if bits < 8:
        kind = "ternary" if weight.grid.bits == 1.58 else "packed"
        return kind, [weight.rows, *weight.steps]
    codes, scale = weight.by_tap().integers()
    return "int8", [np.ascontiguousarray(codes), np.ascontiguousarray(scale, np.float32)]
