"""A time-delay network over the states of hidden Markov models.

The first layer reads some frames side by side. The layers after it are convolutions over time
(Waibel et al. 1989, "Phoneme recognition using time-delay neural networks"), each with layer norm
before, ReLU after, and a residual connection. With ``plain``, they have none of these but tanh,
and with a ``width`` of 1 the network is the one of Hinton et al. 2012, "Deep neural networks for
acoustic modeling in speech recognition": a logistic unit is a tanh unit with other weights.

The output is log-probabilities of states as if all of them were equally frequent, which differ
from log-likelihoods by the same number for all states of a frame: training has taken the logarithm
of each state's frequency from its bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

from tynda.errors import TyndaError
from tynda.heads.hybrid.lexicon import Spelling
from tynda.models.base import Family, check_sizes
from tynda.models.layers import Specs, layer_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import FrontEnd

__all__ = ["FAMILY", "Config", "encode", "specs"]


@dataclass(frozen=True)
class Config:
    """The dimensions of the model."""

    bins: int = 40
    """Number of bins of the front end."""
    vocab: int = 900
    """Number of acoustic states."""
    channels: int = 256
    layers: int = 6
    """Number of layers after the first."""
    splice: int = 7
    """Number of frames that the first layer reads, an odd number."""
    width: int = 3
    """Number of frames that the other layers read, an odd number."""
    stride: int = 2
    """Number of front end frames for each output frame."""
    plain: bool = False
    """Whether layers have tanh in place of layer norm, ReLU and residual connections."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("splice", "width"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, so that it has a frame in the middle")


def specs(config: Config) -> Specs:
    """Return the `Spec` of every tensor of the model, by name."""
    out = Specs()
    channels = config.channels
    out.linear("splice", channels, config.bins, config.splice)
    for i in range(config.layers):
        if not config.plain:
            out.layer_norm(f"layers.{i}.norm", channels)
        out.linear(f"layers.{i}.conv", channels, channels, config.width)
    if not config.plain:
        out.layer_norm("norm", channels)
    out.linear("head", config.vocab, channels)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Score the states of features ``[batch, frames, bins]``.

    ``lengths [batch]``, integers, are the numbers of frames of the items. Returns log-probabilities
    ``[batch, frames / stride, vocab]`` and their lengths ``[batch]``, rounded up. ``tap`` is called
    after each layer but the first, with ``[batch, frames / stride, channels]``.
    """
    padding, stride = config.splice // 2, config.stride
    x = ops.conv1d(
        ops.mask(features, lengths),
        weights["splice.weight"],
        weights["splice.bias"],
        stride=stride,
        padding=padding,
    )
    lengths = ops.conv_lengths(lengths, config.splice, stride, padding)
    x = ops.tanh(x) if config.plain else ops.relu(x)
    for i in range(config.layers):
        y = x if config.plain else layer_norm(ops, weights, f"layers.{i}.norm", x)
        # Norms and biases make padding non-zero, and the convolution would read it.
        y = ops.conv1d(
            ops.mask(y, lengths),
            weights[f"layers.{i}.conv.weight"],
            weights[f"layers.{i}.conv.bias"],
            padding=config.width // 2,
        )
        y = ops.dropout(ops.tanh(y) if config.plain else ops.relu(y), config.dropout)
        x = y if config.plain else ops.add(x, y)
        if tap is not None:
            tap(i, x)
    x = x if config.plain else layer_norm(ops, weights, "norm", x)
    return ops.log_softmax(linear(ops, weights, "head", x)), lengths


def _check(config: Any, tokenizer: Sized, front: FrontEnd, decoding: Mapping[str, Any]) -> None:
    """Raise `TyndaError` unless the network has one output for each state."""
    check_sizes(config, front, len(tokenizer))
    if config.splice > 1 << 8 or config.width > 1 << 8:
        raise TyndaError("a layer reads more than 256 frames: the model is damaged")


FAMILY = Family(
    name="tdnn",
    config=Config,
    specs=specs,
    head="hybrid",
    programs={"encode": encode},
    tokenizer=Spelling.from_dict,
    check=_check,
)
