"""The progress of a training run, as its files hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Progressed", "flattened"]


@dataclass
class Progressed:
    """The progress of a run, saved with the weights."""

    epoch: int = 0
    step: int = 0
    best_score: tuple[float, float] = (math.inf, math.inf)
    """Dev CER, and the loss to break ties; without dev, the training loss twice."""
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise for values that contradict each other, as in a damaged file."""
        epochs = [entry["epoch"] for entry in self.history]
        if epochs != list(range(1, self.epoch + 1)) or not 0 <= self.best_epoch <= self.epoch:
            raise ValueError("epochs and history do not agree")
        cer, loss = map(float, self.best_score)
        self.best_score = cer, loss
        if self.step < self.epoch:
            raise ValueError("an epoch has at least one step")


def flattened(recipe: dict[str, Any]) -> dict[str, Any]:
    """Flatten the settings of a recipe to ``section.key`` -> value."""
    out: dict[str, Any] = {}
    for name, value in recipe.items():
        section = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        out |= section or {name: value}
    return out
