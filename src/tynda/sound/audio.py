"""Decode any audio to float32 mono samples at 16 kHz.

FFmpeg decodes, through PyAV; soxr resamples. Both work block by block, so that a ten-hour
recording needs no more memory than a short one. They are imported only where they are needed:
a plain WAV at 16 kHz is read without them.
"""

from __future__ import annotations

import io
import struct
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.interrupts import import_whole
from tynda.sound.channels import Mixer
from tynda.sound.timeline import Timeline

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

__all__ = ["MAX_SAMPLE", "SAMPLE_RATE", "Source", "load", "resampler_from", "stream"]

SAMPLE_RATE = 16_000
MAX_SAMPLE = 1e10
"""The maximum absolute value of a sample: that of 32-bit integers which nobody has scaled, and a
bit more. The squares of larger ones could overflow in a sum."""

Floats = NDArray[np.float32]
Source = str | PathLike[str] | bytes | BinaryIO


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


# A sample rate outside these limits is invalid, and resampling from it could fill the memory.
_SLOWEST, _FASTEST = 1_000, 1_000_000
# Types of the first box in MP4 and QuickTime files, whose index may be at the end.
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_READ = 1 << 18  # bytes read from a plain WAV at a time; always whole samples
_HEAD = 4096  # bytes inspected first; nearly every WAV states its length within them
# Formats that FFmpeg reports as video although they are pictures or text.
_PICTURES = ("image2", "gif", "apng", "ico", "tty")


def load(source: Source) -> Floats:
    """Read a whole recording as float32 `[n]`, mono, 16 kHz, full scale at ±1.

    `source` is a path, the bytes of a file, a binary file object, or `"-"` for standard
    input. See `stream` for formats, results in unusual cases, and errors.
    """
    blocks = list(stream(source))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def stream(source: Source, block_seconds: float = 30.0) -> Iterator[Floats]:
    """Read a recording as consecutive blocks, float32 `[block_seconds * 16000]`.

    The last block may be shorter, but is never empty. The concatenated blocks equal the result
    of `load`, to the last bit.

    All formats that the FFmpeg inside PyAV decodes are read: WAV (8 to 64 bits, float, mu-law,
    A-law), FLAC, MP3, Ogg Vorbis, Opus, M4A/AAC, WebM, and the audio of video files (of several
    tracks, the one that FFmpeg ranks best). Channels are averaged; of two that cancel each other,
    the first is used, with a `UserWarning`. Silence stands where a container's times leave a gap of
    0.2 s or more, also before the sound of a video begins. Nothing but `source` is
    opened: playlists that point elsewhere are not followed.

    A seekable file object is read from its beginning and left open. Pipes (including standard
    input) are read as data arrives, except MP4 and QuickTime: their index may be at the end,
    so the whole pipe is first read into memory.

    - A damaged or truncated file gives all that can be decoded, as with ffmpeg, and a
      `UserWarning` where the decoder detects it, or where a WAV, FLAC or MP3 (not through a
      pipe) is shorter than its header states. A truncated Ogg or WebM cannot be told from a
      short one.
    - The padding at the end of an MP3 (some milliseconds) is removed, but not from a pipe, where
      FFmpeg does not know the length: the text may differ in a letter. Prefer to give the file.
    - A recording of zero samples gives no block (`load`: shape `[0]`).

    Raises TyndaError, with the first block, when the source is missing, a directory, not
    readable, empty, not an audio file, truncated in its header, without an audio track, or holds
    samples that are not finite numbers or beyond `MAX_SAMPLE`; ValueError when `block_seconds` is
    not positive; TypeError when `source` is of none of the kinds above.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be positive, not {block_seconds}")
    size = max(1, round(block_seconds * SAMPLE_RATE))
    with _reader(source) as (file, name, head), closing(_samples(file, name, head)) as decoded:
        waiting: list[Floats] = []
        count = 0
        for samples in decoded:
            if not np.abs(samples).max(initial=0) <= MAX_SAMPLE:  # NaN is not, either
                raise TyndaError(
                    f"{name} holds samples that are not finite numbers (NaN or infinity), or more "
                    f"than {MAX_SAMPLE:g} times full scale; export it again from the original"
                )
            waiting.append(samples)
            count += len(samples)
            if count >= size:
                joined = np.concatenate(waiting)
                whole = count - count % size
                yield from np.split(joined[:whole], whole // size)
                waiting, count = [joined[whole:]], count % size
        if count:
            yield np.concatenate(waiting)


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

    def read(self, size: int = -1, /) -> bytes:
        try:
            if self._error is not None:
                return b""
            if not self._head:
                return self._read(size)
            given, self._head = self._head[:size], self._head[size:]
            return given
        except BaseException as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise the exception that ended the stream, if there was one."""
        if self._error is not None:
            raise self._error


