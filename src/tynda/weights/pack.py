"""Codes of a few bits as bytes, and back; ``docs/format.md`` is the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "row_bytes", "unpack"]

Bytes = NDArray[np.uint8]

# Three to the fifth is 243: a byte holds five digits.
_DIGITS = np.array([1, 3, 9, 27, 81], np.uint8)
# Rows at a time, so that a bit never takes a byte for a whole large weight.
_ROWS = 4096


def row_bytes(bits: float, count: int) -> int:
    """Bytes of a row of ``count`` codes."""
    return -(-count // 5) if bits == 1.58 else -(-count * int(bits) // 8)


def pack(codes: Bytes, bits: float) -> Bytes:
    """Codes ``[rows, count]``, from 0 on, as ``[rows, row_bytes]``.

    In 1.58 bits a byte is five digits to the base of 3, the first of them the lowest; else the
    codes' bits follow each other from the lowest bit of the first byte on. What a last byte has
    left is zero. Raises ValueError for a code that has no room.
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
    """Return the codes that `pack` was given; unused bits of a last byte may be anything."""
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
