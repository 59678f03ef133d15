"""Made-up conversations for training: who speaks when is known, and people speak at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tynda.sound.frontend import SAMPLE_RATE, FrontEnd
from tynda.train.augment import distort, equalize, mask_spectrum, speed
from tynda.train.data import Batch, Corpus, Sounds, collate
from tynda.train.recipe import Augment, Mixing

__all__ = ["Conversations", "labels_of", "spoken"]

Floats = NDArray[np.float32]
Booleans = NDArray[np.bool_]

_TICK = SAMPLE_RATE // 100
_PAUSE = 30
"""Ticks of silence between words that belong to speech."""
_LEVEL = 0.05
_SPREAD = 6.0
"""Decibels by which a person's level is above or below, at most."""
_BEFORE = 3.0
"""Seconds, at most, of a first turn before the beginning of what is heard."""
_PEOPLE = 3


@dataclass
class Conversations:
    """The batches of one epoch, which only the seed determines."""

    corpus: Corpus
    members: Sequence[NDArray[np.int64]]
    """The recordings of each person."""
    shares: NDArray[np.float64]
    """How often each person speaks, relative to others."""
    count: int
    """Number of batches."""
    size: int
    """Number of conversations in a batch."""
    mixing: Mixing
    stride: int
    """Number of front end frames for each label."""
    frontend: FrontEnd
    augment: Augment
    noises: Corpus | None
    rooms: Corpus | None
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([*self.seed, index])
        noises, rooms = Sounds(self.noises), Sounds(self.rooms)
        # Speeds and microphones are those of people; the rest is the same for all of them.
        together = replace(self.augment, speeds=(1.0,), filter=0.0)
        features, labels = [], []
        for _ in range(self.size):
            samples, counts = self._conversation(rng)
            samples = distort(samples, together, noises, rooms, rng)
            features.append(mask_spectrum(self.frontend(samples), self.augment, rng))
            labels.append(labels_of(counts, self.frontend.hop * self.stride // _TICK).tolist())
        return collate(features, labels, [[] for _ in labels])

    def _conversation(self, rng: Generator) -> tuple[Floats, NDArray[np.int64]]:
        """Return the samples, and the number of people who speak in each 10 ms."""
        mixing = self.mixing
        sound = np.zeros(int(mixing.seconds * SAMPLE_RATE), np.float32)
        counts = np.zeros(len(sound) // _TICK, int)
        several = int(rng.integers(2, _PEOPLE + 1))
        chances = self.shares / self.shares.sum()
        people = rng.choice(len(chances), min(several, len(chances)), replace=False, p=chances)
        speeds = rng.choice(self.augment.speeds, len(people))
        levels = _LEVEL * 10 ** (rng.uniform(-_SPREAD, _SPREAD, len(people)) / 20)
        microphones = [self._microphone(rng) for _ in people]
        ends = np.zeros(len(people), int)
        at, last = -int(rng.uniform(0, _BEFORE) * 100), -1
        while at < len(counts):
            one = int(rng.choice([i for i in range(len(people)) if i != last]))
            samples, active = self._turn(self.members[people[one]], float(speeds[one]), rng)
            if (microphone := microphones[one]) is not None:
                samples = equalize(samples, microphone)
            begin = max(at, int(ends[one]))
            ends[one] = begin + len(active)
            _add(sound, samples * np.float32(levels[one]), begin * _TICK)
            _add(counts, active.astype(int), begin)
            end, last = max(at, int(ends.max())), one
            at = end + int(100 * rng.exponential(mixing.pause))
            if rng.random() < mixing.overlap:
                at = end - int(100 * rng.uniform(mixing.shortest, mixing.longest))
        return sound, counts

    def _microphone(self, rng: Generator) -> NDArray[np.float64] | None:
        if rng.random() >= self.augment.filter:
            return None
        width = self.augment.filter_db
        return rng.uniform(-width, width, int(rng.integers(3, 7)))

    def _turn(
        self, own: NDArray[np.int64], factor: float, rng: Generator
    ) -> tuple[Floats, Booleans]:
        """Return a person's samples with the power 1 where there is speech, and where that is."""
        samples = speed(self.corpus.samples(int(rng.choice(own))), factor)
        active = spoken(samples)
        samples = samples[: len(active) * _TICK]
        if not active.any():
            return samples, active
        power = np.mean(samples.reshape(-1, _TICK)[active] ** 2)
        first, end = np.flatnonzero(active)[[0, -1]] + (0, 1)
        size = int(100 * rng.uniform(self.mixing.turn[0], self.mixing.turn[1]))
        start = int(rng.integers(first, max(first, end - size) + 1))
        part = slice(start, min(end, start + size))
        return samples[part.start * _TICK : part.stop * _TICK] / np.sqrt(power), active[part]


def spoken(samples: Floats) -> Booleans:
    """Return whether there is speech in each 10 ms of a clean recording ``[n]``: its energy.

    The threshold lies between the quiet and the loud parts of the recording, and at most 30 dB
    below the loud ones. Pauses of less than 0.3 s belong to speech.
    """
    count = len(samples) // _TICK
    if not count:
        return np.zeros(0, bool)
    power = np.square(samples[: count * _TICK].reshape(count, _TICK)).mean(1)
    level = np.convolve(10 * np.log10(power + 1e-10), np.ones(3) / 3, "same")
    low, high = np.percentile(level, [5, 95])
    loud: Booleans = level > max(low + 0.4 * (high - low), high - 30)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(int)))
    for end, start in edges[1:-1].reshape(-1, 2):
        if start - end < _PAUSE:
            loud[end:start] = True
    return loud


def labels_of(counts: NDArray[np.int64], ticks: int) -> NDArray[np.int64]:
    """Return the label of each frame, whose centre is at its number times ``ticks``.

    ``counts [n]`` are the people in each 10 ms; a label is nobody, one person or several, 0 to 2,
    of whom as many speak in more than half of the frame.
    """
    frames = -(-len(counts) // ticks)
    padded = np.pad(counts, (ticks // 2, frames * ticks - len(counts)), mode="edge")
    own = padded[: frames * ticks].reshape(frames, ticks)
    labels: NDArray[np.int64] = sum(((own >= n).mean(1) > 0.5).astype(int) for n in (1, 2))
    return labels


def _add(total: NDArray[Any], part: NDArray[Any], start: int) -> None:
    """Add ``part`` to ``total`` from ``start`` on, which may be before its beginning."""
    first, end = max(0, start), min(len(total), start + len(part))
    if first < end:
        total[first:end] += part[first - start : end - start]
