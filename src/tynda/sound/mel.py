"""Mel filters, and the spectra of front ends, each of which is prepared once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tynda.sound.spectra import Spectra

__all__ = [
    "hann",
    "kaldi_filters",
    "kaldi_powers",
    "mel_filters",
    "mel_powers",
    "mel_spectra",
    "standard_spectra",
]

Floats = NDArray[np.float32]

_SAMPLE_RATE = 16_000


@lru_cache
def standard_spectra(window: int, fft: int) -> Spectra:
    """Return the spectra of `Spectrogram`."""
    return Spectra(hann(window), fft, ending="standard")


@lru_cache
def mel_spectra(window: int, log: str, bins: int, fft: int, fmin: float, fmax: float) -> Spectra:
    """Return the spectra of `LogMel`; ``log`` is the kind of its logarithm."""
    return Spectra(hann(window), fft, mel_filters(bins, fft, fmin, fmax), log)


@lru_cache
def mel_powers(window: int, bins: int, fft: int) -> Spectra:
    """Return the spectra of `NemoLogMel`."""
    symmetric = np.hanning(window).astype(np.float32)
    return Spectra(symmetric, fft, mel_filters(bins, fft, 0, _SAMPLE_RATE / 2))


@lru_cache
def kaldi_powers(window: str, size: int, bins: int, fft: int) -> Spectra:
    """Return the spectra of `KaldiFbank`."""
    curves = {"hamming": np.hamming(size), "povey": np.hanning(size) ** 0.85}
    return Spectra(curves[window].astype(np.float32), fft, kaldi_filters(bins, fft))


def hann(length: int) -> Floats:
    """Periodic Hann window `[length]`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window.astype(np.float32)


def mel_filters(bins: int, fft: int, fmin: float, fmax: float) -> Floats:
    """Return Slaney's triangular filters `[fft // 2 + 1, bins]`, each of area 1 over Hz.

    Source: Slaney, Auditory Toolbox, Technical Report 1998-010. The mel scale is linear to 1 kHz
    (200/3 Hz for a mel), then has 27 steps for a factor of 6.4.
    """
    knee, step = 15.0, np.log(6.4) / 27

    def mel(hz: float) -> float:
        return float(3 * hz / 200 if hz < 1000 else knee + np.log(hz / 1000) / step)

    mels = np.linspace(mel(fmin), mel(fmax), bins + 2)
    corners = np.where(mels < knee, 200 * mels / 3, 1000 * np.exp(step * (mels - knee)))
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    hz = np.linspace(0, _SAMPLE_RATE / 2, fft // 2 + 1)[:, None]
    rising = (hz - lower) / (centre - lower)
    falling = (upper - hz) / (upper - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: Floats = (triangles * (2 / (upper - lower))).astype(np.float32)
    return filters


def kaldi_filters(bins: int, fft: int) -> Floats:
    """Return Kaldi's triangular filters `[fft // 2 + 1, bins]` from 20 Hz to 8 kHz, each of height
    1, and triangular over mel.

    The mel scale is 1127 ln(1 + Hz / 700). Source: Povey et al. 2011, "The Kaldi Speech Recognition
    Toolkit", `MelBanks` in its `mel-computations.cc`.
    """

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1127 * np.log1p(hz / 700))

    low, high = mel(np.array([20.0, _SAMPLE_RATE / 2]))
    corners = np.linspace(low, high, bins + 2)
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    mels = mel(np.linspace(0, _SAMPLE_RATE / 2, fft // 2 + 1))[:, None]
    rising, falling = (mels - lower) / (centre - lower), (upper - mels) / (upper - centre)
    filters: Floats = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters[-1] = 0  # Kaldi leaves out the bin at half of the sampling rate.
    return filters
