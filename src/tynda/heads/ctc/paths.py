"""CTC decoding: from log-probabilities of frames to text, word times and confidences.

A CTC model gives each frame a distribution over symbols and a blank; an alignment (one symbol for
each frame) becomes a labelling by merging repeats and dropping blanks (Graves et al. 2006, section
3). `greedy` finds the best alignment, `beam_search` (in ``heads/ctc/beam.py``) the best labelling,
and `align` the frames of each label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.text.tokenizer import CTCTokenizer

__all__ = [
    "Hypothesis",
    "LogProbs",
    "WordTiming",
    "align",
    "check_log_probs",
    "greedy",
    "hypothesis",
    "letter_log_probs",
    "spell",
]

LogProbs = NDArray[np.float32]

_MAX_STEPS = 1 << 26
"""Frames times states whose steps are kept in memory."""


@dataclass(frozen=True)
class WordTiming:
    """A word and its frames [start, end), from its first letter to its last.

    A letter is a symbol of the tokenizer, which may also be a subword of several characters.

    CTC models are peaky: a letter often has one frame, surrounded by blanks, so that a word may
    start too late and end too early. Times are not corrected for this.

    `confidence`, from 0 to 1, is the geometric mean over the word's letters of the letter's
    probability among all symbols except the blank, at the frame of its span where the letter is
    most likely. It does not include language model and hot words.
    """

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """One possible text of an utterance.

    `tokens` is the labelling; `text` is its text, with single spaces between `words`. `score` is a
    natural log: from `greedy`, of the probability of the best alignment; from `beam_search`, of the
    probability of the labelling, plus the scores of language model and hot words.
    """

    text: str
    tokens: list[int]
    score: float
    words: list[WordTiming]


def greedy(log_probs: LogProbs, tokenizer: CTCTokenizer) -> Hypothesis:
    """Return the labelling of the most probable alignment.

    `log_probs` is [frames, vocab], natural logs. Raises `ValueError` if the vocabulary is not
    the tokenizer's or a value is NaN.
    """
    check_log_probs(log_probs, tokenizer)
    best = log_probs.argmax(axis=1)
    starts = np.flatnonzero(np.append(True, best[1:] != best[:-1])[: len(best)])
    ends = np.append(starts[1:], len(best))[: len(starts)]
    runs = zip(best[starts], starts, ends, strict=True)
    labels = [(int(i), int(a), int(b)) for i, a, b in runs if i != tokenizer.blank]
    tokens, spans = [i for i, _, _ in labels], [(a, b) for _, a, b in labels]
    score = float(log_probs.max(axis=1).sum(dtype=np.float64))
    return hypothesis(log_probs, tokenizer, tokens, score, spans)


def align(log_probs: LogProbs, tokens: Sequence[int], blank: int = 0) -> list[tuple[int, int]]:
    """Return the frames [first, last) of each of `tokens` in the best alignment.

    Viterbi search over the CTC states blank, t1, blank, t2, ..., blank (Graves et al. 2006, section
    4.1): a state is followed by itself, by the next one, or by the one after that if this skips a
    blank between two different labels. `log_probs` is [frames, vocab].

    Raises `ValueError` if the frames are too few for the tokens.
    """
    frames = len(log_probs)
    repeats = sum(a == b for a, b in pairwise(tokens))
    if len(tokens) + repeats > frames:
        raise ValueError(f"{len(tokens)} tokens ({repeats} repeated) do not fit {frames} frames")
    if not tokens:
        return []
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    may_skip = np.zeros(len(states), dtype=bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    # The steps of all frames of a long recording would need much memory: only the scores before
    # each block of frames are kept, and the steps within a block are found again on the way back.
    block = frames if frames * len(states) <= _MAX_STEPS else math.isqrt(frames) + 1
    score = np.full(len(states), -np.inf)
    score[0] = 0.0  # The state before the first frame, which may lead to the first two states.
    before = [score]
    for t in range(block, frames, block):
        before.append(_advance(before[-1], log_probs[t - block : t], states, may_skip)[0])
    first, last = [frames] * len(tokens), [0] * len(tokens)
    state = -1
    for i in range(len(before) - 1, -1, -1):
        start = i * block
        score, steps = _advance(before[i], log_probs[start : start + block], states, may_skip)
        if state < 0:
            state = len(states) - 1 if score[-1] > score[-2] else len(states) - 2
        for t in range(start + len(steps) - 1, start - 1, -1):
            if state % 2:
                first[state // 2] = t
                last[state // 2] = max(last[state // 2], t + 1)
            state -= int(steps[t - start, state])
    return list(zip(first, last, strict=True))


def _advance(
    score: NDArray[np.float64], log_probs: LogProbs, states: NDArray[Any], may_skip: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return the scores of all states after some frames, and the number of states ``[frames,
    states]`` by which the best path to each state advanced in each frame."""
    # A path may have a probability of 0, so that an alignment always exists.
    rows = np.maximum(log_probs.astype(np.float64), -1e9)
    came_from = np.zeros((len(rows), len(states)), dtype=np.int8)
    options = np.full((3, len(states)), -np.inf)
    for t, row in enumerate(rows):
        options[0] = score
        options[1, 1:] = score[:-1]
        options[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        came_from[t] = options.argmax(axis=0)
        score = options.max(axis=0) + row[states]
    return score, came_from


def hypothesis(
    log_probs: LogProbs,
    tokenizer: CTCTokenizer,
    tokens: list[int],
    score: float,
    spans: list[tuple[int, int]] | None = None,
) -> Hypothesis:
    """Return the hypothesis of the labelling ``tokens``, with word times. ``spans`` are the frames
    [first, last) of each token; by default, `align` finds them."""
    if spans is None:
        spans = align(log_probs, tokens, tokenizer.blank)
    letters_log_probs = letter_log_probs(log_probs, tokens, spans, tokenizer.blank)
    words = [
        WordTiming(
            text=text,
            start=spans[letters[0]][0],
            end=spans[letters[-1]][1],
            confidence=math.exp(sum(letters_log_probs[i] for i in letters) / len(letters)),
        )
        for letters in _words(tokenizer, tokens)
        if (text := tokenizer.decode(tokens[i] for i in letters).strip())
    ]
    return Hypothesis(spell(tokenizer, tokens), tokens, score, words)


def _words(tokenizer: CTCTokenizer, tokens: list[int]) -> list[list[int]]:
    """Return the indices in ``tokens`` of each word's labels; a space symbol belongs to no word."""
    words: list[list[int]] = [[]]
    for i, token in enumerate(tokens):
        text = tokenizer.symbols[token]
        if text.startswith(" "):
            words.append([])
        if text != " ":
            words[-1].append(i)
    return words


def letter_log_probs(
    log_probs: LogProbs, tokens: list[int], spans: list[tuple[int, int]], blank: int
) -> list[float]:
    """Return the log-probability of each token among all symbols except the blank, at the frame of
    its span where it is most likely."""
    frames = [
        first + int(log_probs[first:last, token].argmax())
        for token, (first, last) in zip(tokens, spans, strict=True)
    ]
    rows = log_probs[np.array(frames, np.int64)].astype(np.float64)
    own = rows[np.arange(len(tokens)), tokens]
    rows[:, blank] = -np.inf
    total = np.logaddexp.reduce(rows, axis=1)
    # If the blank has a probability of 1, the confidence is 0.
    return [
        -math.inf if t == -np.inf else min(0.0, float(x - t))
        for x, t in zip(own, total, strict=True)
    ]


def spell(tokenizer: CTCTokenizer, tokens: list[int]) -> str:
    """Return the text of a labelling, with single spaces."""
    return " ".join(tokenizer.decode(tokens).split())


def check_log_probs(log_probs: LogProbs, tokenizer: CTCTokenizer) -> None:
    """Raise `ValueError` if the vocabulary is not the tokenizer's or a value is NaN."""
    if log_probs.ndim != 2 or log_probs.shape[1] != len(tokenizer):
        raise ValueError(
            f"log_probs must be [frames, {len(tokenizer)}] for this tokenizer, "
            f"not {list(log_probs.shape)}"
        )
    if np.isnan(log_probs).any():
        raise ValueError("log_probs has NaN")
