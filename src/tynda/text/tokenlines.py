"""The tokens of a model as native code and web pages read them: ``tokens.txt`` of an export."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

__all__ = ["token_lines", "token_sum"]

_LINES = {b: chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256)}
_LINES[ord("\\")] = "\\\\"


def token_lines(pieces: Sequence[bytes], vocab: int) -> str:
    """Return a line for each of ``vocab`` tokens: its bytes, those that are not printable ASCII
    escaped. Tokens without a piece add nothing to a text."""
    pieces = [*pieces[:vocab], *[b""] * (vocab - len(pieces))]
    return "".join("".join(_LINES[b] for b in piece) + "\n" for piece in pieces)


def token_sum(pieces: Sequence[bytes], vocab: int) -> int:
    """Return the CRC-32 of `token_lines`, by which a file tells the models that it fits."""
    return zlib.crc32(token_lines(pieces, vocab).encode("ascii"))
