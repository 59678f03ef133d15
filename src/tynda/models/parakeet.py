"""Parakeet with a CTC head: a Fast Conformer whose symbols are subwords.

Rekesh et al. 2023, "Fast Conformer with Linearly Scalable Attention for Efficient Speech
Recognition", section 2.1: depthwise separable convolutions downsample time eightfold, followed by
the blocks of Gulati et al. 2020, "Conformer" (section 2), with relative positional attention (Dai
et al. 2019, "Transformer-XL", section 3.3) and batch norm in the convolution module.

Tensors have the names of the checkpoints on the Hugging Face hub (``transformers``'
``ParakeetForCTC``). `convert_tensors` converts a checkpoint to the layouts of `specs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tynda.models.base import Array, CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.layers import (
    Specs,
    batch_norm,
    check_ctc,
    layer_norm,
    linear,
    read_feature_extractor,
)
from tynda.ops.base import Ops, T, Tap, Weights, conv_length
from tynda.sound.frontend import NemoLogMel
from tynda.text.pieces import PieceTokenizer
from tynda.text.symbols import read_pieces

__all__ = ["FAMILY", "Config", "convert_tensors", "encode", "settings", "specs"]

_STEM = "encoder.subsampling"
_HEAD = "ctc_head"


@dataclass(frozen=True)
class Config:
    """The dimensions of the model; the defaults are those of parakeet-ctc-0.6b."""

    bins: int = 80
    vocab: int = 1025
    """Number of symbols, including the blank."""
    channels: int = 1024
    layers: int = 24
    heads: int = 8
    hidden: int = 4096
    """Inner width of the feed-forward modules."""
    kernel: int = 9
    """Kernel size of a block's depthwise convolution, in frames; an odd number."""
    stem: int = 256
    """Channels of the convolutions that downsample time and bins."""
    stride: int = 8
    """Number of front end frames for each frame of the blocks: a power of 2."""
    linear_bias: bool = True
    """Whether the blocks' linear layers have biases."""
    conv_bias: bool = True
    """Whether the blocks' convolutions have biases."""
    scale_input: bool = True
    """Whether the input of the blocks is multiplied by the square root of ``channels``."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.channels % self.heads or self.channels % 2:
            raise ValueError(
                f"channels {self.channels} are not an even multiple of {self.heads} heads"
            )
        if self.stride < 2 or self.stride.bit_count() != 1:
            raise ValueError(f"stride {self.stride} is not a power of 2, at least 2")
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
_REQUIRED = {"hidden_act": "silu", "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
_FRONT_END = {"feature_size": "bins", "win_length": "window", "hop_length": "hop", "n_fft": "fft"}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `Config` in a hub checkpoint's ``config.json``.

    Missing settings have the default of ``transformers``, which is that of `Config`. Raises
    KeyError without a ``model_type``, and ValueError for an unsupported variant.
    """
    if config["model_type"] != "parakeet_ctc":
        raise ValueError(f"model type {config['model_type']!r} is not parakeet_ctc")
    encoder = config.get("encoder_config") or {}
    if not isinstance(encoder, Mapping):
        raise ValueError(f"encoder_config {encoder!r} is not an object")
    for name, value in _REQUIRED.items():
        if encoder.get(name, value) != value:
            raise ValueError(f"{name} {encoder[name]!r} is not {value}")
    found = {ours: encoder[theirs] for theirs, ours in _SETTINGS.items() if theirs in encoder}
    return found | ({"vocab": config["vocab_size"]} if "vocab_size" in config else {})


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    c, bins = config.channels, config.bins
    out = Specs()
    for depthwise, pointwise in _subsampling_layers(config):
        out.linear(depthwise, config.stem, 1, 3, 3)
        if pointwise:
            out.linear(pointwise, config.stem, config.stem)
        bins = conv_length(bins, 3, 2, 1)
    out.linear(f"{_STEM}.linear", c, bins * config.stem)
    for i in range(config.layers):
        name = f"encoder.layers.{i}"
        for part in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            out.layer_norm(f"{name}.norm_{part}", c)
        for part in ("feed_forward1", "feed_forward2"):
            out.linear(f"{name}.{part}.linear1", config.hidden, c, bias=config.linear_bias)
            out.linear(f"{name}.{part}.linear2", c, config.hidden, bias=config.linear_bias)
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            out.linear(f"{name}.self_attn.{part}", c, c, bias=config.linear_bias)
        out.linear(f"{name}.self_attn.relative_k_proj", c, c, bias=False)
        out[f"{name}.self_attn.bias_u"] = out[f"{name}.self_attn.bias_v"] = Spec((c,), "zeros")
        out.linear(f"{name}.conv.pointwise_conv1", 2 * c, c, bias=config.conv_bias)
        out.linear(f"{name}.conv.depthwise_conv", c, 1, config.kernel, bias=config.conv_bias)
        out.batch_norm(f"{name}.conv.norm", c)
        out.linear(f"{name}.conv.pointwise_conv2", c, c, bias=config.conv_bias)
    out.linear(_HEAD, config.vocab, c)
    return out


def _subsampling_layers(config: Config) -> list[tuple[str, str]]:
    """Return the names of each depthwise convolution and of its pointwise one; the first
    convolution is a full one, without a pointwise one ("")."""
    count = config.stride.bit_length() - 1
    later = [(f"{_STEM}.layers.{3 * i - 1}", f"{_STEM}.layers.{3 * i}") for i in range(1, count)]
    return [(f"{_STEM}.layers.0", ""), *later]


