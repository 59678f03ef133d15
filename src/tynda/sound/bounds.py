"""Bounds of a front end's settings.

A model file may come from anywhere, so that no setting in it may request gigabytes or minutes.
"""

from __future__ import annotations

import math

from tynda.errors import TyndaError
from tynda.sound.spectra import is_smooth

__all__ = [
    "LARGEST_FFT",
    "check_fft",
    "check_framing",
    "check_integer",
    "check_mel",
    "check_numbers",
    "check_rate",
]

LARGEST_FFT = 16_384
_SAMPLE_RATE = 16_000
_MAX_RATE = 500_000
"""The maximum number of features for each second of audio; front ends of published models have up
to 20,000."""
_MAX_FILTERS = 1 << 21
"""The maximum number of weights of all mel filters: 200 times as many as in published ones."""


def check_fft(fft: int) -> None:
    """Raise `TyndaError` for a transform that native code does not have."""
    if not is_smooth(fft):
        raise TyndaError(
            f"front end: native code has no transform of {fft} samples, which has factors other "
            "than 2, 3 and 5, so it cannot be exported"
        )


def check_integer(name: str, value: object, minimum: int, maximum: int) -> None:
    """Raise `TyndaError`, naming the setting, unless its value is an integer in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise TyndaError(
            f"front end: {name} must be a whole number from {minimum} to {maximum}, not {value!r}"
        )


def check_mel(bins: int, hop: int, fft: int) -> None:
    """Check the bins of a mel scale, before its filters ``[fft // 2 + 1, bins]`` are computed."""
    check_integer("bins", bins, 1, min(fft // 2 + 1, _MAX_FILTERS // (fft // 2 + 1)))
    check_rate(bins, hop)


def check_numbers(name: str, values: object, count: int) -> tuple[float, ...]:
    """Return the numbers of a setting: ``count`` of them, or none. Raises `TyndaError` for others.

    Numbers beyond a million are refused, since features divided by their like are not numbers.
    """
    if (
        isinstance(values, list | tuple)
        and len(values) in (0, count)
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        and all(math.isfinite(v) and abs(v) < 1e6 for v in values)
    ):
        return tuple(float(v) for v in values)
    raise TyndaError(f"front end: {name} must be a list of {count} numbers, one for each bin")


def check_rate(bins: int, hop: int) -> None:
    """Raise `TyndaError` for more features than any model reads: they would fill the memory."""
    if bins * _SAMPLE_RATE > _MAX_RATE * hop:
        raise TyndaError(
            f"front end: {bins} bins with a hop of {hop} samples are more than {_MAX_RATE} "
            "features for each second of audio"
        )


def check_framing(window: int, hop: int, fft: int) -> None:
    """Check the sizes of a front end's frames, in samples."""
    check_integer("fft", fft, 2, LARGEST_FFT)
    check_integer("window", window, 1, fft)
    check_integer("hop", hop, 1, LARGEST_FFT)
