"""Whisper: an encoder of 30 s of audio and a decoder of text tokens.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2:
a pre-norm transformer with sinusoidal positional encodings in the encoder, learned ones in the
decoder, and the token embedding as output layer. Tensors have the names and layouts of the
checkpoints on the Hugging Face hub (``transformers``' ``WhisperForConditionalGeneration``).

The decoder runs in steps; a `KVCache` has the keys and values of the previous tokens. Several
hypotheses for one audio item (beams or samples) share the item's `CrossKV`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tynda.errors import TyndaError
from tynda.models.base import (
    Array,
    CheckpointFolder,
    CrossKV,
    Family,
    KVCache,
    MergedFrames,
    PublishedCheckpoint,
    Spec,
    check_sizes,
)
from tynda.models.decoder import DecoderAttention, cross_kv
from tynda.models.layers import Specs, layer_norm, linear
from tynda.models.whisper_foreign import from_ctranslate2, from_ggml
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import FrontEnd, LogMel
from tynda.text.whisper import WhisperTokenizer

__all__ = [
    "FAMILY",
    "Config",
    "EncoderConfig",
    "cross_kv",
    "decode",
    "encode",
    "encoder_specs",
    "logits",
    "settings",
    "specs",
]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The dimensions of the encoder; the defaults are those of whisper-tiny."""

    bins: int = 80
    """Number of mel bins: 80, or 128 for large-v3 and turbo."""
    vocab: int
    """Number of symbols of the model."""
    channels: int = 384
    layers: int = 4
    """Number of encoder layers."""
    heads: int = 6
    hidden: int = 1536
    """Inner width of the feed-forward layers."""
    frames: int = 1500
    """Maximum number of encoder frames, of 20 ms each."""
    stride: int = 2
    """Number of front end frames for each frame of the encoder."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 2:
            raise ValueError(f"channels {self.channels} are not even and at least 4")
        self._check_heads(self.heads)
        if self.stride != 2:
            raise ValueError(f"stride {self.stride} is not 2")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")

    def _check_heads(self, heads: int) -> None:
        if self.channels % heads:
            raise ValueError(f"channels {self.channels} do not divide into {heads} heads")


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """The dimensions of the model; the defaults are those of whisper-tiny."""

    vocab: int = 51865
    """Number of tokens."""
    decoder_layers: int = 4
    decoder_heads: int = 6
    decoder_hidden: int = 1536
    context: int = 448
    """Maximum number of tokens of the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads(self.decoder_heads)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `Config` in a hub checkpoint's ``config.json``.

    Raises KeyError for a missing setting, and ValueError for an unsupported variant.
    """
    if config.get("activation_function", "gelu") != "gelu":
        raise ValueError(f"activation {config['activation_function']!r} is not gelu")
    if config.get("scale_embedding", False):
        raise ValueError("scaled embeddings are not Whisper's")
    return {
        "bins": config["num_mel_bins"],
        "vocab": config["vocab_size"],
        "channels": config["d_model"],
        "layers": config["encoder_layers"],
        "heads": config["encoder_attention_heads"],
        "hidden": config["encoder_ffn_dim"],
        "decoder_layers": config["decoder_layers"],
        "decoder_heads": config["decoder_attention_heads"],
        "decoder_hidden": config["decoder_ffn_dim"],
        "frames": config["max_source_positions"],
        "context": config["max_target_positions"],
    }


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    c = config.channels
    out = encoder_specs(config)
    out["model.decoder.embed_tokens.weight"] = Spec((config.vocab, c))
    out["model.decoder.embed_positions.weight"] = Spec((config.context, c))
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        _attention_specs(out, f"{name}.self_attn", c)
        _attention_specs(out, f"{name}.encoder_attn", c)
        _feed_forward_specs(out, name, config.decoder_hidden, c)
    out.layer_norm("model.decoder.layer_norm", c)
    return out


def encoder_specs(config: EncoderConfig) -> Specs:
    """Return the `Spec` of every tensor that `encode` reads, by name."""
    c, out = config.channels, Specs()
    # The gain makes the convolutions' output about as large as the positional encodings that are
    # added to it. At a gain of 1, its standard deviation would be a thirtieth of theirs, and the
    # first epochs would learn nothing from the audio.
    out.linear("model.encoder.conv1", c, config.bins, 3, gain=4.0)
    out.linear("model.encoder.conv2", c, c, 3, gain=4.0)
    out["model.encoder.embed_positions.weight"] = Spec((config.frames, c), "sinusoids", False)
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}"
        _attention_specs(out, f"{name}.self_attn", c)
        _feed_forward_specs(out, name, config.hidden, c)
    out.layer_norm("model.encoder.layer_norm", c)
    return out


def _attention_specs(out: Specs, name: str, channels: int) -> None:
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        out.linear(f"{name}.{part}", channels, channels, bias=part != "k_proj")
    out.layer_norm(f"{name}_layer_norm", channels)


def _feed_forward_specs(out: Specs, name: str, hidden: int, channels: int) -> None:
    out.linear(f"{name}.fc1", hidden, channels)
    out.linear(f"{name}.fc2", channels, hidden)
    out.layer_norm(f"{name}.final_layer_norm", channels)


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: EncoderConfig,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
    merged: MergedFrames[T] | None = None,
) -> tuple[T, T]:
    """Encode log-mel features ``[batch, frames, bins]`` to ``[batch, frames / 2, channels]``.

    ``lengths [batch]``, integers, are the numbers of frames; the second result has those of states.
    There may be at most ``2 * config.frames`` frames. The published models always have this number,
    including silence after the speech; with fewer frames, states differ from the published ones.

    With ``merged`` frames, ``features`` are the beginning of a window, which ends in a little of
    the silence that pads it; the states are those of the merged frames.
    """
    x = ops.mask(features, lengths)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weight, bias = (weights[f"model.encoder.{name}.{part}"] for part in ("weight", "bias"))
        x = ops.gelu(ops.conv1d(x, weight, bias, stride=stride, padding=1))
        lengths = ops.conv_lengths(lengths, kernel=3, stride=stride, padding=1)
        # The bias makes padding non-zero, and the next convolution would read it.
        x = ops.mask(x, lengths)
    positions, log_counts = weights["model.encoder.embed_positions.weight"], None
    batch, time, channels = ops.shape(x)
    if merged is None:
        x = ops.add(x, ops.slice(positions, 0, time))
    else:
        x = ops.index_select(ops.reshape(x, batch * time, channels), merged.rows)
        x = ops.reshape(x, batch, -1, channels)
        x = ops.add(x, ops.embedding(merged.positions, positions))
        lengths, log_counts = merged.lengths, merged.log_counts
    x = ops.dropout(x, config.dropout)
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}"
        y = layer_norm(ops, weights, f"{name}.self_attn_layer_norm", x)
        q, k, v = (linear(ops, weights, f"{name}.self_attn.{p}_proj", y) for p in "qkv")
        y = ops.attention(q, k, v, heads=config.heads, lengths=lengths, log_counts=log_counts)
        x = _residual(ops, weights, config, f"{name}.self_attn.out_proj", x, y)
        x = _feed_forward(ops, weights, config, name, x)
        if tap is not None:
            tap(i, x)
    return layer_norm(ops, weights, "model.encoder.layer_norm", x), lengths


def decode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    cache: KVCache[T] | None = None,
    on_cross_attention: Callable[[int, T, T], None] | None = None,
) -> tuple[T, KVCache[T] | None]:
    """Return states ``[batch, n, channels]`` of ``tokens [batch, n]``, and the new cache.

    ``starts [batch]``, integers, are the numbers of tokens of each row that the ``cache`` already
    has; without a cache, they are zeros. ``batch`` is a multiple of the number of items of
    ``cross``; the rows of one item are adjacent. ``on_cross_attention`` is called with each layer's
    index and the queries ``[items, rows * n, channels]`` and keys of its cross-attention.
    """
    x = ops.embedding(tokens, weights["model.decoder.embed_tokens.weight"])
    positions = ops.positions(starts, ops.shape(tokens)[1])
    x = ops.add(x, ops.embedding(positions, weights["model.decoder.embed_positions.weight"]))
    x = ops.dropout(x, config.dropout)
    attention = DecoderAttention(
        ops, config.decoder_heads, starts, cross, cache, on_cross_attention
    )
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        y = layer_norm(ops, weights, f"{name}.self_attn_layer_norm", x)
        q, k, v = (linear(ops, weights, f"{name}.self_attn.{p}_proj", y) for p in "qkv")
        y = attention.attend_to_tokens(i, q, k, v)
        x = _residual(ops, weights, config, f"{name}.self_attn.out_proj", x, y)

        y = layer_norm(ops, weights, f"{name}.encoder_attn_layer_norm", x)
        q = linear(ops, weights, f"{name}.encoder_attn.q_proj", y)
        y = attention.attend_to_states(i, q)
        x = _residual(ops, weights, config, f"{name}.encoder_attn.out_proj", x, y)
        x = _feed_forward(ops, weights, config, name, x)
    return layer_norm(ops, weights, "model.decoder.layer_norm", x), attention.next_cache()


def logits(ops: Ops[T], weights: Weights[T], config: Config, states: T) -> T:
    """Return the logits ``[..., vocab]`` of the next token from ``states [..., channels]``."""
    return ops.linear(states, weights["model.decoder.embed_tokens.weight"])


def _feed_forward(ops: Ops[T], weights: Weights[T], config: EncoderConfig, name: str, x: T) -> T:
    y = layer_norm(ops, weights, f"{name}.final_layer_norm", x)
    y = ops.gelu(linear(ops, weights, f"{name}.fc1", y))
    return _residual(ops, weights, config, f"{name}.fc2", x, y)


def _residual(ops: Ops[T], weights: Weights[T], config: EncoderConfig, name: str, x: T, y: T) -> T:
    """Add the output layer of a sub-layer, applied to ``y``, to its input ``x``."""
    return ops.add(x, ops.dropout(linear(ops, weights, name, y), config.dropout))


def _check(
    config: Config, tokenizer: WhisperTokenizer, front: FrontEnd, decoding: Mapping[str, Any]
) -> None:
    """Raise `TyndaError` for a model file whose parts do not match each other."""
    if tokenizer.highest >= config.vocab:
        raise TyndaError(f"the tokenizer has tokens beyond the model's {config.vocab}")
    if front.hop != 160:
        raise TyndaError("the front end of a Whisper has a hop of 160 samples")
    heads = decoding.get("alignment_heads")
    if not heads or any(
        layer >= config.decoder_layers or head >= config.decoder_heads for layer, head in heads
    ):
        raise TyndaError("alignment_heads in the header are not heads of the decoder")
    # Published checkpoints may have more outputs than tokens.
    check_sizes(config, front, max(tokenizer.timestamp_begin + config.frames + 1, config.vocab))


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    """Read a published checkpoint, of the whole model or of encoder and decoder only."""
    multilingual, described = _multilingual(settings), folder.json("tokenizer.json", optional=True)
    if described:
        tokenizer = WhisperTokenizer.from_json(described, multilingual=multilingual)
    else:
        tokenizer = WhisperTokenizer.from_folder(folder.path, multilingual=multilingual)
    if tokenizer.highest >= config.vocab:
        raise TyndaError(
            f"{folder.path}: the tokenizer has tokens beyond the model's {config.vocab}: it "
            "belongs to another model"
        )
    generation = folder.json("generation_config.json", optional=True)
    return PublishedCheckpoint(
        tokenizer,
        LogMel(fft=400, bins=config.bins, normalize="whisper"),
        list(tokenizer.languages) if tokenizer.multilingual else ["en"],
        _rename,
        {"alignment_heads": _alignment_heads(generation, config)},
    )


def _rename(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
    if any(name.startswith("model.") for name in tensors):
        return tensors
    return {f"model.{name}": value for name, value in tensors.items()}


def _multilingual(settings: Mapping[str, Any]) -> bool:
    """Return whether the model is multilingual: English-only models have GPT-2's end token, as in
    the reference implementation."""
    return settings.get("eos_token_id") != 50256 and settings.get("vocab_size", 0) >= 51865


def _alignment_heads(generation: Mapping[str, Any], config: Config) -> list[tuple[int, int]]:
    """Return layer and index of the heads whose cross-attention follows the audio.

    Where the checkpoint names none, these are all heads of the upper half of the layers, as in the
    reference implementation.
    """
    heads = generation.get("alignment_heads")
    layers, count = config.decoder_layers, config.decoder_heads
    try:
        pairs = [(int(layer), int(head)) for layer, head in heads] if heads else []
    except (TypeError, ValueError, OverflowError):  # JSON as Python reads it has Infinity
        pairs = []
    known = [(i, head) for i, head in pairs if 0 <= i < layers and 0 <= head < count]
    return known or [(i, head) for i in range(layers // 2, layers) for head in range(count)]


FAMILY = Family(
    name="whisper",
    config=Config,
    specs=specs,
    head="seq2seq",
    programs={"encode": encode, "cross_kv": cross_kv, "decode": decode, "logits": logits},
    tokenizer=WhisperTokenizer.from_dict,
    check=_check,
    model_types=("whisper",),
    settings=settings,
    read=_read,
    foreign={"ggml": from_ggml, "WhisperSpec": from_ctranslate2},
)
