"""Where a recording comes from: a file, bytes, a file object, or standard input.

A pipe cannot seek, and may stay open for hours; this module hides the difference.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from shutil import copyfileobj
from threading import Timer
from typing import Any, BinaryIO, Protocol

from tynda.errors import TyndaError

__all__ = ["Readable", "Seekable", "Source", "check_pipe", "reader", "standard_input", "watch_pipe"]

Source = str | PathLike[str] | bytes | BinaryIO


class Readable(Protocol):
    """A file that is read from its beginning to its end."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to ``size`` bytes, and none at the end."""


# Types of the first box in MP4 and QuickTime files, whose index may be at the end.
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PIPE_SECONDS = 1.0
"""Seconds after which a warning says that nobody writes to a named pipe."""
_HEAD = 4096  # bytes inspected first; nearly every WAV states its length within them


class _Pipe:
    """A stream that cannot seek, preceded by the bytes that were already read from it.

    FFmpeg's callbacks would print and forget an exception, such as an interrupt. Therefore one in
    `read` ends the stream, and `check` raises it.
    """

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = head
        # A pipe may stay open for hours: data is decoded when it comes, and not only when it fills
        # a buffer.
        self._read: Callable[[int], bytes] = getattr(file, "read1", file.read)
        self._error: BaseException | None = None
        self.watch: Callable[[bytes], None] | None = None
        """A function that gets all bytes that are read, too."""

    def read(self, size: int = -1, /) -> bytes:
        try:
            if self._error is not None:
                return b""
            if self._head:
                given, self._head = self._head[:size], self._head[size:]
            else:
                given = self._read(size)
            if self.watch is not None:
                self.watch(given)
            return given
        except BaseException as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise the exception that ended the stream, if there was one."""
        if self._error is not None:
            raise self._error


class Seekable:
    """A file that reports a seek to an impossible place as FFmpeg expects it: by -1.

    PyAV would print a traceback of its exception. Damaged files state such places.
    """

    def __init__(self, file: Any) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek
        if hasattr(file, "name"):
            self.name = file.name

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Seek as a file does, but return -1 where it would raise an exception."""
        try:
            position: int = self._seek(offset, whence)
        except (OSError, ValueError):
            return -1
        return position


@contextmanager
def reader(source: Source) -> Iterator[tuple[Readable, str, bytes]]:
    """Yield the readable source, its name for messages, and a copy of its first bytes."""
    opened, name = _open(source)
    with opened as file:
        try:
            readable, head = _rewound(file, name)
            yield readable, name, head
        except OSError as error:
            raise TyndaError(f"{name} cannot be read: {error.strerror or error}") from None


def standard_input() -> BinaryIO:
    """Return standard input. Raises `TyndaError` where the shell has closed it."""
    if sys.stdin is None:
        raise TyndaError("standard input is closed: give a file, or a pipe")
    return sys.stdin.buffer


def _open(source: Source) -> tuple[AbstractContextManager[BinaryIO], str]:
    """Return a source as a file, closed afterwards only if opened here, and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "the sound"
    if source == "-":
        return nullcontext(standard_input()), "standard input"
    if source == "":
        raise TyndaError("the name of the recording is empty: give a file")
    if not isinstance(source, str | PathLike):
        if not hasattr(source, "read"):
            raise TypeError(f"not a path, bytes or binary file object: {source!r}")
        return nullcontext(source), str(getattr(source, "name", "the sound"))
    # PyAV never gets the path itself: FFmpeg would interpret "http:" or "concat:" in it as a
    # protocol.
    try:
        with _notice_of_a_pipe(source):
            return open(source, "rb"), str(source)
    except FileNotFoundError:
        raise TyndaError(f"{source}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise TyndaError(f"{source} is a directory; name the files in it") from None
        if isinstance(error, PermissionError):
            raise TyndaError(f"{source}: no permission to read it; change its mode") from None
        reason = getattr(error, "strerror", None) or error
        raise TyndaError(f"{source} cannot be read: {reason}") from None


@contextmanager
def _notice_of_a_pipe(path: str | PathLike[str]) -> Iterator[None]:
    """Warn where the block, which opens ``path``, waits because nobody writes to a named pipe."""
    if not Path(path).is_fifo():
        yield
        return
    message = f"{path} is a pipe: waiting for a program that writes to it"
    timer = Timer(_PIPE_SECONDS, warnings.warn, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _rewound(file: BinaryIO, name: str) -> tuple[Readable, bytes]:
    """Return the file at its start, seekable where its format requires it, and its first bytes."""
    seekable = file.seekable()
    if seekable:
        file.seek(0)
    head = b""
    while len(head) < _HEAD and (more := file.read(_HEAD - len(head))):
        if not isinstance(more, bytes):
            raise TypeError(f"{name} must be opened in binary mode")
        head += more
    if not head:
        raise TyndaError(f"{name} is empty (0 bytes); nothing was recorded or copied")
    if seekable:
        file.seek(0)
        return file, head
    if head[4:8] in _MP4_BOXES:
        whole = io.BytesIO(head)
        whole.seek(0, io.SEEK_END)
        copyfileobj(file, whole)  # in parts, so that memory holds the file only once
        whole.seek(0)
        return whole, head
    return _Pipe(head, file), head


def watch_pipe(file: Readable, watch: Callable[[bytes], None]) -> None:
    """Have all bytes that are read from a pipe given to a function, too."""
    if isinstance(file, _Pipe):
        file.watch = watch


def check_pipe(file: Readable) -> None:
    """Raise what interrupted reading from a pipe."""
    if isinstance(file, _Pipe):
        file.check()
