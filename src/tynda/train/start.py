"""The initial weights of a training run, and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tynda.models.base import Spec, sinusoids
from tynda.train.recipe import Optimizer

__all__ = ["initial_weights", "learning_rate"]


def learning_rate(step: int, total: int, o: Optimizer) -> float:
    """Return the rate of a step: linear warm-up, constant, linear to zero over ``cooldown``."""
    warm = min(1.0, (step + 1) / max(1, o.warmup_steps))
    cool = min(1.0, (total - step) / max(1.0, total * o.cooldown))
    return o.lr * warm * cool


def initial_weights(specs: dict[str, Spec], seed: int) -> dict[str, Tensor]:
    """Draw initial weights as the specs state."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, spec in specs.items():
        value = torch.empty(spec.shape)
        if spec.init == "sinusoids":
            value = torch.from_numpy(sinusoids(*spec.shape))
        elif spec.init == "uniform":
            bound = spec.gain / math.sqrt(math.prod(spec.shape[1:]))
            value.uniform_(-bound, bound, generator=generator)
        else:
            value.fill_(1.0 if spec.init == "ones" else 0.0)
        out[name] = value
    return out
