"""Whisper's decoder as two graphs, for engines that run graphs and have no decoder of their own.

Keys and values are ``[batch, heads, n, channels / heads]``; for each layer the keys come first and
then the values, as optimum exports them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoder", "Names", "module", "modules"]

Floats = NDArray[np.float32]


class Decoder(Protocol):
    """Both graphs, loaded by an engine."""

    def begin(self, states: Floats) -> None:
        """Clear the KV cache and attend to the encoder's ``states [batch, frames, channels]``."""
        ...

    def advance(self, tokens: NDArray[np.int64]) -> Floats:
        """Return logits ``[batch, vocab]`` for the token after ``tokens [batch, n]``; these and
        all tokens before are in the KV cache."""
        ...


class Names:
    """The names of inputs and outputs other than tokens and logits."""

    def __init__(self, layers: int) -> None:
        def each(name: str) -> list[str]:
            return [f"{name}_{part}_{i}" for i in range(layers) for part in ("key", "value")]

        self.cross, self.past, self.present = each("cross"), each("past"), each("present")


def modules(whole: Any) -> tuple[Any, Any]:
    """Return two modules of transformers' Whisper: one maps the encoder's states to
    cross-attention keys and values, the other is `_advance`."""
    return module(_cross, whole), module(_advance, whole)


def _cross(whole: Any, states: Any) -> Any:
    layers = [layer.encoder_attn for layer in whole.model.decoder.layers]
    pairs = [(layer.k_proj(states), layer.v_proj(states)) for layer in layers]
    return tuple(_split(x, layers[0].num_heads) for pair in pairs for x in pair)


def _advance(whole: Any, tokens: Any, *given: Any) -> Any:
    """Map tokens, cross-attention keys and values, and the KV cache to logits of the next token,
    and the KV cache extended by the new tokens."""
    import torch

    decoder, half = whole.model.decoder, len(given) // 2
    cross, past = given[:half], given[half:]
    count, before = tokens.shape[1], past[0].shape[2]
    places = torch.arange(before + count)
    mask = places[None] <= places[before:, None]
    x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[places[before:]]
    present = []
    for i, layer in enumerate(decoder.layers):
        own, normal = layer.self_attn, layer.self_attn_layer_norm(x)
        for project, old in zip((own.k_proj, own.v_proj), past[2 * i :], strict=False):
            present.append(torch.cat([old, _split(project(normal), own.num_heads)], 2))
        x = x + _attend(own, normal, present[-2], present[-1], mask)
        normal = layer.encoder_attn_layer_norm(x)
        x = x + _attend(layer.encoder_attn, normal, cross[2 * i], cross[2 * i + 1])
        x = x + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    return whole.proj_out(decoder.layer_norm(x[:, -1])), *present


def _split(x: Any, heads: int) -> Any:
    return x.view(x.shape[0], -1, heads, x.shape[2] // heads).transpose(1, 2)


def _attend(attention: Any, x: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    import torch

    queries = _split(attention.q_proj(x), attention.num_heads)
    found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, mask)
    return attention.out_proj(found.transpose(1, 2).reshape(x.shape))


def module(forward: Callable[..., Any], whole: Any) -> Any:
    """Return a PyTorch module that calls ``forward`` with ``whole`` as first argument."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, *given: Any) -> Any:
            return forward(self.whole, *given)

    return Module().eval()
