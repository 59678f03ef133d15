"""The output layer of a decoder, rounded again by what it decides.

The divergence of the rounded model's distribution of the next token from the exact one is, for
small errors, half of the errors' variance under that distribution: an error of the logit of a token
counts by ``p (1 - p)`` of the token's probability, the diagonal of the Fisher information (Amari
1998; Singh & Alistarh 2020, "WoodFisher"). Each row of the layer, a token, therefore has a Hessian
of its own, that of the states in which it competes with others; GPTQ has one for all rows, in which
all states count equally, even those that leave no doubt. Rows are improved by coordinate descent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tynda.quantization.descent import Descent
from tynda.weights.weight import Weight

__all__ = ["MAX_STATES", "fit_output_layer", "output_divergence"]

MAX_STATES = 1 << 16
"""Maximum number of states that should be used, since memory grows with it."""
# The weight of the Hessian of all states, in terms of the sum of p (1 - p) of a row's own: a token
# that hardly occurs is fitted to all states in which the next token is in doubt.
_PRIOR = 40.0
# Minimum sum of p (1 - p) for a Hessian of its own.
_MIN_EVIDENCE = 0.1
# Minimum p (1 - p) of a state that counts for a row.
_MIN_WEIGHT = 2e-4
# Share of the mean of the Hessian's diagonal that is added to it. Where the layer is the embedding
# as well, it keeps the rows near the original ones.
_DAMPING = 0.01
# Bytes of the Hessians of some rows.
_HESSIAN_BYTES = 64 << 20
_TINY = 1e-20
_STATES_AT_ONCE = 256
_ROWS_AT_ONCE = 1024


@torch.no_grad()
def fit_output_layer(
    exact: Tensor, rounded: Weight, states: Tensor, on_progress: Callable[[int, int], None]
) -> Weight:
    """Return an output layer ``[tokens, channels]`` in few bits, with the grid of ``rounded``.

    ``exact`` is float32 in full precision; ``states [n, channels]`` are the inputs of the layer in
    full precision. ``on_progress`` is called with the number of finished rows, and of all.
    """
    descent = Descent(exact, rounded)
    tokens, places, counts = _competitions(exact, states)
    doubt = torch.zeros(len(states), device=exact.device).index_add_(0, places, counts)
    everywhere = (states * doubt[:, None]).T @ states / doubt.sum().clamp(min=_TINY)
    everywhere.diagonal().add_(_DAMPING * everywhere.diagonal().mean())
    ends = torch.searchsorted(tokens, torch.arange(len(exact) + 1, device=exact.device))
    evidence = torch.zeros(len(exact), device=exact.device).index_add_(0, tokens, counts)
    own = (evidence >= _MIN_EVIDENCE).nonzero()[:, 0]
    others = (evidence < _MIN_EVIDENCE).nonzero()[:, 0]
    done = 0
    for rows in torch.split(others, _ROWS_AT_ONCE):
        descent.improve(rows, everywhere[None])
        on_progress(done := done + len(rows), len(exact))
    for rows in torch.split(own, max(1, _HESSIAN_BYTES // (4 * everywhere.numel()))):
        hessians = []
        for row in rows.tolist():
            part = slice(int(ends[row]), int(ends[row + 1]))
            weighted = states[places[part]] * counts[part, None].sqrt()
            hessian = torch.addmm(everywhere, weighted.T, weighted, beta=_PRIOR)
            hessians.append(hessian / (evidence[row] + _PRIOR))
        descent.improve(rows, torch.stack(hessians))
        on_progress(done := done + len(rows), len(exact))
    return descent.rounded()


@torch.no_grad()
def output_divergence(exact: Tensor, found: Tensor, states: Tensor) -> float:
    """Return the mean divergence of the distributions of ``found`` from those of ``exact``, in
    nats, with the same ``states [n, channels]``."""
    total = 0.0
    for some in torch.split(states, _STATES_AT_ONCE):
        expected = (some @ exact.T).log_softmax(-1)
        log_probs = (some @ found.T).log_softmax(-1)
        total += float((expected.exp() * (expected - log_probs)).sum())
    return total / len(states)


def _competitions(exact: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, in ascending order, the indices of states in which they compete with others,
    and ``p (1 - p)`` there."""
    parts = list(zip(*_parts(exact, states), strict=True))
    places, tokens, counts = (torch.cat(part) for part in parts)
    order = tokens.argsort(stable=True)
    return tokens[order], places[order], counts[order]


def _parts(exact: Tensor, states: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(states), _STATES_AT_ONCE):
        probs = (states[start : start + _STATES_AT_ONCE] @ exact.T).softmax(-1)
        counts = probs * (1 - probs)
        place, token = (counts > _MIN_WEIGHT).nonzero().unbind(1)
        yield place + start, token, counts[place, token]
