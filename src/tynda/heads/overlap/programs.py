"""The programs of models of overlap, which only have an encoder."""

from __future__ import annotations

from typing import Any

from tynda.models.base import Family
from tynda.ops.base import Ops, T, Weights

__all__ = ["forced"]


def forced(
    ops: Ops[T], weights: Weights[T], settings: tuple[Family, Any], features: T, lengths: T
) -> T:
    """Return log-probabilities ``[batch, frames, 3]``; see `Head.forced`."""
    family, config = settings
    log_probs: T = family.programs["encode"](ops, weights, config, features, lengths)
    return log_probs
