"""Moonshine v2: an encoder with sliding-window attention, and Moonshine's decoder.

Kudlur et al. 2026, "Moonshine v2: Ergodic Streaming Encoder ASR for Latency-Critical Speech
Applications": frames of 5 ms are normalised, compressed and downsampled by causal convolutions;
transformer layers without positional encodings attend to a window of frames with little or no
lookahead, so that the encoder can process speech while it arrives; learned positions are added
for the decoder only. Tensors have the names and layouts of the checkpoints on the Hugging Face hub
(``transformers``' ``MoonshineStreamingForConditionalGeneration``), except those that
`convert_tensors` changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tynda.errors import TyndaError
from tynda.models.base import Array, CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.decoder import cross_kv
from tynda.models.layers import Specs, layer_norm, linear, read_feature_extractor
from tynda.models.moonshine_layers import (
    DecoderConfig,
    decode,
    decoder_specs,
    encoder_layer,
    encoder_layer_specs,
    logits,
)
from tynda.models.moonshine_published import (
    check,
    decoder_settings,
    positive_integer,
    read_tokenizer,
)
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import Frames
from tynda.text.bytepairs import BytePairTokenizer

__all__ = ["FAMILY", "Config", "convert_tensors", "encode", "settings", "specs"]

_WINDOWS = ((16, 4), (16, 4), (16, 0), (16, 0), (16, 4), (16, 4))
"""The window of each layer in ``transformers``' form: the number of frames up to the current one
and from the current one on, both including it; 0 means 1."""
_KERNEL = 5
"""Kernel size of both causal convolutions, in frames."""


@dataclass(frozen=True)
class Config(DecoderConfig):
    """The dimensions of the model; the defaults are those of moonshine-streaming-tiny."""

    bins: int = 80
    """Number of samples in a frame of the front end."""
    channels: int = 320
    """Width of the decoder and of the states that it attends to."""
    decoder_hidden: int = 1280
    context: int = 4096
    tied: bool = False
    encoder_channels: int = 320
    heads: int = 8
    head_channels: int = 40
    """Width of each head of the encoder."""
    hidden: int = 1280
    """Inner width of the encoder's feed-forward layers."""
    past: tuple[int, ...] = (16, 16, 16, 16, 16, 16)
    """For each encoder layer, the number of frames up to the current one that it attends to,
    including the current one."""
    future: tuple[int, ...] = (4, 4, 1, 1, 4, 4)
    """For each encoder layer, the number of frames from the current one on, including it."""
    positions: int = 4096
    """Maximum number of encoder frames, of 20 ms each."""

    stride: ClassVar[int] = 2 * 2
    """Number of front end frames for each frame of the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.past) != len(self.future):
            raise ValueError(f"past has {len(self.past)} layers, but future has {len(self.future)}")

    @property
    def max_frames(self) -> int:
        """Maximum number of front end frames."""
        return self.stride * self.positions

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        return len(self.past)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `Config` in a hub checkpoint's ``config.json``.

    Settings that are missing in ``encoder_config`` have the default of ``transformers``, which is
    that of `Config`. Raises KeyError for another missing setting, and ValueError for an unsupported
    variant.
    """
    encoder, heads = config["encoder_config"], positive_integer(config, "num_attention_heads")
    if not isinstance(encoder, Mapping):
        raise ValueError(f"encoder_config {encoder!r} is not an object")
    if encoder.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"activation {encoder['hidden_act']!r} is not gelu")
    if encoder.get("attention_bias", False):
        raise ValueError("attention with biases is not supported")
    encoder_heads = positive_integer(encoder, "num_attention_heads", 8)
    for part, count in ((encoder, encoder_heads), (config, heads)):
        if part.get("num_key_value_heads", count) != count:
            raise ValueError("grouped-query attention is not supported")
    layers, channels = (
        positive_integer(encoder, "num_hidden_layers", 6),
        positive_integer(encoder, "hidden_size", 320),
    )
    frame = encoder.get("sample_rate", 16000), encoder.get("frame_ms", 5.0)
    if frame != (16000, 5):
        raise ValueError(f"frames of {frame[1]} ms at {frame[0]} Hz are not supported")
    windows = encoder.get("sliding_windows", _WINDOWS)
    try:
        past, future = ([*frames] for frames in zip(*windows, strict=True))
        future = [max(frames, 1) for frames in future]
    except (TypeError, ValueError):
        raise ValueError(f"sliding_windows {windows!r} are not pairs of numbers") from None
    if len(past) != layers:
        raise ValueError(f"there are {len(past)} sliding_windows for {layers} layers")
    # In transformers, the default of partial_rotary_factor is 1 where rope_parameters exist.
    rotary = 0.8 if config.get("rope_parameters") is None else 1.0
    return {
        **decoder_settings(config, heads, config.get("hidden_act", "silu"), rotary),
        "decoder_layers": config["num_hidden_layers"],
        "decoder_heads": heads,
        "tied": config.get("tie_word_embeddings", False),
        "encoder_channels": channels,
        "heads": encoder_heads,
        "head_channels": encoder.get("head_dim") or channels // encoder_heads,
        "hidden": encoder.get("intermediate_size", 1280),
        "past": past,
        "future": future,
        "positions": config["max_position_embeddings"],
    }


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out, c = Specs(), config.encoder_channels
    stem = "model.encoder.embedder"
    out.layer_norm(f"{stem}.comp", config.bins, bias=False)
    out.linear(f"{stem}.linear", c, config.bins, bias=False)
    out.linear(f"{stem}.conv1", 2 * c, c, _KERNEL)
    out.linear(f"{stem}.conv2", c, 2 * c, _KERNEL)
    for i in range(config.layers):
        attended = config.heads * config.head_channels
        encoder_layer_specs(out, f"model.encoder.layers.{i}", c, attended, config.hidden)
    out.layer_norm("model.encoder.final_norm", c, bias=False)
    out["model.decoder.pos_emb.weight"] = Spec((config.positions, c))
    if c != config.channels:
        out.linear("model.decoder.proj", config.channels, c, bias=False)
    decoder_specs(out, config)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Encode frames of samples ``[batch, frames, bins]`` to ``[batch, frames / 4, channels]``.

    ``lengths [batch]``, integers, are the numbers of frames; the second result has those of states.
    There may be at most ``4 * config.positions`` frames. The positions, and the projection to the
    decoder's channels, belong to the decoder in ``transformers``; here they are part of the
    encoder, so that they are computed once. ``tap`` receives tensors of ``encoder_channels``.
    """
    stem = "model.encoder.embedder"
    x = layer_norm(ops, weights, f"{stem}.comp", features, 1e-6)
    x = ops.silu(linear(ops, weights, f"{stem}.linear", ops.asinh(x)))
    x, lengths = _shorten(ops, weights, f"{stem}.conv1", x, lengths)
    x, lengths = _shorten(ops, weights, f"{stem}.conv2", ops.silu(x), lengths)
    for i, (past, future) in enumerate(zip(config.past, config.future, strict=True)):
        window = {"before": past - 1, "after": future - 1}

        def attend(q: T, k: T, v: T, window: dict[str, int] = window) -> T:
            return ops.window_attention(q, k, v, heads=config.heads, lengths=lengths, **window)

        x = encoder_layer(ops, weights, f"model.encoder.layers.{i}", x, attend)
        if tap is not None:
            tap(i, x)
    x = layer_norm(ops, weights, "model.encoder.final_norm", x)
    positions = ops.positions(ops.multiply_lengths(lengths, 0), ops.shape(x)[1])
    x = ops.add(x, ops.embedding(positions, weights["model.decoder.pos_emb.weight"]))
    if config.encoder_channels != config.channels:
        x = linear(ops, weights, "model.decoder.proj", x)
    return x, lengths


def _shorten(ops: Ops[T], weights: Weights[T], name: str, x: T, lengths: T) -> tuple[T, T]:
    """Apply a causal convolution with stride 2.

    Nothing is masked: the frames of an item do not depend on its padding, which is later.
    """
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    y = ops.conv1d(x, weight, bias, stride=2, padding=_KERNEL - 1)
    # Ops.conv1d pads both sides, but only the padding before the first frame is wanted.
    y = ops.slice(y, 0, -(-ops.shape(x)[1] // 2))
    return y, ops.conv_lengths(lengths, kernel=1, stride=2, padding=0)


def convert_tensors(bins: int, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
    """Convert a checkpoint's tensors to the names and layouts of `specs`.

    The encoder's norms store their scale minus 1. The factor before `Ops.asinh`, stored as a
    logarithm, becomes the scale of the preceding norm, of ``bins`` channels.
    """
    out = {}
    for name, value in tensors.items():
        if name.endswith(".gamma"):
            out[f"{name.removesuffix('.gamma')}.weight"] = value + np.float32(1)
        elif name.endswith(".log_k"):
            out[f"{name.removesuffix('.log_k')}.weight"] = np.full(bins, np.exp(value), np.float32)
        else:
            out[name] = value
    return out


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    if read_feature_extractor(folder).get("do_normalize", False):
        raise TyndaError(f"{folder.path}: normalisation of the whole recording is not supported")
    return PublishedCheckpoint(
        read_tokenizer(folder, settings, config),
        Frames(config.bins),
        folder.card_values("language"),
        lambda tensors: convert_tensors(config.bins, tensors),
    )


FAMILY = Family(
    name="moonshine_streaming",
    config=Config,
    specs=specs,
    head="seq2seq",
    programs={"encode": encode, "cross_kv": cross_kv, "decode": decode, "logits": logits},
    tokenizer=BytePairTokenizer.from_dict,
    check=check,
    model_types=("moonshine_streaming",),
    settings=settings,
    read=_read,
)
