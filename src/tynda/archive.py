"""An exported model as one file, which a web page downloads: a tar archive, compressed by gzip.

``web/engine`` reads it; ``docs/web.md`` has the format.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SUFFIX", "pack"]

SUFFIX = ".tar.gz"
"""The end of an archive's name."""

_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])
"""gzip's header (RFC 1952): deflate, no name, no time, an unknown system."""
_PIECE = 1 << 20
_MODE = 0o644


def pack(folder: Path) -> bytes:
    """Return the archive of an exported model's files; equal files make an equal archive.

    Raises OSError where a file cannot be read.
    """
    checksum, size, parts = 0, 0, [_HEADER]
    for is_text, pieces in _members(folder):
        # Codes of weights have hardly any repetitions. A Huffman code alone needs less for them
        # than one that stands for repetitions as well (8 % less for a Whisper of 8 bits).
        strategy = zlib.Z_DEFAULT_STRATEGY if is_text else zlib.Z_HUFFMAN_ONLY
        coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 8, strategy)
        for piece in pieces:
            checksum, size = zlib.crc32(piece, checksum), size + len(piece)
            parts.append(coder.compress(piece))
        parts.append(coder.flush(zlib.Z_FULL_FLUSH))  # The next coder goes on at a whole byte.
    parts.append(zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush())
    parts += [value.to_bytes(4, "little") for value in (checksum, size % (1 << 32))]
    return b"".join(parts)


def _members(folder: Path) -> Iterator[tuple[bool, Iterator[bytes]]]:
    """Yield for each file whether it is text, and its bytes in the archive, piece by piece."""
    for path in sorted(folder.iterdir()):
        yield path.suffix != ".bin", _member(path)
    yield True, iter([bytes(2 * tarfile.BLOCKSIZE)])


def _member(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    about = tarfile.TarInfo(path.name)
    about.size, about.mode = size, _MODE
    yield about.tobuf(tarfile.USTAR_FORMAT)
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_PIECE), b"")
    yield bytes(-size % tarfile.BLOCKSIZE)
