"""Windows of speech without texts, and what a teacher says about each of them.

A window holds one or more recordings. The teacher, in full precision, generates its text; its
decoder's states after each token determine the distribution of the next one. All of this is
computed once and stored, so that a step of training is cheap and memory does not grow with the
speech.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.heads.base import pad_tokens
from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import (
    Network,
    decode,
    spoken_languages,
    start_tokens,
)
from tynda.models.base import CrossKV
from tynda.sound.frontend import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.train.augment import distort
from tynda.train.data import Corpus, join
from tynda.train.recipe import Augment

__all__ = ["Teacher", "Window", "Windows", "forced_states"]

Floats = NDArray[np.float32]
Encoded = NDArray[np.float16]

# Maximum tokens that the teacher generates for each second of audio, and in addition. One that
# repeats itself would otherwise continue to the end of its context.
_TOKENS_PER_SECOND = 8
_EXTRA_TOKENS = 8
# Number of windows that are computed together: a step of a decoder reads all of its weights.
_TOGETHER = 8


@dataclass(frozen=True)
class Window:
    """A window, and the targets that the teacher gives for it."""

    states: Encoded
    """States ``[frames, channels]`` of the teacher's encoder."""
    texts: list[list[int]]
    """Tokens of the teacher's texts: the most likely one, then sampled ones."""
    decoded: Encoded
    """States ``[n, channels]`` of the teacher's decoder after all tokens of all texts."""


def forced_states(
    ops: Any, weights: Any, settings: Any, cross: CrossKV[Any], tokens: Any, starts: Any
) -> Any:
    """Return states ``[batch, n, channels]`` of a decoder that is forced to follow ``tokens``."""
    family, config = settings
    states, _ = family.programs["decode"](ops, weights, config, tokens, starts, cross)
    return states