class _Seekable:
    """A file that reports a seek to an impossible place as FFmpeg expects it: by -1.

    PyAV would print a traceback of its exception. Damaged files state such places.
    """

    def __init__(self, file: Any) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek
        if hasattr(file, "name"):
            self.name = file.name

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            position: int = self._seek(offset, whence)
        except (OSError, ValueError):
            return -1
        return position


@contextmanager
def _reader(source: Source) -> Iterator[tuple[_Readable, str, bytes]]:
    """Yield the readable source, its name for messages, and a copy of its first bytes."""
    opened, name = _open(source)
    with opened as file:
        try:
            readable, head = _rewound(file, name)
            yield readable, name, head
        except OSError as error:
            raise TyndaError(f"{name} cannot be read: {error.strerror or error}") from None


def _open(source: Source) -> tuple[AbstractContextManager[BinaryIO], str]:
    """Return a source as a file, closed afterwards only if opened here, and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "the sound"
    if source == "-":
        if sys.stdin is None:  # closed by the shell
            raise TyndaError("standard input is closed: give a file, or a pipe")
        return nullcontext(sys.stdin.buffer), "standard input"
    if source == "":
        raise TyndaError("the name of the recording is empty: give a file")
    if not isinstance(source, str | PathLike):
        if not hasattr(source, "read"):
            raise TypeError(f"not a path, bytes or binary file object: {source!r}")
        return nullcontext(source), str(getattr(source, "name", "the sound"))
    # PyAV never gets the path itself: FFmpeg would interpret "http:" or "concat:" in it as a
    # protocol.
    try:
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


def _rewound(file: BinaryIO, name: str) -> tuple[_Readable, bytes]:
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


def _samples(file: _Readable, name: str, head: bytes) -> Generator[Floats, None, None]:
    """Yield all samples of a recording, at 16 kHz."""
    if channels := _seek_plain_wav(file, head):
        yield from _read_plain_wav(file, *channels, Mixer(name))
        return
    with _container(file, name) as (container, track):
        stated = _stated(container, track, head)
        yield from _resampled(_frames(file, container, track, name, stated))


def _seek_plain_wav(file: _Readable, head: bytes) -> tuple[int, int] | None:
    """Seek to the samples of a 16-bit WAV at 16 kHz; return its channels and number of bytes.

    The result is None for any other file, and for one that is damaged, truncated or empty, since
    FFmpeg reports more about it.
    """
    channels = 0
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or not isinstance(file, io.BufferedIOBase):
        return None
    for kind, at, size in _chunks(head):
        if kind == b"fmt " and at + 16 <= len(head):
            code, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", head, at)
            if (code, rate, align, bits) != (1, SAMPLE_RATE, 2 * channels, 16):
                return None
        if kind == b"data":
            whole = at + size <= file.seek(0, io.SEEK_END)
            file.seek(at if (plain := whole and size and channels in (1, 2)) else 0)
            return (channels, size - size % (2 * channels)) if plain else None
    return None


def _read_plain_wav(file: _Readable, channels: int, size: int, mixer: Mixer) -> Iterator[Floats]:
    while size and (data := file.read(min(size, _READ))):
        size -= len(data)
        yield mixer(np.frombuffer(data, "<i2").reshape(-1, channels).T)


@contextmanager
def _container(file: _Readable, name: str) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Open the container and yield it with its best audio track."""
    import av
    from av.audio.stream import AudioStream

    try:
        # Tags in old encodings are common and not needed here.
        container = av.open(
            _Seekable(file) if hasattr(file, "seek") else file,
            "r",
            metadata_errors="ignore",
            container_options={"protocol_whitelist": "none"},
        )
    except av.FFmpegError as error:
        _check_pipe(file)
        raise TyndaError(
            f"{name} is not an audio file, or is truncated in its header ({error.strerror}); "
            "give a WAV, FLAC, MP3, Ogg, Opus, M4A, WebM or video file"
        ) from None
    with container:
        track = container.streams.best("audio")
        if isinstance(track, AudioStream) and track.codec_context is not None:
            yield container, track
        elif track is not None:
            raise TyndaError(f"{name}: this build of PyAV has no decoder for its audio")
        elif container.streams.video and not _is_picture(container.format.name):
            raise TyndaError(f"{name} has no audio track; it is a video without sound")
        else:
            raise TyndaError(
                f"{name} is not an audio file; "
                "give a WAV, FLAC, MP3, Ogg, Opus, M4A, WebM or video file"
            )


def _is_picture(format_name: str) -> bool:
    return format_name in _PICTURES or format_name.endswith("_pipe")


