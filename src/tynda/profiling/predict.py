"""The memory that the native engine will take, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda import models
from tynda.compile.engine import as_held
from tynda.compile.layout import Machine
from tynda.compile.lower import Lowering
from tynda.compile.native import machine
from tynda.compile.trace import Value, trace_call
from tynda.heads.seq2seq.search import SECONDS_PER_FRAME
from tynda.models import whisper
from tynda.ops.tree import leaves
from tynda.profiling.case import Case
from tynda.profiling.engines.base import parts
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.frontend import Raw
from tynda.store.checkpoint import Checkpoint

__all__ = ["BITS", "Memory", "predict"]

BITS = {"stored": None, "32": 32, "16": 32}
"""`Case.bits` -> the width of products, as `open_engine` takes it; 8 for all others."""
_FLOAT = 4
_OWN = 3 << 20
"""Plans, kernels' code and the pages of a model's file that hold small tensors: 2 to 4 MB."""
_LOGITS = 4
"""Copies of a step's logits while a token is chosen."""


@dataclass(frozen=True)
class Memory:
    """Bytes, beside the libraries and what describes the model (its tokenizer)."""

    weights: int
    """As the kernels hold them, and those that are added or looked up as they are."""
    arena: int
    """Of the largest plan."""
    cache: int
    """A decoder's keys and values, of the tokens and of the sound."""
    samples: int
    data: int
    """Features, and what the model makes of them."""

    @property
    def total(self) -> int:
        """All of it, and what the engine has beside."""
        return self.weights + self.arena + self.cache + self.samples + self.data + _OWN


def predict(model: Checkpoint, case: Case) -> Memory:
    """What a case takes at the most, from shapes alone; ``case.seconds`` are more than 0."""
    trainable = models.trainable(models.family(model.header.family), model.config)
    weights, bits = as_held(model.weights, trainable, "native", BITS.get(case.bits, 8))
    found = _Plans(model, weights, machine(case.threads, bits))
    samples = _FLOAT * case.batch * round(case.seconds * SAMPLE_RATE)
    if model.header.family == "whisper":
        return found.whisper(case, samples)
    return found.ctc(case, samples)


class _Plans:
    """What the plans of a model come to, one after another."""

    def __init__(self, model: Checkpoint, weights: Any, machine: Machine) -> None:
        self._module, self._config = models.family(model.header.family), model.config
        self._model, self._weights, self._machine = model, weights, machine
        self._matrices: dict[tuple[str, str], int] = {}
        self._arena = 0

    def whisper(self, case: Case, samples: int) -> Memory:
        """Windows, one after another, of a whole batch."""
        config, batch = self._config, case.batch
        window = config.frames * SECONDS_PER_FRAME
        sound = np.broadcast_to(np.float32(0), (batch, round(case.seconds * SAMPLE_RATE)))
        tokens = max(count for _, count in parts(sound, window, case.tokens))
        frames = 2 * config.frames
        (states, lengths), encoded = self._run(whisper.encode, *_features(batch, frames, config))
        heard, kept = self._run(whisper.listen, states, lengths)
        prompt = 4 if self._model.tokenizer.multilingual else 2
        room = min(prompt + min(tokens, config.context // 2), config.context)
        shape = (batch, room, config.channels)
        cache = [[Value(shape) for _ in range(config.decoder_layers)] for _ in range(2)]
        for count in (prompt, 1):
            inputs = Value((batch, count), is_integer=True), Value((batch,), is_integer=True)
            self._run(whisper.advance, *inputs, heard, whisper.Cache(*cache))
        kept += _FLOAT * sum(value.size for value in leaves(cache))
        padded = _FLOAT * round(window * SAMPLE_RATE)  # one recording's at a time
        features = _FLOAT * batch * frames * config.bins
        chosen = _LOGITS * _FLOAT * batch * config.vocab
        return self._memory(kept, samples, padded + features + encoded + chosen)

    def ctc(self, case: Case, samples: int) -> Memory:
        """A recording in one piece."""
        frames = self._model.frontend.frames(round(case.seconds * SAMPLE_RATE))
        inputs = _features(case.batch, frames, self._config)
        _, results = self._run(self._module.encode, *inputs)
        # Made one by one, spectra with copies of that recording, then put together.
        features = _FLOAT * inputs[0].size
        raw = isinstance(self._model.frontend, Raw)
        copies = 0 if raw else (samples + features) // case.batch
        return self._memory(0, samples, 2 * features + copies + results)

    def _run(self, function: Any, *inputs: Any) -> tuple[Any, int]:
        """A function's result, and the bytes of what it makes."""
        shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        program, result = trace_call(function, shapes, self._config, *inputs)
        lowered = Lowering(program, self._weights, self._machine)
        self._matrices |= lowered.matrices
        self._arena = max(self._arena, lowered.layout.bytes)
        made = lowered.arguments[len(program.inputs) :]
        return result, sum(buffer.rows * buffer.row for buffer in made)

    def _memory(self, cache: int, samples: int, data: int) -> Memory:
        products = {name for name, _ in self._matrices}
        others = sum(
            _FLOAT * int(np.prod(weight.shape))
            for name, weight in self._weights.items()
            if name not in products
        )
        return Memory(sum(self._matrices.values()) + others, self._arena, cache, samples, data)


def _features(batch: int, frames: int, config: Any) -> tuple[Value, Value]:
    return Value((batch, frames, config.bins)), Value((batch,), is_integer=True)
