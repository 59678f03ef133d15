"""The attention of decoders: code that the families of encoder-decoder models share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

from tynda.models.base import CrossKV, KVCache
from tynda.models.layers import linear
from tynda.ops.base import Ops, T, Weights

__all__ = ["DecoderAttention", "cross_kv"]


@dataclass(eq=False)
class DecoderAttention(Generic[T]):
    """Attention in the layers of one decoder step, and the KV cache after it.

    The fields are arguments of ``tynda.models.whisper.decode``; ``layer`` is the index of a layer.
    """

    ops: Ops[T]
    heads: int
    starts: T
    cross: CrossKV[T]
    cache: KVCache[T] | None
    on_cross_attention: Callable[[int, T, T], None] | None
    keys: list[T] = field(default_factory=list, init=False)
    values: list[T] = field(default_factory=list, init=False)

    def attend_to_tokens(self, layer: int, q: T, k: T, v: T) -> T:
        """Return causal self-attention of ``q``, ``k`` and ``v [batch, n, channels]``."""
        if self.cache is not None:
            k = self.ops.write(self.cache.keys[layer], k, self.starts)
            v = self.ops.write(self.cache.values[layer], v, self.starts)
            self.keys.append(k)
            self.values.append(v)
        return self.ops.causal_attention(q, k, v, heads=self.heads, starts=self.starts)

    def attend_to_states(self, layer: int, q: T) -> T:
        """Return cross-attention of ``q [batch, n, channels]`` to the encoder's states."""
        ops, cross = self.ops, self.cross
        batch, count, channels = ops.shape(q)
        items = ops.shape(cross.lengths)[0]
        # Cross-attention is not causal, so that the rows of one item are queries to the same keys.
        q = ops.reshape(q, items, batch // items * count, channels)
        keys, values = cross.keys[layer], cross.values[layer]
        if self.on_cross_attention is not None:
            self.on_cross_attention(layer, q, keys)
        y = ops.attention(
            q,
            keys,
            values,
            heads=self.heads,
            lengths=cross.lengths,
            log_counts=cross.log_counts,
        )
        return ops.reshape(y, batch, count, channels)

    def next_cache(self) -> KVCache[T] | None:
        """Return the cache after this step, or None without one."""
        return None if self.cache is None else KVCache(self.keys, self.values)


def cross_kv(
    ops: Ops[T],
    weights: Weights[T],
    config: Any,
    states: T,
    lengths: T,
    log_counts: T | None = None,
) -> CrossKV[T]:
    """Return keys and values of the cross-attention, for all steps of the decoder.

    ``log_counts [batch, frames]`` are those of the `MergedFrames` whose ``states`` are given.
    """
    keys, values = (
        [
            pack(
                linear(ops, weights, f"model.decoder.layers.{i}.encoder_attn.{part}", states),
                heads=config.decoder_heads,
                lengths=lengths,
            )
            for i in range(config.decoder_layers)
        ]
        for part, pack in (("k_proj", ops.pack_keys), ("v_proj", ops.pack_values))
    )
    return CrossKV(keys, values, lengths, log_counts)
