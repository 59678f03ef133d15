"""CTC decoding: from log probabilities per frame to text, word times and confidences.

A CTC model gives each frame a distribution over symbols and a blank; an alignment (one
symbol per frame) stands for the labelling left after merging repeats and dropping blanks
(Graves et al. 2006, section 3). `greedy` takes the best alignment, `beam_search` (in
``heads/ctc/beam.py``) the best labelling, and `align` says when each label was spoken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    "spell",
]

LogProbs = NDArray[np.float32]


@dataclass(frozen=True)
class WordTiming:
    """A word and the frames [start, end) from its first letter to its last.

    A letter is any symbol of the tokenizer's: also a piece of a word, of several characters.

    CTC models are peaky: a letter often fills one frame, the rest being blank, so that a word
    may start a little late and end early. Nothing is added to hide that.

    `confidence` is the geometric mean, over the word's letters, of the letter's probability
    among all symbols but the blank, at that frame of its span where the letter is likeliest.
    It tells how sure the model was of which letter it heard; language model and hot words
    have no part in it. Between 0 and 1.
    """

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """One reading of an utterance.

    `tokens` is the labelling; `text` is its spelling with single spaces between `words`.
    `score` is a natural log: of the best alignment's probability from `greedy`; from
    `beam_search` of the labelling's, plus what language model and hot words add.
    """

    text: str
    tokens: list[int]
    score: float
    words: list[WordTiming]


def greedy(log_probs: LogProbs, tokenizer: CTCTokenizer) -> Hypothesis:
    """The labelling of the single most probable alignment.

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
    """When each of `tokens` is spoken: its frames [first, last) on the best alignment.

    Viterbi over the CTC states blank, t1, blank, t2, ..., blank (Graves et al. 2006, section
    4.1), in which a state may be kept, left for the next, or for the one after if that skips a
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
    # A path through a probability of 0 is bad, not impossible.
    log_probs = np.maximum(log_probs.astype(np.float64), -1e9)
    may_skip = np.zeros(len(states), dtype=bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    came_from = np.zeros((frames, len(states)), dtype=np.int8)  # by how many states it moved
    options = np.full((3, len(states)), -np.inf)
    for t in range(1, frames):
        options[0] = score
        options[1, 1:] = score[:-1]
        options[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        came_from[t] = options.argmax(axis=0)
        score = options.max(axis=0) + log_probs[t, states]
    state = len(states) - 1 if score[-1] > score[-2] else len(states) - 2
    first, last = [frames] * len(tokens), [0] * len(tokens)
    for t in range(frames - 1, -1, -1):
        if state % 2:
            first[state // 2] = t
            last[state // 2] = max(last[state // 2], t + 1)
        state -= int(came_from[t, state])
    return list(zip(first, last, strict=True))


def hypothesis(
    log_probs: LogProbs,
    tokenizer: CTCTokenizer,
    tokens: list[int],
    score: float,
    spans: list[tuple[int, int]] | None = None,
) -> Hypothesis:
    """The reading that the labelling ``tokens`` stands for, with its words' times. ``spans``: the
    tokens' frames where they are known, else as `align` finds them."""
    if spans is None:
        spans = align(log_probs, tokens, tokenizer.blank)
    letter_log_probs = _letter_log_probs(log_probs, tokens, spans, tokenizer.blank)
    words = [
        WordTiming(
            text=text,
            start=spans[letters[0]][0],
            end=spans[letters[-1]][1],
            confidence=math.exp(sum(letter_log_probs[i] for i in letters) / len(letters)),
        )
        for letters in _words(tokenizer, tokens)
        if (text := tokenizer.decode(tokens[i] for i in letters).strip())
    ]
    return Hypothesis(spell(tokenizer, tokens), tokens, score, words)


def _words(tokenizer: CTCTokenizer, tokens: list[int]) -> list[list[int]]:
    """The labels of each word, by their places in ``tokens``; a space alone is in none."""
    words: list[list[int]] = [[]]
    for i, token in enumerate(tokens):
        text = tokenizer.symbols[token]
        if text.startswith(" "):
            words.append([])
        if text != " ":
            words[-1].append(i)
    return words


def _letter_log_probs(
    log_probs: LogProbs, tokens: list[int], spans: list[tuple[int, int]], blank: int
) -> list[float]:
    """Of each token among all but the blank, at the likeliest frame of its span."""
    frames = [
        first + int(log_probs[first:last, token].argmax())
        for token, (first, last) in zip(tokens, spans, strict=True)
    ]
    rows = log_probs[np.array(frames, np.int64)].astype(np.float64)
    own = rows[np.arange(len(tokens)), tokens]
    rows[:, blank] = -np.inf
    total = np.logaddexp.reduce(rows, axis=1)
    # All on the blank: the letter is a guess.
    return [
        -math.inf if t == -np.inf else min(0.0, float(x - t))
        for x, t in zip(own, total, strict=True)
    ]


def spell(tokenizer: CTCTokenizer, tokens: list[int]) -> str:
    """The text of a labelling, with single spaces."""
    return " ".join(tokenizer.decode(tokens).split())


def check_log_probs(log_probs: LogProbs, tokenizer: CTCTokenizer) -> None:
    """Raises `ValueError` if the vocabulary is not the tokenizer's or a value is NaN."""
    if log_probs.ndim != 2 or log_probs.shape[1] != len(tokenizer):
        raise ValueError(
            f"log_probs must be [frames, {len(tokenizer)}] for this tokenizer, "
            f"not {list(log_probs.shape)}"
        )
    if np.isnan(log_probs).any():
        raise ValueError("log_probs holds NaN")
