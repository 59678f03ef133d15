"""Means and deviations of features, in double precision and little memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["moments", "standardised"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_AT_ONCE = 1 << 15
"""Maximum number of values that are held in double precision at a time."""


def moments(x: Floats) -> tuple[Doubles, Doubles]:
    """Return mean and variance of each column of ``x [n, bins]``, n > 0, in double precision."""
    mean: Doubles = x.mean(axis=0, dtype=np.float64)
    squares = [np.square(part - mean).sum(axis=0) for part in _parts(x)]
    return mean, np.sum(squares, axis=0) / len(x)


def standardised(x: Floats, mean: Doubles, scale: Doubles) -> Floats:
    """Return (x - mean) / scale, computed in double precision, as float32 ``[n, bins]``."""
    result = np.empty_like(x)
    for part, to in zip(_parts(x), _parts(result), strict=True):
        to[:] = (part - mean) / scale
    return result


def _parts(x: Floats) -> list[Floats]:
    """Split into blocks of rows, so that not all are in double precision at once."""
    rows = max(1, _AT_ONCE // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]
