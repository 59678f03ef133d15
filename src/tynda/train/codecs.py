"""Lossy codecs on training audio: what telephones and calls over a network leave of a voice."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tynda.interrupts import import_whole
from tynda.sound import audio
from tynda.sound.frontend import SAMPLE_RATE

__all__ = ["CODECS", "Codec", "coded", "through"]

Floats = NDArray[np.float32]

_TELEPHONE = 300.0, 3400.0
"""The band of a telephone in hertz (ITU-T G.712)."""
_SLOPE = 24.0
"""Decibels per octave below and above it."""
_SHORTEST = SAMPLE_RATE // 10


@dataclass(frozen=True)
class Codec:
    """A codec as FFmpeg has it."""

    name: str
    container: str
    rate: int
    """Samples for each second of what is encoded."""
    bits: tuple[int, ...] = ()
    """Bits for each second, one drawn at random; none where the codec has one rate."""
    band: tuple[float, float] | None = None
    """The band to which the spectrum is cut before, in hertz."""


CODECS = (
    Codec("libopus", "ogg", 16_000, (8_000, 12_000, 16_000, 24_000)),
    Codec("libopus", "ogg", 8_000, (6_000, 8_000, 12_000)),
    Codec("libmp3lame", "mp3", 16_000, (16_000, 24_000, 32_000)),
    Codec("libopencore_amrnb", "amr", 8_000, (4_750, 5_900, 7_950, 12_200), _TELEPHONE),
    Codec("pcm_mulaw", "wav", 8_000, (), _TELEPHONE),
    Codec("g726", "wav", 8_000, (16_000, 24_000, 32_000), _TELEPHONE),
)
"""Calls over the internet (Opus, RFC 6716), files (MP3), mobile telephones (AMR, 3GPP TS 26.071),
and lines (ITU-T G.711 and G.726)."""


def coded(samples: Floats, rng: Generator) -> Floats:
    """Send ``samples [n]`` at 16 kHz through a codec drawn at random; see `through`."""
    codecs = _available()
    codec = codecs[int(rng.integers(len(codecs)))]
    bits = int(rng.choice(codec.bits)) if codec.bits else None
    return through(samples, codec, bits)


def through(samples: Floats, codec: Codec, bits: int | None = None) -> Floats:
    """Encode ``samples [n]`` at 16 kHz with so many ``bits`` for each second; return ``[n]`` of
    what is decoded.

    Samples beyond full scale are clipped. What a codec delays stays within some milliseconds, since
    files state what is to be left out at the beginning.
    """
    if not samples.size:
        return samples
    if codec.band:
        samples = _within(samples, *codec.band)
    # Some codecs write nothing at all for less than a frame.
    longer = np.pad(samples, (0, max(0, _SHORTEST - samples.size)))
    decoded = audio.load(_encode(longer, codec, bits))[: samples.size]
    return np.pad(decoded, (0, samples.size - decoded.size))


@cache
def _available() -> tuple[Codec, ...]:
    """Return the codecs that this build of FFmpeg can encode."""
    av = import_whole("av")

    def exists(codec: Codec) -> bool:
        try:
            av.codec.Codec(codec.name, "w")
        except av.codec.codec.UnknownCodecError:
            return False
        return True

    return tuple(codec for codec in CODECS if exists(codec))


def _encode(samples: Floats, codec: Codec, bits: int | None) -> bytes:
    """Return the bytes of a file."""
    av = import_whole("av")
    whole = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    file = io.BytesIO()
    with av.open(file, "w", format=codec.container) as container:
        track: Any = container.add_stream(codec.name, rate=codec.rate, layout="mono")
        if bits is not None:
            track.bit_rate = bits
        for part in (frame, None):
            container.mux(track.encode(part))
    return file.getvalue()


def _within(samples: Floats, low: float, high: float) -> Floats:
    """Return ``samples [n]`` without what lies below ``low`` and above ``high`` hertz."""
    fast = 1 << (samples.size - 1).bit_length()
    hertz = np.fft.rfftfreq(fast, 1 / SAMPLE_RATE).clip(min=1.0)
    octaves = np.maximum(np.log2(low / hertz), np.log2(hertz / high)).clip(min=0)
    spectrum = np.fft.rfft(samples, fast) * 10 ** (-_SLOPE * octaves / 20)
    return np.fft.irfft(spectrum, fast)[: samples.size].astype(np.float32)
