"""Weights as tensors of a model file; ``docs/format.md`` is the specification.

The tensor ``NAME`` has the codes of a weight, ``NAME.scale`` the scales of its rows; in fewer than
8 bits, ``NAME.step`` has the integer scales of groups and ``NAME.offset`` their offsets. Where
codes are entropy-coded, ``NAME.ends`` has the ends of the streams. All data of a file is checked
before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.weights.coding import CodedRows, block_count, encode, is_possible
from tynda.weights.grid import INT8, Grid
from tynda.weights.integers import quantize_rows
from tynda.weights.pack import row_bytes
from tynda.weights.scales import Scales, symmetric_offset
from tynda.weights.tensors import MappedRows, tensor_offsets
from tynda.weights.weight import Tensor, Weight

__all__ = ["TensorReader", "to_tensors"]

# The maximum of f16 is 65504. In 8 bits, the scales of weights and all vectors are stored as f16.
_MAX_VALUE = {8: 65504.0, 16: 65504.0, 32: float(np.finfo(np.float32).max)}


def to_tensors(
    weights: Mapping[str, Tensor], bits: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors of these weights for a file, and the grids of those with another than
    `INT8`.

    ``bits`` is the width for float32 arrays: 8 (rows in 8 bits; arrays with one axis in f16), 16 or
    32. Weights that have codes already keep them. Raises `TyndaError` for values that are not
    finite or too large for the width.
    """
    tensors: dict[str, NDArray[Any]] = {}
    grids: dict[str, Any] = {}
    for name, weight in weights.items():
        if isinstance(weight, Weight):
            tensors |= _quantized(name, weight)
            if weight.grid is not None and weight.grid != INT8:
                grids[name] = _description(weight.grid)
            continue
        if not np.abs(weight).max(initial=0) <= _MAX_VALUE[bits]:
            raise TyndaError(f"tensor {name} has values that {bits} bits cannot hold, or NaN")
        if bits == 8 and weight.ndim > 1:
            codes, scale = quantize_rows(weight.reshape(len(weight), -1), np.float16)
            tensors |= {name: codes.reshape(weight.shape), f"{name}.scale": scale}
        else:
            tensors[name] = weight.astype(np.float32 if bits == 32 else np.float16)
    return tensors, grids


def _quantized(name: str, weight: Weight) -> dict[str, NDArray[Any]]:
    grid, scales = weight.grid, weight.scales
    if grid is None or scales is None or grid.bits == 8:
        codes, scale = weight.integers()
        if grid is None or not grid.relative_step:
            return {name: codes, f"{name}.scale": scale}
        data, ends = encode(codes)
        return {name: data, f"{name}.ends": ends, f"{name}.scale": scale.astype(np.float16)}
    tensors = {name: weight.rows[:], f"{name}.scale": scales.row.astype(np.float16)}
    if (scales.group != grid.default_group_scale).any():
        tensors[f"{name}.step"] = scales.group
    if (scales.offset != symmetric_offset(grid, scales.group)).any():
        tensors[f"{name}.offset"] = scales.offset
    return tensors


def _description(grid: Grid) -> dict[str, Any]:
    """Return a grid for the header: a relative step is stated where there is one, since older
    versions do not know it."""
    described = asdict(grid)
    if not grid.relative_step:
        del described["relative_step"]
    return described


