"""Training data: decoded once, then distorted, bucketed and batched anew in every epoch."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from tynda import audio, manifest
from tynda.errors import TyndaError
from tynda.frontend import SAMPLE_RATE, FrontEnd
from tynda.manifest import Utterance
from tynda.text.normalize import english_letters
from tynda.text.tokenizer import CharTokenizer
from tynda.train.augment import distort, mask_spectrum
from tynda.train.phones import Lexicon
from tynda.train.recipe import Augment, Source

__all__ = [
    "Batch",
    "Corpus",
    "Examples",
    "buckets",
    "collate",
    "iterate",
    "pack",
    "plan_epoch",
    "read_sources",
]

Floats = NDArray[np.float32]


class Corpus:
    """Utterances with their sound, decoded once to a 16-bit memory map in ``cache``."""

    def __init__(self, utterances: Sequence[Utterance], cache: Path) -> None:
        self.utterances = list(utterances)
        key = hashlib.sha256()
        for u in self.utterances:
            try:
                stat = u.audio.stat()
            except OSError as error:
                raise TyndaError(f"{u.audio} cannot be read: {error.strerror}") from None
            key.update(f"{u.audio}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        path = cache / f"{key.hexdigest()[:16]}.npy"
        ends = path.with_suffix(".ends.npy")
        if not ends.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                sounds = list(pool.map(_decode, [u.audio for u in self.utterances], chunksize=32))
            np.save(path, np.concatenate([np.zeros(0, np.int16), *sounds]))
            np.save(ends, np.cumsum([len(s) for s in sounds], dtype=np.int64))
        self._sound = np.load(path, mmap_mode="r")
        self._ends = np.load(ends)

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> Floats:
        """Float32 samples of one utterance."""
        start = self._ends[index - 1] if index else 0
        return np.asarray(self._sound[start : self._ends[index]], np.float32) / np.float32(32768)

    def seconds(self, index: int) -> float:
        """Duration of one utterance."""
        start = self._ends[index - 1] if index else 0
        return float(self._ends[index] - start) / SAMPLE_RATE


def _decode(path: Path) -> NDArray[np.int16]:
    return np.clip(np.round(audio.load(path) * 32768), -32768, 32767).astype(np.int16)


def read_sources(
    folder: Path, sources: Sequence[Source], exclude_speakers: Sequence[str] = ()
) -> tuple[list[Utterance], list[list[int]]]:
    """All utterances of the sources, and the indices that belong to each source."""
    utterances: list[Utterance] = []
    members: list[list[int]] = []
    for source in sources:
        found = [
            u
            for u in manifest.read(folder / source.manifest)
            if u.speaker not in exclude_speakers
            and (not source.words or set(english_letters(u.text).split()) <= set(source.words))
        ]
        members.append(list(range(len(utterances), len(utterances) + len(found))))
        utterances += found
    if not utterances:
        raise TyndaError("the recipe names no training data: add [[data.train]] with a manifest")
    return utterances, members


def plan_epoch(
    corpus: Corpus,
    sources: Sequence[Source],
    members: Sequence[Sequence[int]],
    max_seconds: float,
    rng: np.random.Generator,
) -> list[tuple[int, ...]]:
    """Choose this epoch's examples: tuples of utterances to be joined, most of one alone."""
    examples: list[tuple[int, ...]] = []
    for source, indices in zip(sources, members, strict=True):
        wanted = round(source.weight * len(indices))
        draws = [
            int(i)
            for _ in range(-(-wanted // max(1, len(indices))))
            for i in rng.permutation(indices)
        ][:wanted]
        while draws:
            example = [draws.pop()]
            seconds = corpus.seconds(example[0])
            for _ in range(int(rng.integers(source.join))):
                if not draws or seconds + corpus.seconds(draws[-1]) > max_seconds:
                    break
                seconds += corpus.seconds(draws[-1])
                example.append(draws.pop())
            if 0 < seconds <= max_seconds:
                examples.append(tuple(example))
    if not examples:
        raise TyndaError(f"no utterance to train on lasts less than {max_seconds} s (max_seconds)")
    return examples


def buckets(
    seconds: Sequence[float], batch_seconds: float, rng: np.random.Generator, *, shuffle: bool
) -> list[list[int]]:
    """Batches of examples of like duration, each at most ``batch_seconds`` with padding.

    Durations are jittered by 10 % before sorting, so that the batches differ every time. The
    batches come in random order, or from short to long.
    """
    jitter = rng.uniform(0.9, 1.1, len(seconds))
    batches = pack(np.argsort(np.asarray(seconds) * jitter).tolist(), seconds, batch_seconds)
    if shuffle:
        rng.shuffle(batches)
    return batches


def pack(order: Iterable[int], seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Fill batches in this order, each until padding to its longest would exceed the limit."""
    batches: list[list[int]] = []
    longest = 0.0
    for i in order:
        longest = max(longest, seconds[i])
        if not batches or longest * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            longest = seconds[i]
        batches[-1].append(i)
    return batches


@dataclass
class Batch:
    """Padded features ``[batch, frames, bins]`` with frame counts, and labels end to end.

    With two views, the second half of the batch is the first half masked differently.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    phones: Tensor
    """Phones end to end; an utterance with an unknown word has none."""
    phone_lengths: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


Splicer = Callable[[int, np.random.Generator], tuple[Floats, str]]
"""An utterance's number -> its samples and text, changed at random."""


@dataclass
class Examples:
    """One epoch: item ``i`` is a finished batch, the same for the same seed and epoch."""

    corpus: Corpus
    batches: list[list[tuple[int, ...]]]
    frontend: FrontEnd
    tokenizer: CharTokenizer
    lexicon: Lexicon | None
    augment: Augment
    noises: Corpus | None
    rooms: Corpus | None
    views: int
    seed: tuple[int, ...]
    splicer: Splicer | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([*self.seed, index])
        noises, rooms = _Sounds(self.noises), _Sounds(self.rooms)
        features, labels, phones = [], [], []
        for example in self.batches[index]:
            sounds, texts = zip(*(self._utterance(i, rng) for i in example), strict=True)
            samples = distort(_join(sounds, rng), self.augment, noises, rooms, rng)
            features.append(self.frontend(samples))
            text = " ".join(t for t in texts if t)
            labels.append(self.tokenizer.encode(text))
            phones.append((self.lexicon.phones(text) or []) if self.lexicon else [])
        views = [mask_spectrum(f, self.augment, rng) for _ in range(self.views) for f in features]
        return collate(views, labels * self.views, phones * self.views)

    def _utterance(self, index: int, rng: np.random.Generator) -> tuple[Floats, str]:
        if self.splicer and rng.random() < self.augment.splice:
            return self.splicer(index, rng)
        return self.corpus.samples(index), english_letters(self.corpus.utterances[index].text)


def _join(sounds: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """One after another, with pauses of 0.05 to 0.4 s."""
    parts = [sounds[0]]
    for sound in sounds[1:]:
        pause = int(rng.uniform(0.05, 0.4) * SAMPLE_RATE)
        parts += [np.zeros(pause, np.float32), sound]
    return np.concatenate(parts)


class _Sounds(Sequence[Floats]):
    """A corpus seen as a sequence of sounds."""

    def __init__(self, corpus: Corpus | None) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus) if self._corpus else 0

    def __getitem__(self, index: int) -> Floats:  # type: ignore[override]
        assert self._corpus is not None
        return self._corpus.samples(index)


def collate(
    features: Sequence[Floats], labels: Sequence[Sequence[int]], phones: Sequence[Sequence[int]]
) -> Batch:
    """Pad with zeros and join."""
    lengths = [len(f) for f in features]
    padded = np.zeros((len(features), max(lengths), features[0].shape[1]), np.float32)
    for row, item in zip(padded, features, strict=True):
        row[: len(item)] = item
    return Batch(
        torch.from_numpy(padded),
        torch.tensor(lengths),
        torch.tensor([i for item in labels for i in item], dtype=torch.long),
        torch.tensor([len(item) for item in labels]),
        torch.tensor([i for item in phones for i in item], dtype=torch.long),
        torch.tensor([len(item) for item in phones]),
    )


def iterate(examples: Examples, workers: int) -> Iterator[Batch]:
    """The batches in order, made ahead of time by ``workers`` threads.

    Threads, not processes: NumPy lets go of the interpreter while it works, whereas a forked
    worker makes every page that the training then writes to be copied first, which was seen
    to halve its speed.
    """
    pending: deque[Future[Batch]] = deque()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for index in range(len(examples)):
                pending.append(pool.submit(examples.__getitem__, index))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