def _stated(container: InputContainer, track: AudioStream, head: bytes) -> float:
    """Return the duration in seconds that the header states, or 0 where it states none."""
    if container.format.name == "wav":  # FFmpeg would correct the duration by the file's size
        return _stated_wav(head)
    # The duration of an MP3 is a guess unless a Xing header gives it and the start time.
    known = container.format.name == "flac" or (container.format.name == "mp3" and track.start_time)
    if known and track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return 0.0


def _stated_wav(head: bytes) -> float:
    rate = 0
    for kind, at, size in _chunks(head):
        if kind == b"fmt ":
            rate = int.from_bytes(head[at + 8 : at + 12], "little")
        if kind == b"data":  # programs that write to a pipe state about the maximum size
            return size / rate if rate and size < 0x7FFF0000 else 0.0
    return 0.0


def _chunks(head: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and size in bytes of each chunk of a WAV that starts within ``head``."""
    at = 20
    while at <= len(head):
        size = int.from_bytes(head[at - 4 : at], "little")
        yield head[at - 8 : at - 4], at, size
        at += size + size % 2 + 8


def _check_pipe(file: _Readable) -> None:
    """Raise what interrupted reading from a pipe."""
    if isinstance(file, _Pipe):
        file.check()


def _frames(
    file: _Readable, container: InputContainer, track: AudioStream, name: str, stated: float
) -> Iterator[tuple[int, Floats]]:
    """Yield sample rate and mono samples of each decoded frame; warn where audio is lost.

    `stated` is the duration in the header, in seconds.
    """
    import av
    from av.audio.frame import AudioFrame

    damaged, seconds = False, 0.0
    timeline, mixer = Timeline((container.start_time or 0) / av.time_base), Mixer(name)
    try:
        for packet in container.demux(track):
            _check_pipe(file)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged = True
                continue
            for frame in frames:
                assert isinstance(frame, AudioFrame)
                if not _SLOWEST <= frame.sample_rate <= _FASTEST:
                    raise TyndaError(
                        f"{name} has a sample rate of {frame.sample_rate} Hz, which is not valid "
                        "audio; create the file again"
                    )
                samples = _mono(frame, name, mixer)
                lasts = len(samples) / frame.sample_rate
                for block in _silence(timeline.silence(frame.time, lasts), frame.sample_rate):
                    yield frame.sample_rate, block
                seconds += lasts
                yield frame.sample_rate, samples
    except av.FFmpegError:
        damaged = True
    _check_pipe(file)
    if damaged and seconds == 0:
        raise TyndaError(f"{name} is damaged: nothing in it can be decoded; create it again")
    if damaged:
        warnings.warn(
            f"{name} is damaged or cut short; {seconds:.1f} s of it could be decoded",
            stacklevel=2,
        )
    elif seconds < stated - max(0.1, 0.01 * stated):
        warnings.warn(
            f"{name} is cut short: {seconds:.1f} s of the {stated:.1f} s that its header states",
            stacklevel=2,
        )


def _silence(seconds: float, rate: int) -> Iterator[Floats]:
    """Yield so many seconds of silence, in blocks of at most ten."""
    left = round(seconds * rate)
    while left > 0:
        yield np.zeros(min(left, 10 * rate), np.float32)
        left -= 10 * rate


def _mono(frame: AudioFrame, name: str, mixer: Mixer) -> Floats:
    """Average the channels of a frame to float32 `[samples]`, full scale at ±1."""
    try:
        array = frame.to_ndarray()
    except ValueError:
        raise TyndaError(
            f"{name} has samples of type {frame.format.name}; convert it to 16-bit WAV"
        ) from None
    if frame.format.is_planar:
        return mixer(array)
    return mixer(array.reshape(-1, frame.layout.nb_channels).T)


def _resampled(frames: Iterator[tuple[int, Floats]]) -> Iterator[Floats]:
    """Resample frames to 16 kHz; their sample rate may change from frame to frame."""
    rate, resampler = SAMPLE_RATE, resampler_from(SAMPLE_RATE)
    nothing = np.zeros(0, np.float32)
    for next_rate, samples in frames:
        if next_rate != rate:
            if resampler is not None:
                yield resampler.resample_chunk(nothing, last=True)
            rate, resampler = next_rate, resampler_from(next_rate)
        yield samples if resampler is None else resampler.resample_chunk(samples)
    if resampler is not None:
        yield resampler.resample_chunk(nothing, last=True)


def resampler_from(rate: int) -> Any:
    """Return a stream of soxr that resamples mono float32 from ``rate`` hertz to 16 kHz, or None
    where none is needed."""
    if rate == SAMPLE_RATE:
        return None
    soxr = import_whole("soxr")
    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
