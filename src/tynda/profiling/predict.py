"""The memory that the native engine will take, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda.compile.engine import as_held
from tynda.compile.native import Machine, lowered, machine
from tynda.compile.plan import Matrix
from tynda.compile.runs import Run, follow
from tynda.compile.trace import trace_call
from tynda.heads import head_of
from tynda.ops.tree import leaves
from tynda.profiling.case import Case
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["BITS", "Memory", "predict"]

BITS = {"stored": None, "32": 32, "16": 32}
"""`Case.bits` -> the width of products, as `open_engine` takes it; 8 for all others."""
_FLOAT = 4
_OWN = 3 << 20
"""Plans, kernels' code and the pages of a model's file that hold small tensors: 2 to 4 MB."""


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
    """The most that a case takes, from shapes alone; ``case.seconds`` are more than 0."""
    head, samples = head_of(model.family), round(case.seconds * SAMPLE_RATE)
    trainable = model.family.trainable(model.config)
    weights, bits = as_held(model.weights, trainable, "native", BITS.get(case.bits, 8))
    plans = _Plans(model, weights, machine(case.threads, bits))
    work = head.work(model, samples, case.tokens, case.batch)
    data = head.working_bytes(model, work, samples)
    cross = cache = 0

    def execute(run: Run) -> Any:
        nonlocal data, cross, cache
        result, made = plans.run(run)
        if run.name == "step":  # its cache is changed in place, its logits are working bytes
            cache = max(cache, _FLOAT * sum(value.size for value in leaves(run.inputs[-1])))
        elif run.stage == "decoder":
            cross += made
        else:
            data += made
        return result

    follow(head.runs(model.family, model.config, work), execute)
    return plans.memory(cross + cache, _FLOAT * case.batch * samples, data)


class _Plans:
    """What the plans of a model come to, one after another."""

    def __init__(self, model: Checkpoint, weights: Any, machine: Machine) -> None:
        self._weights, self._machine = weights, machine
        self._matrices: dict[Matrix, int] = {}
        self._arena = 0

    def run(self, run: Run) -> tuple[Any, int]:
        """A run's result, and the bytes of what it makes."""
        shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        program, result = trace_call(run.program, shapes, run.settings, *run.inputs)
        found = lowered(program, self._weights, self._machine)
        self._matrices |= found.matrices
        self._arena = max(self._arena, found.arena_bytes)
        return result, found.made_bytes

    def memory(self, cache: int, samples: int, data: int) -> Memory:
        """All of it, with what a recording needs beside weights and arena."""
        products = {matrix.weight for matrix in self._matrices}
        others = sum(
            _FLOAT * int(np.prod(weight.shape))
            for name, weight in self._weights.items()
            if name not in products
        )
        return Memory(sum(self._matrices.values()) + others, self._arena, cache, samples, data)
