"""Decode any audio to float32 mono samples at 16 kHz.

FFmpeg decodes, through PyAV; soxr resamples. Both work block by block, so that a ten-hour
recording needs no more memory than a short one. They are imported only where they are needed:
a plain WAV at 16 kHz is read without them.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.interrupts import import_whole
from tynda.sound.channels import Mixer
from tynda.sound.damage import Inspector, inspector
from tynda.sound.sources import Readable, Seekable, Source, check_pipe, reader, watch_pipe
from tynda.sound.timeline import Timeline

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

__all__ = ["MAX_SAMPLE", "SAMPLE_RATE", "Source", "load", "resampled", "resampler_from", "stream"]

SAMPLE_RATE = 16_000
MAX_SAMPLE = 1e10
"""The maximum absolute value of a sample: that of 32-bit integers which nobody has scaled, and a
bit more. The squares of larger ones could overflow in a sum."""

Floats = NDArray[np.float32]

# A sample rate outside these limits is invalid, and resampling from it could fill the memory.
_SLOWEST, _FASTEST = 1_000, 1_000_000
_READ = 1 << 18  # bytes read from a plain WAV at a time; always whole samples
# Formats whose header states a duration that FFmpeg reports as it stands.
_STATE_DURATION = ("flac", "aiff", "au", "wv", "tta")
# Decoders that verify checksums, on demand: they then leave out what is damaged.
_CHECKSUMS = ("flac", "wavpack", "tta")
# Formats that FFmpeg reports as video although they are pictures or text.
_PICTURES = ("image2", "gif", "apng", "ico", "tty")


def load(source: Source, track: int | None = None) -> Floats:
    """Read a whole recording as float32 `[n]`, mono, 16 kHz, full scale at ±1.

    `source` is a path, the bytes of a file, a binary file object, or `"-"` for standard
    input. See `stream` for `track`, formats, results in unusual cases, and errors.
    """
    blocks = list(stream(source, track=track))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def stream(
    source: Source,
    block_seconds: float = 30.0,
    track: int | None = None,
    formats: str | None = None,
) -> Iterator[Floats]:
    """Read a recording as consecutive blocks, float32 `[block_seconds * 16000]`.

    The last block may be shorter, but is never empty. The concatenated blocks equal the result
    of `load`, to the last bit.

    All formats that the FFmpeg inside PyAV decodes are read: WAV (8 to 64 bits, float, mu-law,
    A-law), FLAC, MP3, Ogg Vorbis, Opus, M4A/AAC, WebM, and the audio of video files. `track` is
    the number of the audio track, counted from 1; without it, the one that FFmpeg ranks best is
    read, such as the default of several languages. Channels are averaged; of two that cancel each
    other, the first is used, with a `UserWarning`. Silence stands where a container's times leave a
    gap of 0.2 s or more, also before the sound of a video begins. Nothing but `source` is opened:
    playlists that point elsewhere are not followed. `formats` are the names of FFmpeg's demuxers
    that may read the recording, separated by commas; by default all may.

    A seekable file object is read from its beginning and left open. Pipes (including standard
    input) are read as data arrives, except MP4 and QuickTime: their index may be at the end,
    so the whole pipe is first read into memory.

    - A damaged or truncated file gives all that can be decoded, as with ffmpeg, and a
      `UserWarning` where the decoder detects it (a block of FLAC, WavPack or TTA whose checksum is
      wrong is left out), where the file is shorter than its header states
      (WAV, FLAC, AIFF, AU, CAF, WavPack, TTA, Matroska, WebM, and MP3 but from a pipe), where
      pages of an Ogg are damaged, missing, or without the last one, and where elements or
      checksums of a Matroska or WebM are damaged.
    - The padding at the end of an MP3 (some milliseconds) is removed, but not from a pipe, where
      FFmpeg does not know the length: the text may differ in a letter. Prefer to give the file.
    - A recording of zero samples gives no block (`load`: shape `[0]`).

    Raises TyndaError, with the first block, when the source is missing, a directory, not
    readable, empty, not an audio file, truncated in its header, without an audio track (or without
    that of `track`), or holds samples that are not finite numbers or beyond `MAX_SAMPLE`;
    ValueError when `block_seconds` is not positive; TypeError when `source` is of none of the kinds
    above.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be positive, not {block_seconds}")
    size = max(1, round(block_seconds * SAMPLE_RATE))
    if track is not None and not (isinstance(track, int) and track >= 1):
        raise TyndaError(f"the audio track must be a whole number from 1 on, not {track!r}")
    with (
        reader(source) as (file, name, head),
        closing(_samples(file, name, head, track, formats)) as decoded,
    ):
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


def _samples(
    file: Readable, name: str, head: bytes, number: int | None, formats: str | None
) -> Generator[Floats, None, None]:
    """Yield all samples of a recording, at 16 kHz; ``number`` is that of the track."""
    if number in (None, 1) and (channels := _seek_plain_wav(file, head)):
        yield from _read_plain_wav(file, *channels, Mixer(name))
        return
    checks = inspector(head)
    if checks is not None:
        watch_pipe(file, checks.feed)
    with _container(file, name, number, formats) as (container, track):
        stated = _stated(container, track, head)
        yield from resampled(_frames(file, container, track, name, stated, checks))


