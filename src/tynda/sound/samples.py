"""Samples in memory, converted to the form that a recogniser accepts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.interrupts import import_whole
from tynda.sound.audio import MAX_SAMPLE, SAMPLE_RATE
from tynda.sound.channels import is_cancelled, warn_cancelled

__all__ = ["as_samples", "check_sample_rate", "is_samples"]

Floats = NDArray[np.float32]

_MAX_RATE = 768_000
_MAX_CHANNELS = 64
_LOUD = 100
"""Times full scale above which nobody has scaled floats: mixing and filters stay far below."""


def is_samples(source: Any) -> bool:
    """Return whether a source is an array or a tensor, not a file."""
    return hasattr(source, "__array__") and hasattr(source, "shape")


def as_samples(given: Any, sample_rate: int = SAMPLE_RATE) -> Floats:
    """Convert samples to float32 mono ``[n]`` at 16 kHz.

    ``given`` is an array or a tensor, ``[n]``, ``[n, channels]`` or ``[channels, n]``; the shorter
    axis holds the channels, at most 64. Floats have full scale at ±1; integers (int16, int32, or
    uint8 centred at 128) have the full scale of their type. Channels are averaged; of two that
    cancel each other, the first is used, with a `UserWarning`. ``sample_rate`` is the rate of
    ``given`` in hertz.

    Raises `TyndaError` for another type, shape or rate, for samples that are not finite, and for
    floats that are integers beyond full scale. Warns of floats that exceed full scale by far.
    """
    if hasattr(given, "detach"):  # a tensor, perhaps with a gradient or on a device
        given = given.detach().cpu()
    samples = np.asarray(given)
    check_sample_rate(sample_rate)
    floats = _mono(_as_floats(samples))
    # An array of hours is not copied to be checked; NaN is neither above nor below a number.
    lowest, highest = floats.min(initial=0), floats.max(initial=0)
    if not (lowest >= -MAX_SAMPLE and highest <= MAX_SAMPLE):
        raise TyndaError(
            f"samples must be finite, with full scale at ±1: some are NaN or above {MAX_SAMPLE:g}"
        )
    # Mixing may leave floats above full scale, but integer values mean that nobody scaled them.
    if max(-lowest, highest) > 1 and (floats == np.rint(floats)).all():
        raise TyndaError(
            "samples must be floats with full scale at ±1, but these are whole numbers: divide "
            "16-bit samples by 32768, or give them as int16"
        )
    if (loudest := max(-lowest, highest)) > _LOUD:
        warnings.warn(
            f"samples reach {loudest:.0f} times full scale: divide 16-bit samples by 32768, or "
            "give them as int16",
            stacklevel=4,
        )
    if sample_rate == SAMPLE_RATE:
        return floats
    soxr = import_whole("soxr")  # not needed for samples at 16 kHz
    resampled: Floats = soxr.resample(floats, sample_rate, SAMPLE_RATE)
    return resampled


def check_sample_rate(sample_rate: Any) -> None:
    """Raise `TyndaError` unless a rate is a whole number of hertz that can be resampled."""
    if not (isinstance(sample_rate, int | np.integer) and 1 <= sample_rate <= _MAX_RATE):
        raise TyndaError(
            f"sample_rate must be a whole number from 1 to {_MAX_RATE}, not {sample_rate!r}"
        )


def _as_floats(samples: NDArray[Any]) -> NDArray[Any]:
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        floats = samples.astype(np.float32)
        floats -= 128
        floats /= 128
        return floats
    if samples.dtype in (np.int16, np.int32):
        floats = samples.astype(np.float32)
        floats /= np.float32(-float(np.iinfo(samples.dtype).min))
        return floats
    raise TyndaError(
        f"samples must be floats, int16, int32 or uint8, not {samples.dtype}: convert them"
    )


def _mono(samples: NDArray[Any]) -> Floats:
    if samples.ndim == 2 and min(samples.shape) <= _MAX_CHANNELS:
        axis = int(np.argmin(samples.shape))
        mono = np.ascontiguousarray(samples.mean(axis, dtype=np.float32))
        first = samples.take(0, axis) if samples.shape[axis] == 2 else mono
        if not is_cancelled(mono, first):
            return mono
        warn_cancelled("the array")
        return first
    if samples.ndim != 1:
        raise TyndaError(
            f"samples must have one axis, [n], or two, [n, channels], not {list(samples.shape)}"
        )
    return samples
