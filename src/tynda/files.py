"""Reading files that may not be there, writing files whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tynda.errors import TyndaError

__all__ = ["check_readable", "read_json", "whole_folder", "write_whole"]


def check_readable(path: Path, kind: str) -> None:
    """Raise `TyndaError` unless ``path`` is a file, of this ``kind``, that may be read."""
    if not os.path.isfile(path):
        raise TyndaError(f"no {kind} at {path}: check the path")
    try:
        path.open("rb").close()
    except PermissionError:
        raise TyndaError(f"no permission to read {path}: change its mode") from None
    except OSError as error:
        raise TyndaError(f"cannot read {path} ({error.strerror})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises FileNotFoundError where there is none, `TyndaError` where it cannot be read.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except PermissionError:
        raise TyndaError(f"no permission to read {path}: change its mode") from None
    except (OSError, ValueError, RecursionError):
        raise TyndaError(f"{path} is damaged: get it again") from None
    if not isinstance(value, dict):
        raise TyndaError(f"{path} is damaged: it is no JSON object")
    return value


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there, so that nobody sees half a file.

    Raises `TyndaError` when the folder is missing, not writable or full; an older file at
    ``path`` then stays as it was.
    """
    import secrets  # with all that hashes: to read takes none of it

    # Not tempfile: its files are readable by their owner only, and stay so when renamed. The
    # name is short, since that of the target may be as long as the file system allows.
    partial = path.with_name(f".{secrets.token_hex(6)}.part")
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


@contextmanager
def whole_folder(path: Path, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder to write to, which becomes ``path`` when the block ends without an error.

    An older folder at ``path`` is replaced if it is empty or ``replaces`` says so of it, and stays
    as it was where the block fails. Raises `TyndaError` where something else is there, or where
    the place is missing, not writable or full.
    """
    import secrets

    path = path.resolve()
    partial, old = (path.with_name(f".{secrets.token_hex(6)}.{x}") for x in ("part", "old"))
    try:
        if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or replaces(path))):
            raise TyndaError(f"{path} is there and holds something else: choose another place")
        try:
            partial.mkdir()
            yield partial
            if path.exists():
                os.rename(path, old)
            os.rename(partial, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.rename(old, path)
            raise
        finally:
            for rest in (partial, old):
                shutil.rmtree(rest, ignore_errors=True)
    except OSError as error:
        raise TyndaError(
            f"cannot write {path} ({error.strerror}): choose another place or make room"
        ) from None
