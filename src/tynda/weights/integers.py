"""Rounding to 8 bits, the one place where it is done.

A row becomes codes from -127 to 127 and a scale: ``value = scale * code``. Weights are rounded so
when a model is stored or loaded; activations as they come ("dynamic quantization"). Products of
codes are summed in whole numbers, and only the sum is scaled: any order of summing gives the
same, so that a kernel can equal a few lines of NumPy bit for bit (Jacob et al. 2018, section 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import MIN_SCALE

__all__ = ["float16_scale", "quantize_rows"]

Floats = NDArray[np.float32]

_MAX_CODE = np.float32(127)
# 127 over a smaller size would be infinite.
_MIN_SIZE = np.float32(4e-37)


def quantize_rows(x: Floats, scale_dtype: Any = np.float32) -> tuple[NDArray[np.int8], Any]:
    """Codes (int8 ``[..., n]``) and scales (``scale_dtype [...]``) of the rows ``x [..., n]``.

    A row's scale is its largest size over 127. Codes are rounded to the nearest, ties to even.

    ``np.float32``, for all that is computed with: a row whose largest size is below 4e-37 counts
    as zeros. ``np.float16``, for weights that are stored: the scale is at least `MIN_SCALE`, and
    codes are rounded for the scale as f16 has rounded it.
    """
    largest: Floats = np.abs(x).max(-1, initial=0)
    scale: Any
    if scale_dtype == np.float16:
        scale = float16_scale(largest / 127)
        scaled = x / scale[..., None].astype(np.float32)
    else:
        # The kernels multiply by this factor. A division by the scale would round otherwise.
        with np.errstate(divide="ignore", over="ignore"):
            factor = np.where(largest < _MIN_SIZE, np.float32(0), _MAX_CODE / largest)
        scale = largest / _MAX_CODE
        scaled = x * factor[..., None]
    np.clip(np.rint(scaled, out=scaled), -127, 127, out=scaled)  # large weights come here
    return scaled.astype(np.int8), scale


def float16_scale(scale: NDArray[Any]) -> NDArray[np.float16]:
    """Scales as files store them: in f16, and at least `MIN_SCALE`."""
    half: NDArray[np.float16] = np.maximum(scale, MIN_SCALE).astype(np.float16)
    return half
