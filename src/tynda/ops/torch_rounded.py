"""The torch backend with activations rounded to 8 bits, for training what runs in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from tynda.ops.torch import TorchOps

__all__ = ["RoundActivations"]


class RoundActivations(TorchOps):
    """Linear layers whose inputs are rounded to 8 bits row by row, as by the native engine.

    See `tynda.weights.integers.quantize_activations`. Gradients ignore the rounding.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Ops.linear`."""
        with torch.no_grad():
            high = x.amax(-1, keepdim=True).clamp(min=0) / 2
            low = x.amin(-1, keepdim=True).clamp(max=0) / 2
            scale = (high - low).clamp(min=1e-30) / 127
            zero = -((high + low) / scale).round()
            change = ((x / scale + zero).round().clamp(-127, 127) - zero) * scale - x
        return super().linear(x + change, weight, bias)
