"""Packing of codes in fewer than 8 bits; ``docs/format.md`` is the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "row_bytes", "unpack"]

Bytes = NDArray[np.uint8]

# A byte can hold five digits to the base of 3, since 3 to the power of 5 is 243.
_DIGITS = np.array([1, 3, 9, 27, 81], np.uint8)
# The number of rows that are unpacked at a time, since each bit is temporarily stored in a byte.
_ROWS = 4096


def row_bytes(bits: float, count: int) -> int:
    """Return the number of bytes of a row of ``count`` codes."""
    return -(-count // 5) if bits == 1.58 else -(-count * int(bits) // 8)


def pack(codes: Bytes, bits: float) -> Bytes:
    """Pack codes uint8 ``[rows, count]`` to bytes ``[rows, row_bytes]``.

    In 1.58 bits, a byte has five digits to the base of 3, least significant first. Otherwise codes
    are consecutive bits, beginning with the least significant bit of the first byte. Unused bits of
    the last byte are zero. Raises ValueError for a code that is too large.
    """
    rows, count = codes.shape
    if codes.max(initial=0) >= (3 if bits == 1.58 else 2 ** int(bits)):
        raise ValueError(f"codes are too large for {bits} bits")
    if bits == 1.58:
        size = row_bytes(bits, count)
        digits = np.zeros((rows, size * 5), np.uint8)
        digits[:, :count] = codes
        fives: Bytes = (digits.reshape(rows, size, 5) * _DIGITS).sum(2, dtype=np.uint8)
        return fives
    if bits == 8:
        return codes
    packed = np.empty((rows, row_bytes(bits, count)), np.uint8)
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        loose = (codes[part, :, None] >> np.arange(int(bits), dtype=np.uint8)) & 1
        packed[part] = np.packbits(loose.reshape(len(loose), -1), axis=1, bitorder="little")
    return packed


def unpack(packed: Bytes, bits: float, count: int) -> Bytes:
    """Return the codes uint8 ``[rows, count]`` that `pack` packed; unused bits may have any
    value."""
    rows = len(packed)
    if bits == 1.58:
        digits = packed[:, :, None] // _DIGITS % 3
        return digits.reshape(rows, packed.shape[1] * 5)[:, :count]
    if bits == 8:
        return packed
    width = int(bits)
    codes = np.empty((rows, count), np.uint8)
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        loose = np.unpackbits(packed[part], axis=1, count=count * width, bitorder="little")
        weights = (1 << np.arange(width)).astype(np.uint8)
        codes[part] = loose.reshape(len(loose), count, width) @ weights
    return codes
