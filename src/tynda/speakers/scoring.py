"""Scores of pairs of voices: normalisation, calibration, error rates and thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "as_norm",
    "cohort_moments",
    "equal_error_rate",
    "fit_logistic",
    "probability",
    "threshold_for",
]

Floats = NDArray[np.floating]

_TOP = 20
"""The number of people of the cohort, those most like a voice, whose scores normalise its own."""
_SMALLEST = 1e-6
"""Minimum of a deviation; two equal people in a cohort would have none."""


def cohort_moments(voices: Floats, cohort: Floats, top: int = _TOP) -> tuple[Floats, Floats]:
    """Return mean and deviation ``[n]`` of the ``top`` greatest scores of each voice.

    ``voices [n, size]`` and ``cohort [people, size]`` have length 1, so that a score is the cosine
    of their angle.
    """
    scores = voices @ cohort.T
    top = min(top, scores.shape[1])
    greatest = np.partition(scores, -top, axis=1)[:, -top:]
    return greatest.mean(1), np.maximum(greatest.std(1), _SMALLEST)


def as_norm(enrolled: Floats, voices: Floats, cohort: Floats, top: int = _TOP) -> Floats:
    """Return the normalised scores ``[enrolled, voices]`` of each pair.

    This is adaptive symmetric normalisation (Matejka et al. 2017, "Analysis of Score Normalization
    in Multilingual Speaker Recognition", section 2): the cosine minus the mean, by the deviation,
    of the scores of either side with the people of the cohort that are most like it, averaged over
    both sides. All vectors have length 1.
    """
    scores = enrolled @ voices.T
    mean, deviation = cohort_moments(enrolled, cohort, top)
    of_enrolled = (scores - mean[:, None]) / deviation[:, None]
    mean, deviation = cohort_moments(voices, cohort, top)
    of_voices = (scores - mean[None]) / deviation[None]
    normalised: Floats = (of_enrolled + of_voices) / 2
    return normalised


def equal_error_rate(same: Floats, different: Floats) -> float:
    """Return the rate at which as many of the ``same`` are refused as ``different`` accepted.

    Both are scores ``[n]`` of pairs, of one person and of two. The rate is where the two curves
    cross, between neighbouring thresholds by linear interpolation. Raises ValueError where either
    is empty.
    """
    if not same.size or not different.size:
        raise ValueError("an error rate needs pairs of the same person and of different people")
    thresholds = np.unique(np.concatenate([same, different]))
    refused = np.searchsorted(np.sort(same), thresholds, "left") / same.size
    accepted = 1 - np.searchsorted(np.sort(different), thresholds, "left") / different.size
    # Above the greatest score all are refused.
    refused, accepted = np.append(refused, 1.0), np.append(accepted, 0.0)
    after = int(np.argmax(refused >= accepted))
    if after == 0:
        return float(refused[0])
    before = after - 1
    gap = accepted[before] - refused[before]
    closed = gap + refused[after] - accepted[after]
    share = gap / closed
    return float(refused[before] + share * (refused[after] - refused[before]))


def threshold_for(different: Floats, rate: float) -> float:
    """Return the least score that at most ``rate`` of the scores ``different [n]`` reach."""
    allowed = int(rate * different.size)
    descending = np.sort(different)[::-1]
    if allowed >= different.size:
        return float(descending[-1])
    return float(np.nextafter(descending[allowed], np.inf))


def fit_logistic(same: Floats, different: Floats, steps: int = 100) -> tuple[float, float]:
    """Return slope and offset of the logarithm of the odds as a function of the score.

    Each kind of pair has half of the weight, so that the prior is one half. The loss is convex;
    Newton's steps (Brummer & du Preez 2006, section 4, has the same loss) are halved where they do
    not lower it. A weak quadratic term keeps the slope finite where no threshold errs.
    """
    scores = np.concatenate([same, different]).astype(np.float64)
    signs = np.concatenate([np.ones(same.size), -np.ones(different.size)])
    weights = np.concatenate(
        [np.full(same.size, 0.5 / same.size), np.full(different.size, 0.5 / different.size)]
    )
    centre, spread = scores.mean(), max(float(scores.std()), _SMALLEST)
    inputs = np.stack([(scores - centre) / spread, np.ones_like(scores)], 1)
    penalty = np.array([1e-4, 0.0])

    def loss(x: NDArray[np.float64]) -> float:
        return float(weights @ np.logaddexp(0, -signs * (inputs @ x)) + penalty @ x**2 / 2)

    x = np.array([1.0, 0.0])
    for _ in range(steps):
        odds = inputs @ x
        error = signs / (1 + np.exp(np.clip(signs * odds, -500, 500)))
        chance = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        gradient = -inputs.T @ (weights * error) + penalty * x
        curvature = (inputs.T * (weights * chance * (1 - chance))) @ inputs + np.diag(
            penalty + 1e-12
        )
        step = np.linalg.solve(curvature, gradient)
        before = loss(x)
        while loss(x - step) > before and np.abs(step).max() > 1e-12:
            step = step / 2
        x = x - step
        if np.abs(step).max() < 1e-9:
            break
    slope = x[0] / spread
    return float(slope), float(x[1] - slope * centre)


def probability(score: float, slope: float, offset: float) -> float:
    """Return the probability, with a prior of one half, that a score is of the same person."""
    return float(1 / (1 + np.exp(-np.clip(slope * score + offset, -500, 500))))
