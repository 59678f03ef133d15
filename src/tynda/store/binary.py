"""A binary file that is read from its beginning to its end, each read checked against its size."""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.files import check_readable
from tynda.weights.tensors import map_file

__all__ = ["MAX_TENSORS", "Binary"]

MAX_TENSORS = 1 << 16
"""The maximum number of tensors in a file; whisper-large has 1259."""
_MAX_NAME = 1 << 10


class Binary:
    """A file, mapped to memory, and the position of the next read.

    All methods raise `TyndaError`, naming the file, for a read beyond its end: no size that a file
    states is used to allocate memory before it has been compared with the file's own.
    """

    def __init__(self, path: Path, kind: str) -> None:
        """Map a file; ``kind`` names it in messages. Raises `TyndaError` if it is not readable."""
        check_readable(path, kind)
        self.path, self.kind, self.offset = path, kind, 0
        self.size = path.stat().st_size
        try:
            self.data: NDArray[np.uint8] = map_file(path)
        except (OSError, ValueError):
            raise self.error("it is empty or cannot be mapped to memory") from None
        self._view = self.data.data  # its slices are faster than those of an array

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Read numbers in little-endian order; ``layout`` is that of `struct`."""
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))

    def number(self, layout: str) -> int:
        """Read one integer."""
        return int(self.numbers(layout)[0])

    def bytes(self, count: int) -> bytes:
        """Read bytes."""
        start = self.skip(count)
        return bytes(self._view[start : start + count])

    def name(self, count: int) -> str:
        """Read a name of so many bytes in UTF-8."""
        if not 0 < count <= _MAX_NAME:
            raise self.error("a name in it is empty or too long")
        try:
            return self.bytes(count).decode()
        except UnicodeDecodeError:
            raise self.error("a name in it is not text") from None

    def skip(self, count: int) -> int:
        """Pass over bytes; return the offset of the first."""
        start = self.offset
        if not 0 <= count <= self.size - start:
            raise self.error("it is truncated, or a size in it is wrong")
        self.offset += count
        return start

    @cached_property
    def file(self) -> BinaryIO:
        """The file, for tensors that stay in it."""
        return self.path.open("rb")

    @property
    def ended(self) -> bool:
        """Whether everything has been read."""
        return self.offset == self.size

    def error(self, what: str) -> TyndaError:
        """Return the error of a file that is not as it should be."""
        return TyndaError(f"{self.path} is no {self.kind} that can be read: {what}")
