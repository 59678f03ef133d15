"""Recordings of strangers, decoded in processes with limits; see `decoder` for these."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.serve.formats import FORMATS
from tynda.serve.workers import Ticket
from tynda.sound import audio

__all__ = ["Decoder"]

Floats = NDArray[np.float32]

_CHECK_SECONDS = 0.5
"""Seconds after which a worker that waits for samples looks whether they are still wanted."""
_HEAD = struct.Struct("<cI")
_LIMITS = struct.Struct("<IQ")
_CAN_FORK = hasattr(os, "fork") and hasattr(socket, "send_fds")


class Decoder:
    """Decodes recordings, each in a process of its own where the system can fork; elsewhere in
    this process."""

    def __init__(self, seconds: float, gigabytes: float) -> None:
        """``seconds`` of processor time and ``gigabytes`` of memory are what a recording may use
        beside its own size."""
        self._limits = _LIMITS.pack(max(1, round(seconds)), round(gigabytes * 1e9))
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if _CAN_FORK:
            with self._lock:
                self._start()

    @property
    def pid(self) -> int | None:
        """Number of the process that forks, or None where there is none."""
        return None if self._process is None else self._process.pid

    def decode(
        self,
        data: bytes,
        ticket: Ticket,
        on_duration: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Floats]:
        """Yield the samples of a recording, as `audio.stream` does.

        ``on_duration`` is called with the seconds that the file states, if it does. Raises
        `TyndaError` where it cannot be decoded within the limits, and `Stopped` once the ticket is
        stopped.
        """
        if not _CAN_FORK:
            source = cast(BinaryIO, _Upload(data, ticket))
            yield from audio.stream(source, formats=FORMATS)
            return
        with self._channel() as channel:
            channel.settimeout(_CHECK_SECONDS)
            _send(channel, struct.pack("<Q", len(data)), ticket)
            _send(channel, data, ticket)
            while True:
                kind, size = _HEAD.unpack(_received(channel, _HEAD.size, ticket))
                message = _received(channel, size, ticket)
                match kind:
                    case b"D":
                        if (stated := struct.unpack("<d", message)[0]) > 0:
                            on_duration(stated)
                    case b"S":
                        yield np.frombuffer(message, np.float32)
                    case b"W":
                        warnings.warn(message.decode(), stacklevel=2)
                    case b"E":
                        raise TyndaError(message.decode())
                    case _:
                        return

    def close(self) -> None:
        """End the process; recordings that are decoded now end early."""
        with self._lock:
            self._stop()

    def _channel(self) -> socket.socket:
        """Return a socket to a new process; one that has ended is started again."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            for attempt in range(2):
                try:
                    if self._control is None:
                        self._start()
                    assert self._control is not None, "it was started just now"
                    socket.send_fds(self._control, [self._limits], [theirs.fileno()])
                    break
                except OSError:
                    self._stop()
                    if attempt:
                        ours.close()
                        raise
        return ours

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        number = theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tynda.serve.decoder", str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                # Threads of these libraries could not be forked.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # The process ends when nobody can ask it any more.
            self._control = None
        if self._process is not None:
            self._process.wait()
            self._process = None


def _send(channel: socket.socket, data: bytes, ticket: Ticket) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[channel.send(view) :]
        except TimeoutError:
            ticket.check()
        except OSError:
            raise _ended() from None


def _received(channel: socket.socket, size: int, ticket: Ticket) -> bytes:
    """Return the next bytes of a channel, and look from time to time whether they are wanted."""
    parts = bytearray()
    while len(parts) < size:
        ticket.check()
        try:
            part = channel.recv(min(size - len(parts), 1 << 20))
        except TimeoutError:
            continue
        except OSError:
            part = b""
        if not part:
            raise _ended()
        parts += part
    return bytes(parts)


def _ended() -> TyndaError:
    return TyndaError(
        "the file cannot be decoded within the limits of time and memory, or ends the decoder: "
        "create it again, in another format"
    )


class _Upload(io.BufferedIOBase):
    """The bytes of a recording, which end early when its ticket is stopped.

    FFmpeg then finds the end of the file, wherever it is within it.
    """

    name = "the file"
    """The name in messages: clients' names of files are shown nowhere."""

    def __init__(self, data: bytes, ticket: Ticket) -> None:
        self._file, self._ticket = io.BytesIO(data), ticket

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, and none when the ticket is stopped."""
        return b"" if self._ticket.is_stopped else self._file.read(size)

    def readable(self) -> bool:
        """Return that the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return that the file can seek."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()
