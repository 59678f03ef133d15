"""Cepstral features for Gaussian mixtures.

Mel-frequency cepstral coefficients (Davis & Mermelstein 1980) without their mean over the utterance
(Atal 1974), and their first and second differences over time (Furui 1986).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tynda.sound.frontend import LogMel

__all__ = ["CEPSTRA", "SIZE", "cepstra", "differences", "features"]

Floats = NDArray[np.float32]

CEPSTRA = 13
"""Number of coefficients, the first of which is the level."""
SIZE = 3 * CEPSTRA
"""Number of features of a frame: coefficients, first and second differences."""
_BINS = 40
_LIFTER = 22
_REACH = 2
"""Frames before and after from which a difference is computed."""

FRONT = LogMel(bins=_BINS, fmin=20.0, fmax=7600.0, normalize="fixed")
"""The logarithms of mel energies, whose cosine transform the coefficients are."""


def features(samples: Floats) -> Floats:
    """Return features ``[frames, SIZE]`` of float32 samples ``[n]`` at 16 kHz.

    A frame has 10 ms.
    """
    found = cepstra(FRONT(samples))
    first = differences(found)
    return np.concatenate([found, first, differences(first)], axis=1)


def cepstra(energies: Floats) -> Floats:
    """Return coefficients ``[frames, CEPSTRA]`` of log energies ``[frames, bins]``, mean 0."""
    found: Floats = energies @ _cosines(energies.shape[1])
    return found - found.mean(0) if len(found) else found


def differences(values: Floats) -> Floats:
    """Return the slope of ``values [frames, n]`` over five frames; the ends are repeated.

    Source: Young et al., The HTK Book, section 5.9.
    """
    if not len(values):
        return values
    padded = np.pad(values, ((_REACH, _REACH), (0, 0)), mode="edge")
    n = len(values)
    steps = range(1, _REACH + 1)
    total = np.zeros_like(values)
    for k in steps:
        ahead, behind = padded[_REACH + k :][:n], padded[_REACH - k :][:n]
        total += np.float32(k) * (ahead - behind)
    slopes: Floats = total / np.float32(2 * sum(k * k for k in steps))
    return slopes


@lru_cache
def _cosines(bins: int) -> Floats:
    """Return the cosine transform ``[bins, CEPSTRA]``, with HTK's lifter, which brings the
    coefficients to similar sizes."""
    k, n = np.arange(CEPSTRA), np.arange(bins)[:, None]
    cosines = np.sqrt(2 / bins) * np.cos(np.pi * k * (n + 0.5) / bins)
    lifter = 1 + _LIFTER / 2 * np.sin(np.pi * k / _LIFTER)
    found: Floats = (cosines * lifter).astype(np.float32)
    return found
