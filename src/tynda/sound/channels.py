"""Mixes the channels of a recording."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mixer", "is_cancelled", "warn_cancelled"]

Floats = NDArray[np.float32]

_FULL_SCALE = {"i2": 2.0**15, "i4": 2.0**31}
"""Full scale of FFmpeg's integer samples; 24-bit samples arrive in the upper part of 32 bits."""
_CANCELLED = 1e-3
"""Share of a channel's energy below which the sum of two channels has vanished: -30 dB."""


class Mixer:
    """Averages the channels of one recording.

    Two channels of opposite phase cancel each other, as where a plug has the wrong polarity: then
    the first one is used, with one warning.
    """

    def __init__(self, name: str) -> None:
        """``name`` is the recording's in the warning."""
        self._name, self._has_warned = name, False

    def __call__(self, channels: NDArray[Any]) -> Floats:
        """Return the average of ``channels [channels, n]`` of any type as float32 ``[n]``.

        Full scale of the result is ±1.
        """
        mono = _average(channels)
        if len(channels) != 2:
            return mono
        first = _average(channels[:1])
        if not is_cancelled(mono, first):
            return mono
        if not self._has_warned:
            self._has_warned = True
            warn_cancelled(self._name)
        return first


def is_cancelled(mono: Floats, first: Floats) -> bool:
    """Return whether the average ``[n]`` of two channels lacks what the ``first [n]`` has."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.dot(mono, mono) < _CANCELLED * np.dot(first, first))


def warn_cancelled(name: str) -> None:
    """Warn that only the first channel of a recording is used."""
    warnings.warn(
        f"{name} has two channels that cancel each other (opposite phase): the first one is used",
        stacklevel=3,
    )


def _average(channels: NDArray[Any]) -> Floats:
    # Values that overflow become infinite and are reported as such.
    with np.errstate(over="ignore", invalid="ignore"):
        if channels.dtype.kind == "u":
            mono = (channels.mean(axis=0, dtype=np.float32) - 128) / 128
        else:
            mono = channels.mean(axis=0, dtype=np.float64)
            mono /= _FULL_SCALE.get(channels.dtype.str[1:], 1.0)
        samples: Floats = mono.astype(np.float32)
    return samples
