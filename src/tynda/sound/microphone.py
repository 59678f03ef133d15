"""Audio that comes while it is recorded: from the microphone, or raw from a pipe."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.sound.audio import SAMPLE_RATE, resampled
from tynda.sound.samples import as_samples
from tynda.sound.sources import standard_input

__all__ = ["live_blocks", "microphone", "raw", "raw_stream"]

Floats = NDArray[np.float32]

_BLOCK = SAMPLE_RATE // 10
_MAX_BLOCKS = 600
"""Blocks that wait while the model is busy: one minute."""
_MAX_BYTES = 1 << 16


def live_blocks(is_piped: bool, device: str | None = None) -> Iterator[NDArray[Any]]:
    """Return the blocks of raw audio on standard input, or else those of the `microphone`.

    Raises `TyndaError` where the shell has closed standard input.
    """
    return raw(standard_input().fileno()) if is_piped else microphone(device)


def microphone(device: str | None = None) -> Iterator[Floats]:
    """Yield blocks of 0.1 s from the microphone, float32 mono ``[n]`` at 16 kHz, without end.

    ``device`` is a number or a part of a name, as sounddevice lists them; None is the system's
    default. Raises `TyndaError` where sounddevice is missing, where there is no such device, and
    where the audio has not been taken for a minute.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the library PortAudio is missing
        raise TyndaError(
            f"the microphone needs sounddevice and PortAudio ({error}): {install('mic')}, and the "
            "system's PortAudio (Debian: libportaudio2); or pipe raw audio to tynda listen -"
        ) from None
    blocks: queue.Queue[Floats] = queue.Queue(_MAX_BLOCKS)

    def put(data: NDArray[np.float32], *_: Any) -> None:
        with suppress(queue.Full):
            blocks.put_nowait(data[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            blocksize=_BLOCK,
            device=int(device) if device is not None and device.isdecimal() else device,
            channels=1,
            dtype="float32",
            callback=put,
        )
        with stream:
            while not blocks.full():
                yield blocks.get()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise TyndaError(f"cannot record from the microphone: {error}") from None
    raise TyndaError("the model is too slow for live audio: raise --step, or use a smaller model")


def raw(descriptor: int) -> Iterator[NDArray[np.int16]]:
    """Yield the samples of raw audio, 16-bit little-endian mono, as they come, up to its end.

    ``descriptor`` is an open file. A last odd byte is ignored. Raises `TyndaError` where there is
    not one sample.
    """
    rest, is_empty = b"", True
    while data := os.read(descriptor, _MAX_BYTES):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            is_empty = False
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16)
    if is_empty:
        raise TyndaError("standard input has no audio: nothing was recorded or copied")


def raw_stream(descriptor: int, rate: int) -> Iterator[Floats]:
    """Yield the samples that `raw` reads as a recording, float32 mono ``[n]`` at 16 kHz.

    ``rate`` is that of the raw audio in hertz. Raises `TyndaError` where there is no audio.
    """
    yield from resampled((rate, as_samples(block)) for block in raw(descriptor))
