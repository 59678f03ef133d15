"""A weight in 8 bits, and the arithmetic on it, exactly.

A row is codes from -127 to 127 and a scale: ``weight = scale * code``. In a product, the rows of
the activations get codes and scales of their own as they come ("dynamic"), the products of
codes are summed in whole numbers, and only the sum is scaled. Any order of summing gives the
same, so that a kernel can equal these few lines bit for bit (Jacob et al. 2018, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "POSITIONS",
    "Exact",
    "Pending",
    "Quantized",
    "by_tap",
    "dense",
    "floats",
    "is_product",
    "quantize",
    "quantize_all",
    "quantize_rows",
]

Floats = NDArray[np.float32]
_LARGEST = np.float32(127)
_LEAST = np.float32(4e-37)
POSITIONS = "*embed_positions*"
"""Names of tensors that are added, not multiplied: there is little of them, and all depends on
it, so that they keep 8 bits."""
# With fewer inputs than this, a product in 8 bits saves nothing and loses as much as any other.
_LEAST_INPUTS = 32


@dataclass(frozen=True, eq=False)
class Quantized:
    """``[out, ...]`` in 8 bits."""

    codes: NDArray[np.int8]
    """From -127 to 127."""
    scale: Floats
    """``[out]``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.codes.shape

    def dequantize(self) -> Floats:
        """The weight as float32."""
        rows = self.scale.reshape(*self.scale.shape, *[1] * (self.codes.ndim - self.scale.ndim))
        return self.codes * rows

    def __getitem__(self, index: Any) -> Quantized:
        """Some of the rows, or with ``...`` in front more axes."""
        if isinstance(index, tuple):  # [..., None]
            return Quantized(self.codes[index], self.scale)
        return Quantized(self.codes[index], self.scale[index])

    def by_tap(self) -> Quantized:
        """A convolution's ``[out, in, ...taps]`` as ``[out, taps * in]``."""
        return Quantized(by_tap(self.codes), self.scale)

    def product(self, x: Floats) -> Floats:
        """``x [..., in]`` in 8 bits times the weight ``[out, in]``, transposed: ``[..., out]``."""
        x_codes, x_scale = quantize_rows(x)
        # Sums of whole numbers below 2**53 are exact in double precision, and fast.
        sums = x_codes.astype(np.float64) @ self.codes.astype(np.float64).T
        scale: Floats = x_scale[..., None] * self.scale
        return sums.astype(np.float32) * scale


def quantize_rows(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Codes ``[..., n]`` and scales ``[...]`` of the rows ``x [..., n]``.

    The scale is the greatest size over 127; codes are rounded to the nearest, ties to even. A
    row whose greatest size is below 4e-37 counts as zeros: 127 over it would be infinite.
    """
    most = np.abs(x).max(-1, initial=0)
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.where(most < _LEAST, np.float32(0), _LARGEST / most)
    codes = np.rint(x * factor[..., None]).astype(np.int8)
    return codes, most / _LARGEST


class Pending(Quantized):
    """A weight that is brought to 8 bits some rows at a time, when it is needed."""

    weight: Floats

    def __init__(self, weight: Floats) -> None:
        object.__setattr__(self, "weight", weight)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        shape: tuple[int, ...] = self.weight.shape
        return shape

    def __getitem__(self, index: Any) -> Quantized:
        """Some of the rows."""
        return quantize(self.weight[index])

    def dequantize(self) -> Floats:
        """The weight as float32."""
        return quantize(self.weight).dequantize()


def quantize(weight: Floats) -> Quantized:
    """Round a weight ``[out, ...]`` to 8 bits, each row by its greatest size."""
    codes, scale = quantize_rows(weight.reshape(len(weight), -1))
    return Quantized(codes.reshape(weight.shape), scale)


def by_tap(weight: NDArray[Any]) -> NDArray[Any]:
    """``[out, in, ...taps]`` as ``[out, taps * in]``: in the order of a window's numbers."""
    return np.ascontiguousarray(np.moveaxis(weight, 1, -1).reshape(len(weight), -1))


def floats(weight: Any) -> Floats:
    """A weight as float32; one in few bits as it counts."""
    return weight.dequantize() if isinstance(weight, Quantized) else np.asarray(weight)


class Exact:
    """What a weight in 8 bits or fewer counts, made some rows at a time when it is needed."""

    def __init__(self, weight: Quantized) -> None:
        self._weight = weight
        self.shape = weight.shape

    def __getitem__(self, index: Any) -> Floats:
        """Some of the rows."""
        return self._weight[index].dequantize()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return self._weight.dequantize()


def dense(weights: Mapping[str, Any], *, later: bool = False) -> dict[str, Any]:
    """All weights of a model as `floats`; ``later``: those in few bits as `Exact` ones."""
    make = Exact if later else floats
    return {
        name: make(weight) if isinstance(weight, Quantized) else floats(weight)
        for name, weight in weights.items()
    }


def is_product(shape: tuple[int, ...], trainable: bool) -> bool:
    """Whether products in few bits with a weight of this shape are worth while."""
    return len(shape) > 1 and int(np.prod(shape[1:])) >= _LEAST_INPUTS and trainable


def quantize_all(
    weights: Mapping[str, Any], trainable: Mapping[str, bool], *, later: bool = False
) -> dict[str, Floats | Quantized]:
    """Those weights of a model in 8 bits that products with many inputs are made with.

    ``trainable``: whether a tensor is learnt; constants (positions) stay as they are. ``later``:
    give `Pending` ones.
    """
    make = Pending if later else quantize

    def convert(name: str, weight: Any) -> Floats | Quantized:
        if is_product(weight.shape, trainable[name]):
            return weight if isinstance(weight, Quantized) else make(weight)
        return floats(weight)

    return {name: convert(name, weight) for name, weight in weights.items()}
