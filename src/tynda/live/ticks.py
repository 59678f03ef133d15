"""Samples that come in blocks of any size, divided into ticks at fixed places of the audio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.sound.audio import SAMPLE_RATE, resampler_from
from tynda.sound.samples import as_samples, check_sample_rate

__all__ = ["Ticks"]

Floats = NDArray[np.float32]


class Ticks:
    """The ticks of one live recording, and the samples that are too few for one."""

    def __init__(self, size: int, sample_rate: int = SAMPLE_RATE) -> None:
        """``size`` is the number of samples of a tick at 16 kHz, ``sample_rate`` the rate in hertz
        of the samples that will come.

        Raises `TyndaError` for a rate that is out of range.
        """
        check_sample_rate(sample_rate)
        self._size, self._resampler = size, resampler_from(sample_rate)
        self.rest = np.zeros(0, np.float32)
        """Samples after the last tick."""
        self.is_finished = False

    def add(self, samples: Any) -> Iterator[Floats]:
        """Take samples, as for `as_samples`, of any length; yield the ticks that are complete.

        Raises `TyndaError` for other samples, and after `finish`.
        """
        if self.is_finished:
            raise TyndaError("this session is finished: open a new one")
        floats = as_samples(samples)
        if self._resampler is not None:
            floats = self._resampler.resample_chunk(floats)
        yield from self._divided(floats)

    def finish(self) -> Iterator[Floats]:
        """Yield the ticks that the resampler still held; the recording is finished after them."""
        if self._resampler is not None:
            last = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            yield from self._divided(last)
        self.is_finished = True

    def _divided(self, samples: Floats) -> Iterator[Floats]:
        self.rest = np.concatenate([self.rest, samples])
        while len(self.rest) >= self._size:
            tick, self.rest = self.rest[: self._size], self.rest[self._size :]
            yield tick
        self.rest = self.rest.copy()  # without the memory of what came before
