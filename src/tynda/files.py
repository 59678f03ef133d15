"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from tynda.errors import TyndaError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there, so that nobody sees half a file.

    Raises `TyndaError` when the folder is missing, not writable or full; an older file at
    ``path`` then stays as it was.
    """
    # Not tempfile: its files are readable by their owner only, and stay so when renamed.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise TyndaError(
            f"cannot write {path} ({error.strerror}): choose another place or make room"
        ) from None
