"""Statistics of the times of repeated runs, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread", "bootstrap", "spread"]

DRAWS, SEED = 2000, 0


@dataclass(frozen=True)
class Spread:
    """Statistics of the seconds of repeated runs."""

    runs: int
    mean: float
    p50: float
    p95: float
    p99: float
    low: float | None
    high: float | None
    """Upper bound of the median's 95 % interval, by bootstrap (Efron 1979), or None for one run."""
    values: list[float]

    @property
    def relative(self) -> float:
        """Interquartile range over the median."""
        low, high = np.quantile(self.values, [0.25, 0.75])
        return float((high - low) / self.p50) if self.p50 else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Compute the statistics of at least one run. Percentiles are interpolated between runs; with
    few runs, high percentiles are hardly more than the slowest run."""
    times = np.array(values, np.float64)
    every = [float(time) for time in times]
    p50, p95, p99 = map(float, np.quantile(times, [0.5, 0.95, 0.99]))
    low = high = None
    if len(times) > 1:
        low, high = bootstrap(times, lambda drawn: np.median(drawn, axis=-1))
    return Spread(len(times), float(times.mean()), p50, p95, p99, low, high, every)


def bootstrap(
    values: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of a statistic of ``values [n, ...]``, resampled with replacement.

    ``statistic`` maps ``[draws, ..., n]`` to ``[draws]``; a second axis of the values comes before
    the runs.
    """
    rng = np.random.default_rng(SEED)
    picks = rng.integers(0, len(values), (DRAWS, len(values)))
    found = statistic(np.moveaxis(values[picks], 1, -1))
    rest = (1 - confidence) / 2
    low, high = np.quantile(found, [rest, 1 - rest])
    return float(low), float(high)
