"""Parakeet with a CTC head: a Fast Conformer that writes pieces of words.

Rekesh et al. 2023, "Fast Conformer with Linearly Scalable Attention for Efficient Speech
Recognition", section 2.1: depthwise separable convolutions shorten time eightfold, then come the
blocks of Gulati et al. 2020, "Conformer" (section 2), with relative attention (Dai et al.
2019, "Transformer-XL", section 3.3) and batch norm in the convolution module.

Tensors have the names of the checkpoints on the Hugging Face hub (``transformers``'
``ParakeetForCTC``). `fold` brings a checkpoint to what `specs` lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tynda.models.base import Array, Family, Folder, Published, Spec
from tynda.models.layers import Specs, check_ctc, dense, norm, read_extractor
from tynda.ops.base import Ops, T, Tap, Weights, conv_length
from tynda.sound.frontend import NemoLogMel
from tynda.text.pieces import PieceTokenizer
from tynda.text.symbols import read_pieces

__all__ = ["FAMILY", "Config", "encode", "fold", "settings", "specs"]

_STEM = "encoder.subsampling"
_HEAD = "ctc_head"
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Config:
    """Sizes of the model; those of parakeet-ctc-0.6b unless given."""

    bins: int = 80
    vocab: int = 1025
    """Symbols, the blank included."""
    channels: int = 1024
    layers: int = 24
    heads: int = 8
    hidden: int = 4096
    """Inner width of the feed-forward modules."""
    kernel: int = 9
    """Frames seen by the depthwise convolution of a block (odd)."""
    stem: int = 256
    """Channels of the convolutions that shorten time and bins."""
    stride: int = 8
    """Frames of the front end to one frame of the blocks: a power of 2."""
    linear_bias: bool = True
    conv_bias: bool = True
    """Whether the blocks' linear layers, and their convolutions, have biases."""
    scale_input: bool = True
    """Whether the input of the blocks is multiplied by the root of ``channels``."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.channels % self.heads or self.channels % 2:
            raise ValueError(f"channels {self.channels} are no even multiple of {self.heads} heads")
        if self.stride < 2 or self.stride.bit_count() != 1:
            raise ValueError(f"stride {self.stride} is not a power of 2 from 2 on")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is not odd")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")


_SETTINGS = {
    **{"num_mel_bins": "bins", "hidden_size": "channels", "num_hidden_layers": "layers"},
    **{"num_attention_heads": "heads", "intermediate_size": "hidden", "dropout": "dropout"},
    **{"conv_kernel_size": "kernel", "convolution_bias": "conv_bias"},
    **{"subsampling_conv_channels": "stem", "subsampling_factor": "stride"},
    **{"attention_bias": "linear_bias", "scale_input": "scale_input"},
}
_ALWAYS = {"hidden_act": "silu", "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
_FRONT_END = {"feature_size": "bins", "win_length": "window", "hop_length": "hop", "n_fft": "fft"}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `Config` in a hub checkpoint's ``config.json``.

    What is missing there has the default of ``transformers``, which is that of `Config`.
    Raises KeyError without a ``model_type``, ValueError for what this definition does not cover.
    """
    if config["model_type"] != "parakeet_ctc":
        raise ValueError(f"model type {config['model_type']!r} is not parakeet_ctc")
    encoder = config.get("encoder_config") or {}
    if not isinstance(encoder, Mapping):
        raise ValueError(f"encoder_config {encoder!r} is no object")
    for name, value in _ALWAYS.items():
        if encoder.get(name, value) != value:
            raise ValueError(f"{name} {encoder[name]!r} is not {value}")
    found = {ours: encoder[theirs] for theirs, ours in _SETTINGS.items() if theirs in encoder}
    return found | ({"vocab": config["vocab_size"]} if "vocab_size" in config else {})


