"""Engines: a backend with a model's weights, which runs the model's functions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tynda.checks import MAX_COUNT, is_whole
from tynda.compile import native
from tynda.compile.native import Native
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.ops.numpy import NumpyOps
from tynda.ops.tree import map_tree
from tynda.weights.weight import Tensor, dequantize_all, quantize_all, resident, stored_bits

__all__ = ["BITS", "Backend", "Eager", "Engine", "convert_weights", "open_engine", "processors"]

Backend = Literal["native", "numpy", "torch"]
Array = NDArray[Any]

BITS = (8, 32)
"""The matmul precisions that there are, in bits."""


class Engine(Protocol):
    """An object that runs the functions of one model on a backend."""

    def run(self, function: Callable[..., Any], config: Any, *inputs: Any) -> Any:
        """Return ``function(ops, weights, config, *inputs)``.

        ``function`` is defined at the top level of a module, and ``config`` can be hashed, because
        a backend may cache what it compiles for them. ``inputs`` are arrays, the backend's tensors
        or structures of both (``ops.tree``); the result is a tensor or a structure of tensors.
        """
        ...

    def repeated(
        self, function: Callable[..., Any], config: Any, first: Sequence[Array], *rest: Any
    ) -> Callable[..., Any]:
        """Return a function that takes arrays of the shapes and types of ``first``, and returns
        what `run` returns for them and ``rest``.

        It spares a loop what each run has to prepare. A call may overwrite the results of the one
        before. What the function writes to (``ops.write``) must be in ``rest``, and is changed in
        place.
        """
        ...

    def array(self, tensor: Any) -> Array:
        """Return a tensor of the backend as a NumPy array, which may share its memory."""
        ...


class Eager:
    """An engine that runs each operation of a function when the function calls it."""

    def __init__(
        self,
        ops: Any,
        weights: Mapping[str, Any],
        tensor: Callable[[Any], Any] = np.asarray,
        array: Callable[[Any], Array] = np.asarray,
    ) -> None:
        self._ops, self._weights, self._tensor, self.array = ops, weights, tensor, array

    def run(self, function: Callable[..., Any], config: Any, *inputs: Any) -> Any:
        """See `Engine.run`."""
        return function(self._ops, self._weights, config, *map_tree(self._tensor, inputs))

    def repeated(
        self, function: Callable[..., Any], config: Any, first: Sequence[Array], *rest: Any
    ) -> Callable[..., Any]:
        """See `Engine.repeated`."""
        return lambda *arrays: self.run(function, config, *arrays, *rest)


def open_engine(
    weights: Mapping[str, Tensor],
    trainable: Mapping[str, bool],
    backend: Backend | None = None,
    bits: int | None = None,
    threads: int | None = None,
) -> Engine:
    """Return an engine with ``weights``, by default a native one, or NumPy's without kernels.

    ``bits``: the matmul precision; None: 8 for the native backend and weights that are stored in at
    most 8 bits, otherwise 32. ``threads``: those of the native backend; None: one for each
    processor. ``trainable``: see `quantize_all`.

    Raises `TyndaError` where the backend is unknown, not installed, or lacks this precision.
    """
    if backend not in (None, *get_args(Backend)):
        raise TyndaError(f"no backend {backend!r}: choose one of {', '.join(get_args(Backend))}")
    if bits not in (None, *BITS):
        raise TyndaError(f"products are computed in 8 or 32 bits, not {bits!r}")
    if threads is not None and not is_whole(threads, 1):
        raise TyndaError(f"threads must be a whole number from 1 to {MAX_COUNT}, not {threads!r}")
    if backend == "native" and not native.available():
        raise TyndaError(
            "tynda was installed without its kernels, where there was no C++ compiler: install "
            "it again with one, or choose the numpy backend"
        )
    if backend is None:
        backend = "native" if native.available() else "numpy"
        if backend == "numpy":
            warnings.warn(
                "tynda was installed without its kernels, so that NumPy computes, much slower: "
                "install it again with a C++ compiler",
                stacklevel=2,
            )
    weights, bits = convert_weights(weights, trainable, backend, bits)
    if backend == "native":
        return Native(weights, threads or processors(), bits=bits)
    # A file that is cut later must not take the weights away.
    weights = {name: resident(weight) for name, weight in weights.items()}
    if backend == "numpy":
        return Eager(NumpyOps(bits), weights)
    try:
        import torch
    except ImportError:
        raise TyndaError(f"the torch backend needs torch: {install('train')}") from None
    from tynda.ops.torch import TorchOps

    def tensor(x: Any) -> Any:
        return torch.from_numpy(x) if isinstance(x, np.ndarray) else x

    tensors = {name: tensor(value) for name, value in weights.items()}
    return Eager(TorchOps(), tensors, tensor, lambda x: x.numpy())


def convert_weights(
    weights: Mapping[str, Tensor],
    trainable: Mapping[str, bool],
    backend: Backend,
    bits: int | None = None,
) -> tuple[dict[str, Any], int]:
    """Return the weights in the form that a backend computes with, and the matmul precision.

    The arguments are those of `open_engine`. Raises `TyndaError` where the backend lacks this
    precision.
    """
    if bits is None:
        stored = any(stored_bits(weight) <= 8 for weight in weights.values())
        bits = 8 if stored and backend == "native" else 32
    if bits == 32:
        return dequantize_all(weights, lazy=backend == "native"), bits
    if backend == "torch":
        raise TyndaError("torch computes in 32 bits: choose the native or the numpy backend")
    return quantize_all(weights, trainable, lazy=backend == "native"), bits


def processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows lack it
        return os.cpu_count() or 1
