"""What several families are made of, over ``tynda.ops``; a layer's tensors share a name."""

from __future__ import annotations

from tynda.models import Spec
from tynda.ops.base import Ops, T, Weights

__all__ = ["Specs", "dense", "norm"]


class Specs(dict[str, Spec]):
    """Name -> `Spec`, filled layer by layer."""

    def dense(self, name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        """The tensors of `dense`, or of a convolution; ``shape`` begins with the outputs."""
        self[f"{name}.weight"] = Spec(shape, gain=gain)
        if bias:
            self[f"{name}.bias"] = Spec(shape[:1], "zeros")

    def norm(self, name: str, width: int) -> None:
        """The tensors of `norm`."""
        self[f"{name}.weight"] = Spec((width,), "ones")
        self[f"{name}.bias"] = Spec((width,), "zeros")


def dense(ops: Ops[T], weights: Weights[T], name: str, x: T) -> T:
    """A linear layer ``[..., in]`` -> ``[..., out]``, with a bias if there is one."""
    return ops.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def norm(ops: Ops[T], weights: Weights[T], name: str, x: T, eps: float = 1e-5) -> T:
    """Layer norm over the last axis."""
    return ops.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
