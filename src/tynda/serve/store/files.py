"""Recordings as files, in a folder or in any store that fsspec reaches; they are ciphertext."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.files import write_whole
from tynda.serve.store.database import StoreError

__all__ = ["Files", "make_folder", "open_files"]


class Files(Protocol):
    """Files by name. Each method raises `StoreError` where the file system fails."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    def read(self, name: str) -> bytes:
        """Read a whole file."""

    def remove(self, name: str) -> None:
        """Remove a file and what an interrupted `write` left of it; it may be missing."""


def open_files(where: str) -> Files:
    """Return the files of a folder, or of a URL of fsspec's such as ``s3://bucket/folder``.

    Raises `TyndaError` where the folder cannot be made, or fsspec lacks the package for the URL.
    """
    return _Remote(where) if "://" in where else _Folder(Path(where))


def make_folder(folder: Path, setting: str) -> None:
    """Make a folder that only its owner may read, unless it is there.

    Raises `TyndaError`, which names the ``setting`` to change, where it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        is_taken = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a part of the path is no folder" if is_taken else error.strerror
        raise TyndaError(
            f"cannot create the folder {folder} ({why}): choose another one by the setting "
            f"{setting}"
        ) from None


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder, "recordings")

    def write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self._folder / name, data, partial=f"{name}.part", durable=True)
        except TyndaError as error:
            raise StoreError(str(error)) from None

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read the recording {name} ({error.strerror})") from None

    def remove(self, name: str) -> None:
        try:
            for each in (name, f"{name}.part"):
                (self._folder / each).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove the recording {name} ({error.strerror})") from None


class _Remote:
    """Files of fsspec. A file is written under another name first, since only some file systems
    show no file before it is whole."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError:
            raise TyndaError(f"recordings at a URL need fsspec: {install('serve')}") from None
        try:
            self._files, self._folder = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._folder, exist_ok=True)
        except Exception as error:  # each file system has exceptions of its own
            kind = url.partition("://")[0]
            raise TyndaError(
                f"cannot open the {kind}:// of the setting recordings ({_why(error)}): check the "
                "URL, and that fsspec's package for it is installed"
            ) from None

    def write(self, name: str, data: bytes) -> None:
        partial = self._path(f"{name}.part")
        self._done(lambda: self._files.pipe_file(partial, data), f"write the recording {name}")
        self._done(lambda: self._files.mv(partial, self._path(name)), f"write the recording {name}")

    def read(self, name: str) -> bytes:
        path = self._path(name)
        return bytes(self._done(lambda: self._files.cat_file(path), f"read the recording {name}"))

    def remove(self, name: str) -> None:
        for each in (self._path(name), self._path(f"{name}.part")):
            self._done(lambda path=each: self._removed(path), f"remove the recording {name}")

    def _removed(self, path: str) -> None:
        if self._files.exists(path):
            self._files.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    def _done(self, function: Any, what: str) -> Any:
        try:
            return function()
        except Exception as error:  # each file system has exceptions of its own
            raise StoreError(f"cannot {what} ({_why(error)})") from None


def _why(error: Exception) -> str:
    """Return a reason without the line breaks and keys that messages of others may have."""
    is_os = isinstance(error, OSError) and error.errno is not None
    return os.strerror(error.errno) if is_os else type(error).__name__  # type: ignore[attr-defined]
