"""Whatever people hand over as sound, a recording or its samples, as blocks for a model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from os import PathLike
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tynda.checks import is_number
from tynda.errors import TyndaError
from tynda.sound.audio import MAX_RATE, MIN_RATE, SAMPLE_RATE, Source, mixed, resampled, stream

__all__ = ["Sound", "samples_of"]

Floats = NDArray[np.float32]


class _ArrayLike(Protocol):
    def __array__(self) -> NDArray[Any]: ...


Sound = Source | NDArray[Any] | _ArrayLike
"""A recording, or samples as a NumPy array, a torch tensor, or what else has ``__array__``."""

_BLOCK_SECONDS = 30
_TYPES = ("f2", "f4", "f8", "i2", "i4", "u1")
_MAX_CHANNELS = 32
# Samples of 16 bits that nobody divided by 32768 have peaks of hundreds, and silence among them
# some units. Recorders that write floats put loud sound up to 20 dB (10 times) above full scale.
_MAX_PEAK = 16.0


def samples_of(source: Sound, sample_rate: float | None = None) -> Iterator[Floats]:
    """A sound as consecutive blocks of mono samples, float32 `[n]` at 16 kHz, full scale at ±1.

    ``source`` is one of:

    - a recording: a path, the bytes of a file, a binary file object, or `"-"` for standard input,
      as `audio.stream` takes it; it states its own sample rate;
    - samples at ``sample_rate`` Hz (16000 by default): a NumPy array, a torch tensor on any
      device, or any other array. Floats have their full scale at ±1, integers (int16, int32, and
      uint8 with its zero at 128) at their largest value. The shape is `[n]`, or `[n, channels]`
      or `[channels, n]`: the shorter axis holds the channels, of which there are 32 at most, and
      their mean is taken.

    An empty sound gives no block. Raises `TyndaError`, before the first block where ``source``
    holds samples: for another type or shape, for values that are not finite, and for floats
    beyond ±16, which are integers that nobody has scaled; else as `audio.stream` does.
    """
    recording = isinstance(source, str | PathLike | bytes | bytearray | memoryview)
    if recording or hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise TyndaError("a file must be opened in binary mode: open(name, 'rb')")
        if sample_rate is not None:
            raise TyndaError(
                "a recording states its own sample_rate: leave it out, or give samples, "
                "such as np.frombuffer(data, np.int16)"
            )
        return stream(source)  # type: ignore[arg-type]
    if not hasattr(source, "__array__"):
        raise TyndaError(
            f"a value of type {type(source).__name__} is no sound: give a path, bytes, a binary "
            "file, or samples as a NumPy array or a tensor"
        )
    rate = SAMPLE_RATE if sample_rate is None else sample_rate
    if not is_number(rate, MIN_RATE, MAX_RATE):
        raise TyndaError(
            f"sample_rate must be a number from {MIN_RATE} to {MAX_RATE} (Hz), not {rate!r}"
        )
    channels = _channels(_array(source))
    size = max(1, round(rate * _BLOCK_SECONDS))
    starts = range(0, channels.shape[1], size)
    mono = ((float(rate), mixed(channels[:, at : at + size])) for at in starts)
    return (block for block in resampled(mono) if len(block))


def _array(source: Any) -> NDArray[Any]:
    """An array or tensor as a NumPy array of a type that samples may have, its values checked."""
    if hasattr(source, "detach"):  # a torch tensor, perhaps on a GPU or with gradients
        source = source.detach().cpu()
        # NumPy has no bfloat16.
        source = source.float() if source.dtype.is_floating_point else source
    array = np.asarray(source)
    if array.dtype.str[1:] not in _TYPES:
        raise TyndaError(
            "samples must be float16, float32 or float64 with full scale at ±1, or int16, int32 "
            f"or uint8, not {array.dtype}"
        )
    if array.dtype.kind == "f" and array.size:
        with np.errstate(over="ignore"):
            peak = np.float32(max(-float(array.min()), float(array.max())))
        if not np.isfinite(peak):
            raise TyndaError("samples must be finite: some are NaN or infinite")
        if peak > _MAX_PEAK:
            raise TyndaError(
                f"samples of type {array.dtype} must have their full scale at ±1, and these go up "
                f"to {peak:g}: divide those of 16 bits by 32768, or give them as int16"
            )
    return array


def _channels(array: NDArray[Any]) -> NDArray[Any]:
    """Samples `[n]`, `[n, channels]` or `[channels, n]` as `[channels, n]`."""
    if array.ndim == 1:
        return array[None]
    if array.ndim == 2 and not array.size:
        return np.zeros((1, 0), array.dtype)
    if array.ndim == 2 and min(array.shape) <= _MAX_CHANNELS:
        return array if array.shape[0] <= array.shape[1] else array.T
    raise TyndaError(
        "samples must be of the shape [n], [n, channels] or [channels, n], with "
        f"{_MAX_CHANNELS} channels at most, not {list(array.shape)}: "
        "give one recording at a time"
    )
