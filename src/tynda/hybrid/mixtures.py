"""Gaussian mixtures with diagonal covariances, one for each acoustic state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mixtures", "fit"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_FLOOR = 0.01
"""Smallest variance, as a share of that of all frames."""
_SPLIT = 0.2
"""Standard deviations by which the halves of a component are moved apart."""
_SMALLEST = 20.0
"""Frames below which a component is dropped."""
_ITERATIONS = 4
_FRAMES = 20_000
"""Frames from which a state's mixture is estimated at most, evenly spaced."""


@dataclass(frozen=True, eq=False)
class Mixtures:
    """The mixtures of all states, each padded to the same number of components.

    Where a state has fewer, the other components have the log weight -inf.
    """

    log_weights: Floats
    """``[states, components]``."""
    means: Floats
    """``[states, components, features]``."""
    variances: Floats
    """``[states, components, features]``."""

    def __len__(self) -> int:
        return len(self.means)

    def components(self, values: Floats, states: Integers) -> Floats:
        """Return log-likelihoods ``[frames, n, components]`` of frames ``[frames, features]``.

        ``states [n]`` are the states whose components are wanted.
        """
        means, precisions = self.means[states], 1 / self.variances[states]
        size = means.shape[-1]
        constant = self.log_weights[states] - 0.5 * (
            size * np.log(2 * np.pi)
            + np.log(self.variances[states]).sum(-1)
            + (means**2 * precisions).sum(-1)
        )
        linear = (means * precisions).reshape(-1, size).T
        square = (-0.5 * precisions).reshape(-1, size).T
        found = values @ linear + values**2 @ square
        parts: Floats = found.reshape(len(values), *constant.shape) + constant
        return parts

    def log_likelihoods(self, values: Floats, states: Integers | None = None) -> Floats:
        """Return ``[frames, n]``, for all states by default."""
        states = np.arange(len(self)) if states is None else states
        parts = self.components(values, states)
        top = parts.max(-1)
        result: Floats = top + np.log(np.exp(parts - top[..., None]).sum(-1))
        return result


def fit(
    values: Floats, states: Integers, count: int, components: int, start: Mixtures | None = None
) -> Mixtures:
    """Return mixtures of up to ``components``, by maximum likelihood, of frames with known states.

    ``values [frames, features]`` have ``states [frames]`` from 0 to ``count - 1``. Every mixture
    grows from one component, or from that of ``start``, by splitting the heaviest ones, with the
    expectation-maximization algorithm after each doubling (Dempster et al. 1977). Components with
    few frames are dropped. A state without frames gets the distribution of all frames.
    """
    overall = values.mean(0, dtype=np.float64), values.var(0, dtype=np.float64) + 1e-6
    floor = _FLOOR * overall[1]
    size = values.shape[1]
    components = max(components, 1 if start is None else start.means.shape[1])
    log_weights = np.full((count, components), -np.inf)
    means = np.zeros((count, components, size))
    variances = np.ones((count, components, size))
    order = np.argsort(states, kind="stable")
    ends = np.searchsorted(states[order], np.arange(count + 1))
    for state in range(count):
        rows = order[ends[state] : ends[state + 1]]
        rows = rows[:: 1 + len(rows) // _FRAMES]
        if len(rows) < 2:
            weights, mean, variance = np.ones(1), overall[0][None], overall[1][None]
        else:
            x = values[rows].astype(np.float64)
            if start is None:
                first = np.ones(1), x.mean(0)[None], np.maximum(x.var(0), floor)[None]
            else:
                real = np.isfinite(start.log_weights[state])
                first = (
                    np.exp(start.log_weights[state][real].astype(np.float64)),
                    start.means[state][real].astype(np.float64),
                    start.variances[state][real].astype(np.float64),
                )
            weights, mean, variance = _grow(x, components, floor, *first)
        n = len(weights)
        with np.errstate(divide="ignore"):
            log_weights[state, :n] = np.log(weights)
        means[state, :n], variances[state, :n] = mean, variance
    return Mixtures(*(a.astype(np.float32) for a in (log_weights, means, variances)))


def _grow(
    x: Doubles,
    components: int,
    floor: Doubles,
    weights: Doubles,
    means: Doubles,
    variances: Doubles,
) -> tuple[Doubles, Doubles, Doubles]:
    """Estimate a mixture, and double it until it has ``components``, or too few frames for more."""
    most = min(components, max(1, int(len(x) / (2 * _SMALLEST))))
    for _ in range(_ITERATIONS if len(weights) > 1 else 1):
        weights, means, variances = _maximize(x, floor, weights, means, variances)
    while len(weights) < most:
        heavy = np.argsort(-weights)[: most - len(weights)]
        shift = _SPLIT * np.sqrt(variances[heavy])
        means = np.concatenate([means, means[heavy] + shift])
        means[heavy] -= shift
        variances = np.concatenate([variances, variances[heavy]])
        weights[heavy] /= 2
        weights = np.concatenate([weights, weights[heavy]])
        split = len(weights)
        for _ in range(2 * _ITERATIONS):
            weights, means, variances = _maximize(x, floor, weights, means, variances)
        if len(weights) < split:
            # A half had too few frames. It would be split and dropped again without end.
            break
    return weights, means, variances


def _maximize(
    x: Doubles, floor: Doubles, weights: Doubles, means: Doubles, variances: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Run one iteration of expectation and maximization."""
    precisions = 1 / variances
    scores = (
        np.log(weights)
        - 0.5 * (np.log(variances).sum(1) + (means**2 * precisions).sum(1))
        + x @ (means * precisions).T
        - 0.5 * (x**2 @ precisions.T)
    )
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    counts = shares.sum(0)
    kept = counts >= min(_SMALLEST, len(x) / len(counts) / 2)
    if not kept.all():
        shares, counts = shares[:, kept], counts[kept]
    means = shares.T @ x / counts[:, None]
    variances = np.maximum(shares.T @ x**2 / counts[:, None] - means**2, floor)
    return counts / counts.sum(), means, variances
