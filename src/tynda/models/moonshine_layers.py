"""The encoder layers and the decoder that both Moonshine families share.

Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands",
section 3: a pre-norm transformer, whose norms have no biases, with rotary positional encodings
(`Ops.rotary`) and, in the decoder, gated feed-forward layers (`Ops.swiglu`). Tensors have the
names and layouts of the checkpoints on the Hugging Face hub.

The decoder has the same inputs as that of ``tynda.models.whisper``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tynda.models.base import CrossKV, KVCache, Spec
from tynda.models.decoder import DecoderAttention
from tynda.models.layers import Specs, layer_norm, linear
from tynda.ops.base import Ops, T, Weights

__all__ = [
    "DecoderConfig",
    "decode",
    "decoder_specs",
    "encoder_layer",
    "encoder_layer_specs",
    "logits",
    "rotary_table",
]

_MIN, _MAX = 1e-3, 1e12
"""Bounds of a model's real-valued settings, since a model file may come from anywhere."""


@dataclass(frozen=True)
class DecoderConfig:
    """The dimensions of the decoder; the defaults are those of moonshine-tiny."""

    vocab: int = 32768
    """Number of tokens."""
    channels: int = 288
    decoder_layers: int = 6
    decoder_heads: int = 8
    decoder_hidden: int = 1152
    """Inner width of the feed-forward layers."""
    rotary: int = 32
    """Number of channels of each head, from the first one, that have rotary encodings."""
    rotary_base: float = 10000.0
    context: int = 194
    """Maximum number of tokens of the decoder."""
    tied: bool = True
    """Whether the token embedding is also the output layer."""
    tokens_per_second: float = 6.5
    """Maximum number of tokens for a second of audio: a decoder that generates more repeats
    itself."""

    frames: ClassVar[None] = None
    """None, since the encoder has no window of fixed length."""

    @property
    def max_frames(self) -> int | None:
        """Maximum number of front end frames; None means any number."""
        return None

    def __post_init__(self) -> None:
        if self.channels % self.decoder_heads:
            raise ValueError(
                f"channels {self.channels} do not divide into {self.decoder_heads} heads"
            )
        if self.rotary + self.rotary % 2 > self.channels // self.decoder_heads:
            raise ValueError(f"rotary {self.rotary} is more than a head has channels")
        for name in ("rotary_base", "tokens_per_second"):
            if not _MIN < getattr(self, name) < _MAX:
                raise ValueError(f"{name} {getattr(self, name)} is not from {_MIN} to {_MAX}")


def decoder_specs(out: Specs, config: DecoderConfig) -> None:
    """Add the tensors of `decode` and `logits`."""
    c = config.channels
    out["model.decoder.embed_tokens.weight"] = Spec((config.vocab, c))
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            out.linear(f"{name}.self_attn.{part}", c, c, bias=False)
            out.linear(f"{name}.encoder_attn.{part}", c, c, bias=False)
        out.linear(f"{name}.mlp.fc1", 2 * config.decoder_hidden, c)
        out.linear(f"{name}.mlp.fc2", c, config.decoder_hidden)
        for part in ("input_layernorm", "post_attention_layernorm", "final_layernorm"):
            out.layer_norm(f"{name}.{part}", c, bias=False)
    out.layer_norm("model.decoder.norm", c, bias=False)
    if not config.tied:
        out.linear("proj_out", config.vocab, c, bias=False)


def encoder_layer_specs(out: Specs, name: str, channels: int, attended: int, hidden: int) -> None:
    """Add the tensors of `encoder_layer`; ``attended`` is the number of channels of all heads."""
    for part in ("q_proj", "k_proj", "v_proj"):
        out.linear(f"{name}.self_attn.{part}", attended, channels, bias=False)
    out.linear(f"{name}.self_attn.o_proj", channels, attended, bias=False)
    out.linear(f"{name}.mlp.fc1", hidden, channels)
    out.linear(f"{name}.mlp.fc2", channels, hidden)
    for part in ("input_layernorm", "post_attention_layernorm"):
        out.layer_norm(f"{name}.{part}", channels, bias=False)


def encoder_layer(
    ops: Ops[T], weights: Weights[T], name: str, x: T, attend: Callable[[T, T, T], T]
) -> T:
    """Apply self-attention and feed-forward layers to ``x [batch, frames, channels]``.

    ``attend`` computes attention from queries, keys and values of that layout.
    """
    y = layer_norm(ops, weights, f"{name}.input_layernorm", x)
    q, k, v = (linear(ops, weights, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
    x = ops.add(x, linear(ops, weights, f"{name}.self_attn.o_proj", attend(q, k, v)))
    y = layer_norm(ops, weights, f"{name}.post_attention_layernorm", x)
    y = ops.gelu(linear(ops, weights, f"{name}.mlp.fc1", y))
    return ops.add(x, linear(ops, weights, f"{name}.mlp.fc2", y))


def decode(
    ops: Ops[T],
    weights: Weights[T],
    config: DecoderConfig,
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    cache: KVCache[T] | None = None,
    on_cross_attention: Callable[[int, T, T], None] | None = None,
) -> tuple[T, KVCache[T] | None]:
    """Return states ``[batch, n, channels]`` of ``tokens [batch, n]``, and the new cache.

    See ``tynda.models.whisper.decode``.
    """
    heads = config.decoder_heads
    x = ops.embedding(tokens, weights["model.decoder.embed_tokens.weight"])
    table = rotary_table(ops, config, starts, ops.shape(tokens)[1])
    attention = DecoderAttention(ops, heads, starts, cross, cache, on_cross_attention)
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        y = layer_norm(ops, weights, f"{name}.input_layernorm", x)
        q, k, v = (linear(ops, weights, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        q, k = (ops.rotary(part, table, heads=heads) for part in (q, k))
        y = attention.attend_to_tokens(i, q, k, v)
        x = ops.add(x, linear(ops, weights, f"{name}.self_attn.o_proj", y))

        y = layer_norm(ops, weights, f"{name}.post_attention_layernorm", x)
        q = linear(ops, weights, f"{name}.encoder_attn.q_proj", y)
        y = attention.attend_to_states(i, q)
        x = ops.add(x, linear(ops, weights, f"{name}.encoder_attn.o_proj", y))

        y = layer_norm(ops, weights, f"{name}.final_layernorm", x)
        y = ops.swiglu(linear(ops, weights, f"{name}.mlp.fc1", y))
        x = ops.add(x, linear(ops, weights, f"{name}.mlp.fc2", y))
    return layer_norm(ops, weights, "model.decoder.norm", x), attention.next_cache()


def logits(ops: Ops[T], weights: Weights[T], config: DecoderConfig, states: T) -> T:
    """Return the logits ``[..., vocab]`` of the next token from ``states [..., channels]``."""
    name = "model.decoder.embed_tokens" if config.tied else "proj_out"
    return ops.linear(states, weights[f"{name}.weight"])


def rotary_table(ops: Ops[T], config: DecoderConfig, starts: T, count: int) -> T:
    """Return the angles of ``count`` positions after ``starts``; see `Ops.rotary_table`."""
    return ops.rotary_table(starts, count, width=config.rotary, base=config.rotary_base)
