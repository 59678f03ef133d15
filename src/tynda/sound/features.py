"""Features of a recording that comes piece by piece, in memory that does not grow with it.

A `FeatureStream` is fed samples ``[n]`` of any number, and returns the frames that they complete.
It serves a recording that is read from a file and one that is still being spoken alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tynda.sound.frontend import FrontEnd, LogMel

__all__ = ["FeatureStream", "LogMelStream", "WholeStream"]

Floats = NDArray[np.float32]


class FeatureStream(ABC):
    """The features of one recording.

    ``add`` and ``finish`` return raw frames, each of which is returned once, in order; ``scaled``
    turns any of them into features. All raw frames of a recording, scaled after its end, are what
    the front end returns for the whole recording.
    """

    @abstractmethod
    def add(self, samples: Floats) -> Floats:
        """Return the raw frames ``[frames, bins]`` that ``samples [n]`` at 16 kHz complete."""

    @abstractmethod
    def finish(self, silence: int) -> Floats:
        """Return the last raw frames of the recording, followed by ``silence`` zeros."""

    @abstractmethod
    def scaled(self, raw: Floats) -> Floats:
        """Turn consecutive ``raw`` frames into features ``[frames, bins]``, in place; return them.

        Statistics of a recording are those of the samples up to now.
        """


class WholeStream(FeatureStream):
    """The features of a front end whose statistics are those of the whole recording.

    There are none before the end, and all samples are held until then.
    """

    def __init__(self, front: FrontEnd) -> None:
        self._front = front
        self._samples: list[Floats] = []

    def add(self, samples: Floats) -> Floats:
        """See `FeatureStream.add`: no frame is complete."""
        self._samples.append(samples)
        return np.zeros((0, self._front.bins), np.float32)

    def finish(self, silence: int) -> Floats:
        """See `FeatureStream.finish`: all frames."""
        samples = np.concatenate([*self._samples, np.zeros(silence, np.float32)])
        self._samples = []
        return self._front(samples)

    def scaled(self, raw: Floats) -> Floats:
        """See `FeatureStream.scaled`: the frames are features already."""
        return raw


class LogMelStream(FeatureStream):
    """Log-mel features that need no statistics of the recording beyond its loudest energy.

    Raw frames are log energies. Whisper's published front end clips them relative to the loudest
    energy of the whole recording; here, only what has been added counts.
    """

    def __init__(self, front: LogMel) -> None:
        self._front = front
        self._edge = front.fft // 2
        self._waiting = np.zeros(0, np.float32)
        """Samples from the beginning of the next frame on; first, until a reflection is possible,
        those of the recording."""
        self._is_started = False
        self._samples = self._frames = 0
        self._loudest = np.float32(-np.inf)

    def add(self, samples: Floats) -> Floats:
        """See `FeatureStream.add`."""
        front, edge = self._front, self._edge
        self._samples += len(samples)
        self._waiting = np.concatenate([self._waiting, samples])
        if not self._is_started and len(self._waiting) > edge:
            self._waiting = np.concatenate([self._waiting[edge:0:-1], self._waiting])
            self._is_started = True
        if not self._is_started:
            return self._energies(0)
        # The window lies in the middle of a frame of `fft` samples.
        needed = (front.fft - front.window) // 2 + front.window
        complete = (len(self._waiting) - needed) // front.hop + 1
        return self._energies(min(complete, len(self._waiting) // front.hop))

    def finish(self, silence: int) -> Floats:
        """See `FeatureStream.finish`."""
        if silence:
            raw = self.add(np.zeros(silence, np.float32))
            return np.concatenate([raw, self.finish(0)])
        if self._is_started:
            mirror = self._waiting[-2 : -2 - self._edge : -1]
            self._waiting = np.concatenate([self._waiting, mirror])
        else:
            self._waiting = self._front.with_edges(self._waiting)
        return self._energies(self._front.frames(self._samples) - self._frames)

    def scaled(self, raw: Floats) -> Floats:
        """See `FeatureStream.scaled`."""
        return self._front.scaled(raw, self._loudest)

    def _energies(self, frames: int) -> Floats:
        """Return the log energies of the next frames; a negative number means 0."""
        frames = max(0, frames)
        raw = self._front.log_energies(self._waiting, frames)
        self._waiting = self._waiting[frames * self._front.hop :].copy()
        self._frames += frames
        self._loudest = max(self._loudest, raw.max(initial=-np.inf))
        return raw
