"""Weights in the hands of a backend: what a decoder needs to run a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.ops.base import Ops
from tynda.ops.numpy import NumpyOps

__all__ = ["Backend", "Engine", "open_engine"]

Backend = Literal["numpy", "torch"]


@dataclass(frozen=True)
class Engine:
    """A backend with a model's weights, and the way of arrays into it and out."""

    ops: Ops[Any]
    weights: Mapping[str, Any]
    tensor: Callable[[NDArray[Any]], Any]
    """NumPy array -> tensor of the backend; the memory may be shared."""
    array: Callable[[Any], NDArray[Any]]
    """And back."""


def open_engine(backend: Backend, weights: Mapping[str, NDArray[np.float32]]) -> Engine:
    """Hand ``weights`` to a backend. Raises `TyndaError` where it is unknown or not installed."""
    if backend not in get_args(Backend):
        raise TyndaError(f"no backend {backend!r}: take one of {', '.join(get_args(Backend))}")
    if backend == "numpy":
        return Engine(NumpyOps(), weights, lambda x: x, lambda x: x)
    try:
        import torch
    except ImportError:
        raise TyndaError("the torch backend needs torch: pip install 'tynda[train]'") from None
    from tynda.ops.torch import TorchOps

    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    return Engine(TorchOps(), tensors, torch.from_numpy, lambda x: x.numpy())
