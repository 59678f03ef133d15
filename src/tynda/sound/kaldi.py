"""Kaldi's front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tynda.errors import TyndaError
from tynda.sound.base import Floats, FrontEnd
from tynda.sound.bounds import check_mel
from tynda.sound.mel import kaldi_powers

__all__ = ["KaldiFbank"]

_WINDOW, _FFT = 400, 512


@dataclass(frozen=True)
class KaldiFbank(FrontEnd):
    """Log energies of mel filters as Kaldi computes them, for published models of voices.

    Frames of 25 ms, one each 10 ms, that lie within the recording: `1 + (n - 400) // 160`. Each
    frame gets zero mean, pre-emphasis (0.97; the first sample is its own predecessor) and a window,
    `"hamming"` or `"povey"` (Hann's to the power of 0.85); then power spectrum (512), Kaldi's
    filters, log(max(energy, 2^-23)). With `mean`, the mean of each bin over the frames is
    subtracted. Samples are multiplied by `scale` first: 32768 for models that were trained on
    integers. There is no dither.
    """

    kind: ClassVar[str] = "kaldi_fbank"

    bins: int = 80
    window: str = "hamming"
    scale: float = 32768.0
    mean: bool = True

    def __post_init__(self) -> None:
        check_mel(self.bins, self.hop, _FFT)
        if self.window not in ("hamming", "povey"):
            raise TyndaError(f"front end: window must be 'hamming' or 'povey', not {self.window!r}")
        if type(self.scale) not in (int, float) or not 1 <= self.scale <= 1e6:
            raise TyndaError(
                f"front end: scale must be a number from 1 to a million, not {self.scale!r}"
            )
        if not isinstance(self.mean, bool):
            raise TyndaError(f"front end: mean must be true or false, not {self.mean!r}")

    @property
    def hop(self) -> int:
        """The number of samples from the start of one frame to the start of the next."""
        return 160

    def frames(self, samples: int) -> int:
        """The number of frames for a number of samples."""
        return max(0, 1 + (samples - _WINDOW) // self.hop)

    def _features(self, samples: Floats) -> Floats:
        count, size = self.frames(len(samples)), _WINDOW
        if count == 0:
            return np.zeros((0, self.bins), np.float32)
        strided = np.lib.stride_tricks.sliding_window_view(samples, size)[:: self.hop]
        frames = strided * np.float32(self.scale)
        frames -= frames.mean(1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
        frames -= np.float32(0.97) * before
        # The frames stand one after the other, since each has a mean of its own.
        spectra = kaldi_powers(self.window, size, self.bins, _FFT)
        features = spectra(frames.ravel(), size, count)
        np.log(np.maximum(features, np.float32(2**-23), out=features), out=features)
        if self.mean:
            features -= features.mean(0, dtype=np.float64).astype(np.float32)
        return features