def convert_tensors(
    tensors: Mapping[str, Array], config: Config, order: list[int]
) -> dict[str, Array]:
    """Convert a checkpoint's tensors to the names and layouts of `specs`.

    Pointwise convolutions become linear layers. The inputs of the last subsampling layer are
    ``[channels, bins]`` in a checkpoint and ``[bins, channels]`` here. ``order`` lists the rows of
    the checkpoint's output layer in the order of the tokenizer's symbols.
    """
    out: dict[str, Array] = {}
    for name, value in tensors.items():
        if value.ndim > 2 and "depthwise" not in name and set(value.shape[2:]) == {1}:
            value = value.reshape(value.shape[:2])
        if name == f"{_STEM}.linear.weight" and value.shape[1] % config.stem == 0:
            value = value.reshape(len(value), config.stem, -1).swapaxes(1, 2).reshape(value.shape)
        elif name.endswith((".bias_u", ".bias_v")):
            value = value.reshape(-1)
        elif name.startswith(_HEAD) and len(value) == len(order):
            value = value[order]
        out[name.replace(".running_mean", ".mean").replace(".running_var", ".variance")] = value
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
    log-probabilities ``[batch, frames / stride, vocab]`` and their lengths ``[batch]``, rounded up.
    """
    x, lengths = _subsample(ops, weights, config, features, lengths)
    encoding = ops.relative_encoding(x)
    for i in range(config.layers):
        x = _block(ops, weights, config, f"encoder.layers.{i}", x, encoding, lengths)
        if tap is not None:
            tap(i, x)
    return ops.log_softmax(linear(ops, weights, _HEAD, x)), lengths


def _subsample(ops: Ops[T], weights: Weights[T], config: Config, x: T, lengths: T) -> tuple[T, T]:
    """Downsample time and bins with strided convolutions (Rekesh et al. 2023, section 2.1)."""
    x = ops.reshape(ops.mask(x, lengths), *ops.shape(x), 1)
    for name, pointwise in _subsampling_layers(config):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        groups = config.stem if pointwise else 1
        x = ops.conv2d(x, weight, bias, stride=(2, 2), padding=(1, 1), groups=groups)
        lengths = ops.conv_lengths(lengths, kernel=3, stride=2, padding=1)
        x = ops.relu(linear(ops, weights, pointwise, x) if pointwise else x)
        # Biases make padding non-zero, and the next convolution would read it.
        x = ops.mask(x, lengths)
    batch, frames, bins, channels = ops.shape(x)
    x = linear(ops, weights, f"{_STEM}.linear", ops.reshape(x, batch, frames, bins * channels))
    if config.scale_input:
        x = ops.scale(x, config.channels**0.5)
    return ops.dropout(x, config.dropout), lengths


def _block(
    ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, encoding: T, lengths: T
) -> T:
    """Apply one Conformer block (Gulati et al. 2020, section 2.4)."""

    def project(part: str, x: T) -> T:
        return linear(ops, weights, f"{name}.{part}", x)

    def feed_forward(part: str, x: T) -> T:
        x = ops.silu(project(f"{part}.linear1", layer_norm(ops, weights, f"{name}.norm_{part}", x)))
        return ops.scale(project(f"{part}.linear2", ops.dropout(x, config.dropout)), 0.5)

    def attention(x: T) -> T:
        x = layer_norm(ops, weights, f"{name}.norm_self_att", x)
        q, k, v = (project(f"self_attn.{part}_proj", x) for part in "qkv")
        relative_keys = project("self_attn.relative_k_proj", encoding)
        biases = (weights[f"{name}.self_attn.bias_{part}"] for part in "uv")
        x = ops.relative_attention(
            q, k, v, relative_keys, *biases, heads=config.heads, lengths=lengths
        )
        return project("self_attn.o_proj", x)

    def convolution(x: T) -> T:
        x = project("conv.pointwise_conv1", layer_norm(ops, weights, f"{name}.norm_conv", x))
        weight, bias = (f"{name}.conv.depthwise_conv.{part}" for part in ("weight", "bias"))
        padding, groups = config.kernel // 2, config.channels
        x = ops.mask(ops.glu(x), lengths)
        x = ops.conv1d(x, weights[weight], weights.get(bias), padding=padding, groups=groups)
        x = batch_norm(ops, weights, f"{name}.conv.norm", x, lengths)
        return project("conv.pointwise_conv2", ops.silu(x))

    x = ops.add(x, ops.dropout(feed_forward("feed_forward1", x), config.dropout))
    x = ops.add(x, ops.dropout(attention(x), config.dropout))
    x = ops.add(x, ops.dropout(convolution(x), config.dropout))
    x = ops.add(x, ops.dropout(feed_forward("feed_forward2", x), config.dropout))
    return layer_norm(ops, weights, f"{name}.norm_out", x)


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    tokenizer, order = read_pieces(folder, settings.get("pad_token_id", 1024))
    extractor = read_feature_extractor(folder)
    sizes = {ours: extractor[theirs] for theirs, ours in _FRONT_END.items() if theirs in extractor}
    front = NemoLogMel(**sizes, preemphasis=extractor.get("preemphasis", 0.97) or 0)
    check_ctc(config, tokenizer, front, {})
    return PublishedCheckpoint(
        tokenizer, front, [], lambda tensors: convert_tensors(tensors, config, order)
    )


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
