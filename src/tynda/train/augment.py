"""Data augmentation for small training sets, in NumPy, on float32 samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tynda.interrupts import import_whole
from tynda.sound.frontend import SAMPLE_RATE
from tynda.train.codecs import coded
from tynda.train.recipe import Augment

__all__ = [
    "add_noise",
    "distort",
    "equalize",
    "mask_spectrum",
    "reverberate",
    "speed",
    "synthetic_room",
]

Floats = NDArray[np.float32]


def distort(
    samples: Floats,
    augment: Augment,
    noises: Sequence[Floats],
    rooms: Sequence[Floats],
    rng: Generator,
) -> Floats:
    """Distort ``samples [n]`` at random: tempo, microphone, room, noise, level, codec."""
    samples = speed(samples, float(rng.choice(augment.speeds)))
    if augment.filter and rng.random() < augment.filter:
        width = augment.filter_db
        samples = equalize(samples, rng.uniform(-width, width, int(rng.integers(3, 7))))
    if rng.random() < augment.rooms:
        # Half of the rooms are measured, half are synthetic.
        measured = len(rooms) > 0 and rng.random() < 0.5
        room = rooms[int(rng.integers(len(rooms)))] if measured else synthetic_room(rng)
        samples = reverberate(samples, room)
    if len(noises) and rng.random() < augment.noise:
        noise = noises[int(rng.integers(len(noises)))]
        samples = add_noise(samples, noise, rng.uniform(*augment.snr), rng)
    if augment.gain_db:
        samples = samples * np.float32(10 ** (rng.uniform(-augment.gain_db, augment.gain_db) / 20))
    if augment.codecs and rng.random() < augment.codecs:
        samples = coded(samples, rng)
    return samples


def speed(samples: Floats, factor: float) -> Floats:
    """Play ``factor`` times as fast; tempo and pitch change together (Ko et al. 2015)."""
    if factor == 1.0 or not samples.size:
        return samples
    soxr = import_whole("soxr")
    return np.asarray(soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ"))


def equalize(samples: Floats, gains: NDArray[np.float64]) -> Floats:
    """Simulate another microphone on ``samples [n]``, keeping their power.

    ``gains`` are decibels at points evenly spaced in octaves from 62.5 Hz to 8 kHz, with linear
    interpolation (the linear type of FilterAugment, Nam et al. 2022, applied to the signal).
    """
    if not samples.size:
        return samples
    fast = 1 << (samples.size - 1).bit_length()
    octaves = np.log2(np.fft.rfftfreq(fast, 1 / SAMPLE_RATE).clip(min=62.5) / 62.5)
    response = 10 ** (np.interp(octaves, np.linspace(0, 7, len(gains)), gains) / 20)
    out = np.fft.irfft(np.fft.rfft(samples, fast) * response, fast)[: samples.size]
    return _at_power(out, samples)


def add_noise(samples: Floats, noise: Floats, snr: float, rng: Generator) -> Floats:
    """Add a random section of ``noise``, looped, ``snr`` decibels below the speech's power."""
    if not samples.size or not noise.size:
        return samples
    start = int(rng.integers(noise.size))
    noise = np.resize(np.roll(noise, -start), samples.size)
    speech_power, noise_power = np.mean(samples**2), np.mean(noise**2)
    if noise_power <= 0 or speech_power <= 0:
        return samples
    gain = np.sqrt(speech_power / noise_power * 10 ** (-snr / 10))
    return np.asarray(samples + gain * noise, np.float32)


def reverberate(samples: Floats, response: Floats) -> Floats:
    """Convolve ``samples [n]`` with a room's impulse ``response``, keeping their power.

    The strongest sample of the response is assumed to be the direct path and is not delayed, so
    that the times of the words do not change.
    """
    if not samples.size or not response.size:
        return samples
    direct = int(np.argmax(np.abs(response)))
    size = samples.size + response.size - 1
    fast = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft(samples, fast) * np.fft.rfft(response, fast)
    return _at_power(np.fft.irfft(spectrum, fast)[direct : direct + samples.size], samples)


def _at_power(out: NDArray[np.floating], samples: Floats) -> Floats:
    """Scale ``out`` to the power of ``samples``."""
    power = np.mean(out**2)
    gain = np.sqrt(np.mean(samples**2) / power) if power > 0 else 0.0
    return np.asarray(out * gain, np.float32)


def synthetic_room(rng: Generator) -> Floats:
    """Draw an impulse response: a direct path and an exponential tail of noise.

    This is Polack's stochastic model of late reverberation. The time to decay by 60 dB is drawn
    from 0.1 s to 0.6 s and the direct-to-reverberant ratio from 0 dB to 15 dB.
    """
    decay = rng.uniform(0.1, 0.6)
    t = np.arange(1, int(decay * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    tail = rng.standard_normal(t.size, dtype=np.float32) * np.exp(-6.9078 * t / decay)
    tail *= np.sqrt(10 ** (-rng.uniform(0, 15) / 10) / np.sum(tail**2))
    return np.concatenate([np.ones(1, np.float32), tail.astype(np.float32)])


def mask_spectrum(features: Floats, augment: Augment, rng: Generator) -> Floats:
    """Apply SpecAugment (Park et al. 2019) without time warping to a copy of ``[frames, bins]``.

    Masked cells become zero, the mean of standardised features.
    """
    features = features.copy()
    frames, bins = features.shape
    for _ in range(augment.freq_masks):
        width = int(rng.integers(min(augment.freq_width, bins - 1) + 1))
        start = int(rng.integers(bins - width + 1))
        features[:, start : start + width] = 0
    for _ in range(augment.time_masks):
        width = int(rng.integers(int(frames * augment.time_share) + 1))
        start = int(rng.integers(frames - width + 1))
        features[start : start + width] = 0
    return features
