"""The weights of a model, in any format, and the operations on them.

A model's tensors are float32 arrays or `Weight` objects. The functions of this module accept both,
so that other code does not depend on the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import INT8, Grid
from tynda.weights.integers import quantize_activations, quantize_rows
from tynda.weights.pack import unpack
from tynda.weights.scales import Scales, int8_codes
from tynda.weights.tensors import unmapped

__all__ = [
    "POSITIONS",
    "Floats",
    "Rows",
    "Tensor",
    "Weight",
    "by_tap",
    "concatenate",
    "dequantize_all",
    "floats",
    "in_few_bits",
    "is_integer",
    "is_matrix_product",
    "lookup",
    "product",
    "quantize",
    "quantize_all",
    "resident",
    "stored_bits",
]

Floats = NDArray[np.float32]

POSITIONS = "*embed_positions*"
"""Pattern of the names of learned positional embeddings: they are small and sensitive to rounding,
so that they are not stored in fewer than 8 bits."""
# A matrix product with fewer inputs is not faster in 8 bits.
_MIN_INPUTS = 32


class Rows(Protocol):
    """Rows of a matrix that can be read in parts: an array, or part of a file (`MappedRows`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return rows as an array, selected by a slice or an array of integers."""
        ...


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantised weight ``[out, ...]``, whose rows are converted when they are read.

    Its values are ``scale[r] * codes[r]``, with a float32 scale for each row and int8 codes from
    -127 to 127, in any format of the rows. `int8`, `packed` and `lazy_int8` create weights.
    """

    shape: tuple[int, ...]
    """``(out, in, ...taps)``."""
    rows: Rows
    """The numbers or codes, in the format of ``grid``."""
    grid: Grid | None
    """The format of ``rows``. With None, they are float32 of the weight's shape, and rounded to 8
    bits when they are read. With 8 bits, they are int8 codes of the weight's shape. With fewer
    bits, they are uint8 ``[out, bytes]``, packed as in ``docs/format.md``."""
    scales: Scales | None
    """The scales of codes; None where rows are float32."""
    integer: bool = True
    """Whether products are computed in 8 bits, or else in float32 with the same values."""

    @classmethod
    def int8(cls, codes: Rows, scale: Floats, grid: Grid = INT8) -> Self:
        """Create a weight from codes int8 ``[out, ...]`` from -127 to 127 and scales float32
        ``[out]``; ``grid`` has 8 bits."""
        ones, zeros = np.ones((len(scale), 1), np.uint8), np.zeros((len(scale), 1), np.int8)
        return cls(tuple(codes.shape), codes, grid, Scales(scale, ones, zeros))

    @classmethod
    def packed(cls, shape: tuple[int, ...], grid: Grid, scales: Scales, rows: Rows) -> Self:
        """Create a weight from packed codes uint8 ``[out, bytes]`` in fewer than 8 bits; the inputs
        of a convolution are ordered by tap."""
        return cls(shape, rows, grid, scales)

    @classmethod
    def lazy_int8(cls, weight: Floats) -> Self:
        """Create a weight from float32 numbers that are rounded to 8 bits when they are read."""
        return cls(tuple(weight.shape), weight, None, None)

    def with_float_products(self) -> Self:
        """Return a weight with the same values, whose products are computed in float32."""
        return replace(self, integer=False)

    def __getitem__(self, index: Any) -> Self:
        """Return some of the rows, selected by a slice or an array ``[n]`` of integers."""
        scales = None if self.scales is None else self.scales.select(index)
        rows = self.rows[index]
        return replace(self, shape=(len(rows), *self.shape[1:]), rows=rows, scales=scales)

    def integers(self) -> tuple[NDArray[np.int8], Floats]:
        """Return codes int8 of the weight's shape, read-only, and scales float32 ``[out]``."""
        rows: NDArray[Any] = self.rows[:]
        if self.grid is None or self.scales is None:
            codes, scale = quantize_rows(rows.reshape(len(rows), self.inputs))
            return codes.reshape(self.shape), scale
        if self.grid.bits == 8:
            return rows, self.scales.row
        out, used, *taps = self.shape
        packed_codes = unpack(rows, self.grid.bits, self.inputs)
        codes = int8_codes(packed_codes, self.grid, self.scales).reshape(out, *taps, used)
        return np.moveaxis(codes, -1, 1), self.scales.row

    @property
    def inputs(self) -> int:
        """Number of values in a row, including all taps."""
        return int(np.prod(self.shape[1:]))

    @property
    def codes(self) -> NDArray[np.int8]:
        """The codes: int8 of the weight's shape, from -127 to 127, read-only."""
        return self.integers()[0]

    @property
    def row_scales(self) -> Floats:
        """The scales of the rows: float32 ``[out]``."""
        return self.integers()[1] if self.scales is None else self.scales.row

    def dequantize(self) -> Floats:
        """Return the values, float32 of the weight's shape."""
        codes, scale = self.integers()
        return codes * scale.reshape(-1, *[1] * (codes.ndim - 1))

    def by_tap(self) -> Self:
        """Return a convolution's weight ``[out, in, ...taps]`` as ``[out, taps * in]``."""
        rows = self.rows
        if self.grid is None or self.grid.bits == 8:  # Fewer bits are packed by tap already.
            rows = by_tap(rows[:])
        return replace(self, shape=(self.shape[0], self.inputs), rows=rows)

    def product(self, x: Floats) -> Floats:
        """Multiply ``x [..., in]`` by the transposed weight ``[out, in]``: float32 ``[..., out]``.

        In 8 bits, the rows of ``x`` are quantised dynamically, and codes are multiplied.
        """
        if not self.integer:
            return np.asarray(x @ self.dequantize().T)
        x_codes, x_scale, zero = quantize_activations(x)
        codes, w_scale = self.integers()
        # In float64, products and sums of integers below 2**53 are exact and use fast BLAS.
        sums = (x_codes - zero[..., None].astype(np.float64)) @ codes.astype(np.float64).T
        scale: Floats = x_scale[..., None] * w_scale
        return sums.astype(np.float32) * scale


Tensor = Floats | Weight
"""A tensor of a model."""


def is_integer(weight: Tensor) -> bool:
    """Return whether products with this weight are computed in 8 bits, and not in float32."""
    return isinstance(weight, Weight) and weight.integer


def stored_bits(weight: Tensor) -> float:
    """Return the number of bits of a weight's stored codes, or 32 where it has none."""
    return weight.grid.bits if isinstance(weight, Weight) and weight.grid else 32


def in_few_bits(weight: Tensor) -> tuple[Weight, Grid] | None:
    """Return a weight and its grid if it has codes in fewer than 8 bits and no table, else None."""
    if not isinstance(weight, Weight) or weight.grid is None or weight.scales is None:
        return None
    return None if weight.grid.bits == 8 or weight.grid.table else (weight, weight.grid)


def floats(weight: Any) -> Floats:
    """Return a weight as float32; a quantised one is dequantised."""
    return weight.dequantize() if isinstance(weight, Weight) else np.asarray(weight)


def resident(weight: Tensor) -> Tensor:
    """Return a weight whose codes or values are in memory, and not in a file.

    Raises `TyndaError` where the file has changed, or where entropy-coded codes are damaged.
    """
    if isinstance(weight, Weight):
        return replace(weight, rows=weight.rows[:])
    array: Floats = unmapped(weight)
    return array


def by_tap(weight: Any) -> Any:
    """Return a weight ``[out, in, ...taps]`` as ``[out, taps * in]``, the order in which a
    convolution's windows are in memory."""
    if isinstance(weight, Weight):
        return weight.by_tap()
    inputs = int(np.prod(weight.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(weight, 1, -1).reshape(len(weight), inputs))


def product(x: Floats, weight: Tensor) -> Floats:
    """Multiply ``x [..., in]`` by the transposed weight ``[out, in]``: float32 ``[..., out]``."""
    return weight.product(x) if isinstance(weight, Weight) else np.asarray(x @ weight.T)


def lookup(weight: Tensor, ids: NDArray[Any]) -> Floats:
    """Select rows of ``weight [rows, width]`` by integers ``[...]``: float32 ``[..., width]``."""
    if isinstance(weight, Weight):
        return weight[ids.ravel()].dequantize().reshape(*ids.shape, *weight.shape[1:])
    rows: Floats = weight[ids]
    return rows


def concatenate(parts: Sequence[Weight]) -> Weight:
    """Concatenate parts of a weight's rows, all with codes in the same format."""
    scales = [part.scales for part in parts if part.scales is not None]
    joined = Scales(*(np.concatenate(arrays) for arrays in zip(*scales, strict=True)))
    rows = np.concatenate([part.rows[:] for part in parts])
    shape = (len(rows), *parts[0].shape[1:])
    return replace(parts[0], shape=shape, rows=rows, scales=joined)


def quantize(weight: Floats) -> Weight:
    """Round a weight ``[out, ...]`` to 8 bits, scaling each row by its maximum absolute value."""
    codes, scale = quantize_rows(weight.reshape(len(weight), -1))
    return Weight.int8(codes.reshape(weight.shape), scale)


def dequantize_all(weights: Mapping[str, Any], *, lazy: bool = False) -> dict[str, Any]:
    """Return all weights of a model as float32.

    With ``lazy``, quantised weights remain a `Weight`, whose products are computed in float32.
    """
    return {
        name: weight.with_float_products()
        if lazy and isinstance(weight, Weight)
        else floats(weight)
        for name, weight in weights.items()
    }


def is_matrix_product(shape: tuple[int, ...], trainable: bool) -> bool:
    """Return whether a weight of this shape is quantised: a trained matrix with enough inputs."""
    return len(shape) > 1 and int(np.prod(shape[1:])) >= _MIN_INPUTS and trainable


def quantize_all(
    weights: Mapping[str, Any], trainable: Mapping[str, bool], *, lazy: bool = False
) -> dict[str, Tensor]:
    """Round the matrices of a model (`is_matrix_product`) to 8 bits; other weights are float32.

    ``trainable`` tells whether a tensor is trained; constants such as positions are not rounded.
    With ``lazy``, weights are rounded when they are read, some rows at a time.
    """
    make = Weight.lazy_int8 if lazy else quantize

    def convert(name: str, weight: Any) -> Tensor:
        if is_matrix_product(weight.shape, trainable[name]):
            return weight if isinstance(weight, Weight) else make(weight)
        return floats(weight)

    return {name: convert(name, weight) for name, weight in weights.items()}
