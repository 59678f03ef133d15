"""Whisper: an encoder of 30 s of sound and a decoder of text tokens.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2:
a transformer with pre-activation norms, sinusoids for the encoder's positions, learned ones for
the decoder's, and the token embedding for an output layer. Tensors have the names and layouts
of the checkpoints on the Hugging Face hub (``transformers``' ``WhisperForConditionalGeneration``).

The decoder is run in steps, with the keys and values of earlier tokens kept in a `KVCache`.
Several hypotheses for one item of sound (beams, samples) share the item's `CrossKV`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tynda.errors import TyndaError
from tynda.models.base import (
    Array,
    CrossKV,
    Family,
    Folder,
    KVCache,
    Published,
    Spec,
    check_sizes,
)
from tynda.models.layers import Specs, dense, norm
from tynda.models.whisper_foreign import from_ctranslate2, from_ggml
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import FrontEnd, LogMel
from tynda.text.whisper import WhisperTokenizer

__all__ = [
    "FAMILY",
    "Config",
    "cross_kv",
    "decode",
    "encode",
    "logits",
    "settings",
    "specs",
]


@dataclass(frozen=True)
class Config:
    """Sizes of the model; those of whisper-tiny unless given."""

    bins: int = 80
    """Mel bins: 80, or 128 for large-v3 and turbo."""
    vocab: int = 51865
    """Tokens."""
    channels: int = 384
    layers: int = 4
    """Of the encoder."""
    heads: int = 6
    hidden: int = 1536
    """Inner width of the feed-forward layers."""
    decoder_layers: int = 4
    decoder_heads: int = 6
    decoder_hidden: int = 1536
    frames: int = 1500
    """Most frames of encoded sound, 20 ms each."""
    context: int = 448
    """Most tokens that the decoder sees."""
    stride: int = 2
    """Frames of the front end to one of the encoder."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 2:
            raise ValueError(f"channels {self.channels} are not even and at least 4")
        for heads in (self.heads, self.decoder_heads):
            if self.channels % heads:
                raise ValueError(f"channels {self.channels} do not divide into {heads} heads")
        if self.stride != 2:
            raise ValueError(f"stride {self.stride} is not 2")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `Config` in a hub checkpoint's ``config.json``.

    Raises KeyError for a missing one, ValueError for what this definition does not cover.
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
    """Every tensor of the model: name -> `Spec`."""
    c = config.channels
    out = Specs()

    def attention(name: str) -> None:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out.dense(f"{name}.{part}", c, c, bias=part != "k_proj")
        out.norm(f"{name}_layer_norm", c)

    def feed_forward(name: str, hidden: int) -> None:
        out.dense(f"{name}.fc1", hidden, c)
        out.dense(f"{name}.fc2", c, hidden)
        out.norm(f"{name}.final_layer_norm", c)

    # As loud as the positions that are added to them, or the first epochs hear nothing else:
    # at a gain of 1 what is heard has a thirtieth of their deviation.
    out.dense("model.encoder.conv1", c, config.bins, 3, gain=4.0)
    out.dense("model.encoder.conv2", c, c, 3, gain=4.0)
    out["model.encoder.embed_positions.weight"] = Spec((config.frames, c), "sinusoids", False)
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}"
        attention(f"{name}.self_attn")
        feed_forward(name, config.hidden)
    out.norm("model.encoder.layer_norm", c)
    out["model.decoder.embed_tokens.weight"] = Spec((config.vocab, c))
    out["model.decoder.embed_positions.weight"] = Spec((config.context, c))
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        attention(f"{name}.self_attn")
        attention(f"{name}.encoder_attn")
        feed_forward(name, config.decoder_hidden)
    out.norm("model.decoder.layer_norm", c)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Log-mel ``[batch, frames, bins]`` -> states ``[batch, frames / 2, channels]``, lengths.

    At most ``2 * config.frames`` frames. As published, there are always so many, silence
    behind the speech included; fewer give other states than the published ones.
    """
    x = ops.mask(features, lengths)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weight, bias = (weights[f"model.encoder.{name}.{part}"] for part in ("weight", "bias"))
        x = ops.gelu(ops.conv1d(x, weight, bias, stride=stride, padding=1))
        lengths = ops.conv_lengths(lengths, kernel=3, stride=stride, padding=1)
        x = ops.mask(x, lengths)  # the bias makes padding non-zero; the next kernel would see it
    positions = weights["model.encoder.embed_positions.weight"]
    x = ops.add(x, ops.slice(positions, 0, ops.shape(x)[1]))
    x = ops.dropout(x, config.dropout)
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}"
        y = norm(ops, weights, f"{name}.self_attn_layer_norm", x)
        q, k, v = (dense(ops, weights, f"{name}.self_attn.{p}_proj", y) for p in "qkv")
        y = ops.attention(q, k, v, heads=config.heads, lengths=lengths)
        x = _join(ops, weights, config, f"{name}.self_attn.out_proj", x, y)
        x = _feed_forward(ops, weights, config, name, x)
        if tap is not None:
            tap(i, x)
    return norm(ops, weights, "model.encoder.layer_norm", x), lengths


def cross_kv(ops: Ops[T], weights: Weights[T], config: Config, states: T, lengths: T) -> CrossKV[T]:
    """Keys and values of the cross-attention, once for all steps of the decoder."""
    keys, values = (
        [
            remember(
                dense(ops, weights, f"model.decoder.layers.{i}.encoder_attn.{part}", states),
                heads=config.decoder_heads,
                lengths=lengths,
            )
            for i in range(config.decoder_layers)
        ]
        for part, remember in (("k_proj", ops.remember_keys), ("v_proj", ops.remember_values))
    )
    return CrossKV(keys, values, lengths)


def decode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    cache: KVCache[T] | None = None,
    watch: Callable[[int, T, T], None] | None = None,
) -> tuple[T, KVCache[T] | None]:
    """States ``[batch, n, channels]`` behind ``tokens [batch, n]``, and the cache after them.

    ``starts [batch]`` counts the tokens of each row that are in the ``cache`` already; without
    one, ``tokens`` are the beginning. ``batch`` is a multiple of the items of ``cross``, the
    rows of one item side by side. ``watch`` is called with each layer's index and the queries
    ``[items, rows * n, channels]`` and keys of its cross-attention.
    """
    batch, count = ops.shape(tokens)
    items = ops.shape(cross.lengths)[0]
    x = ops.embedding(tokens, weights["model.decoder.embed_tokens.weight"])
    places = ops.positions(starts, count)
    x = ops.add(x, ops.embedding(places, weights["model.decoder.embed_positions.weight"]))
    x = ops.dropout(x, config.dropout)
    keys, values = [], []
    heads = config.decoder_heads
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        y = norm(ops, weights, f"{name}.self_attn_layer_norm", x)
        q, k, v = (dense(ops, weights, f"{name}.self_attn.{p}_proj", y) for p in "qkv")
        if cache is not None:
            k, v = ops.write(cache.keys[i], k, starts), ops.write(cache.values[i], v, starts)
            keys.append(k)
            values.append(v)
        y = ops.causal_attention(q, k, v, heads=heads, starts=starts)
        x = _join(ops, weights, config, f"{name}.self_attn.out_proj", x, y)

        y = norm(ops, weights, f"{name}.encoder_attn_layer_norm", x)
        q = dense(ops, weights, f"{name}.encoder_attn.q_proj", y)
        # Nothing is causal here: the rows of one item are but more queries to the same keys.
        q = ops.reshape(q, items, batch // items * count, config.channels)
        if watch is not None:
            watch(i, q, cross.keys[i])
        y = ops.attention(q, cross.keys[i], cross.values[i], heads=heads, lengths=cross.lengths)
        y = ops.reshape(y, batch, count, config.channels)
        x = _join(ops, weights, config, f"{name}.encoder_attn.out_proj", x, y)
        x = _feed_forward(ops, weights, config, name, x)
    x = norm(ops, weights, "model.decoder.layer_norm", x)
    return x, None if cache is None else KVCache(keys, values)


def logits(ops: Ops[T], weights: Weights[T], config: Config, states: T) -> T:
    """Scores ``[..., vocab]`` of the token that follows each of ``states [..., channels]``."""
    return ops.linear(states, weights["model.decoder.embed_tokens.weight"])


def _feed_forward(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T) -> T:
    y = norm(ops, weights, f"{name}.final_layer_norm", x)
    y = ops.gelu(dense(ops, weights, f"{name}.fc1", y))
    return _join(ops, weights, config, f"{name}.fc2", x, y)


def _join(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, y: T) -> T:
    """Add what a sub-layer made to what it was given."""
    return ops.add(x, ops.dropout(dense(ops, weights, name, y), config.dropout))


def _check(
    config: Config, tokenizer: WhisperTokenizer, front: FrontEnd, decoding: Mapping[str, Any]
) -> None:
    """Raise `TyndaError` for a model file whose parts do not fit each other."""
    if tokenizer.highest >= config.vocab:
        raise TyndaError(f"the tokenizer has tokens beyond the model's {config.vocab}")
    if front.hop != 160:
        raise TyndaError("the front end of a Whisper has a hop of 160 samples")
    heads = decoding.get("alignment_heads")
    if not heads or any(
        layer >= config.decoder_layers or head >= config.decoder_heads for layer, head in heads
    ):
        raise TyndaError("alignment_heads in the header are none of the decoder's")
    # Published checkpoints may have outputs to spare.
    check_sizes(config, front, max(tokenizer.timestamp_begin + config.frames + 1, config.vocab))


def _read(folder: Folder, settings: Mapping[str, Any], config: Config) -> Published:
    """A published checkpoint, whole or as the bare encoder and decoder."""
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
    return Published(
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
    """English-only models end their texts with GPT-2's own token (reference implementation)."""
    return settings.get("eos_token_id") != 50256 and settings.get("vocab_size", 0) >= 51865


def _alignment_heads(generation: Mapping[str, Any], config: Config) -> list[tuple[int, int]]:
    """The heads whose attention follows the sound; where none are named, all heads of the upper
    half of the layers, as in the reference implementation."""
    heads = generation.get("alignment_heads")
    layers, count = config.decoder_layers, config.decoder_heads
    try:
        pairs = [(int(layer), int(head)) for layer, head in heads] if heads else []
    except (TypeError, ValueError):
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
