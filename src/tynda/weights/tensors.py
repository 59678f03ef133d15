"""Tensors that remain in their files, read or mapped to memory when they are needed.

A file may be cut or overwritten while a model uses it. A process that reads a mapped page behind a
file's end is killed, and other contents would be wrong weights. Therefore a file is compared with
what it was before any of it is used, and kernels are given copies.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tynda.errors import TyndaError

__all__ = [
    "MappedRows",
    "check_unchanged",
    "is_finite",
    "map_file",
    "map_tensors",
    "release_memory",
    "tensor_offsets",
    "unmapped",
]

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class _Stamp(NamedTuple):
    """A file, and what changes with its contents."""

    number: int
    """The number that the file keeps when it is renamed, and another at its path does not have."""
    size: int
    nanoseconds: int
    """The time of the last change."""

    @classmethod
    def of(cls, file: int | Path) -> Self:
        """Return the stamp of a path or of an open file's descriptor."""
        about = os.stat(file)
        return cls(about.st_ino, about.st_size, about.st_mtime_ns)


class MappedRows:
    """An int8 or uint8 array that remains in its file.

    Each access reads the rows again: their memory is released together with the last reference to
    them, and arrays need no file descriptors of their own.
    """

    def __init__(
        self,
        file: BinaryIO,
        offset: int,
        shape: tuple[int, ...],
        dtype: type[np.int8 | np.uint8],
    ) -> None:
        """``offset`` is that of the array in the ``file``, in bytes."""
        self.file, self.offset, self.shape, self.dtype = file, offset, shape, dtype
        self._stamp = _Stamp.of(file.fileno())

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return rows, selected by a slice or an array of integers; they are read-only.

        The int8 code -128, which only a damaged file has, is replaced by -127, since kernels do not
        support it. Raises `TyndaError` where the file has changed since the array was created.
        """
        rows = self._select(index)
        if self.dtype == np.int8 and rows.min(initial=0) == -128:
            rows = np.maximum(rows, np.int8(-127))
        rows.flags.writeable = False
        return rows

    def _select(self, index: Any) -> NDArray[Any]:
        count = self.shape[0]
        if isinstance(index, slice):
            start, stop, step = index.indices(count)
            if step == 1:
                return self._read(start, max(start, stop))
        elif (index := np.asarray(index)).dtype.kind in "iu" and 0 < index.size <= _FEW:
            at = range(count)
            rows = [self._read(at[i], at[i] + 1) for i in index.ravel().tolist()]
            return np.concatenate(rows).reshape(*index.shape, *self.shape[1:])
        selected: NDArray[Any] = self._read(0, count)[index]
        return selected

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Read consecutive rows."""
        row = math.prod(self.shape[1:])
        data = bytearray((stop - start) * row)
        if _Stamp.of(self.file.fileno()) != self._stamp or not self._fill(data, start * row):
            raise _changed(self.file.name)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def _fill(self, data: bytearray, start: int) -> bool:
        """Read as many bytes as ``data`` has, and return whether the file has them."""
        if hasattr(os, "preadv"):  # Threads and forked processes share a file's position.
            done = 0
            while done < len(data):
                offset = self.offset + start + done
                count = os.preadv(self.file.fileno(), [memoryview(data)[done:]], offset)
                if not count:
                    return False
                done += count
            return True
        with _READING:
            self.file.seek(self.offset + start)
            found = self.file.read(len(data))
        data[: len(found)] = found
        return len(found) == len(data)


_FEW = 64
"""Rows up to this number are read one by one, where others do not matter."""
_READING = threading.Lock()


def _changed(name: object) -> TyndaError:
    return TyndaError(f"{name} was changed while the model was in use: load the model again")


class _MappedFile(np.memmap[Any, np.dtype[np.uint8]]):
    """The bytes of a file."""

    stamp: _Stamp


def map_file(path: Path, offset: int = 0) -> NDArray[np.uint8]:
    """Return the bytes of a file from ``offset`` on, mapped to memory.

    Raises OSError where it is not readable, and ValueError where it has no such bytes.
    """
    stamp = _Stamp.of(path)
    # Copy-on-write, since PyTorch warns about read-only arrays.
    data = _MappedFile(path, np.uint8, "c", offset=offset)
    data.stamp = stamp
    return data


def unmapped(tensor: Any) -> Any:
    """Return a copy of an array that is mapped from a file; anything else is not copied.

    Raises `TyndaError` as `check_unchanged` does.
    """
    if _mapped_file(tensor) is None:
        return tensor
    check_unchanged(tensor)
    return tensor.copy()


def check_unchanged(tensor: Any) -> None:
    """Raise `TyndaError` where the file that a tensor is mapped from has changed.

    Any other tensor passes, also one whose file was replaced or deleted: the map keeps the old one.
    """
    data = _mapped_file(tensor)
    if data is None or not isinstance(data, _MappedFile):
        return
    file: Any = data.base
    path = Path(str(data.filename))
    has_changed = file.size() != data.stamp.size
    with suppress(OSError):  # it has no path any more
        now = _Stamp.of(path)
        has_changed = has_changed or (now.number == data.stamp.number and now != data.stamp)
    if has_changed:
        raise _changed(path)


def _mapped_file(tensor: Any) -> Any:
    """Return the `np.memmap` of a tensor's file; None for a tensor in memory."""
    base: Any = tensor
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    return base if isinstance(base, np.memmap) else None


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
        data = map_file(path, start)
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
    base = _mapped_file(tensor)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):
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
