"""Rounding to 8 bits, for weights and activations.

A row becomes codes from -127 to 127 and a scale: ``value = scale * code`` for weights, which are
rounded when a model is stored or loaded. Activations are rounded when they are computed ("dynamic
quantization"), and also have a zero point, ``value = scale * (code - zero)``: those after GELU or
ReLU lie on one side of 0, and so does the outlier of many others. Products of codes are summed as
integers, and only the sum is scaled: the order of summation does not matter, so that a kernel can
be bit for bit equal to NumPy (Jacob et al. 2018, section 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import MIN_SCALE

__all__ = ["float16_scale", "quantize_activations", "quantize_rows"]

Floats = NDArray[np.float32]

# The quotient of 127 and a smaller size would be infinite.
_MIN_SIZE = np.float32(4e-37)


def quantize_rows(
    x: Floats, scale_dtype: Any = np.float32, max_code: int = 127
) -> tuple[NDArray[np.int8], Any]:
    """Return codes (int8 ``[..., n]``) and scales (``scale_dtype [...]``) of rows ``x [..., n]``.

    A row's scale is its maximum absolute value over ``max_code``. Codes are rounded to nearest,
    ties to even.

    With ``np.float32``, for computation, a row whose maximum is below 4e-37 is rounded to zeros.
    With ``np.float16``, for stored weights, the scale is at least `MIN_SCALE`, and codes are
    computed with the rounded scale.
    """
    largest: Floats = np.abs(x).max(-1, initial=0)
    scale: Any
    if scale_dtype == np.float16:
        scale = float16_scale(largest / max_code)
        scaled = x / scale[..., None].astype(np.float32)
    else:
        # The kernels multiply by this factor; division by the scale would round differently.
        factor = _factor(largest, max_code)
        scale = largest / np.float32(max_code)
        scaled = x * factor[..., None]
    # In place, to save memory.
    np.clip(np.rint(scaled, out=scaled), -max_code, max_code, out=scaled)
    return scaled.astype(np.int8), scale


def quantize_activations(x: Floats) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Return codes (int8 ``[..., n]``), scales and zero points (float32 ``[...]``) of rows of x.

    The first and the last of 255 codes stand for a row's minimum and maximum, between which is 0,
    and zero points are integers from -127 to 127. Codes are rounded to nearest, ties to even. A row
    whose range is below 8e-37 is rounded to zeros.
    """
    # Halves, because the difference of two large numbers would be infinite.
    high, low = x.max(-1, initial=0) / np.float32(2), x.min(-1, initial=0) / np.float32(2)
    factor = _factor(high - low, 127)
    zero: Floats = -np.rint((high + low) * factor)
    codes = x * factor[..., None]
    codes += zero[..., None]
    np.clip(np.rint(codes, out=codes), -127, 127, out=codes)  # In place, to save memory.
    return codes.astype(np.int8), (high - low) / np.float32(127), zero


def _factor(size: Floats, max_code: int) -> Floats:
    """Return the factor from numbers of at most ``size`` to codes, 0 where they are too small."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(size < _MIN_SIZE, np.float32(0), np.float32(max_code) / size)


def float16_scale(scale: NDArray[Any]) -> NDArray[np.float16]:
    """Round scales for a file: to f16, and to at least `MIN_SCALE`."""
    half: NDArray[np.float16] = np.maximum(scale, MIN_SCALE).astype(np.float16)
    return half
