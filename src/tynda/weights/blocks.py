"""The number formats of ggml's tensors: floats, and blocks of 32 codes that share a scale.

The blocks are those of ``ggml-quants.c`` (``dequantize_row_*``). A block of ``q4_0``, ``q5_0`` and
``q8_0`` has an f16 scale ``d``, and its values are ``d * (code - zero point)``; one of ``q4_1``
and ``q5_1`` has an f16 minimum ``m`` as well, and its values are ``d * code + m``. Codes of 4 bits
lie in 16 bytes: the lower halves are the first 16 codes, the upper halves the others. The fifth
bits lie before them, in 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "Format"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_BLOCK = 32
_AT_ONCE = 1 << 15
"""Blocks that are converted at a time: the memory of intermediate results is bounded."""


@dataclass(frozen=True)
class Format:
    """A number format: its name, and the layout of a block."""

    name: str
    count: int
    """Numbers in a block; 1 for floats."""
    size: int
    """Bytes of a block."""
    zero: int = 0
    """The code of the value 0 in formats without a minimum."""
    minimum: bool = False
    """Whether a block has a minimum."""

    def bytes(self, shape: Sequence[int]) -> int | None:
        """Return the bytes of a tensor, or None where its rows are not a multiple of blocks."""
        if shape[-1] % self.count:
            return None
        return math.prod(shape) // self.count * self.size

    def floats(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the values, float32 of this ``shape``; ``data`` has the `bytes` of the tensor.

        The result may share the memory of ``data``.
        """
        if self.count == 1:
            return _plain(data, self.name).reshape(shape)
        blocks = data.reshape(-1, self.size)
        values = np.empty((len(blocks), _BLOCK), np.float32)
        with np.errstate(invalid="ignore"):  # a damaged scale is infinite
            for start in range(0, len(blocks), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                values[part] = self._values(np.ascontiguousarray(blocks[part]))
        return values.reshape(shape)

    def _values(self, blocks: Bytes) -> Floats:
        """Return the values ``[blocks, 32]`` of blocks ``[blocks, bytes]``."""
        scale, rest = _half(blocks[:, :2]), blocks[:, 2:]
        if self.name == "q8_0":
            return scale * rest.view(np.int8)
        minimum, rest = (_half(rest[:, :2]), rest[:, 2:]) if self.minimum else (None, rest)
        halves = rest[:, -_BLOCK // 2 :]
        codes = np.concatenate([halves & 15, halves >> 4], 1).astype(np.int16)
        if rest.shape[1] > _BLOCK // 2:
            fifth = np.unpackbits(rest[:, : _BLOCK // 8], axis=1, bitorder="little")
            codes |= fifth.astype(np.int16) << 4
        return scale * (codes - self.zero) if minimum is None else scale * codes + minimum


def _plain(data: Bytes, name: str) -> Floats:
    """Return floats, of which those in f32 are not copied where their memory is aligned."""
    if name == "bf16":  # the upper half of a float32
        wide: Floats = (data.view("<u2").astype("<u4") << 16).view("<f4")
        return wide
    values: NDArray[Any] = data.view("<f2" if name == "f16" else "<f4")
    return np.require(values, np.float32, "A")


def _half(data: Bytes) -> Floats:
    """Return an f16 number of each block ``[blocks, 1]``."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


FORMATS = {
    0: Format("f32", 1, 4),
    1: Format("f16", 1, 2),
    2: Format("q4_0", _BLOCK, 18, zero=8),
    3: Format("q4_1", _BLOCK, 20, minimum=True),
    6: Format("q5_0", _BLOCK, 22, zero=16),
    7: Format("q5_1", _BLOCK, 24, minimum=True),
    8: Format("q8_0", _BLOCK, 34),
    30: Format("bf16", 1, 2),
}
"""Number of a type in ggml -> its format."""
