"""Which speaker has each window: a hidden Markov model whose states are speakers (VBx).

Landini et al. 2022, "Bayesian HMM clustering of x-vector sequences (VBx) in speaker diarization",
section 2: a speaker's mean is a hidden variable with a prior, that of voices in general; windows
vary around it; a speaker goes on with a fixed probability, or another one begins. Variational Bayes
finds all of them together, and gives no window to speakers for whom there is too little evidence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["STAYS", "evidence", "forward_backward", "resegment"]

Floats = NDArray[np.floating]

_EVIDENCE = 0.3
"""The factor F_A of the evidence of a window, since windows overlap and are not independent."""
STAYS = 0.9
"""Probability that the speaker of a window has the next one too, 0.25 s later."""
_SURE = 2.0
"""Logarithm of the odds of the given speaker of a window at the beginning."""
_LEAST = 1e-9
"""The least weight of a speaker, so that no window is impossible."""
_ROUNDS = 20
_GAIN = 1e-3
"""The least gain of the evidence with which another round follows."""


def resegment(
    voices: Floats, between: Floats, speakers: NDArray[np.integer], prior: float
) -> NDArray[np.float64]:
    """Return the probability ``[windows, speakers]`` that each speaker has a window.

    ``voices [windows, size]``, in the order of time, vary around a speaker's mean with the
    covariance I; means vary around 0 with the variances ``between [size]``. ``speakers [windows]``
    are numbers from 0 on to begin with; those with too little evidence lose their windows.
    ``prior`` is the factor F_B of the prior of a speaker: a greater one leaves fewer speakers.
    """
    count = int(speakers.max(initial=0)) + 1
    owned = np.zeros((len(voices), count))
    owned[np.arange(len(voices)), speakers] = _SURE
    owned = np.exp(owned) / np.exp(owned).sum(1, keepdims=True)
    shares = np.full(count, 1 / count)
    # Ten hours have 144,000 windows: their voices are held once, in single precision.
    scaled = (voices * np.sqrt(between)).astype(np.float32)
    before = -np.inf
    for _ in range(_ROUNDS):
        # Mean and variance of each speaker's voice (equations 16 and 17), in units of the prior's.
        ratio = _EVIDENCE / prior
        variance = 1 / (1 + ratio * owned.sum(0)[:, None] * between)
        mean = ratio * variance * (owned.astype(np.float32).T @ scaled)
        # The likelihood of each window (equation 23), but for terms that are the same for all.
        likelihood = _EVIDENCE * (
            scaled @ mean.T.astype(np.float32) - (variance + mean**2) @ between / 2
        )
        owned, shares, evidence = forward_backward(likelihood, shares)
        evidence += prior / 2 * float((np.log(variance) - variance - mean**2 + 1).sum())
        if evidence - before < _GAIN:
            break
        before = evidence
    return owned


def evidence(windows: Floats, sums: Floats, between: Floats, prior: float) -> Floats:
    """Return the logarithm of the likelihood that one speaker has all windows of a group, ``[n]``.

    ``windows [n]`` are their numbers, and ``sums [n, size]`` the sums of their voices. This is the
    bound of `resegment` at its maximum, but for terms that do not depend on the groups.
    """
    ratio = _EVIDENCE / prior
    variance = 1 / (1 + ratio * windows[:, None] * between)
    gain = ratio**2 * between * sums**2 * variance + np.log(variance)
    found: Floats = prior / 2 * gain.sum(1)
    return found


def forward_backward(
    likelihood: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the probability of each state ``[windows, speakers]``, the shares of the speakers for
    the next round, and the logarithm of the likelihood.

    The forward-backward algorithm with scaling; from every state, the next one is the same, or with
    the probability ``1 - STAYS`` drawn by the ``shares [speakers]`` (equations 19 to 22).
    """
    top = likelihood.max(1, keepdims=True)
    chance = np.exp(likelihood - top)
    forward, backward = np.empty_like(chance), np.ones_like(chance)
    scale = np.empty(len(chance))
    state = shares
    for t, here in enumerate(chance):
        state = (STAYS * state + (1 - STAYS) * shares) * here
        scale[t] = state.sum()
        state = state / scale[t]
        forward[t] = state
    for t in range(len(chance) - 1, 0, -1):
        ahead = chance[t] * backward[t]
        backward[t - 1] = (STAYS * ahead + (1 - STAYS) * (shares @ ahead)) / scale[t]
    owned = forward * backward
    begins = (
        _LEAST
        + owned[0]
        + ((1 - STAYS) * shares * chance[1:] * backward[1:] / scale[1:, None]).sum(0)
    )
    evidence = float(np.log(scale).sum() + top.sum())
    return owned, begins / begins.sum(), evidence
