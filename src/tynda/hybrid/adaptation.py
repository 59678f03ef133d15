"""Speaker adaptation: an affine transform of features that raises a speaker's likelihood.

Source: Gales 1998, "Maximum likelihood linear transformations for HMM-based speech recognition",
section 3 (constrained MLLR, or fMLLR), with diagonal covariances, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tynda.hybrid.mixtures import Mixtures

__all__ = ["apply", "estimate"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_ITERATIONS = 10
_SMALLEST = 500.0
"""Frames below which a transform would not be reliable, and is left at the identity."""


def apply(transform: Doubles, features: Floats) -> Floats:
    """Return ``[frames, n]``: features times the transform ``[n, n + 1]``, whose last column is
    added."""
    result: Floats = (features @ transform[:, :-1].T + transform[:, -1]).astype(np.float32)
    return result


def estimate(speech: Iterable[tuple[Floats, Integers]], mixtures: Mixtures) -> Doubles:
    """Return the transform ``[n, n + 1]`` of a speaker with the greatest likelihood.

    ``speech`` has features ``[frames, n]`` and the state of each frame ``[frames]``. With few
    frames, the transform is the identity.
    """
    size = mixtures.means.shape[-1]
    frames = 0.0
    outer = np.zeros((size, size + 1, size + 1))  # The matrices G of Gales, equation 51.
    linear = np.zeros((size, size + 1))  # The vectors k, equation 52.
    for features, states in speech:
        known, columns = np.unique(states, return_inverse=True)
        parts = mixtures.components(features, known)[np.arange(len(states)), columns]
        shares = np.exp(parts - parts.max(1, keepdims=True)).astype(np.float64)
        shares /= shares.sum(1, keepdims=True)
        precisions = 1 / mixtures.variances[states].astype(np.float64)
        weights = (shares[..., None] * precisions).sum(1)  # [frames, n]
        targets = (shares[..., None] * precisions * mixtures.means[states]).sum(1)
        extended = np.concatenate([features, np.ones((len(features), 1))], axis=1)
        products = extended[:, :, None] * extended[:, None, :]
        outer += (weights.T @ products.reshape(len(features), -1)).reshape(outer.shape)
        linear += targets.T @ extended
        frames += len(features)
    transform = np.eye(size, size + 1)
    if frames < _SMALLEST:
        return transform
    inverses = np.linalg.inv(outer + 1e-6 * np.eye(size + 1) * outer.mean())
    for _ in range(_ITERATIONS):
        for row in range(size):
            transform[row] = _best_row(transform, row, inverses[row], linear[row], frames)
    return transform


def _best_row(
    transform: Doubles, row: int, inverse: Doubles, linear: Doubles, frames: float
) -> Doubles:
    """Return the best row of a transform while the others stay (Gales, equations 53 to 55)."""
    square = transform[:, :-1]
    # The row of cofactors is that of the inverse's transpose, up to a factor, which cancels.
    cofactors = np.append(np.linalg.inv(square).T[row], 0.0)
    a = cofactors @ inverse @ cofactors
    b = cofactors @ inverse @ linear
    roots = (-b + np.array([1, -1]) * np.sqrt(b**2 + 4 * a * frames)) / (2 * a)
    gains = frames * np.log(np.abs(roots * a + b)) - 0.5 * a * roots**2
    best: Doubles = (roots[gains.argmax()] * cofactors + linear) @ inverse
    return best