class Teacher:
    """A model in full precision that generates texts and targets."""

    def __init__(self, model: Checkpoint, samples: int, threads: int | None) -> None:
        """``samples`` is the number of texts in addition to the most likely one."""
        trainable = model.family.trainable(model.config)
        engine = open_engine(model.weights, trainable, bits=32, threads=threads)
        self.network = Network(engine, model.family, model.config, model.tokenizer, ())
        self._samples = samples

    def __call__(
        self, features: Floats, seconds: Sequence[float], seed: int
    ) -> list[tuple[Floats, list[list[int]], Floats]]:
        """Return, for each window of ``features [windows, frames, bins]``, the encoder's states,
        the texts, and the decoder's states after their tokens."""
        network, array = self.network, self.network.engine.array
        count = len(features)
        states, lengths = network.encode(features, np.full(count, features.shape[1]))
        cross = network.cross_kv(states, lengths)
        languages = spoken_languages(network, cross)
        starts = [start_tokens(network.tokenizer, code, "transcribe") for code in languages]
        limits = [
            min(network.config.context // 2, _EXTRA_TOKENS + round(_TOKENS_PER_SECOND * duration))
            for duration in seconds
        ]
        options, random = Options(max_new_tokens=max(limits), best_of=1), RandomSource(seed)
        texts: list[list[list[int]]] = [[] for _ in range(count)]
        decoded: list[list[Floats]] = [[] for _ in range(count)]
        for index in range(1 + self._samples):
            results = decode(
                network,
                cross,
                options,
                languages,
                temperature=float(index > 0),
                random=random,
            )
            tokens = [
                (start + result.tokens[:limit])[: network.config.context]
                for start, result, limit in zip(starts, results, limits, strict=True)
            ]
            settings = network.family, network.config
            inputs = np.array(pad_tokens(tokens)), np.zeros(count, np.int64)
            found = array(network.engine.run(forced_states, settings, cross, *inputs))
            for i, mine in enumerate(tokens):
                texts[i].append(mine)
                decoded[i].append(found[i, : len(mine)].copy())
        encoded = array(states)
        return [(encoded[i], texts[i], np.concatenate(decoded[i])) for i in range(count)]


class Windows:
    """Windows, whose targets are stored in a folder as soon as they are computed."""

    def __init__(
        self,
        corpus: Corpus,
        examples: Sequence[tuple[int, ...]],
        augment: Augment,
        noises: Sequence[Floats],
        seed: int,
        model: Checkpoint,
        folder: Path,
        identity: str,
    ) -> None:
        """``examples`` are tuples of recordings that are joined; ``identity`` names all else that
        the targets depend on. Raises `TyndaError` if the folder has other windows."""
        self._corpus, self._examples, self._augment = corpus, list(examples), augment
        self._noises, self._seed, self._model = noises, seed, model
        self._window_features = head_of(model.family).window_features
        self._shape = model.config.frames, model.config.channels
        self._folder = folder
        self._index, self._states, self._decoded = (
            folder / name for name in ("texts.jsonl", "teacher.f16", "decoded.f16")
        )
        key = repr((identity, self._examples, augment, seed))
        self._check_folder(hashlib.sha256(key.encode()).hexdigest())
        self.texts: list[list[list[int]]] = self._read_index()

    def __len__(self) -> int:
        return len(self._examples)

    def _check_folder(self, digest: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = self._folder / "digest"
        if not mark.exists():
            mark.write_text(digest)
        elif mark.read_text("utf-8", "replace") != digest:
            raise TyndaError(
                f"{self._folder} has windows of other data, settings or models: remove it, or "
                "choose another --output"
            )

    def _read_index(self) -> list[list[list[int]]]:
        if not self._index.exists():
            return []
        text = self._index.read_text()
        try:
            return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        except ValueError:
            raise TyndaError(f"{self._index} is damaged: remove its folder") from None

    def prepare(self, teacher: Teacher, on_progress: Callable[[int], None]) -> None:
        """Compute the targets that are missing."""
        # A block that was interrupted is computed again as a whole, with the same random numbers.
        done = len(self.texts)
        done -= done % _TOGETHER if done < len(self) else 0
        del self.texts[done:]
        self._index.write_text("".join(json.dumps(texts) + "\n" for texts in self.texts))
        tokens = sum(len(t) for texts in self.texts for t in texts)
        _truncate(self._states, done * self._shape[0] * self._shape[1])
        _truncate(self._decoded, tokens * self._shape[1])
        with (
            self._index.open("a") as index,
            self._states.open("ab") as states_file,
            self._decoded.open("ab") as decoded_file,
        ):
            for block in self._blocks(done):
                sounds = [self._samples(i) for i in block]
                features = np.stack([self._window_features(self._model, x) for x in sounds])
                seconds = [len(x) / SAMPLE_RATE for x in sounds]
                for states, texts, decoded in teacher(features, seconds, self._seed + block[0]):
                    _append(states_file, states)
                    _append(decoded_file, decoded)
                    index.write(json.dumps(texts) + "\n")
                    index.flush()
                    self.texts.append(texts)
                on_progress(len(self.texts))

    def encode(self, network: Network, name: str, on_progress: Callable[[int], None]) -> Encoded:
        """Return the states of another encoder, which are stored in a file of this ``name``."""
        path, size = self._folder / f"{name}.f16", self._shape[0] * self._shape[1]
        done = path.stat().st_size // (2 * size) if path.exists() else 0
        _truncate(path, done * size)
        with path.open("ab") as file:
            for block in self._blocks(done):
                features = np.stack([self.features(i) for i in block])
                lengths = np.full(len(features), features.shape[1])
                states, _ = network.encode(features, lengths)
                for row in network.engine.array(states):
                    _append(file, row)
                on_progress(block[-1] + 1)
        return np.memmap(path, np.float16, "r").reshape(-1, *self._shape)

    def _blocks(self, done: int) -> Iterator[range]:
        for first in range(done, len(self), _TOGETHER):
            yield range(first, min(first + _TOGETHER, len(self)))

    def _samples(self, index: int) -> Floats:
        """Return the samples of a window: recordings, joined and distorted."""
        rng = np.random.default_rng([self._seed, index])
        sounds = [self._corpus.samples(i) for i in self._examples[index]]
        return distort(join(sounds, rng)[0], self._augment, self._noises, (), rng)

    def features(self, index: int) -> Floats:
        """Return the features ``[frames, bins]`` of a window."""
        found: Floats = self._window_features(self._model, self._samples(index))
        return found

    @cached_property
    def _targets(self) -> tuple[Encoded, Encoded, list[int]]:
        """The states of encoder and decoder, and the ends of the windows in the latter."""
        counts = (sum(map(len, texts)) for texts in self.texts)
        states = np.memmap(self._states, np.float16, "r").reshape(-1, *self._shape)
        decoded = np.memmap(self._decoded, np.float16, "r").reshape(-1, self._shape[1])
        return states, decoded, [0, *accumulate(counts)]

    @property
    def decoded(self) -> Encoded:
        """The states ``[n, channels]`` of the teacher's decoder for all windows."""
        return self._targets[1]

    def __getitem__(self, index: int) -> Window:
        states, decoded, ends = self._targets
        return Window(states[index], self.texts[index], decoded[ends[index] : ends[index + 1]])


def _truncate(path: Path, numbers: int) -> None:
    """Shorten a file to this many numbers in f16, which have two bytes."""
    with path.open("ab") as file:
        file.truncate(2 * numbers)


def _append(file: BinaryIO, states: Floats) -> None:
    file.write(states.astype(np.float16).tobytes())
    file.flush()