def _seek_plain_wav(file: Readable, head: bytes) -> tuple[int, int] | None:
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


def _read_plain_wav(file: Readable, channels: int, size: int, mixer: Mixer) -> Iterator[Floats]:
    while size and (data := file.read(min(size, _READ))):
        size -= len(data)
        yield mixer(np.frombuffer(data, "<i2").reshape(-1, channels).T)


@contextmanager
def _container(
    file: Readable, name: str, number: int | None, formats: str | None
) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Open the container and yield it with the audio track of this number, or else its best."""
    import av
    from av.audio.stream import AudioStream

    try:
        # Tags in old encodings are common and not needed here.
        container = av.open(
            Seekable(file) if hasattr(file, "seek") else file,
            "r",
            metadata_errors="ignore",
            container_options={
                "protocol_whitelist": "none",
                **({} if formats is None else {"format_whitelist": formats}),
            },
        )
    except av.FFmpegError as error:
        check_pipe(file)
        raise TyndaError(
            f"{name} is not an audio file, or is truncated in its header ({error.strerror}); "
            "give a WAV, FLAC, MP3, Ogg, Opus, M4A, WebM or video file"
        ) from None
    with container:
        track = container.streams.best("audio")
        if track is not None and number is not None:
            tracks = container.streams.audio
            if number > len(tracks):
                has = "one audio track" if len(tracks) == 1 else f"{len(tracks)} audio tracks"
                raise TyndaError(f"{name} has {has}: there is no track {number}")
            track = tracks[number - 1]
        if isinstance(track, AudioStream) and track.codec_context is not None:
            if track.codec_context.name in _CHECKSUMS:
                track.codec_context.options = {"err_detect": "crccheck+explode"}
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
    known = container.format.name in _STATE_DURATION or (
        container.format.name == "mp3" and track.start_time
    )
    if known and track.duration and track.time_base:
        return float(track.duration * track.time_base)
    if container.format.name == "caf" and track.codec_context.name.startswith("pcm_"):
        return track.frames / track.codec_context.sample_rate
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


def _frames(
    file: Readable,
    container: InputContainer,
    track: AudioStream,
    name: str,
    stated: float,
    checks: Inspector | None,
) -> Iterator[tuple[int, Floats]]:
    """Yield sample rate and mono samples of each decoded frame; warn where audio is lost.

    `stated` is the duration in the header, in seconds.
    """
    import av
    from av.audio.frame import AudioFrame

    damaged, seconds = False, 0.0
    timeline, mixer = Timeline((container.start_time or 0) / av.time_base), Mixer(name)
    try:
        for packet in _packets(container, track):
            check_pipe(file)
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
    except av.FFmpegError:  # a pipe of WavPack ends in an error
        damaged = not 0 < stated <= seconds + 0.01
    check_pipe(file)
    broken = checks is not None and _broken(file, checks)
    # Recorders in web browsers state inexact durations, and those of a video may be the picture's.
    if checks and len(container.streams) == 1 and timeline.end < checks.stated - 0.5:
        stated = checks.stated
    # The header of a lossless format has the number of samples. Others are inexact.
    slack = 0.01 if container.format.name in _STATE_DURATION else max(0.1, 0.01 * stated)
    _report(name, seconds, stated, damaged or broken, seconds < stated - slack)


def _broken(file: Readable, checks: Inspector) -> bool:
    """Return whether the structure of a file is damaged; the decoder has read it."""
    if hasattr(file, "seek"):
        file.seek(0)
        while data := file.read(_READ):
            checks.feed(data)
        return checks.damaged()
    while file.read(_READ):  # the rest of a pipe, which the container does not need
        pass
    check_pipe(file)
    return checks.damaged()


def _report(name: str, seconds: float, stated: float, damaged: bool, short: bool) -> None:
    """Warn where a file is damaged, or ``short`` of the seconds that its header states."""
    if damaged and seconds == 0:
        raise TyndaError(f"{name} is damaged: nothing in it can be decoded; create it again")
    if not (damaged or short):
        return
    whole = f"the {stated:.1f} s that its header states" if short else "it"
    message = f"{name} is damaged or cut short: {seconds:.1f} s of {whole} could be decoded"
    warnings.warn(message, stacklevel=3)


def _packets(container: InputContainer, track: AudioStream) -> Iterator[Packet[AudioStream]]:
    """Yield the packets of a track.

    PyAV raises IndexError for a packet of a stream that begins after the header, as damaged files
    have them and FLV may; a new demultiplexer continues behind that packet.
    """
    while True:
        try:
            yield from container.demux(track)
            return
        except IndexError:
            continue


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


def resampled(frames: Iterator[tuple[int, Floats]]) -> Iterator[Floats]:
    """Resample frames, rate and samples ``[n]``, to 16 kHz; the rate may change from frame to
    frame."""
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
