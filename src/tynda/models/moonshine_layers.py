"""The layers of both Moonshines' encoders, and the decoder that they share.

Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands",
section 3: a transformer with pre-activation norms without biases, whose positions are angles that
queries and keys are turned by (`Ops.rotary`), and whose decoder has gated feed-forward layers
(`Ops.swiglu`). Tensors have the names and layouts of the checkpoints on the Hugging Face hub.

The decoder takes the same inputs as that of ``tynda.models.whisper``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tynda.models.base import CrossKV, KVCache, Spec
from tynda.models.layers import Specs, dense, norm
from tynda.ops.base import Ops, T, Weights

__all__ = [
    "DecoderConfig",
    "cross_kv",
    "decode",
    "decoder_specs",
    "encoder_layer",
    "encoder_layer_specs",
    "logits",
    "rotary_table",
]

_MIN, _MAX = 1e-3, 1e12
"""Numbers beyond these are no settings of a model, and no kernel is asked for them."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder; those of moonshine-tiny unless given."""

    vocab: int = 32768
    """Tokens."""
    channels: int = 288
    decoder_layers: int = 6
    decoder_heads: int = 8
    decoder_hidden: int = 1152
    """Inner width of the feed-forward layers."""
    rotary: int = 32
    """Channels of each head that are turned by their position, in pairs from the first on."""
    rotary_base: float = 10000.0
    context: int = 194
    """The maximum number of tokens that the decoder sees."""
    tied: bool = True
    """Whether the token embedding is also the output layer."""
    tokens_per_second: float = 6.5
    """More tokens for a second of sound are not speech but a decoder that repeats itself."""

    frames: ClassVar[None] = None
    """There is no window of fixed length."""

    @property
    def max_frames(self) -> int | None:
        """The maximum number of frames of the front end; None: any."""
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
            out.dense(f"{name}.self_attn.{part}", c, c, bias=False)
            out.dense(f"{name}.encoder_attn.{part}", c, c, bias=False)
        out.dense(f"{name}.mlp.fc1", 2 * config.decoder_hidden, c)
        out.dense(f"{name}.mlp.fc2", c, config.decoder_hidden)
        for part in ("input_layernorm", "post_attention_layernorm", "final_layernorm"):
            out.norm(f"{name}.{part}", c, bias=False)
    out.norm("model.decoder.norm", c, bias=False)
    if not config.tied:
        out.dense("proj_out", config.vocab, c, bias=False)


def encoder_layer_specs(out: Specs, name: str, channels: int, attended: int, hidden: int) -> None:
    """Add the tensors of `encoder_layer`; ``attended``: the channels of all heads."""
    for part in ("q_proj", "k_proj", "v_proj"):
        out.dense(f"{name}.self_attn.{part}", attended, channels, bias=False)
    out.dense(f"{name}.self_attn.o_proj", channels, attended, bias=False)
    out.dense(f"{name}.mlp.fc1", hidden, channels)
    out.dense(f"{name}.mlp.fc2", channels, hidden)
    for part in ("input_layernorm", "post_attention_layernorm"):
        out.norm(f"{name}.{part}", channels, bias=False)


def encoder_layer(
    ops: Ops[T], weights: Weights[T], name: str, x: T, attend: Callable[[T, T, T], T]
) -> T:
    """Self-attention, as ``attend`` does it with queries, keys and values, and feed-forward."""
    y = norm(ops, weights, f"{name}.input_layernorm", x)
    q, k, v = (dense(ops, weights, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
    x = ops.add(x, dense(ops, weights, f"{name}.self_attn.o_proj", attend(q, k, v)))
    y = norm(ops, weights, f"{name}.post_attention_layernorm", x)
    y = ops.gelu(dense(ops, weights, f"{name}.mlp.fc1", y))
    return ops.add(x, dense(ops, weights, f"{name}.mlp.fc2", y))


def cross_kv(
    ops: Ops[T], weights: Weights[T], config: DecoderConfig, states: T, lengths: T
) -> CrossKV[T]:
    """Keys and values of the cross-attention, once for all steps of the decoder."""
    heads = config.decoder_heads
    layers = [f"model.decoder.layers.{i}.encoder_attn" for i in range(config.decoder_layers)]
    keys = [dense(ops, weights, f"{layer}.k_proj", states) for layer in layers]
    values = [dense(ops, weights, f"{layer}.v_proj", states) for layer in layers]
    return CrossKV(
        [ops.pack_keys(k, heads=heads, lengths=lengths) for k in keys],
        [ops.pack_values(v, heads=heads, lengths=lengths) for v in values],
        lengths,
    )


def decode(
    ops: Ops[T],
    weights: Weights[T],
    config: DecoderConfig,
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    cache: KVCache[T] | None = None,
    watch: Callable[[int, T, T], None] | None = None,
) -> tuple[T, KVCache[T] | None]:
    """States ``[batch, n, channels]`` behind ``tokens [batch, n]``, and the cache after them.

    See ``tynda.models.whisper.decode``.
    """
    batch, count = ops.shape(tokens)
    items = ops.shape(cross.lengths)[0]
    heads = config.decoder_heads
    x = ops.embedding(tokens, weights["model.decoder.embed_tokens.weight"])
    table = rotary_table(ops, config, starts, count)
    keys, values = [], []
    for i in range(config.decoder_layers):
        name = f"model.decoder.layers.{i}"
        y = norm(ops, weights, f"{name}.input_layernorm", x)
        q, k, v = (dense(ops, weights, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        q, k = (ops.rotary(part, table, heads=heads) for part in (q, k))
        if cache is not None:
            k, v = ops.write(cache.keys[i], k, starts), ops.write(cache.values[i], v, starts)
            keys.append(k)
            values.append(v)
        y = ops.causal_attention(q, k, v, heads=heads, starts=starts)
        x = ops.add(x, dense(ops, weights, f"{name}.self_attn.o_proj", y))

        y = norm(ops, weights, f"{name}.post_attention_layernorm", x)
        q = dense(ops, weights, f"{name}.encoder_attn.q_proj", y)
        q = ops.reshape(q, items, batch // items * count, config.channels)
        if watch is not None:
            watch(i, q, cross.keys[i])
        y = ops.attention(q, cross.keys[i], cross.values[i], heads=heads, lengths=cross.lengths)
        y = ops.reshape(y, batch, count, config.channels)
        x = ops.add(x, dense(ops, weights, f"{name}.encoder_attn.o_proj", y))

        y = norm(ops, weights, f"{name}.final_layernorm", x)
        y = ops.swiglu(dense(ops, weights, f"{name}.mlp.fc1", y))
        x = ops.add(x, dense(ops, weights, f"{name}.mlp.fc2", y))
    x = norm(ops, weights, "model.decoder.norm", x)
    return x, None if cache is None else KVCache(keys, values)


def logits(ops: Ops[T], weights: Weights[T], config: DecoderConfig, states: T) -> T:
    """Scores ``[..., vocab]`` of the token that follows each of ``states [..., channels]``."""
    name = "model.decoder.embed_tokens" if config.tied else "proj_out"
    return ops.linear(states, weights[f"{name}.weight"])


def rotary_table(ops: Ops[T], config: DecoderConfig, starts: T, count: int) -> T:
    """The angles of ``count`` positions, see `Ops.rotary_table`."""
    return ops.rotary_table(starts, count, width=config.rotary, base=config.rotary_base)
