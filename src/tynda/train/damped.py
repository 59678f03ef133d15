"""Adam for weights that already have good values, and of which only some have evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["DampedAdam"]

_BETAS = 0.9, 0.99


class DampedAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) whose steps are small where gradients are.

    Adam moves every element by about the learning rate, even one whose gradient is thousands of
    times smaller than that of others: the rows of an embedding whose tokens hardly occur would
    drift from their good values by noise. Here ``damping`` times the root mean square of a tensor's
    gradients is added to the denominator, so that such elements stay.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], damping: float) -> None:
        """``groups`` have ``params`` and ``lr``, as in torch."""
        super().__init__(groups, {"damping": damping})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        first, second = _BETAS
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                root = state["square"].sqrt()
                floor = group["damping"] * float(state["square"].mean()) ** 0.5 + 1e-30
                unbias = (1 - second ** state["step"]) ** 0.5 / (1 - first ** state["step"])
                parameter.addcdiv_(state["mean"], root.add_(floor), value=-group["lr"] * unbias)
