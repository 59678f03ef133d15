"""Reading files that may be missing, and writing files atomically."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tynda.errors import TyndaError
from tynda.interrupts import held_back

__all__ = [
    "check_readable",
    "make_folder",
    "new_folder",
    "read_json",
    "read_text",
    "temporary_folder",
    "whole_file",
    "whole_folder",
    "write_whole",
]

_MAX_TEXT = 100_000_000
"""Maximum bytes of a text file: the largest are tokenizers, of some 20 MB."""
_TEMPORARY = "tynda-"
"""Prefix of temporary folders; the number of the process that made one follows."""


def check_readable(path: Path, kind: str) -> None:
    """Raise `TyndaError` unless ``path`` is a readable file; ``kind`` names it in messages."""
    if not os.path.exists(path):
        raise TyndaError(f"no {kind} at {path}: check the path")
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise TyndaError(f"{path} is {what}, not a {kind}: give a file")
    try:
        path.open("rb").close()
    except PermissionError:
        raise TyndaError(f"no permission to read {path}: change its mode") from None
    except OSError as error:
        raise TyndaError(f"cannot read {path} ({error.strerror})") from None


def read_text(path: Path) -> str:
    """Read a text in UTF-8.

    Raises OSError or ValueError as `Path.read_text` does, and `TyndaError` for what is no file,
    such as a device that a link names, and for a file that is too large.
    """
    if path.exists() and not path.is_file():
        raise TyndaError(f"{path} is not a file: get it again")
    with path.open("rb") as file:
        # Room for what is asked for is taken at once, whatever the file has.
        data = file.read(min(os.fstat(file.fileno()).st_size, _MAX_TEXT) + 1)
    if len(data) > _MAX_TEXT:
        raise TyndaError(f"{path} has more than {_MAX_TEXT:,} bytes: get it again")
    return data.decode()


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises FileNotFoundError where there is no file, `TyndaError` where it cannot be read.
    """
    try:
        value = json.loads(read_text(path))
    except (FileNotFoundError, TyndaError):
        raise
    except PermissionError:
        raise TyndaError(f"no permission to read {path}: change its mode") from None
    except (OSError, ValueError, RecursionError):
        raise TyndaError(f"{path} is damaged: get it again") from None
    if not isinstance(value, dict):
        raise TyndaError(f"{path} is damaged: it is not a JSON object")
    return value


def write_whole(
    path: Path,
    data: bytes,
    *,
    mode: int | None = None,
    partial: str | None = None,
    durable: bool = False,
) -> None:
    """Write ``data`` to a temporary file and rename it to ``path``, which is never incomplete.

    ``mode`` is that of the file, by default what the system gives new files. ``partial`` is the
    name of the temporary file, for callers that remove it after a crash; by default it is random.
    A ``durable`` file is there after a power failure. Raises `TyndaError` when the folder is
    missing, not writable or full; an existing file at ``path`` is then unchanged.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    with (
        _replacing(path, partial, durable=durable) as part,
        open(os.open(part, flags, 0o666 if mode is None else mode), "wb") as file,
    ):
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 to write to, which becomes ``path`` when the block ends without an
    error; else an older file stays as it was. Raises `TyndaError` as `write_whole` does."""
    with _replacing(path) as part, part.open("x", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _replacing(path: Path, partial: str | None = None, *, durable: bool = False) -> Iterator[Path]:
    """The name of a temporary file that becomes ``path`` when the block ends without an error; see
    `write_whole` for the arguments and errors."""
    import secrets  # slow to import, with its hash functions, and not needed for reading

    # tempfile is not used: its files are readable by their owner only, even after the renaming.
    # The name is short, since the target's may be as long as the file system allows.
    part = path.with_name(partial or f".{secrets.token_hex(6)}.part")
    own = (str(part), str(path.parent))
    try:
        try:
            yield part
            os.replace(part, path)
            if durable and os.name == "posix":  # elsewhere folders cannot be opened
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            with held_back():
                part.unlink(missing_ok=True)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) not in own:
            raise  # The block met it elsewhere.
        raise TyndaError(
            f"cannot write {path} ({error.strerror}): choose another folder or free disk space"
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
            with held_back():
                for rest in (partial, old):
                    shutil.rmtree(rest, ignore_errors=True)
    except OSError as error:
        raise TyndaError(
            f"cannot write {path} ({error.strerror}): choose another place or make room"
        ) from None


def make_folder(path: Path) -> None:
    """Create a folder where there is none. Raises `TyndaError` where it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TyndaError(f"cannot create the folder {path} ({error.strerror})") from None


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Create a folder as `make_folder` does; it is removed if the block writes nothing to it."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    make_folder(path)
    try:
        yield
    finally:
        with suppress(OSError):  # It is not empty.
            for each in missing:
                each.rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Return a new folder among the system's temporary files, which is removed when the block ends.

    Folders that a process has left behind when it was killed are removed as well.
    """
    import tempfile

    _remove_stale(Path(tempfile.gettempdir()))
    folder = None
    try:
        with held_back():
            folder = tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-")
        yield Path(folder)
    finally:
        if folder is not None:
            with held_back():
                shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove the temporary folders of this user whose process no longer exists."""
    if os.name != "posix":  # elsewhere os.kill would end the process
        return
    for path in folder.glob(f"{_TEMPORARY}*-*"):
        number = path.name.removeprefix(_TEMPORARY).partition("-")[0]
        with suppress(OSError):
            about = path.lstat()
            if number.isdecimal() and stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
                try:
                    os.kill(int(number), 0)
                except (ProcessLookupError, OverflowError):
                    shutil.rmtree(path, ignore_errors=True)
