"""Memory-mapped tensors of ``.safetensors`` files."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tynda.errors import TyndaError

__all__ = ["MappedRows", "is_finite", "map_tensors", "release_memory", "tensor_offsets"]

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, eq=False)
class MappedRows:
    """An int8 or uint8 array that remains in its file.

    Each read maps the rows again: their memory is released together with the last reference to
    them, and arrays need no file descriptors of their own.
    """

    file: BinaryIO
    offset: int
    """The array's offset in the file, in bytes."""
    shape: tuple[int, ...]
    dtype: type[np.int8 | np.uint8]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return rows, selected by a slice or an array of integers; they are read-only.

        The int8 code -128, which only a damaged file has, is replaced by -127, since kernels do not
        support it.
        """
        rows: NDArray[Any] = self._map()[index]
        if self.dtype == np.int8 and rows.min(initial=0) == -128:
            rows = np.maximum(rows, np.int8(-127))
        return rows

    def _map(self) -> NDArray[Any]:
        size, skip = math.prod(self.shape), self.offset % mmap.ALLOCATIONGRANULARITY
        if not size:  # A map of length 0 would be one of the whole file.
            return np.empty(self.shape, self.dtype)
        data = mmap.mmap(
            self.file.fileno(), skip + size, access=mmap.ACCESS_READ, offset=self.offset - skip
        )
        return np.frombuffer(data, self.dtype, size, skip).reshape(self.shape)


def tensor_offsets(path: Path) -> dict[str, int]:
    """Return the offset in bytes of each tensor in a file, which must be a valid one."""
    with path.open("rb") as file:
        header, start = _header(file)
    return {name: start + entry["data_offsets"][0] for name, entry in header.items()}


def map_tensors(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """Return every tensor of a file as float32.

    Tensors in f32 are memory-mapped; those in f16 and bf16 are converted copies. Scalar integers,
    such as the counters of batch norm, are dropped. Raises `TyndaError`, naming the file, where it
    is missing, truncated, not a safetensors file, or has other types.
    """
    try:
        with path.open("rb") as file, safe_open(path, framework="np"):  # Checks header and size.
            header, start = _header(file)
        # Copy-on-write, since PyTorch warns about read-only arrays.
        data = np.memmap(path, np.uint8, "c", offset=start)
    except FileNotFoundError:
        raise TyndaError(f"{path} is missing") from None
    except PermissionError:
        raise TyndaError(f"no permission to read {path}: change its mode") from None
    except (OSError, ValueError, SafetensorError):
        raise TyndaError(f"{path} is damaged or no safetensors file: get it again") from None
    return {
        name: _tensor(path, data, name, entry)
        for name, entry in header.items()
        if entry["shape"] or entry["dtype"] != "I64"
    }


def is_finite(values: NDArray[np.float32]) -> bool:
    """Return whether all values are finite, in one fast pass over their memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None)
    # Only a sum that overflows or has NaN is looked at value by value.
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def release_memory(tensor: Any) -> None:
    """Release the memory of a tensor from `map_tensors`, which can be read from its file again.

    Any other tensor is not changed.
    """
    base: Any = tensor
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    if not isinstance(base, np.memmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return  # The tensor is not in a file, or the system cannot release pages.
    # Only whole pages are released, since partial ones also have other tensors.
    start = tensor.ctypes.data - base.ctypes.data + base.offset % mmap.ALLOCATIONGRANULARITY
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        file: Any = base.base
        file.madvise(mmap.MADV_DONTNEED, first, last - first)


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Read the description of each tensor, and the offset of the data of all tensors."""
    size = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def _tensor(
    path: Path, data: NDArray[np.uint8], name: str, entry: Mapping[str, Any]
) -> NDArray[np.float32]:
    kind, (start, stop) = entry["dtype"], entry["data_offsets"]
    if kind not in _DTYPES:
        raise TyndaError(f"{path}: tensor {name} is {kind}, should be one of {', '.join(_DTYPES)}")
    value = data[start:stop].view(_DTYPES[kind]).reshape(entry["shape"])
    if kind == "BF16":  # A bf16 is the upper half of a float32.
        return (value.astype("<u4") << 16).view("<f4")
    return np.asarray(value).astype(np.float32, copy=False)
