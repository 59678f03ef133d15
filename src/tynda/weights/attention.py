"""Attention whose two matrix products are computed in 8 bits.

Queries and keys have a scale for each row, as in a product with a weight. Values have a scale for
each channel and block of keys; the attention weights, from 0 to 1, have one for each query and
block, and 255 steps: their rounding costs most. Keys and values have codes up to 64, so that two
products with 8 unsigned bits fit into 16 (AVX2's ``vpmaddubsw``). The results of the blocks are
combined in float32 (Milakov & Gimelshein 2018), so that small weights are only rounded to zero
relative to the maximum of their own block. The method is similar to Zhang et al. 2025,
"SageAttention", which computes the second product in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.weights.integers import quantize_rows

__all__ = ["KEYS_PER_BLOCK", "MIN_QUERIES", "attention"]

Floats = NDArray[np.float32]

KEYS_PER_BLOCK = 256
"""Number of keys in a block."""
MIN_QUERIES = 16
"""With fewer queries, attention is computed in float32, since products in 8 bits save no time,
unless the keys were quantised once for many calls (``pack_keys``)."""
_MAX_CODE = 64
"""Maximum of the codes of keys and values."""
_MAX_WEIGHT = 255
"""Code of the largest weight of a query in a block."""
_MASKED = np.finfo(np.float64).min


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    heads: int,
    lengths: NDArray[Any],
    visible: NDArray[np.bool_] | None = None,
    log_counts: Floats | None = None,
) -> Floats:
    """Compute ``tynda.ops.base.Ops.attention``, with arguments of the same shapes.

    ``visible [batch, queries, keys]`` tells which keys within ``lengths`` a query attends to; the
    default is all of them. The result of a query without keys is zero.
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
                True if visible is None else visible[item, :, :keys],
                0.0 if log_counts is None else log_counts[item, :keys],
            )
    return y


def _head(
    q: Floats,
    k: Floats,
    v: Floats,
    visible: NDArray[np.bool_] | bool,
    log_counts: Floats | float,
) -> Floats:
    """Compute one head: ``[queries, width]``, ``[keys, width]`` and ``[keys, v_width]``."""
    q_codes, q_scale = quantize_rows(q)
    k_codes, k_scale = quantize_rows(k, max_code=_MAX_CODE)
    products = q_codes.astype(np.float64) @ k_codes.astype(np.float64).T
    scores = products * np.outer(q_scale, k_scale) / np.sqrt(q.shape[1]) + log_counts
    scores = np.where(visible, scores, _MASKED)
    tops, totals, sums = [], [], []
    for start in range(0, len(k), KEYS_PER_BLOCK):
        block = slice(start, start + KEYS_PER_BLOCK)
        top = scores[:, block].max(1, keepdims=True)
        weights = np.rint(_MAX_WEIGHT * np.exp(scores[:, block] - top)) * (top > _MASKED)
        v_codes, v_scale = quantize_rows(np.ascontiguousarray(v[block].T), max_code=_MAX_CODE)
        tops.append(top)
        totals.append(weights.sum(1, keepdims=True))
        sums.append(weights @ v_codes.T.astype(np.float64) * v_scale)
    shares = [np.exp(top - np.max(tops, 0)) for top in tops]
    total = sum(a * b for a, b in zip(shares, totals, strict=True))
    y: Floats = sum(a * b for a, b in zip(shares, sums, strict=True)) / np.maximum(total, 1)
    return y.astype(np.float32)
