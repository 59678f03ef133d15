"""The weights of a model in few bits, while they learn from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tynda.errors import TyndaError
from tynda.quantization.learnt_rounding import LearntWeight
from tynda.store.checkpoint import Checkpoint
from tynda.weights.weight import floats, in_few_bits

__all__ = ["Student"]

# Learning rate of norms and biases, relative to their root mean square.
_VECTOR_RATE = 5e-4


class Student:
    """A rounded model whose codes, scales, zero points, norms and biases learn.

    Weights that are stored in 8 bits or more, such as positions, are fixed.
    """

    def __init__(
        self,
        rounded: Checkpoint,
        exact: Mapping[str, Any],
        learning: set[str],
        device: torch.device,
    ) -> None:
        """``exact`` are the original weights; ``learning`` are the names of those that learn.

        Raises `TyndaError` if none of these has few bits.
        """
        weights = rounded.weights
        self._fixed: dict[str, Tensor] = {}
        self._learnt: dict[str, LearntWeight] = {}
        for name, weight in weights.items():
            if name in learning and (few := in_few_bits(weight)):
                self._learnt[name] = LearntWeight(floats(exact[name]), *few, device)
            else:
                self._fixed[name] = torch.tensor(floats(weight), device=device)
        if not self._learnt:
            raise TyndaError(
                f"{rounded.path} has no weight in fewer than 8 bits that could learn: "
                "begin with a file of tynda quantize"
            )
        trained = rounded.family.trainable(rounded.config)
        self._vectors = {
            name: self._fixed[name].requires_grad_()
            for name in sorted(learning)
            if trained[name] and len(weights[name].shape) == 1
        }
        self._original = dict(weights)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return all parameters with their learning rates."""
        groups = [g for weight in self._learnt.values() for g in weight.parameter_groups()]
        for tensor in self._vectors.values():
            size = max(float(tensor.detach().square().mean().sqrt()), 1e-3)
            groups.append({"params": [tensor], "lr": _VECTOR_RATE * size})
        return groups

    def values(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return all weights with the values to be stored, and those of them that are computed from
        parameters."""
        rounded = {name: weight.values() for name, weight in self._learnt.items()}
        return {**self._fixed, **rounded}, rounded

    def weights(self) -> dict[str, Any]:
        """Return all weights as they are stored."""
        vectors = {n: x.detach().cpu().numpy().copy() for n, x in self._vectors.items()}
        rounded = {name: weight.rounded() for name, weight in self._learnt.items()}
        return {**self._original, **vectors, **rounded}
