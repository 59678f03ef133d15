"""Factors that are moved from activations into weights, through the norm before them.

If the result of a norm is read by matrix products only, its channels can be divided by any factors
and the weights multiplied by them. The model computes the same, but its weights (AWQ) or its
activations (SmoothQuant) may lose less by rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda.compile.trace import Step, Value
from tynda.quantization.asymmetric import fit_scales
from tynda.quantization.calibrate import Calibration
from tynda.quantization.statistics import InputStatistics
from tynda.weights.grid import Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.weight import Floats, floats

__all__ = ["fold_factors"]


def fold_factors(
    weights: Mapping[str, Any], plan: Mapping[str, Grid], method: str, calibration: Calibration
) -> dict[str, Floats]:
    """Return the tensors of a model that change by the factors of ``awq`` or ``smooth``.

    Only weights of the ``plan`` have factors.
    """
    links = [
        link
        for link in _find_links(calibration.layerwise().steps)
        if plan.keys() >= set(link.weights)
    ]
    statistics = calibration.statistics(weights, {link.weights[0] for link in links})
    changed: dict[str, Floats] = {}
    for link in links:
        inputs = statistics[link.weights[0]]
        if method == "awq":
            factors = _awq(weights, link, inputs, plan[link.weights[0]])
        else:
            factors = _smooth(weights, link, inputs)
        changed |= {name: floats(weights[name]) / factors for name in link.norm}
        changed |= {name: floats(weights[name]) * factors for name in link.weights}
    return changed


@dataclass(frozen=True)
class _Link:
    """The two tensors of a norm, and the weights ``[out, channels]`` that multiply its result."""

    norm: tuple[str, str]
    weights: tuple[str, ...]


def _find_links(steps: Sequence[Step]) -> list[_Link]:
    """Find the norms of a traced model whose results are read by linear layers only."""
    uses = Counter(v.name for step in steps for v in step.weights)
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
        if all(uses[name] == 1 for name in names):
            norm = step.tensors["weight"].name, step.tensors["bias"].name
            found.append(_Link(norm, tuple(names)))
    return found


def _smooth(
    weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, share: float = 0.5
) -> Floats:
    """Return factors that move a ``share`` of the outliers of activations into the weights.

    Source: Xiao et al. 2023, "SmoothQuant", equation 4.
    """
    max_weights = np.max([np.abs(floats(weights[name])).max(0) for name in link.weights], axis=0)
    factors = np.maximum(inputs.max_abs, 1e-5) ** share
    return _normalise(factors / np.maximum(max_weights, 1e-5) ** (1 - share))


def _awq(weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, grid: Grid) -> Floats:
    """Return the factors with the minimum error of the products after rounding to the grid.

    Candidates are 11 powers, from 0 to 1, of the root mean squares of the activations. Source: Lin
    et al. 2024, "AWQ", equations 4 and 5.
    """
    sizes = np.sqrt(np.maximum(inputs.mean_squares, 1e-12))
    candidates = [_normalise(sizes**power) for power in np.linspace(0, 1, 11)]
    errors = [_product_error(weights, link, inputs, grid, factors) for factors in candidates]
    return candidates[int(np.argmin(errors))]


def _product_error(
    weights: Mapping[str, Any], link: _Link, inputs: InputStatistics, grid: Grid, factors: Floats
) -> float:
    """Return the mean squared error of the products, summed over the outputs of all weights."""
    total = 0.0
    for name in link.weights:
        weight = floats(weights[name]) * factors
        scales = fit_scales(weight, grid, inputs.mean_squares / factors**2)
        error = (round_to_nearest(weight, grid, scales).dequantize() - weight) / factors
        start = 0
        for hessian in inputs.hessians:
            block = error[:, start : start + len(hessian)]
            total += float(np.sum((block @ hessian) * block))
            start += len(hessian)
    return total


def _normalise(factors: Any) -> Floats:
    """Divide factors by their geometric mean, so that norms keep their size."""
    normalised: Floats = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return normalised
