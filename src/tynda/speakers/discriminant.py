"""Linear discriminant analysis: the last layer of a model of voices in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["discriminant"]

Floats = NDArray[np.floating]

_SHRINKAGE = 0.01
"""Share of a multiple of the identity in the covariance within people (Ledoit & Wolf 2004), which
has more numbers than there are recordings to estimate them."""


def discriminant(
    vectors: Floats, people: NDArray[np.integer], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight ``[size, channels]`` and bias ``[size]`` of a layer that tells people apart.

    ``vectors [n, channels]`` are of ``people [n]``. The layer's outputs have the covariance I
    within people, as far as it can be estimated, and the ``size`` greatest variances between them:
    Fisher 1936, for many classes Rao 1948; for voices Dehak et al. 2011, "Front-End Factor Analysis
    for Speaker Verification", section III-C.
    """
    x = vectors.astype(np.float64)
    names, own, counts = np.unique(people, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), x.shape[1]))
    np.add.at(means, own, x)
    means /= counts[:, None]
    centre = x.mean(0)
    inside = x - means[own]
    within = inside.T @ inside / len(x)
    level = max(float(np.trace(within)) / len(within), 1e-12)
    within = (1 - _SHRINKAGE) * within + _SHRINKAGE * level * np.eye(len(within))
    around = (means - centre) * np.sqrt(counts / len(x))[:, None]
    values, vectors_within = np.linalg.eigh(within)
    whitening = vectors_within / np.sqrt(values)
    _, directions = np.linalg.eigh(whitening.T @ (around.T @ around) @ whitening)
    layer = whitening @ directions[:, ::-1][:, :size]
    return layer.T.astype(np.float32), (-centre @ layer).astype(np.float32)
