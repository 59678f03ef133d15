"""Predicts the memory of the native engine before anything is computed."""

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
"""`Case.bits` -> the matmul precision, as for `open_engine`; 8 for all others."""
_FLOAT = 4
_OWN = 3 << 20
"""Bytes of plans, kernel code and file pages with small tensors: 2 to 4 MB."""


@dataclass(frozen=True)
class Memory:
    """Bytes of memory, without the libraries and the model's description (its tokenizer)."""

    weights: int
    """Weights in the kernels' format, and unpacked ones that are added or looked up."""
    arena: int
    """The arena of the largest plan."""
    cache: int
    """A decoder's self-attention and cross-attention keys and values."""
    samples: int
    data: int
    """Features, and the model's results."""

    @property
    def total(self) -> int:
        """The sum, plus the engine's own overhead."""
        return self.weights + self.arena + self.cache + self.samples + self.data + _OWN


def predict(model: Checkpoint, case: Case) -> Memory:
    """Predict the peak memory of a case from shapes alone; ``case.seconds`` must be positive."""
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
        if run.name == "step":  # the cache is updated in place; the logits are working bytes
            cache = max(cache, _FLOAT * sum(value.size for value in leaves(run.inputs[-1])))
        elif run.stage == "decoder":
            cross += lowered.output_bytes
        else:
            data += lowered.output_bytes
    products = {matrix.weight for matrix in matrices}
    others = sum(
        _FLOAT * int(np.prod(weight.shape))
        for name, weight in model.weights.items()
        if name not in products
    )
    weights = sum(matrices.values()) + others
    return Memory(weights, arena, cross + cache, _FLOAT * case.batch * samples, data)
