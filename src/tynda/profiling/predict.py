"""The memory that the native engine will take, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tynda.compile.plan import Matrix
from tynda.heads import head_of
from tynda.ops.tree import leaves
from tynda.plans import plans
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
    work = head.work(model, samples, case.tokens, case.batch)
    data = head.working_bytes(model, work, samples)
    cross = cache = arena = 0
    matrices: dict[Matrix, int] = {}
    bits = BITS.get(case.bits, 8)
    for planned in plans(model, case.seconds, case.tokens, case.batch, bits, case.threads):
        run, lowered = planned.run, planned.lowered
        matrices |= lowered.matrices
        arena = max(arena, lowered.arena_bytes)
        if run.name == "step":  # its cache is changed in place, its logits are working bytes
            cache = max(cache, _FLOAT * sum(value.size for value in leaves(run.inputs[-1])))
        elif run.stage == "decoder":
            cross += lowered.made_bytes
        else:
            data += lowered.made_bytes
    products = {matrix.weight for matrix in matrices}
    others = sum(
        _FLOAT * int(np.prod(weight.shape))
        for name, weight in model.weights.items()
        if name not in products
    )
    weights = sum(matrices.values()) + others
    return Memory(weights, arena, cross + cache, _FLOAT * case.batch * samples, data)
