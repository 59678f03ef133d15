"""Word timestamps from the decoder's cross-attention.

Dynamic time warping finds a monotonic path through the cross-attention of the alignment heads
(tokens x frames), as in openai/whisper (``timing.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.programs import cross_attention
from tynda.heads.seq2seq.rules import SECONDS_PER_FRAME, log_softmax
from tynda.heads.seq2seq.search import Network, start_tokens
from tynda.models.base import CrossKV

__all__ = ["WordTiming", "align", "dynamic_time_warping"]

Floats = NDArray[np.float32]

_FILTER = 7
"""Width of the median filter over the attention, in frames."""


@dataclass
class WordTiming:
    """A word with its tokens; times in seconds from the beginning of the window."""

    word: str
    tokens: list[int]
    start: float
    end: float
    probability: float


def align(
    network: Network,
    cross: CrossKV[Any],
    tokens: Sequence[int],
    language: str | None,
    task: str,
    frames: int,
) -> list[WordTiming]:
    """Return the words of the text ``tokens`` with their times in one window.

    ``cross`` has the keys and values of this window, whose first ``frames`` encoder frames are
    audio.
    """
    tokenizer, engine = network.tokenizer, network.engine
    if not tokens or frames < 1:
        return []
    begin = start_tokens(tokenizer, language, task)
    row = np.array([[*begin, tokenizer.no_timestamps, *tokens, tokenizer.eot]], np.int64)
    layers = tuple(sorted({layer for layer, _ in network.alignment_heads}))
    settings = network.family, network.config, layers
    starts, length = np.zeros(1, np.int64), np.array([frames])
    found, watched = engine.run(cross_attention, settings, row, starts, cross, length)
    logits = engine.array(found)[0]
    attention = {
        layer: engine.array(weights)[0, :, :, :frames]
        for layer, weights in zip(layers, watched, strict=True)
    }
    probabilities = np.exp(log_softmax(logits[len(begin) : -2, : tokenizer.eot]))
    probabilities = probabilities[np.arange(len(tokens)), tokens]

    heads = np.stack([attention[layer][head] for layer, head in network.alignment_heads])
    matrix = _normalize_attention(heads).mean(0)[len(begin) : -1]
    token_path, frame_path = dynamic_time_warping(-matrix)
    jumps = np.diff(token_path, prepend=-1) > 0
    begins = frame_path[jumps] * SECONDS_PER_FRAME  # One for each token, and for the end token.

    timings, i = [], 0
    for word, part in tokenizer.words(tokens, language):
        j = i + len(part)
        probability = float(probabilities[i:j].mean())
        timings.append(WordTiming(word, part, float(begins[i]), float(begins[j]), probability))
        i = j
    return timings


def _normalize_attention(weights: Floats) -> Floats:
    """Standardise attention ``[heads, tokens, frames]`` over the tokens and smooth it in time."""
    mean, std = weights.mean(1, keepdims=True), weights.std(1, keepdims=True)
    weights = (weights - mean) / np.maximum(std, np.finfo(np.float32).tiny)
    side = _FILTER // 2
    if weights.shape[-1] <= side:  # The window is too short for reflective padding.
        return weights
    padded = np.pad(weights, ((0, 0), (0, 0), (side, side)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FILTER, axis=-1)
    return np.partition(windows, side, axis=-1)[..., side]


def dynamic_time_warping(
    cost: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the monotonic path of minimum cost through ``cost [n, m]``.

    Dynamic time warping (Sakoe & Chiba 1978) with steps down, right and diagonal. Among steps of
    equal cost, the one from the left is chosen.
    """
    n, m = cost.shape
    steps = np.zeros((n, m), np.int8)  # 0: diagonal, 1: from above, 2: from the left
    steps[:, 0], steps[0] = 1, 2
    # Cells on one anti-diagonal do not depend on each other. Sums are indexed by row + 1; index 0
    # is the border, which no path crosses.
    last = np.full(n + 1, np.inf, np.float32)
    before = last.copy()
    before[0] = 0
    for d in range(n + m - 1):
        rows = np.arange(max(0, d - m + 1), min(n, d + 1))
        diagonal, above, left = before[rows], last[rows], last[rows + 1]
        step = np.where(
            (diagonal < above) & (diagonal < left),
            0,
            np.where((above < diagonal) & (above < left), 1, 2),
        )
        columns = d - rows
        inner = (rows > 0) & (columns > 0)
        steps[rows[inner], columns[inner]] = step[inner]
        now = np.full(n + 1, np.inf, np.float32)
        best = np.choose(step, [diagonal, above, left])
        now[rows + 1] = cost[rows, columns] + best
        before, last = last, now
    i, j = n - 1, m - 1
    path = [(i, j)]
    while i or j:
        step = steps[i, j]
        i, j = i - (step != 2), j - (step != 1)
        path.append((i, j))
    rows, columns = np.array(path[::-1]).T
    return rows, columns
