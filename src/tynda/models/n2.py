"""N2: convolutions, bidirectional LSTM layers and CTC (Lavrenov 2024).

The model has three 2-D convolutions over a spectrogram, each with batch norm and ReLU,
bidirectional LSTM layers, a linear layer with ReLU and a linear layer to the symbols, similar to
Deep Speech 2 (Amodei et al. 2016, section 3). Ambiguous parts of the description are interpreted
as follows:

- Kernels and strides are time x bins. Each side of both axes is padded with ``kernel // 2``
  zeros, so that a stride of 1 preserves the length and a stride of 2 halves it, rounded up.
- The convolutions have no bias, since batch norm would cancel it.
- Each LSTM direction has two biases, as in PyTorch.

With the defaults, the model has 74 363 261 trained weights (74 M in the publication) and 256
running statistics. Other interpretations differ more from the publication: 96 filters in the
third convolution would give 79.5 M weights, GRU layers 56.6 M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tynda.models.base import Family, Spec
from tynda.models.layers import Specs, batch_norm, check_ctc, linear
from tynda.ops.base import Ops, T, Tap, Weights, conv_length
from tynda.text.tokenizer import CharTokenizer

__all__ = ["FAMILY", "Config", "encode", "specs"]

_KERNELS = ((11, 41), (11, 21), (11, 21))
_STRIDES = ((2, 2), (1, 2), (1, 2))
_LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Config:
    """The dimensions of the model."""

    bins: int = 193
    """Number of bins of the front end."""
    vocab: int = 29
    """Number of symbols, including the blank."""
    filters: int = 32
    """Channels of the first two convolutions; the third one has twice this number."""
    hidden: int = 768
    """Width of an LSTM layer in each direction."""
    layers: int = 5
    dropout: float = 0.5
    """Dropout between LSTM layers and after the linear layer."""
    stride: ClassVar[int] = 2
    """Number of front end frames for each output frame."""

    @property
    def channels(self) -> int:
        """Width of an LSTM layer's output, which has both directions."""
        return 2 * self.hidden


def specs(config: Config) -> Specs:
    """Return the `Spec` of every tensor of the model, by name."""
    out = Specs()
    channels, bins = 1, config.bins
    widths = (config.filters, config.filters, 2 * config.filters)
    for i, (width, kernel, stride) in enumerate(zip(widths, _KERNELS, _STRIDES, strict=True)):
        out[f"convs.{i}.weight"] = Spec((width, channels, *kernel))
        out.batch_norm(f"convs.{i}.norm", width)
        channels, bins = width, conv_length(bins, kernel[1], stride[1], kernel[1] // 2)
    width, h = channels * bins, config.hidden
    for i in range(config.layers):
        for direction in _DIRECTIONS:
            out[f"lstms.{i}.{direction}.weight_ih"] = Spec((4 * h, width))
            out[f"lstms.{i}.{direction}.weight_hh"] = Spec((4 * h, h))
            out[f"lstms.{i}.{direction}.bias_ih"] = Spec((4 * h,), "zeros")
            out[f"lstms.{i}.{direction}.bias_hh"] = Spec((4 * h,), "zeros")
        width = 2 * h
    out["dense.weight"] = Spec((2 * h, width))
    out["dense.bias"] = Spec((2 * h,), "zeros")
    out["head.weight"] = Spec((config.vocab, 2 * h))
    out["head.bias"] = Spec((config.vocab,), "zeros")
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Encode features ``[batch, frames, bins]`` for CTC.

    ``lengths [batch]``, integers, are the numbers of frames of the items. Returns
    log-probabilities ``[batch, frames / 2, vocab]`` and their lengths ``[batch]``, rounded up.
    ``tap`` is called after each LSTM layer, with ``[batch, frames / 2, 2 * hidden]``.
    """
    x, lengths = _convolutions(ops, weights, features, lengths)
    for i in range(config.layers):
        if i > 0:
            x = ops.dropout(x, config.dropout)
        forward, backward = (
            _lstm(ops, weights, f"lstms.{i}.{name}", x, lengths) for name in _DIRECTIONS
        )
        x = ops.concat(forward, backward)
        if tap is not None:
            tap(i, x)
    x = ops.relu(linear(ops, weights, "dense", x))
    x = ops.dropout(x, config.dropout)
    x = linear(ops, weights, "head", x)
    return ops.log_softmax(x), lengths


def _convolutions(ops: Ops[T], weights: Weights[T], features: T, lengths: T) -> tuple[T, T]:
    """Map ``[batch, frames, bins]`` to ``[batch, frames / 2, channels * bins / 8]``."""
    x = ops.reshape(ops.mask(features, lengths), *ops.shape(features), 1)
    for i, (kernel, stride) in enumerate(zip(_KERNELS, _STRIDES, strict=True)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        x = ops.conv2d(x, weights[f"convs.{i}.weight"], stride=stride, padding=padding)
        lengths = ops.conv_lengths(lengths, kernel[0], stride[0], padding[0])
        x = ops.relu(batch_norm(ops, weights, f"convs.{i}.norm", x, lengths))
        # Batch norm makes padding non-zero, and the next convolution would read it.
        x = ops.mask(x, lengths)
    batch, frames, bins, channels = ops.shape(x)
    return ops.reshape(x, batch, frames, bins * channels), lengths


def _lstm(ops: Ops[T], weights: Weights[T], name: str, x: T, lengths: T) -> T:
    w_ih, w_hh, b_ih, b_hh = (weights[f"{name}.{part}"] for part in _LSTM)
    reverse = name.endswith("backward")
    return ops.lstm(x, w_ih, w_hh, b_ih, b_hh, lengths=lengths, reverse=reverse)


FAMILY = Family(
    name="n2",
    config=Config,
    specs=specs,
    head="ctc",
    programs={"encode": encode},
    tokenizer=CharTokenizer.from_dict,
    check=check_ctc,
)
