"""Training data: decoded once, then augmented, bucketed and batched again in every epoch."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.sound import audio
from tynda.sound.frontend import SAMPLE_RATE, FrontEnd
from tynda.text.normalize import english_letters
from tynda.train.augment import distort, mask_spectrum
from tynda.train.phones import Lexicon
from tynda.train.recipe import Augment, Source

__all__ = [
    "Batch",
    "Batches",
    "Corpus",
    "Examples",
    "Said",
    "Sounds",
    "buckets",
    "collate",
    "iterate",
    "join",
    "pack",
    "plan_epoch",
    "read_sources",
]

Floats = NDArray[np.float32]

SHORTEST = 0.05
"""Minimum duration in seconds; shorter audio has no speech, and too few frames for a model."""
_FITTED = 500
"""The number of recordings whose statistics a front end may need."""
_LOSS = 0.1
"""Maximum share of unreadable recordings in a corpus."""
_NAMED = 10
"""Maximum number of unreadable recordings that are named in warnings."""


class Corpus:
    """Utterances with their audio, decoded once to a 16-bit memory map in ``cache``.

    A recording that cannot be read is named in a warning and has no samples. Raises `TyndaError`
    if more than one in ten cannot be read, and when the cache cannot be written.
    """

    def __init__(self, utterances: Sequence[Utterance], cache: Path) -> None:
        self.utterances = list(utterances)
        key = hashlib.sha256()
        for u in self.utterances:
            try:
                stat = u.audio.stat()
                state = f"{stat.st_size}|{stat.st_mtime_ns}"
            except (OSError, ValueError):
                state = "none"
            key.update(f"{u.audio}|{state}\n".encode(errors="backslashreplace"))
        path = cache / f"{key.hexdigest()[:16]}.npy"
        ends = path.with_suffix(".ends.npy")
        if not self._open(path, ends):
            sounds = _decode_all([u.audio for u in self.utterances])
            _save(path, np.concatenate([np.zeros(0, np.int16), *sounds]))
            _save(ends, np.cumsum([len(s) for s in sounds], dtype=np.int64))
            if not self._open(path, ends):
                raise TyndaError(f"{path} is damaged right after it was written: check the disk")

    def _open(self, path: Path, ends: Path) -> bool:
        """Open the cache; return whether it exists and is complete."""
        try:
            self._sound, self._ends = np.load(path, mmap_mode="r"), np.load(ends)
        except (OSError, ValueError, EOFError):
            return False
        sizes = np.diff(self._ends, prepend=0)
        return (
            len(sizes) == len(self)
            and sizes.min(initial=0) >= 0
            and sizes.sum() == len(self._sound)
        )

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> Floats:
        """Return the float32 samples of one utterance."""
        start = self._ends[index - 1] if index else 0
        return np.asarray(self._sound[start : self._ends[index]], np.float32) / np.float32(32768)

    def seconds(self, index: int) -> float:
        """Return the duration of one utterance."""
        start = self._ends[index - 1] if index else 0
        return float(self._ends[index] - start) / SAMPLE_RATE


def fitted(front: FrontEnd, corpus: Corpus) -> FrontEnd:
    """Return the front end with the statistics of recordings of the corpus, evenly spaced."""
    step = max(1, len(corpus) // _FITTED)
    return front.fitted(corpus.samples(i) for i in range(0, len(corpus), step))


def _decode(path: Path) -> NDArray[np.int16] | str:
    """Return a recording's samples, or the reason why it cannot be read."""
    try:
        return np.clip(np.round(audio.load(path) * 32768), -32768, 32767).astype(np.int16)
    except TyndaError as error:
        return str(error)


def _decode_all(paths: Sequence[Path]) -> list[NDArray[np.int16]]:
    # Workers ignore Ctrl-C: otherwise each one would print a traceback.
    quiet = (signal.SIGINT, signal.SIG_IGN)
    try:
        with ProcessPoolExecutor(os.cpu_count(), initializer=signal.signal, initargs=quiet) as pool:
            decoded = list(pool.map(_decode, paths, chunksize=32))
    except BrokenProcessPool:
        raise TyndaError("decoding was killed, perhaps out of memory: free some") from None
    lost = [result for result in decoded if isinstance(result, str)]
    if len(lost) > _LOSS * len(paths):
        raise TyndaError(f"{len(lost)} of {len(paths)} recordings cannot be read: {lost[0]}")
    for reason in lost[:_NAMED]:
        warnings.warn(f"left out: {reason}", stacklevel=3)
    if len(lost) > _NAMED:
        warnings.warn(f"left out: {len(lost) - _NAMED} more recordings", stacklevel=3)
    return [np.zeros(0, np.int16) if isinstance(d, str) else d for d in decoded]


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `write_whole` does, without a copy in memory."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.save(file, array)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise TyndaError(
            f"cannot write {path} ({reason}): choose another folder or free disk space"
        ) from None


