"""Code that several families share: layers, the check of a CTC model, published front ends."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.models.base import Array, CheckpointFolder, Spec, check_sizes
from tynda.ops.base import Ops, T, Weights
from tynda.sound.frontend import FrontEnd

__all__ = [
    "Specs",
    "batch_norm",
    "check_ctc",
    "check_voices",
    "fold_batch_norm",
    "layer_norm",
    "linear",
    "read_feature_extractor",
]


class Specs(dict[str, Spec]):
    """The `Spec` of each tensor by name, added layer by layer."""

    def linear(self, name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        """Add the tensors of `linear` or of a convolution; ``shape`` begins with the outputs."""
        self[f"{name}.weight"] = Spec(shape, gain=gain)
        if bias:
            self[f"{name}.bias"] = Spec(shape[:1], "zeros")

    def layer_norm(self, name: str, width: int, *, bias: bool = True) -> None:
        """Add the tensors of `layer_norm`."""
        self[f"{name}.weight"] = Spec((width,), "ones")
        if bias:
            self[f"{name}.bias"] = Spec((width,), "zeros")

    def batch_norm(self, name: str, width: int) -> None:
        """Add the tensors of `batch_norm`; training keeps the last two as running averages."""
        self.layer_norm(name, width)
        self[f"{name}.mean"] = Spec((width,), "zeros", trainable=False)
        self[f"{name}.variance"] = Spec((width,), "ones", trainable=False)

    def cohort(self, people: int | None, size: int) -> None:
        """Add the embeddings ``[people, size]`` with which a model of voices normalises scores, and
        which no program reads; nothing where ``people`` is None."""
        if people is not None:
            self["cohort"] = Spec((people, size), "zeros", trainable=False)


def linear(ops: Ops[T], weights: Weights[T], name: str, x: T) -> T:
    """Apply a linear layer, ``[..., in]`` to ``[..., out]``, with a bias if there is one."""
    return ops.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def layer_norm(ops: Ops[T], weights: Weights[T], name: str, x: T, eps: float = 1e-5) -> T:
    """Apply layer norm over the last axis, with a bias if there is one."""
    return ops.layer_norm(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), eps)


def batch_norm(ops: Ops[T], weights: Weights[T], name: str, x: T, lengths: T) -> T:
    """Apply batch norm to each channel of ``[batch, frames, ..., channels]``.

    When a model trains, mean and variance are those of the first ``lengths [batch]`` frames.
    """
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    mean, variance = weights[f"{name}.mean"], weights[f"{name}.variance"]
    return ops.batch_norm(x, weight, bias, mean, variance, lengths)


def check_ctc(config: Any, tokenizer: Sized, front: FrontEnd, decoding: Mapping[str, Any]) -> None:
    """Raise `TyndaError` unless a CTC model has one output for each symbol and the blank."""
    check_sizes(config, front, len(tokenizer))


def check_voices(
    config: Any, tokenizer: object, front: FrontEnd, decoding: Mapping[str, Any]
) -> None:
    """Raise `TyndaError` unless the front end has the bins of a model of voices."""
    if front.bins != config.bins:
        raise TyndaError(
            f"the model's {config.bins} bins do not fit its front end ({front.bins}): the file is "
            "damaged"
        )


def fold_batch_norm(
    tensors: Mapping[str, Array], weight: str, norm: str, eps: float = 1e-5
) -> tuple[Array, Array]:
    """Return weight and bias of a layer without bias and the batch norm after it, as one layer.

    Names are those of PyTorch; a norm may have no scale and shift. Raises KeyError for a tensor
    that is missing.
    """
    factor = 1 / np.sqrt(tensors[f"{norm}.running_var"].astype(np.float64) + eps)
    factor = factor * tensors.get(f"{norm}.weight", 1.0)
    shift = tensors.get(f"{norm}.bias", 0.0) - tensors[f"{norm}.running_mean"] * factor
    value = tensors[weight]
    scaled = value * factor.reshape(-1, *[1] * (value.ndim - 1))
    return scaled.astype(np.float32), shift.astype(np.float32)


def read_feature_extractor(folder: CheckpointFolder) -> dict[str, Any]:
    """Return the settings of a published checkpoint's front end, or ``{}`` where it has none."""
    extractor = folder.json("preprocessor_config.json", optional=True)
    if not extractor:  # Since transformers 5, all parts of a processor share one file.
        part = folder.json("processor_config.json", optional=True).get("feature_extractor")
        extractor = part if isinstance(part, dict) else {}
    return extractor
