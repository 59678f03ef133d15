"""When each word was said, by what the decoder attended to while it wrote it.

The attention of chosen heads to the sound, token by token, is made into one monotonic path by
dynamic time warping, as in openai/whisper (``timing.py``).
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
"""Frames of the median filter over the attention."""


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
    """Times of the words that the text ``tokens`` make, in one window.

    ``cross`` holds the one window, of which ``frames`` frames of the encoder are sound.
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
    begins = frame_path[jumps] * SECONDS_PER_FRAME  # of each token, the end's included

    timings, i = [], 0
    for word, part in tokenizer.words(tokens, language):
        j = i + len(part)
        probability = float(probabilities[i:j].mean())
        timings.append(WordTiming(word, part, float(begins[i]), float(begins[j]), probability))
        i = j
    return timings


def _normalize_attention(weights: Floats) -> Floats:
    """Attention ``[heads, tokens, frames]``, standardised over the tokens and smoothed in time."""
    mean, std = weights.mean(1, keepdims=True), weights.std(1, keepdims=True)
    weights = (weights - mean) / np.maximum(std, np.finfo(np.float32).tiny)
    side = _FILTER // 2
    if weights.shape[-1] <= side:  # too short to be mirrored
        return weights
    padded = np.pad(weights, ((0, 0), (0, 0), (side, side)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FILTER, axis=-1)
    return np.partition(windows, side, axis=-1)[..., side]


def dynamic_time_warping(
    cost: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest monotonic path through ``cost [n, m]``: its rows and its columns.

    Dynamic time warping (Sakoe & Chiba 1978) with steps down, right and both. Where two ways
    cost the same, the path came from the left.
    """
    n, m = cost.shape
    steps = np.zeros((n, m), np.int8)  # 0: diagonal, 1: from above, 2: from the left
    steps[:, 0], steps[0] = 1, 2
    # Cells on one anti-diagonal do not depend on each other. Sums are by row, shifted by one
    # for the border that no path crosses.
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
