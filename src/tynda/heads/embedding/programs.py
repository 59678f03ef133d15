"""The programs of models of voices, which only have an encoder."""

from __future__ import annotations

from typing import Any

from tynda.compile.runs import Run, Runs, Work
from tynda.compile.trace import Value
from tynda.models.base import Family
from tynda.ops.base import Ops, T, Weights

__all__ = ["forced", "runs"]


def forced(
    ops: Ops[T], weights: Weights[T], settings: tuple[Family, Any], features: T, lengths: T
) -> T:
    """Return embeddings ``[batch, 1, size]``; see `Head.forced`."""
    family, config = settings
    embedding: T = family.programs["encode"](ops, weights, config, features, lengths)
    return ops.reshape(embedding, ops.shape(embedding)[0], 1, config.vocab)


def runs(family: Family, config: Any, work: Work) -> Runs:
    """See `Head.runs`."""
    features = Value((work.batch, work.frames, config.bins))
    lengths = Value((work.batch,), is_integer=True)
    yield Run("encoder", "encode", family.programs["encode"], config, (features, lengths))
