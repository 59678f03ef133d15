"""The process that decodes recordings: ``python -m tynda.serve.decoder FD``.

FFmpeg is a large program, and recordings come from strangers. This process waits on a socket with
its libraries loaded; for each recording it forks a child with limits of time and memory, which can
write no file and start no process. `decoding` is the other end.

The child reads the length of the recording (8 bytes) and its bytes, and writes messages: one byte
for the kind, the length (4 bytes), and the data. Kinds are the duration that the file states (D),
samples (S), a warning (W), an error (E), and the end (.).
"""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from typing import Any

import av
import soxr  # noqa: F401

from tynda.errors import TyndaError
from tynda.serve.formats import FORMATS
from tynda.sound import audio

__all__ = ["main"]

_FILES = 16
"""Maximum number of open files of a child: the socket, and what Python needs."""


class _Recording(io.BytesIO):
    name = "the file"
    """The name in messages: clients' names of files are shown nowhere."""


def main() -> None:
    """Fork a child for each socket that comes over the one with this number, until it is closed."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The server ends first, and closes the socket.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system removes ended children
    while True:
        head, fds, _, _ = socket.recv_fds(control, _LIMITS.size, 1)
        if not fds:
            return
        if os.fork() == 0:
            control.close()
            _serve(socket.socket(fileno=fds[0]), *_LIMITS.unpack(head))
        os.close(fds[0])


_LIMITS = struct.Struct("<IQ")
"""Seconds of processor time, and bytes of memory."""


def _serve(channel: socket.socket, seconds: int, memory: int) -> None:
    """Decode the recording of a channel, and end the process."""
    stream = channel.makefile("rwb")

    def put(kind: bytes, data: Any) -> None:
        signal.alarm(0)  # The reader may take its time.
        stream.write(kind + struct.pack("<I", len(data)))
        stream.write(data)
        stream.flush()
        signal.alarm(seconds)

    try:
        (size,) = struct.unpack("<Q", stream.read(8))
        _limit(seconds, memory + 2 * size)
        signal.alarm(seconds)  # It ends the process: time of the processor does not pass in a wait.
        data = stream.read(size)
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: put(b"W", str(message).encode())
        put(b"D", struct.pack("<d", _stated(data)))
        for block in audio.stream(_Recording(data), formats=FORMATS):
            put(b"S", block.tobytes())
        put(b".", b"")
    except TyndaError as error:
        put(b"E", str(error).encode())
    except MemoryError:
        put(b"E", b"the file needs too much memory to be decoded: create it again")
    except OSError:  # nobody reads any more
        pass
    finally:
        os._exit(0)


def _stated(data: bytes) -> float:
    """Return the seconds that a recording lasts by its container; 0 where it does not tell."""
    options = {"protocol_whitelist": "none", "format_whitelist": FORMATS}
    try:
        with av.open(
            io.BytesIO(data), "r", metadata_errors="ignore", container_options=options
        ) as file:
            return (file.duration or 0) / av.time_base
    except av.FFmpegError:  # The decoder reports what is wrong.
        return 0.0


def _limit(seconds: int, memory: int) -> None:
    """Limit this process: its time, the memory that it adds, its files, and other processes."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        _set(resource.RLIMIT_AS, now + memory)
    except OSError:  # Only Linux tells, and only there the limit is kept.
        pass
    _set(resource.RLIMIT_CPU, seconds)
    _set(resource.RLIMIT_FSIZE, 0)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, _FILES)
    _set(resource.RLIMIT_NPROC, 0)


def _set(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
