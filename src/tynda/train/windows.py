"""Windows of speech without texts, and what a teacher says about each of them.

A window holds one or more recordings. The teacher, in full precision, generates its text; its
decoder's states after each token determine the distribution of the next one. All of this is
computed once and stored, so that a step of training is cheap and memory does not grow with the
speech.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.heads.seq2seq.head import first_language
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network, RandomSource, decode, start_tokens
from tynda.model import Model
from tynda.models.base import CrossKV
from tynda.sound.frontend import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.train.augment import distort
from tynda.train.data import Corpus, join
from tynda.train.recipe import Augment

__all__ = ["Teacher", "Window", "Windows", "forced_states"]

Floats = NDArray[np.float32]

# Maximum tokens that the teacher generates for each second of audio, and in addition. One that
# repeats itself would otherwise continue to the end of its context.
_TOKENS_PER_SECOND = 8
_EXTRA_TOKENS = 8


@dataclass(frozen=True)
class Window:
    """A window, and the targets that the teacher gives for it."""

    features: Floats | None
    """``[frames, bins]``; None where the encoder does not learn."""
    states: NDArray[np.float16]
    """States ``[frames, channels]`` of the student's encoder; where that learns, the teacher's."""
    texts: list[list[int]]
    """Tokens of the teacher's texts: the most likely one, then sampled ones."""
    decoded: NDArray[np.float16]
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
        head = Model(model, bits=32, threads=threads).head
        self.network: Network = head.network
        self._samples, self._model = samples, model

    def __call__(
        self, features: Floats, seconds: float, seed: int
    ) -> tuple[Floats, list[list[int]], Floats]:
        """Return the encoder's states, the texts, and the decoder's states after their tokens."""
        network = self.network
        states, lengths = network.encode(features[None], np.array([len(features)]))
        cross = network.cross_kv(states, lengths)
        language = first_language(network.tokenizer)
        start = start_tokens(network.tokenizer, language, "transcribe")
        limit = network.config.context // 2
        count = min(limit, _EXTRA_TOKENS + round(_TOKENS_PER_SECOND * seconds))
        options, random = Options(max_new_tokens=count, best_of=1), RandomSource(seed)
        texts, decoded = [], []
        for index in range(1 + self._samples):
            (result,) = decode(
                network, cross, options, [language], temperature=float(index > 0), random=random
            )
            tokens = (start + result.tokens)[: network.config.context]
            settings = network.family, network.config
            found = network.engine.run(
                forced_states, settings, cross, np.array([tokens]), np.zeros(1, np.int64)
            )
            texts.append(tokens)
            decoded.append(network.engine.array(found)[0].copy())
        return network.engine.array(states)[0].copy(), texts, np.concatenate(decoded)


class Windows:
    """Windows, stored in a folder as soon as each is computed."""

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
        config = model.config
        self._shape = config.frames, config.channels
        key = repr((identity, self._examples, augment, seed))
        digest = hashlib.sha256(key.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._states = folder / "texts.jsonl", folder / "states.f16"
        self._decoded = folder / "decoded.f16"
        name = folder / "windows.json"
        try:
            known = json.loads(name.read_text())["digest"] if name.exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            known = ""
        if known not in (None, digest):
            raise TyndaError(
                f"{folder} has windows of other data, settings or models: remove it, or choose "
                "another --output"
            )
        name.write_text(json.dumps({"digest": digest}))
        self.texts: list[list[list[int]]] = self._read_index()

    def __len__(self) -> int:
        return len(self._examples)

    def prepare(
        self, teacher: Teacher, student: Engine | None, on_window: Callable[[int], None]
    ) -> None:
        """Compute the windows that are missing. ``student`` encodes where its encoder is fixed."""
        done = len(self.texts)
        if done == len(self):
            return
        network = teacher.network
        size = int(np.prod(self._shape)) * 2
        tokens = sum(len(t) for texts in self.texts for t in texts)
        for path, used in ((self._states, done * size), (self._decoded, tokens * self._width)):
            with path.open("ab") as file:
                file.truncate(used)
        index = self._index.open("a")
        states_file, decoded_file = self._states.open("ab"), self._decoded.open("ab")
        with index, states_file, decoded_file:
            for i in range(done, len(self)):
                samples = self.samples(i)
                features = head_of(self._model.family).window_features(self._model, samples)
                seconds = len(samples) / SAMPLE_RATE
                states, texts, decoded = teacher(features, seconds, self._seed + i)
                if student is not None:
                    encode = network.family.programs["encode"]
                    inputs = features[None], np.array([len(features)])
                    found, _ = student.run(encode, network.config, *inputs)
                    states = student.array(found)[0]
                states_file.write(states.astype(np.float16).tobytes())
                decoded_file.write(decoded.astype(np.float16).tobytes())
                states_file.flush()
                decoded_file.flush()
                index.write(json.dumps(texts) + "\n")
                index.flush()
                self.texts.append(texts)
                on_window(i + 1)

    @property
    def _width(self) -> int:
        return int(self._shape[1]) * 2

    def _read_index(self) -> list[list[list[int]]]:
        if not self._index.exists():
            return []
        text = self._index.read_text()
        complete = text[: text.rfind("\n") + 1]
        if complete != text:
            self._index.write_text(complete)
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except ValueError:
            raise TyndaError(f"{self._index} is damaged: remove its folder") from None

    def samples(self, index: int) -> Floats:
        """Return the samples of a window: recordings, joined and distorted."""
        rng = np.random.default_rng([self._seed, index])
        sounds = [self._corpus.samples(i) for i in self._examples[index]]
        return distort(join(sounds, rng)[0], self._augment, self._noises, (), rng)

    def get(self, index: int, *, features: bool) -> Window:
        """Return a window, with its ``features`` or without."""
        if not hasattr(self, "_ends"):
            counts = (sum(map(len, texts)) for texts in self.texts)
            self._ends = [0, *accumulate(counts)]
            self._all_states = np.memmap(self._states, np.float16, "r").reshape(-1, *self._shape)
            self._all_decoded = np.memmap(self._decoded, np.float16, "r").reshape(
                -1, self._shape[1]
            )
        found = None
        if features:
            found = head_of(self._model.family).window_features(self._model, self.samples(index))
        first, last = self._ends[index : index + 2]
        return Window(
            found, self._all_states[index], self.texts[index], self._all_decoded[first:last]
        )