def specs(config: Config) -> dict[str, Spec]:
    """Every tensor of the model: name -> `Spec`."""
    c, bins = config.channels, config.bins
    out = Specs()
    for depthwise, pointwise in _halvings(config):
        out.dense(depthwise, config.stem, 1, 3, 3)
        if pointwise:
            out.dense(pointwise, config.stem, config.stem)
        bins = conv_length(bins, 3, 2, 1)
    out.dense(f"{_STEM}.linear", c, bins * config.stem)
    for i in range(config.layers):
        name = f"encoder.layers.{i}"
        for part in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            out.norm(f"{name}.norm_{part}", c)
        for part in ("feed_forward1", "feed_forward2"):
            out.dense(f"{name}.{part}.linear1", config.hidden, c, bias=config.linear_bias)
            out.dense(f"{name}.{part}.linear2", c, config.hidden, bias=config.linear_bias)
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            out.dense(f"{name}.self_attn.{part}", c, c, bias=config.linear_bias)
        out.dense(f"{name}.self_attn.relative_k_proj", c, c, bias=False)
        out[f"{name}.self_attn.bias_u"] = out[f"{name}.self_attn.bias_v"] = Spec((c,), "zeros")
        out.dense(f"{name}.conv.pointwise_conv1", 2 * c, c, bias=config.conv_bias)
        out.dense(f"{name}.conv.depthwise_conv", c, 1, config.kernel, bias=config.conv_bias)
        out.norm(f"{name}.conv.norm", c)
        out[f"{name}.conv.norm.running_mean"] = Spec((c,), "zeros", trainable=False)
        out[f"{name}.conv.norm.running_var"] = Spec((c,), "ones", trainable=False)
        out.dense(f"{name}.conv.pointwise_conv2", c, c, bias=config.conv_bias)
    out.dense(_HEAD, config.vocab, c)
    return out


def _halvings(config: Config) -> list[tuple[str, str]]:
    """Names of the stem's convolutions: over frames and bins, and then over channels, if so."""
    count = config.stride.bit_length() - 1
    later = [(f"{_STEM}.layers.{3 * i - 1}", f"{_STEM}.layers.{3 * i}") for i in range(1, count)]
    return [(f"{_STEM}.layers.0", ""), *later]


