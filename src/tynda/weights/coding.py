"""Entropy coding of codes in 8 bits for a file, where most of them are small.

A uniform quantizer with an entropy code needs at most a quarter of a bit more than any other
quantizer of the same squared error (Gish and Pierce 1968, "Asymptotically efficient quantizing"),
and less than a fixed width with a scale for each group. ``docs/format.md`` is the specification.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.weights.tensors import MappedRows

__all__ = ["BLOCK", "Coded", "CodedRows", "block_count", "encode", "is_possible"]

BLOCK = 2048
"""Number of rows that are coded together: they can be read without those before them."""
# Columns of this many codes have a Huffman code of their own, which takes some 30 bytes; it pays in
# embeddings, whose columns differ most.
_OWN_CODE = 1024


class Coded(NamedTuple):
    """The codes of a weight, entropy-coded."""

    data: NDArray[np.uint8]
    """The streams of all blocks, one after the other, uint8 ``[bytes]``."""
    ends: NDArray[np.int64]
    """The end of each stream in ``data``, int64 ``[blocks]``."""


def block_count(rows: int) -> int:
    """Return the number of blocks of a weight with this number of rows."""
    return -(-rows // BLOCK)


def is_possible(codes: int, size: int) -> bool:
    """Return whether ``size`` bytes can be the streams of so many codes.

    A Huffman code has at least one bit. A file that claims more would need memory out of proportion
    to its size.
    """
    return codes <= 8 * size


def encode(codes: NDArray[np.int8]) -> Coded:
    """Code the codes int8 ``[out, ...]`` of a weight."""
    rows = codes.reshape(len(codes), -1)
    streams = [_encode_block(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
    ends = np.cumsum([len(stream) for stream in streams], dtype=np.int64)
    return Coded(np.frombuffer(b"".join(streams), np.uint8), ends)


def _encode_block(rows: NDArray[np.int8]) -> bytes:
    """Return the stream of a block of rows."""
    columns = np.ascontiguousarray(rows.T)
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    if len(rows) < _OWN_CODE:
        return coder.compress(columns.tobytes()) + coder.flush()
    parts = []
    for column in columns:
        parts += [coder.compress(column.tobytes()), coder.flush(zlib.Z_BLOCK)]
    return b"".join(parts) + coder.flush()


class CodedRows:
    """An int8 array whose codes remain in their file, and are decoded when they are read."""

    dtype = np.int8

    def __init__(
        self, name: str, data: MappedRows, ends: NDArray[np.int64], shape: tuple[int, ...]
    ) -> None:
        """``data`` are the bytes of the streams, and ``name`` is that of the tensor for messages.

        ``ends`` must be increasing, one for each block of ``shape``.
        """
        self.shape = shape
        self._name, self._data, self._ends = name, data, ends

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return rows, selected by a slice or an array of integers; they are read-only.

        The code -128, which only a damaged file has, is replaced by -127, since kernels do not
        support it. Raises `TyndaError` where a stream is damaged or the file has changed.
        """
        chosen = np.arange(self.shape[0])[index]
        if not chosen.size:
            return np.empty((*chosen.shape, *self.shape[1:]), np.int8)
        blocks = range(chosen.min() // BLOCK, chosen.max() // BLOCK + 1)
        decoded = [self._decode(block) for block in blocks]
        rows = decoded[0] if len(decoded) == 1 else np.concatenate(decoded)
        if chosen.shape != rows.shape[:1] or chosen[0] != blocks.start * BLOCK:
            rows = rows[chosen - blocks.start * BLOCK]
        rows.flags.writeable = False
        return rows

    def _decode(self, block: int) -> NDArray[np.int8]:
        """Return the rows of a block."""
        rows = min(BLOCK, self.shape[0] - block * BLOCK)
        columns = math.prod(self.shape[1:])
        start = int(self._ends[block - 1]) if block else 0
        stream = self._data[start : int(self._ends[block])].tobytes()
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One more byte than there should be shows a stream that is too long.
            found = decoder.decompress(stream, rows * columns + 1)
        except zlib.error:
            found = b""
        if len(found) != rows * columns or not decoder.eof or decoder.unused_data:
            raise TyndaError(f"{self._data.file.name}: tensor {self._name} is damaged")
        codes = np.ascontiguousarray(np.frombuffer(found, np.int8).reshape(columns, rows).T)
        if codes.min(initial=0) == -128:
            codes = np.maximum(codes, np.int8(-127))
        return codes.reshape(rows, *self.shape[1:])
