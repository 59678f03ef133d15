"""Weights to begin a training with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tynda import models
from tynda.models import whisper

__all__ = ["initial_weights", "look_near"]

_SHARP = 2.5
"""Gain of queries that look near: their keys weigh about e^3 times as much as those 1 s away."""


def initial_weights(specs: Mapping[str, models.Spec], seed: int) -> dict[str, Tensor]:
    """Fresh weights, drawn as the specs say."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, spec in specs.items():
        value = torch.empty(spec.shape)
        if spec.init == "sinusoids":
            value = torch.from_numpy(models.sinusoids(*spec.shape))
        elif spec.init == "uniform":
            bound = spec.gain / math.sqrt(math.prod(spec.shape[1:]))
            value.uniform_(-bound, bound, generator=generator)
        else:
            value.fill_(1.0 if spec.init == "ones" else 0.0)
        out[name] = value
    return out


def look_near(weights: dict[str, Tensor], config: whisper.Config) -> None:
    """Let each head of the encoder begin with frames at one distance from its own.

    Whisper's encoder knows places from sinusoids alone, and takes long to find that neighbours
    matter. With keys that are the queries, turned as the sinusoids turn over ``d`` frames, a
    query is most like the key ``d`` frames away (after Trockman & Kolter 2023, "Mimetic
    Initialization of Self-Attention Layers"). Heads differ in ``d``, layers in how far they look.
    """
    half, width = config.channels // 2, config.channels // config.heads
    waves = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half))
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}.self_attn"
        query, key = (weights[f"{name}.{part}_proj.weight"] for part in "qk")
        query *= _SHARP
        reach = 3 * (i + 1)
        distances: Any = np.linspace(-reach, reach, config.heads) if config.heads > 1 else [0]
        for head, distance in enumerate(distances):
            rows = slice(head * width, (head + 1) * width)
            sin, cos = (torch.from_numpy(f(waves * distance)).float() for f in (np.sin, np.cos))
            first, second = query[rows, :half], query[rows, half:]
            key[rows, :half] = first * cos + second * sin
            key[rows, half:] = second * cos - first * sin
