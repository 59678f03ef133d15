"""Scales that move from activations into weights, through the norm between them.

Where a norm's result is only looked at by products, its inputs to them can be divided by any
factors if the weights are multiplied with them: the model stays the same, and its weights or its
activations may be easier to round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda.compile.trace import Step, Value
from tynda.quantization.calibrate import Calibration
from tynda.quantization.statistics import InputStatistics
from tynda.quantization.zeros import fitted
from tynda.weights.grid import Grid
from tynda.weights.rounding import to_grid
from tynda.weights.weight import Floats, floats

__all__ = ["moved"]


def moved(
    weights: Mapping[str, Any], plan: Mapping[str, Grid], method: str, calibration: Calibration
) -> dict[str, Floats]:
    """The tensors of a model that change, with scales moved by ``awq`` or ``smooth``."""
    found = [
        link for link in _links(calibration.layerwise().steps) if plan.keys() >= set(link.weights)
    ]
    seen = calibration.statistics(weights, {link.weights[0] for link in found})
    changed: dict[str, Floats] = {}
    for link in found:
        inputs = seen[link.weights[0]]
        if method == "awq":
            factors = _awq(weights, link, inputs, plan[link.weights[0]])
        else:
            factors = _smooth(weights, link, inputs)
        changed |= {name: floats(weights[name]) / factors for name in link.norm}
        changed |= {name: floats(weights[name]) * factors for name in link.weights}
    return changed


@dataclass(frozen=True)
class _Link:
    """A norm's two tensors, and the weights ``[out, channels]`` that see what it gives."""

    norm: tuple[str, str]
    weights: tuple[str, ...]


def _links(steps: Sequence[Step]) -> list[_Link]:
    """Find the links in a traced model."""
    reads = Counter(v.name for step in steps for v in step.weights)
    users: dict[Value, list[Step]] = {}
    for step in steps:
        for value in step.tensors.values():
            users.setdefault(value, []).append(step)
    found = []
    for step in steps:
        after = users.get(step.result, [])
        names = [s.tensors["weight"].name for s in after if s.operation == "linear"]
        if step.operation != "layer_norm" or not names or len(names) < len(after):
            continue
        if all(reads[name] == 1 for name in names):
            norm = step.tensors["weight"].name, step.tensors["bias"].name
            found.append(_Link(norm, tuple(names)))
    return found


def _smooth(
    weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, share: float = 0.5
) -> Floats:
    """Factors that share the outliers of activations with the weights.

    Xiao et al. 2023, "SmoothQuant", equation 4.
    """
    peaks = np.max([np.abs(floats(weights[name])).max(0) for name in link.weights], axis=0)
    factors = np.maximum(inputs.peak, 1e-5) ** share / np.maximum(peaks, 1e-5) ** (1 - share)
    return _centred(factors)


def _awq(weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, grid: Grid) -> Floats:
    """Factors with which rounding to the grid harms the products least.

    Lin et al. 2024, "AWQ", equations 4 and 5: powers of the activations' sizes, of 11.
    """
    sizes = np.sqrt(np.maximum(inputs.mean_squares, 1e-12))
    tried = [_centred(sizes**power) for power in np.linspace(0, 1, 11)]
    return tried[int(np.argmin([_harm(weights, link, inputs, grid, f) for f in tried]))]


def _harm(
    weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, grid: Grid, factors: Floats
) -> float:
    """The mean square of what rounding changes in the products."""
    total = 0.0
    for name in link.weights:
        weight = floats(weights[name]) * factors
        steps = fitted(weight, grid, inputs.mean_squares / factors**2)
        change = (to_grid(weight, grid, steps).dequantize() - weight) / factors
        start = 0
        for block in inputs.hessians:
            part = change[:, start : start + len(block)]
            total += float(np.sum((part @ block) * part))
            start += len(block)
    return total


def _centred(factors: Any) -> Floats:
    scaled: Floats = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return scaled
