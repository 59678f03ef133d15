"""A compact Conformer encoder with a CTC head.

This is a small version of Gulati et al. 2020 ("Conformer: Convolution-augmented Transformer for
Speech Recognition"). As in Rekesh et al. 2023 ("Fast Conformer"), its blocks run at a low frame
rate; the output layer may have more frames than they, since CTC over letters needs a higher rate.
The convolution module has layer norm instead of the paper's batch norm, so that a frame depends
only on its own utterance. Attention has no positional encoding, since the convolutions already
distinguish positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tynda.models.base import Family, Spec
from tynda.models.layers import Specs, check_ctc, layer_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights, conv_length
from tynda.text.tokenizer import CharTokenizer

__all__ = [
    "FAMILY",
    "Config",
    "add_blocks",
    "block",
    "convolution",
    "encode",
    "feed_forward",
    "specs",
    "stem",
    "stem_convolutions",
    "upsampled",
]


@dataclass(frozen=True)
class Config:
    """The dimensions of the model."""

    bins: int = 80
    """Number of bins of the front end."""
    vocab: int = 29
    """Number of symbols, including the blank."""
    channels: int = 160
    """Width of the encoder."""
    layers: int = 8
    heads: int = 4
    hidden: int = 320
    """Inner width of the feed-forward modules."""
    kernel: int = 15
    """Kernel size of the depthwise convolution, in frames; an odd number."""
    stem: int = 32
    """Channels of the convolutions that reduce time and bins."""
    stride: int = 4
    """Number of front end frames for each output frame."""
    upsample: int = 2
    """Number of output frames for each frame of the blocks; a frame of the blocks therefore
    covers ``stride * upsample`` frames of the front end."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} do not divide into {self.heads} heads")
        if self.stride * self.upsample not in (2, 4, 8):
            raise ValueError(f"stride {self.stride} x upsample {self.upsample} is not 2, 4 or 8")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is not odd")


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out, c = Specs(), config.channels
    add_blocks(out, config)
    if config.upsample > 1:
        out.linear("upsample", config.upsample * c, c)
        out.layer_norm("upsample.norm", c)
    out.linear("head", config.vocab, c)
    return out


def add_blocks(out: Specs, config: Config) -> None:
    """Add the tensors of `stem` and of all `block` functions."""
    c, h, s = config.channels, config.hidden, config.stem
    bins, channels = config.bins, 1
    for i, _ in enumerate(_stem_strides(config)):
        out.linear(f"stem.convs.{i}", s, channels, 3, 3)
        bins, channels = conv_length(bins, 3, 2, 1), s
    out.linear("stem.out", c, channels * bins)
    out.layer_norm("stem.norm", c)
    for i in range(config.layers):
        for ff in ("ff1", "ff2"):
            out.layer_norm(f"blocks.{i}.{ff}.norm", c)
            out.linear(f"blocks.{i}.{ff}.in", h, c)
            out.linear(f"blocks.{i}.{ff}.out", c, h)
        out.layer_norm(f"blocks.{i}.attention.norm", c)
        for part in ("q", "k", "v", "out"):
            out.linear(f"blocks.{i}.attention.{part}", c, c)
        out.layer_norm(f"blocks.{i}.conv.norm", c)
        out.linear(f"blocks.{i}.conv.in", 2 * c, c)
        out.linear(f"blocks.{i}.conv.depthwise", c, 1, config.kernel)
        out.layer_norm(f"blocks.{i}.conv.inner_norm", c)
        out.linear(f"blocks.{i}.conv.out", c, c)
        out.layer_norm(f"blocks.{i}.norm", c)


