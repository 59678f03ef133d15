"""Spectra of overlapping frames, the expensive part of a front end.

A native kernel computes them where the engine was compiled (`native/src/spectra.inl`), otherwise
NumPy, its reference. Both transform in double precision and return float32, as NumPy 2 does for
float32 input.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    _native: Any = import_module("tynda._native")
except ImportError:  # there was no compiler at installation
    _native = None

__all__ = ["Spectra", "is_smooth"]

Floats = NDArray[np.float32]

# NumPy computes spectra of this many frames at a time: they fit into the processor's cache, and
# memory does not grow with the length of a recording.
_FRAMES_AT_ONCE = 256


class Spectra:
    """Computes a row of features for each windowed frame of samples `[n]`: `[frames, bins]`.

    `window` is float32 `[window]`, padded with zeros to `fft` samples. `ending` is applied to a
    frame's power spectrum `[fft // 2 + 1]`, or to its product with `filters`
    `[fft // 2 + 1, bins]`:
    - `"power"`: no change.
    - `"log"`, `"log10"`: the logarithm of max(x, 1e-10).
    - `"standard"`: the square root of the magnitudes, then (x - mean) / (std + 1e-10).
    """

    def __init__(
        self,
        window: Floats,
        fft: int,
        filters: Floats | None = None,
        ending: str = "power",
        instructions: str | None = None,
    ) -> None:
        self.window, self.fft, self.filters, self.ending = window, fft, filters, ending
        self.bins = fft // 2 + 1 if filters is None else filters.shape[1]
        self._native = None
        if _native is not None and is_smooth(fft):
            self._kernels = _native.kernels(instructions or _native.instruction_sets()[0])
            which = getattr(_native.FinalStep, ending.upper())
            self._native = _native.Spectra(window, fft, filters, which)

    def __call__(self, samples: Floats, hop: int, frames: int) -> Floats:
        """Compute the first `frames` frames, `hop` samples apart; a negative number means 0."""
        result = np.empty((max(0, frames), self.bins), np.float32)
        if self._native is None:
            self._by_numpy(samples, hop, result)
        else:
            self._native.run(self._kernels, np.ascontiguousarray(samples), hop, result)
        return result

    def _by_numpy(self, samples: Floats, hop: int, result: Floats) -> None:
        if len(result) == 0:
            return
        window = len(self.window)
        silence = self._finish(np.zeros((1, self.fft // 2 + 1), np.float32))
        strided = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
        for start in range(0, len(result), _FRAMES_AT_ONCE):
            stop = min(start + _FRAMES_AT_ONCE, len(result))
            if not samples[start * hop : (stop - 1) * hop + window].any():
                result[start:stop] = silence  # the same result; padding is mostly silence
                continue
            spectrum = np.fft.rfft(strided[start:stop] * self.window, self.fft)
            power: Floats = np.square(spectrum.real) + np.square(spectrum.imag)
            result[start:stop] = self._finish(power)

    def _finish(self, power: Floats) -> Floats:
        energies: Floats = power if self.filters is None else power @ self.filters
        return _ENDINGS[self.ending](energies)


def _logarithm(log: np.ufunc) -> Callable[[Floats], Floats]:
    def ending(energies: Floats) -> Floats:
        np.maximum(energies, np.float32(1e-10), out=energies)
        log(energies, out=energies)
        return energies

    return ending


def _standardise(power: Floats) -> Floats:
    root = np.sqrt(np.sqrt(power))
    root -= root.mean(axis=1, keepdims=True)
    root /= root.std(axis=1, keepdims=True) + np.float32(1e-10)
    return root


_ENDINGS: dict[str, Callable[[Floats], Floats]] = {
    "power": lambda power: power,
    "log": _logarithm(np.log),
    "log10": _logarithm(np.log10),
    "standard": _standardise,
}


def is_smooth(length: int) -> bool:
    """Whether the kernel has passes for all its factors."""
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    return length == 1
