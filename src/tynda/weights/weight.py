"""A weight of a model, whatever it is stored in, and what is asked of it.

A model's tensors are float32 arrays or `Weight` objects. The functions here take either: nothing
else has to know which it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tynda.weights.grid import INT8, Grid
from tynda.weights.integers import quantize_rows
from tynda.weights.pack import unpack
from tynda.weights.steps import Steps, int8_codes

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
    "is_integer",
    "is_matrix_product",
    "lookup",
    "product",
    "quantize",
    "quantize_all",
    "stored_bits",
]

Floats = NDArray[np.float32]

POSITIONS = "*embed_positions*"
"""Names of tensors that are added, not multiplied: there is little of them, and all depends on
it, so that they keep 8 bits."""
# With fewer inputs than this, a product in 8 bits saves nothing and loses as much as any other.
_MIN_INPUTS = 32


class Rows(Protocol):
    """Rows that can be read some at a time: an array, or a part of a file (`MappedRows`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows together."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Rows by a slice or an array of whole numbers, as an array."""
        ...


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight ``[out, ...]`` that is read when it is asked for, some rows at a time.

    Its values are ``scale[r] * codes[r]``, with a float32 scale for each row and int8 codes from
    -127 to 127, in whichever format the rows are held. Made by `int8`, `packed` or `unrounded`.
    """

    shape: tuple[int, ...]
    """``(out, in, ...taps)``."""
    rows: Rows
    """The numbers or codes, held in the format that ``grid`` says."""
    grid: Grid | None
    """The format of ``rows``. None: float32 of the weight's shape, rounded to 8 bits when they are
    read. `INT8`: codes, int8 of the weight's shape. Fewer bits: uint8 ``[out, bytes]``, packed as
    ``docs/format.md`` says."""
    steps: Steps | None
    """The values that codes stand for; None where rows are float32."""
    integer: bool = True
    """Whether products are computed in 8 bits; else in float32, with the same values."""

    @classmethod
    def int8(cls, codes: Rows, scale: Floats) -> Self:
        """Codes int8 ``[out, ...]`` from -127 to 127 and scales float32 ``[out]``."""
        ones, zeros = np.ones((len(scale), 1), np.uint8), np.zeros((len(scale), 1), np.int8)
        return cls(tuple(codes.shape), codes, INT8, Steps(scale, ones, zeros))

    @classmethod
    def packed(cls, shape: tuple[int, ...], grid: Grid, steps: Steps, rows: Rows) -> Self:
        """Packed codes uint8 ``[out, bytes]`` in fewer than 8 bits; inputs lie by tap."""
        return cls(shape, rows, grid, steps)

    @classmethod
    def unrounded(cls, weight: Floats) -> Self:
        """Numbers that are rounded to 8 bits when they are read, each row by its largest size."""
        return cls(tuple(weight.shape), weight, None, None)

    def with_float_products(self) -> Self:
        """The same values, and products with them in float32."""
        return replace(self, integer=False)

    def __getitem__(self, index: Any) -> Self:
        """Some of the rows, by a slice or an array of whole numbers with one axis."""
        steps = None if self.steps is None else self.steps.rows(index)
        rows = self.rows[index]
        return replace(self, shape=(len(rows), *self.shape[1:]), rows=rows, steps=steps)

    def integers(self) -> tuple[NDArray[np.int8], Floats]:
        """Codes int8 of the weight's shape, not to be written to, and scales float32 ``[out]``."""
        rows: NDArray[Any] = self.rows[:]
        if self.grid is None or self.steps is None:
            codes, scale = quantize_rows(rows.reshape(len(rows), self.inputs))
            return codes.reshape(self.shape), scale
        if self.grid.bits == 8:
            return rows, self.steps.scale
        out, used, *taps = self.shape
        levels = unpack(rows, self.grid.bits, self.inputs)
        whole = int8_codes(levels, self.grid, self.steps).reshape(out, *taps, used)
        return np.moveaxis(whole, -1, 1), self.steps.scale

    @property
    def inputs(self) -> int:
        """How many numbers a row has, all taps counted."""
        return int(np.prod(self.shape[1:]))

    @property
    def codes(self) -> NDArray[np.int8]:
        """int8 of the weight's shape, from -127 to 127; not to be written to."""
        return self.integers()[0]

    @property
    def scale(self) -> Floats:
        """float32 ``[out]``."""
        return self.integers()[1] if self.steps is None else self.steps.scale

    def dequantize(self) -> Floats:
        """The values, float32 of the weight's shape."""
        codes, scale = self.integers()
        return codes * scale.reshape(-1, *[1] * (codes.ndim - 1))

    def by_tap(self) -> Self:
        """A convolution's ``[out, in, ...taps]`` as ``[out, taps * in]``."""
        rows = self.rows
        if self.grid is None or self.grid.bits == 8:  # fewer bits are packed by tap
            rows = by_tap(rows[:])
        return replace(self, shape=(self.shape[0], self.inputs), rows=rows)

    def product(self, x: Floats) -> Floats:
        """``x [..., in]`` times the weight ``[out, in]``, transposed: float32 ``[..., out]``.

        In 8 bits the rows of ``x`` are rounded as they come, and codes are multiplied.
        """
        if not self.integer:
            return np.asarray(x @ self.dequantize().T)
        x_codes, x_scale = quantize_rows(x)
        codes, w_scale = self.integers()
        # Sums of whole numbers below 2**53 are exact in double precision, and fast.
        sums = x_codes.astype(np.float64) @ codes.astype(np.float64).T
        scale: Floats = x_scale[..., None] * w_scale
        return sums.astype(np.float32) * scale


Tensor = Floats | Weight
"""A tensor of a model, as it is stored or computed with."""


def is_integer(weight: Tensor) -> bool:
    """Whether products with this weight are computed in 8 bits, and not in float32."""
    return isinstance(weight, Weight) and weight.integer


def stored_bits(weight: Tensor) -> float:
    """In how many bits the numbers of a weight are held; 32: as they are."""
    return weight.grid.bits if isinstance(weight, Weight) and weight.grid else 32


def floats(weight: Any) -> Floats:
    """A weight as float32; one in 8 bits or fewer by the values of its codes."""
    return weight.dequantize() if isinstance(weight, Weight) else np.asarray(weight)


def by_tap(weight: Any) -> Any:
    """``[out, in, ...taps]`` as ``[out, taps * in]``: in the order of a window's numbers."""
    if isinstance(weight, Weight):
        return weight.by_tap()
    inputs = int(np.prod(weight.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(weight, 1, -1).reshape(len(weight), inputs))


def product(x: Floats, weight: Tensor) -> Floats:
    """``x [..., in]`` times the weight ``[out, in]``, transposed: float32 ``[..., out]``."""
    return weight.product(x) if isinstance(weight, Weight) else np.asarray(x @ weight.T)


def lookup(weight: Tensor, ids: NDArray[Any]) -> Floats:
    """Rows of ``weight [rows, width]`` by whole numbers ``[...]``: float32 ``[..., width]``."""
    if isinstance(weight, Weight):
        return weight[ids.ravel()].dequantize().reshape(*ids.shape, *weight.shape[1:])
    rows: Floats = weight[ids]
    return rows


def concatenate(parts: Sequence[Weight]) -> Weight:
    """Rows of one weight, one part after the other; all parts are of one format and have codes."""
    steps = [part.steps for part in parts if part.steps is not None]
    together = Steps(*(np.concatenate(part) for part in zip(*steps, strict=True)))
    rows = np.concatenate([part.rows[:] for part in parts])
    shape = (len(rows), *parts[0].shape[1:])
    return replace(parts[0], shape=shape, rows=rows, steps=together)


def quantize(weight: Floats) -> Weight:
    """Round a weight ``[out, ...]`` to 8 bits, each row by its largest size."""
    codes, scale = quantize_rows(weight.reshape(len(weight), -1))
    return Weight.int8(codes.reshape(weight.shape), scale)


def dequantize_all(weights: Mapping[str, Any], *, lazy: bool = False) -> dict[str, Any]:
    """All weights of a model as `floats`.

    ``later``: those with codes remain a `Weight`, whose rows become floats when they are read.
    """
    return {
        name: weight.with_float_products()
        if lazy and isinstance(weight, Weight)
        else floats(weight)
        for name, weight in weights.items()
    }


def is_matrix_product(shape: tuple[int, ...], trainable: bool) -> bool:
    """Whether products in few bits with a weight of this shape are worth while."""
    return len(shape) > 1 and int(np.prod(shape[1:])) >= _MIN_INPUTS and trainable


def quantize_all(
    weights: Mapping[str, Any], trainable: Mapping[str, bool], *, lazy: bool = False
) -> dict[str, Tensor]:
    """Round the weights of a model to 8 bits, where products have many inputs.

    ``trainable``: whether a tensor is learnt; constants (positions) stay as they are. ``later``:
    round only when they are read, some rows at a time.
    """
    make = Weight.unrounded if lazy else quantize

    def convert(name: str, weight: Any) -> Tensor:
        if is_matrix_product(weight.shape, trainable[name]):
            return weight if isinstance(weight, Weight) else make(weight)
        return floats(weight)

    return {name: convert(name, weight) for name, weight in weights.items()}