def fold(tensors: Mapping[str, Array], config: Config, order: list[int]) -> dict[str, Array]:
    """A checkpoint's tensors under the names, and in the layout, of `specs`.

    Convolutions over one frame become linear layers. The inputs of the stem's last layer are
    ``[channels, bins]`` there and ``[bins, channels]`` here. ``order``: of the head's outputs.
    """
    out = dict(tensors)
    for name, value in tensors.items():
        if value.ndim > 2 and "depthwise" not in name and set(value.shape[2:]) == {1}:
            value = value.reshape(value.shape[:2])
        if name == f"{_STEM}.linear.weight" and value.shape[1] % config.stem == 0:
            value = value.reshape(len(value), config.stem, -1).swapaxes(1, 2).reshape(value.shape)
        elif name.endswith((".bias_u", ".bias_v")):
            value = value.reshape(-1)
        elif name.startswith(_HEAD) and len(value) == len(order):
            value = value[order]
        out[name] = value
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Features ``[batch, frames, bins]`` -> log-probabilities ``[batch, frames / stride, vocab]``.

    ``lengths [batch]`` counts the frames of each item; the second result the output's, rounded up.
    """
    x, lengths = _subsample(ops, weights, config, features, lengths)
    encoding = ops.relative_encoding(x)
    for i in range(config.layers):
        x = _block(ops, weights, config, f"encoder.layers.{i}", x, encoding, lengths)
        if tap is not None:
            tap(i, x)
    return ops.log_softmax(dense(ops, weights, _HEAD, x)), lengths


def _subsample(ops: Ops[T], weights: Weights[T], config: Config, x: T, lengths: T) -> tuple[T, T]:
    """Shorten time and bins with strided convolutions (Rekesh et al. 2023, section 2.1)."""
    x = ops.reshape(ops.mask(x, lengths), *ops.shape(x), 1)
    for name, pointwise in _halvings(config):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        groups = config.stem if pointwise else 1
        x = ops.conv2d(x, weight, bias, stride=(2, 2), padding=(1, 1), groups=groups)
        lengths = ops.conv_lengths(lengths, kernel=3, stride=2, padding=1)
        x = ops.relu(dense(ops, weights, pointwise, x) if pointwise else x)
        x = ops.mask(x, lengths)  # biases make padding non-zero; the next kernel would see it
    batch, frames, bins, channels = ops.shape(x)
    x = dense(ops, weights, f"{_STEM}.linear", ops.reshape(x, batch, frames, bins * channels))
    if config.scale_input:
        x = ops.scale(x, config.channels**0.5)
    return ops.dropout(x, config.dropout), lengths


def _block(
    ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, encoding: T, lengths: T
) -> T:
    """One Conformer block (Gulati et al. 2020, section 2.4)."""

    def linear(part: str, x: T) -> T:
        return dense(ops, weights, f"{name}.{part}", x)

    def feed_forward(part: str, x: T) -> T:
        x = ops.silu(linear(f"{part}.linear1", norm(ops, weights, f"{name}.norm_{part}", x)))
        return ops.scale(linear(f"{part}.linear2", ops.dropout(x, config.dropout)), 0.5)

    def attention(x: T) -> T:
        x = norm(ops, weights, f"{name}.norm_self_att", x)
        q, k, v = (linear(f"self_attn.{part}_proj", x) for part in "qkv")
        away = linear("self_attn.relative_k_proj", encoding)
        biases = (weights[f"{name}.self_attn.bias_{part}"] for part in "uv")
        x = ops.relative_attention(q, k, v, away, *biases, heads=config.heads, lengths=lengths)
        return linear("self_attn.o_proj", x)

    def convolution(x: T) -> T:
        x = linear("conv.pointwise_conv1", norm(ops, weights, f"{name}.norm_conv", x))
        weight, bias = (f"{name}.conv.depthwise_conv.{part}" for part in ("weight", "bias"))
        padding, groups = config.kernel // 2, config.channels
        x = ops.mask(ops.glu(x), lengths)
        x = ops.conv1d(x, weights[weight], weights.get(bias), padding=padding, groups=groups)
        scale, shift, mean, variance = (weights[f"{name}.conv.norm.{part}"] for part in _BATCH_NORM)
        x = ops.batch_norm(x, scale, shift, mean, variance, lengths)
        return linear("conv.pointwise_conv2", ops.silu(x))

    x = ops.add(x, ops.dropout(feed_forward("feed_forward1", x), config.dropout))
    x = ops.add(x, ops.dropout(attention(x), config.dropout))
    x = ops.add(x, ops.dropout(convolution(x), config.dropout))
    x = ops.add(x, ops.dropout(feed_forward("feed_forward2", x), config.dropout))
    return norm(ops, weights, f"{name}.norm_out", x)


def _read(folder: Folder, settings: Mapping[str, Any], config: Config) -> Published:
    tokenizer, order = read_pieces(folder, settings.get("pad_token_id", 1024))
    given = read_extractor(folder)
    sizes = {ours: given[theirs] for theirs, ours in _FRONT_END.items() if theirs in given}
    front = NemoLogMel(**sizes, preemphasis=given.get("preemphasis", 0.97) or 0)
    check_ctc(config, tokenizer, front, {})
    return Published(tokenizer, front, [], lambda tensors: fold(tensors, config, order))


FAMILY = Family(
    name="parakeet",
    config=Config,
    specs=specs,
    head="ctc",
    programs={"encode": encode},
    tokenizer=PieceTokenizer.from_dict,
    check=check_ctc,
    model_types=("parakeet_ctc",),
    settings=settings,
    read=_read,
)