def _stem_strides(config: Config) -> list[int]:
    """Return the strides in time of the stem's convolutions; over the bins each has stride 2."""
    reduction = config.stride * config.upsample
    return [2 if reduction >= 2**i else 1 for i in range(1, 4 if reduction == 8 else 3)]


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
    log-probabilities ``[batch, frames / stride, vocab]`` and their lengths ``[batch]``.
    """
    x, lengths = stem(ops, weights, config, features, lengths)
    for i in range(config.layers):
        x = block(ops, weights, config, f"blocks.{i}", x, lengths)
        if tap is not None:
            tap(i, x)
    if config.upsample > 1:
        x = upsampled(ops, weights, config, x)
        lengths = ops.multiply_lengths(lengths, config.upsample)
        if tap is not None:
            tap(config.layers, x)
    return ops.log_softmax(linear(ops, weights, "head", x)), lengths


def stem(ops: Ops[T], weights: Weights[T], config: Config, features: T, lengths: T) -> tuple[T, T]:
    """Reduce time and bins of ``features [batch, frames, bins]`` with strided convolutions.

    Returns ``[batch, frames', channels]`` and the lengths ``[batch]``.
    """
    counts = [lengths]

    def within(x: T, stride: int) -> T:
        # The bias makes padding non-zero, and the next convolution would read it.
        counts.append(ops.conv_lengths(counts[-1], kernel=3, stride=stride, padding=1))
        return ops.mask(x, counts[-1])

    x = stem_convolutions(ops, weights, config, ops.mask(features, lengths), within)
    return x, counts[-1]


def stem_convolutions(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    within: Callable[[T, int], T] | None = None,
) -> T:
    """Reduce time and bins of ``features [batch, frames, bins]`` with strided convolutions.

    Returns ``[batch, frames', channels]``. ``within`` changes the result of each convolution; its
    second argument is the stride in time.
    """
    batch, frames, bins = ops.shape(features)
    x = ops.reshape(features, batch, frames, bins, 1)
    for i, stride in enumerate(_stem_strides(config)):
        name = f"stem.convs.{i}"
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = ops.relu(ops.conv2d(x, weight, bias, stride=(stride, 2), padding=(1, 1)))
        if within is not None:
            x = within(x, stride)
    batch, frames, bins, channels = ops.shape(x)
    x = linear(ops, weights, "stem.out", ops.reshape(x, batch, frames, bins * channels))
    x = layer_norm(ops, weights, "stem.norm", x)
    return ops.dropout(x, config.dropout)


def upsampled(ops: Ops[T], weights: Weights[T], config: Config, x: T) -> T:
    """Return ``config.upsample`` frames for each frame of ``x [batch, frames, channels]``."""
    batch, frames, channels = ops.shape(x)
    x = linear(ops, weights, "upsample", x)
    x = ops.reshape(x, batch, frames * config.upsample, channels)
    return layer_norm(ops, weights, "upsample.norm", ops.silu(x))


def block(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, lengths: T) -> T:
    """Apply one Conformer block (section 2.4) to ``x [batch, frames, channels]``.

    Attention and convolution stand between two feed-forward modules, each of which is added with a
    weight of one half. ``name`` is the prefix of the block's tensors.
    """
    x = ops.add(x, ops.scale(feed_forward(ops, weights, config, f"{name}.ff1", x), 0.5))
    x = ops.add(x, _attention(ops, weights, config, f"{name}.attention", x, lengths))
    x = ops.add(x, _convolution(ops, weights, config, f"{name}.conv", x, lengths))
    x = ops.add(x, ops.scale(feed_forward(ops, weights, config, f"{name}.ff2", x), 0.5))
    return layer_norm(ops, weights, f"{name}.norm", x)


def feed_forward(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T) -> T:
    """Apply a feed-forward module, without its residual connection."""
    x = linear(ops, weights, f"{name}.in", layer_norm(ops, weights, f"{name}.norm", x))
    x = ops.dropout(ops.silu(x), config.dropout)
    return ops.dropout(linear(ops, weights, f"{name}.out", x), config.dropout)


def _attention(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, lengths: T) -> T:
    x = layer_norm(ops, weights, f"{name}.norm", x)
    q, k, v = (linear(ops, weights, f"{name}.{part}", x) for part in ("q", "k", "v"))
    x = ops.attention(q, k, v, heads=config.heads, lengths=lengths)
    return ops.dropout(linear(ops, weights, f"{name}.out", x), config.dropout)


def _convolution(
    ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, lengths: T
) -> T:
    def convolve(x: T) -> T:
        return ops.conv1d(
            ops.mask(x, lengths),
            weights[f"{name}.depthwise.weight"],
            weights[f"{name}.depthwise.bias"],
            padding=config.kernel // 2,
            groups=config.channels,
        )

    return convolution(ops, weights, config, name, x, convolve)


def convolution(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    name: str,
    x: T,
    convolve: Callable[[T], T],
) -> T:
    """Apply a convolution module, without its residual connection, around ``convolve``."""
    x = ops.glu(linear(ops, weights, f"{name}.in", layer_norm(ops, weights, f"{name}.norm", x)))
    x = ops.silu(layer_norm(ops, weights, f"{name}.inner_norm", convolve(x)))
    return ops.dropout(linear(ops, weights, f"{name}.out", x), config.dropout)


FAMILY = Family(
    name="conformer",
    config=Config,
    specs=specs,
    head="ctc",
    programs={"encode": encode},
    tokenizer=CharTokenizer.from_dict,
    check=check_ctc,
)