def read_sources(
    folder: Path, sources: Sequence[Source], exclude_speakers: Sequence[str] = ()
) -> tuple[list[Utterance], list[list[int]]]:
    """Return all utterances of the sources, and the indices that belong to each source.

    A text in which normalising leaves no English letter does not mean silence: its utterance is
    left out, with a warning. Raises `TyndaError` if this is more than half of a source's texts.
    """
    utterances: list[Utterance] = []
    members: list[list[int]] = []
    for source in sources:
        found, texts, foreign = [], 0, 0
        for u in manifest.read(folder / source.manifest):
            if u.speaker in exclude_speakers:
                continue
            words = english_letters(u.text).split()
            written = any(c.isalnum() for c in u.text)
            texts += written
            if written and not words:
                foreign += 1
            elif not source.words or set(words) <= set(source.words):
                found.append(u)
        problem = f"{source.manifest}: {foreign} of {texts} texts have no English letters"
        if 2 * foreign > texts:
            raise TyndaError(f"{problem}: training is for English only")
        if foreign:
            warnings.warn(f"{problem}; left out", stacklevel=2)
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
    """Choose this epoch's examples: tuples of utterances to be joined, mostly of one utterance."""
    examples: list[tuple[int, ...]] = []
    for source, indices in zip(sources, members, strict=True):
        indices = [i for i in indices if corpus.seconds(i) >= SHORTEST]
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
            if seconds <= max_seconds:
                examples.append(tuple(example))
    if not examples:
        durations = [s for m in members for i in m if (s := corpus.seconds(i)) >= SHORTEST]
        if not durations:
            raise TyndaError(f"no recording to train on lasts {SHORTEST} s: check the manifests")
        if min(durations) > max_seconds:
            raise TyndaError(
                f"all utterances to train on are longer than {max_seconds} s (data.max_seconds), "
                f"the shortest is {min(durations):.2f} s: raise the limit or cut the utterances"
            )
        raise TyndaError("the weights in data.train choose no utterance to train on: raise them")
    return examples


def buckets(
    seconds: Sequence[float], batch_seconds: float, rng: np.random.Generator, *, shuffle: bool
) -> list[list[int]]:
    """Group examples of similar duration into batches of at most ``batch_seconds`` with padding.

    Durations are jittered by 10 % before sorting, so that the batches differ in every epoch. The
    batches are in random order with ``shuffle``, otherwise from short to long.
    """
    jitter = rng.uniform(0.9, 1.1, len(seconds))
    batches = pack(np.argsort(np.asarray(seconds) * jitter).tolist(), seconds, batch_seconds)
    if shuffle:
        rng.shuffle(batches)
    return batches