class TensorReader:
    """The tensors of an open safetensors file, which are checked when they are read.

    All methods raise `TyndaError`, naming the file, for a tensor that is missing, damaged or of
    another type or shape.
    """

    def __init__(self, path: Path, file: Any) -> None:
        """``file`` is the result of ``safetensors.safe_open(path, "np")``."""
        self._path, self._file = path, file
        self.names = frozenset(file.keys())
        self._mapped, self._offsets = path.open("rb"), tensor_offsets(path)

    def tensor(self, name: str, *types: str) -> NDArray[Any]:
        """Return a tensor whose type is one of the safetensors ``types``; NumPy does not have all
        types."""
        if name not in self.names:
            raise self._error(f"tensor {name} is missing; the file is damaged")
        stored = self._file.get_slice(name).get_dtype()
        if stored not in types:
            raise self._error(f"tensor {name} is {stored}, should be {' or '.join(types)}")
        tensor: NDArray[Any] = self._file.get_tensor(name)
        return tensor

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of this ``shape``: a `Weight` whose codes remain in the file if it is in
        8 bits, else float32."""
        description = self._file.get_slice(name)
        if (found := tuple(description.get_shape())) != shape:
            raise self._error(f"tensor {name} is {found}, should be {shape}")
        if description.get_dtype() == "I8":
            scale = self.tensor(f"{name}.scale", "F16", "F32")
            if scale.shape != shape[:1]:
                raise self._error(f"tensor {name}.scale does not fit {name}")
            if not np.isfinite(scale).all():
                raise self._error(f"tensor {name} has scales that are not finite; it is damaged")
            return Weight.int8(self._rows(name, shape, np.int8), scale.astype(np.float32))
        value = self.tensor(name, "I8", "F16", "F32")
        if not np.isfinite(value).all():
            raise self._error(f"tensor {name} has values that are not finite; it is damaged")
        return np.asarray(value, np.float32)

    def quantized(self, name: str, shape: tuple[int, ...], description: Any) -> Weight:
        """Return a weight of this ``shape`` in few bits or with an entropy code, whose codes remain
        in the file.

        ``description`` is the header's description of its grid, which may be damaged.
        """
        grid, inputs = self._grid(name, description), math.prod(shape[1:])
        if len(shape) < 2 or not inputs:
            raise self._error(f"tensor {name} cannot be in few bits")
        if grid.bits == 8:
            return self._coded(name, shape, grid)
        scales = self._scales(name, grid, shape[0], grid.groups(inputs))
        stored_shape, codes = (shape[0], row_bytes(grid.bits, inputs)), self._file.get_slice(name)
        if codes.get_dtype() != "U8" or tuple(codes.get_shape()) != stored_shape:
            raise self._error(f"tensor {name} should be U8 {stored_shape}; the file is damaged")
        return Weight.packed(shape, grid, scales, self._rows(name, stored_shape, np.uint8))

    def _coded(self, name: str, shape: tuple[int, ...], grid: Grid) -> Weight:
        """Return a weight whose codes are entropy-coded."""
        if not grid.relative_step:
            raise self._error(f"tensor {name} has an invalid grid; it is damaged")
        scale = self._sized(f"{name}.scale", "F16", shape[:1]).astype(np.float32)
        ends = self._sized(f"{name}.ends", "I64", (block_count(shape[0]),))
        streams = self._file.get_slice(name)
        if streams.get_dtype() != "U8" or len(size := streams.get_shape()) != 1:
            raise self._error(f"tensor {name} should be U8 with one axis; the file is damaged")
        ordered = (np.diff(ends, prepend=0) > 0).all() and ends[-1:].tolist() == size
        if not (ordered and np.isfinite(scale).all() and is_possible(math.prod(shape), size[0])):
            raise self._error(f"tensor {name} has invalid streams; it is damaged")
        data = self._rows(name, tuple(size), np.uint8)
        return Weight.int8(CodedRows(name, data, ends, shape), scale, grid)

    def _grid(self, name: str, description: Any) -> Grid:
        try:
            bits, group, table = (description[key] for key in ("bits", "group", "table"))
            others = description.keys() - {"bits", "group", "table", "relative_step"}
            if others:
                raise KeyError
            return Grid(bits, group, tuple(table), description.get("relative_step", 0))
        except (TyndaError, TypeError, KeyError, AttributeError):
            raise self._error(f"tensor {name} has an invalid grid; it is damaged") from None

    def _scales(self, name: str, grid: Grid, rows: int, groups: int) -> Scales:
        """Read the scales of a tensor in few bits; what the file omits has its default value."""
        scale = self._sized(f"{name}.scale", "F16", (rows,))
        group = np.full((rows, groups), grid.default_group_scale, np.uint8)
        if f"{name}.step" in self.names:
            group = self._sized(f"{name}.step", "U8", group.shape)
        if f"{name}.offset" in self.names:
            offset = self._sized(f"{name}.offset", "I8", group.shape)
        else:
            offset = symmetric_offset(grid, group)
        scales = Scales(scale.astype(np.float32), group, offset)
        if not np.isfinite(scales.row).all() or not scales.are_valid(grid):
            raise self._error(f"tensor {name} has invalid steps; it is damaged")
        return scales

    def _sized(self, name: str, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        part = self.tensor(name, kind)
        if part.shape != shape:
            raise self._error(f"tensor {name} does not fit {name.rpartition('.')[0]}")
        return part

    def _rows(self, name: str, shape: tuple[int, ...], dtype: type[Any]) -> MappedRows:
        return MappedRows(self._mapped, self._offsets[name], shape, dtype)

    def _error(self, what: str) -> TyndaError:
        return TyndaError(f"{self._path}: {what}")
