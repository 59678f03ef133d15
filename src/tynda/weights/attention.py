"""Attention with both its products in 8 bits.

Queries and keys have a scale for each row, as in a product with a weight; values one for each
channel and block of keys, and the weights, from 0 to 1, one for each query and block. The blocks
are put together in float32 (Milakov & Gimelshein 2018), so that keys that matter little are
lost only beside others of their block. Close to Zhang et al. 2025, "SageAttention", which keeps
the second product in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.integers import quantize_rows

__all__ = ["KEYS", "MIN_QUERIES", "attention"]

Floats = NDArray[np.float32]

KEYS = 256
"""In a block."""
MIN_QUERIES = 16
"""With fewer, products in 8 bits save nothing, unless the keys have been brought to 8 bits for
many calls (``pack_keys``): attention is then in float32."""
_UNSEEN = np.finfo(np.float64).min


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    heads: int,
    lengths: NDArray[Any],
    seen: NDArray[np.bool_] | None = None,
) -> Floats:
    """Compute ``tynda.ops.base.Ops.attention``, with arguments of the same shapes.

    ``seen [batch, queries, keys]``: which keys a query sees, of those within ``lengths``; all of
    them by default. A query that sees none gets zeros.
    """
    batch, queries, channels = q.shape
    y = np.zeros((batch, queries, v.shape[2]), np.float32)
    width, v_width = channels // heads, v.shape[2] // heads
    for item in range(batch):
        keys = min(int(lengths[item]), k.shape[1])
        for head in range(heads if keys > 0 else 0):
            part, v_part = (slice(head * w, (head + 1) * w) for w in (width, v_width))
            y[item, :, v_part] = _head(
                q[item, :, part],
                k[item, :keys, part],
                v[item, :keys, v_part],
                True if seen is None else seen[item, :, :keys],
            )
    return y


def _head(q: Floats, k: Floats, v: Floats, seen: NDArray[np.bool_] | bool) -> Floats:
    """Attend in one head: ``[queries, width]``, ``[keys, width]`` and ``[keys, v_width]``."""
    q_codes, q_scale = quantize_rows(q)
    k_codes, k_scale = quantize_rows(k)
    products = q_codes.astype(np.float64) @ k_codes.astype(np.float64).T
    scores = products * np.outer(q_scale, k_scale) / np.sqrt(q.shape[1])
    scores = np.where(seen, scores, _UNSEEN)
    tops, totals, sums = [], [], []
    for start in range(0, len(k), KEYS):
        block = slice(start, start + KEYS)
        top = scores[:, block].max(1, keepdims=True)
        weights = np.rint(127 * np.exp(scores[:, block] - top)) * (top > _UNSEEN)
        v_codes, v_scale = quantize_rows(np.ascontiguousarray(v[block].T))
        tops.append(top)
        totals.append(weights.sum(1, keepdims=True))
        sums.append(weights @ v_codes.T.astype(np.float64) * v_scale)
    shares = [np.exp(top - np.max(tops, 0)) for top in tops]
    total = sum(a * b for a, b in zip(shares, totals, strict=True))
    y: Floats = sum(a * b for a, b in zip(shares, sums, strict=True)) / np.maximum(total, 1)
    return y.astype(np.float32)
