"""The initial weights of a training run, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tynda.errors import TyndaError
from tynda.models.base import Family, Spec, sinusoids
from tynda.store import checkpoint
from tynda.train.recipe import Optimizer
from tynda.weights.weight import dequantize_all

__all__ = ["adam", "initial_weights", "learning_rate", "shared_weights"]


def adam(
    trained: Mapping[str, Tensor], specs: Mapping[str, Spec], o: Optimizer
) -> torch.optim.AdamW:
    """Return the optimizer of the tensors that training changes.

    Norms, biases and what is not in ``specs``, such as scales, have no weight decay, as is usual
    (Loshchilov & Hutter 2019 leave it open).
    """
    decayed = [k for k, v in trained.items() if v.ndim > 1 and k in specs]
    groups = [
        {"params": [trained[k] for k in decayed], "weight_decay": o.weight_decay},
        {"params": [v for k, v in trained.items() if k not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, fused=True)


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


def shared_weights(path: Path, family: Family, config: Any, needed: str) -> dict[str, Tensor]:
    """Read the weights of a model file that a model of ``family`` has too, in the same shape.

    Raises `TyndaError` where the file's family has other tensors, and where it lacks a tensor whose
    name begins with ``needed``.
    """
    model = checkpoint.load(path)
    own = (family.name, *family.same_tensors)
    if model.header.family not in own:
        raise TyndaError(f"{path} is a {model.header.family}: start from a {' or '.join(own)}")
    specs = family.specs(config)
    found = {
        name: torch.from_numpy(value)
        for name, value in dequantize_all(model.weights).items()
        if name in specs and specs[name].shape == value.shape
    }
    if lacking := next((n for n in specs if n.startswith(needed) and n not in found), None):
        raise TyndaError(f"{path} has another {lacking} than the recipe's model")
    return found
