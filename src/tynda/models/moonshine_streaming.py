"""Moonshine v2: an encoder that sees a window around each frame, and Moonshine's decoder.

Kudlur et al. 2026, "Moonshine v2: Ergodic Streaming Encoder ASR for Latency-Critical Speech
Applications": frames of 5 ms are normalised, compressed and shortened by causal convolutions;
layers of a transformer without positions see some frames to the left and few or none to the right,
so that the encoder can follow speech as it comes; learned positions are added for the decoder
alone. Tensors have the names and layouts of the checkpoints on the Hugging Face hub
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
from tynda.models.layers import Specs, layer_norm, linear, read_feature_extractor
from tynda.models.moonshine_layers import (
    DecoderConfig,
    cross_kv,
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
"""For each layer the frames up to a frame and from it on, itself included; 0 stands for 1."""
_KERNEL = 5
"""Frames that each of the two convolutions sees, its own and those before it."""


@dataclass(frozen=True)
class Config(DecoderConfig):
    """Sizes of the model; those of moonshine-streaming-tiny unless given."""

    bins: int = 80
    """Samples in a frame of the front end."""
    channels: int = 320
    """Width of the decoder, and of the states that it attends to."""
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
    """Frames that each layer of the encoder sees up to a frame, that one included."""
    future: tuple[int, ...] = (4, 4, 1, 1, 4, 4)
    """Frames that it sees from that frame on, that one included."""
    positions: int = 4096
    """The maximum number of frames of encoded sound, 20 ms each."""

    stride: ClassVar[int] = 2 * 2
    """Frames of the front end to one of the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.past) != len(self.future):
            raise ValueError(f"past and future are of {len(self.past)}, {len(self.future)} layers")

    @property
    def max_frames(self) -> int:
        """The maximum number of frames of the front end."""
        return self.stride * self.positions

    @property
    def layers(self) -> int:
        """Layers of the encoder."""
        return len(self.past)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `Config` in a hub checkpoint's ``config.json``.

    What its encoder does not say has the default of ``transformers``, which is that of `Config`.
    Raises KeyError for a missing one, ValueError for what this definition does not cover.
    """
    encoder, heads = config["encoder_config"], positive_integer(config, "num_attention_heads")
    if not isinstance(encoder, Mapping):
        raise ValueError(f"encoder_config {encoder!r} is no object")
    if encoder.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"activation {encoder['hidden_act']!r} is not gelu")
    if encoder.get("attention_bias", False):
        raise ValueError("attention with biases is not covered")
    encoder_heads = positive_integer(encoder, "num_attention_heads", 8)
    for part, count in ((encoder, encoder_heads), (config, heads)):
        if part.get("num_key_value_heads", count) != count:
            raise ValueError("heads that share keys are not covered")
    layers, channels = (
        positive_integer(encoder, "num_hidden_layers", 6),
        positive_integer(encoder, "hidden_size", 320),
    )
    frame = encoder.get("sample_rate", 16000), encoder.get("frame_ms", 5.0)
    if frame != (16000, 5):
        raise ValueError(f"frames of {frame[1]} ms at {frame[0]} Hz are not covered")
    windows = encoder.get("sliding_windows", _WINDOWS)
    try:
        past, future = ([*frames] for frames in zip(*windows, strict=True))
        future = [max(frames, 1) for frames in future]
    except (TypeError, ValueError):
        raise ValueError(f"sliding_windows {windows!r} are no pairs of numbers") from None
    if len(past) != layers:
        raise ValueError(f"there are {len(past)} sliding_windows for {layers} layers")
    # Rotary positions that are described turn all channels unless they say otherwise.
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
    """Every tensor of the model: name -> `Spec`."""
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
    """Frames of samples ``[batch, frames, bins]`` -> states ``[batch, frames / 4, channels]``,
    lengths.

    At most ``4 * config.positions`` frames. The positions, and the projection to the decoder's
    channels where the encoder has others, are the decoder's in ``transformers``; ``tap`` sees
    ``encoder_channels``.
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
    """A convolution that sees no later frame, and every second of its results.

    Nothing is masked: frames past an item's end are later ones.
    """
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    y = ops.conv1d(x, weight, bias, stride=2, padding=_KERNEL - 1)
    # The zeros behind the last frame are only there because those before the first are.
    y = ops.slice(y, 0, -(-ops.shape(x)[1] // 2))
    return y, ops.conv_lengths(lengths, kernel=1, stride=2, padding=0)


def convert_tensors(bins: int, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
    """A checkpoint's tensors under the names of `specs`.

    Norms of the encoder store what their scale is above 1; the logarithm of the factor before
    `Ops.asinh` becomes a scale for the norm before it.
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
        raise TyndaError(f"{folder.path}: recordings that are normalised whole are not covered")
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