def pack(order: Iterable[int], seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Fill batches in this order, each until padding to its longest item would exceed the limit."""
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
    """Padded features ``[batch, frames, bins]`` with frame counts, and concatenated labels.

    With two views, the second half of the batch is the first half with other masks.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    phones: Tensor
    """Concatenated phones; an utterance with an unknown word has none."""
    phone_lengths: Tensor
    teacher_features: Tensor
    """The teacher's features of the batch, ``[batch, frames, bins]``; empty without a teacher."""
    teacher_lengths: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


class Batches(Protocol):
    """The batches of one epoch, each of which is made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...


@dataclass(frozen=True)
class Said:
    """One of the utterances that form an example."""

    text: str
    """The normalised text."""
    start: float
    """Seconds from the start of the example, after augmentation."""
    end: float


Splicer = Callable[[int, np.random.Generator], tuple[Floats, str]]
"""Returns samples and text of an utterance, given by its index, with random changes."""


@dataclass
class Examples:
    """The batches of one epoch; item ``i`` depends only on the seed, which names the epoch."""

    corpus: Corpus
    batches: list[list[tuple[int, ...]]]
    frontend: FrontEnd
    labels: Callable[[Sequence[Said], np.random.Generator], list[int]]
    """Returns the labels of the utterances of an example."""
    fit: Callable[[Sequence[Floats]], list[Floats]]
    """Pads or cuts a batch's features ``[frames, bins]`` to the model's window, if it has one."""
    lexicon: Lexicon | None
    augment: Augment
    noises: Corpus | None
    rooms: Corpus | None
    views: int
    seed: tuple[int, ...]
    splicer: Splicer | None = None
    window: float = math.inf
    """The model's input window in seconds; phones are those of utterances that lie within it."""
    teacher: FrontEnd | None = None
    """The teacher's front end."""

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([*self.seed, index])
        noises, rooms = Sounds(self.noises), Sounds(self.rooms)
        features, labels, phones, teacher_features = [], [], [], []
        for example in self.batches[index]:
            sounds, texts = zip(*(self._utterance(i, rng) for i in example), strict=True)
            joined, bounds = join(sounds, rng)
            samples = distort(joined, self.augment, noises, rooms, rng)
            # A change of tempo scales all bounds equally.
            scale = samples.size / max(1, joined.size) / SAMPLE_RATE
            said = [
                Said(text, start * scale, end * scale)
                for text, (start, end) in zip(texts, bounds, strict=True)
            ]
            features.append(self.frontend(samples))
            if self.teacher:
                teacher_features.append(self.teacher(samples))
            labels.append(self.labels(said, rng))
            text = " ".join(s.text for s in said if s.text and s.end <= self.window)
            phones.append((self.lexicon.phones(text) or []) if self.lexicon else [])
        views = [mask_spectrum(f, self.augment, rng) for _ in range(self.views) for f in features]
        return collate(self.fit(views), labels * self.views, phones * self.views, teacher_features)

    def _utterance(self, index: int, rng: np.random.Generator) -> tuple[Floats, str]:
        if self.splicer and rng.random() < self.augment.splice:
            return self.splicer(index, rng)
        return self.corpus.samples(index), english_letters(self.corpus.utterances[index].text)


def join(
    sounds: Sequence[Floats], rng: np.random.Generator
) -> tuple[Floats, list[tuple[int, int]]]:
    """Concatenate with pauses of 0.05 to 0.4 s; return start and end of each sound as well."""
    parts, bounds = [sounds[0]], [(0, sounds[0].size)]
    for sound in sounds[1:]:
        pause = int(rng.uniform(0.05, 0.4) * SAMPLE_RATE)
        parts += [np.zeros(pause, np.float32), sound]
        start = bounds[-1][1] + pause
        bounds.append((start, start + sound.size))
    return np.concatenate(parts), bounds


class Sounds(Sequence[Floats]):
    """A corpus seen as a sequence of sounds."""

    def __init__(self, corpus: Corpus | None) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus) if self._corpus else 0

    def __getitem__(self, index: int) -> Floats:  # type: ignore[override]
        assert self._corpus is not None
        return self._corpus.samples(index)


def collate(
    features: Sequence[Floats],
    labels: Sequence[Sequence[int]],
    phones: Sequence[Sequence[int]],
    teacher_features: Sequence[Floats] = (),
) -> Batch:
    """Pad features with zeros and concatenate labels into a batch."""
    nothing = torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.long)
    return Batch(
        *_pad(features),
        torch.tensor([i for item in labels for i in item], dtype=torch.long),
        torch.tensor([len(item) for item in labels]),
        torch.tensor([i for item in phones for i in item], dtype=torch.long),
        torch.tensor([len(item) for item in phones]),
        *(_pad(teacher_features) if teacher_features else nothing),
    )


def _pad(features: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """Return features padded to ``[batch, longest, bins]``, and their lengths."""
    lengths = [len(f) for f in features]
    padded = np.zeros((len(features), max(lengths), features[0].shape[1]), np.float32)
    for row, item in zip(padded, features, strict=True):
        row[: len(item)] = item
    return torch.from_numpy(padded), torch.tensor(lengths)


def iterate(examples: Batches, workers: int) -> Iterator[Batch]:
    """Yield the batches in order; ``workers`` threads prepare them ahead of time.

    These are threads, not processes: NumPy releases the interpreter lock while it works, whereas
    with a forked worker every page that the training then writes to is copied first, which was
    measured to halve the speed of training.
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
