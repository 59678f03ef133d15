"""CTC prefix beam search with a language model and hot words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest

import numpy as np

from tynda.heads.ctc.hotwords import HotWords
from tynda.heads.ctc.ngram import LanguageModel, Prefixes, State
from tynda.heads.ctc.paths import Hypothesis, LogProbs, check_log_probs, hypothesis, spell
from tynda.text.tokenizer import CTCTokenizer

__all__ = ["beam_search"]


def beam_search(
    log_probs: LogProbs,
    tokenizer: CTCTokenizer,
    *,
    beam_size: int = 32,
    lm: LanguageModel | None = None,
    alpha: float = 0.5,
    beta: float = 1.0,
    unknown_penalty: float = 5.0,
    hotwords: Sequence[str] = (),
    hotword_boost: float = 1.0,
    n_best: int = 1,
    token_margin: float = 7.0,
    top_tokens: int = 20,
    beam_margin: float = 15.0,
) -> list[Hypothesis]:
    """Return the `n_best` most probable labellings, best first, with distinct texts.

    CTC prefix beam search (Graves & Jaitly 2014, algorithm 1; Hannun et al. 2014, algorithm 1)
    over `log_probs` [frames, vocab], natural logs. A labelling y of W words scores

        log p_ctc(y) + alpha log p_lm(words) + beta W - unknown_penalty U + hotword_boost C

    where the three terms in the middle need an `lm`. U is the number of words that are neither in
    the language model nor hot words; the penalty is applied at the first symbol with which the
    word is no prefix of a known word. C is the number of characters of the hot words (or phrases)
    that are complete words in the text; during the search it includes the characters of a partial
    match, until the match fails.

    Approximations for speed: each frame only extends prefixes by the `top_tokens` symbols within
    `token_margin` nats of the best symbol, and retains the `beam_size` prefixes within
    `beam_margin` nats of the best prefix. If all of these are infinite, the search is exact.

    Raises `ValueError` if the vocabulary is not the tokenizer's, a value is NaN, a weight other
    than `beta` is negative or a size is below 1; `TyndaError` if a hot word has characters that
    the tokenizer does not have.
    """
    check_log_probs(log_probs, tokenizer)
    if min(alpha, unknown_penalty, hotword_boost) < 0 or min(beam_size, n_best, top_tokens) < 1:
        raise ValueError("weights must not be negative, sizes at least 1")
    scorer = _Scorer(tokenizer, lm, alpha, beta, unknown_penalty, hotwords, hotword_boost)
    beam = [scorer.root()]
    log_scale = 0.0  # The log of the factor by which the beam's probabilities have been divided.
    for frame, row in enumerate(log_probs):
        peak = float(row.max())
        log_scale += peak
        candidates = np.flatnonzero(row >= peak - token_margin)
        if len(candidates) > top_tokens:
            candidates = np.argsort(-row, kind="stable")[:top_tokens]
        probs = np.exp(row[candidates].astype(np.float64) - peak)
        tokens = dict(zip(candidates.tolist(), probs.tolist(), strict=True))
        blank = tokens.pop(tokenizer.blank, 0.0)
        if not tokens:  # Only the blank is likely: no prefix is extended.
            for prefix in beam:
                prefix.blank, prefix.label = prefix.blank + prefix.label, 0.0
            continue
        threshold = _score_threshold(beam, tokens, blank, beam_size, beam_margin) - scorer.max_gain
        grown = _extend_beam(beam, frame, tokens, blank, threshold, scorer.extend)
        before, beam = beam, _prune(grown, beam_size, beam_margin)
        for prefix in before:
            prefix.in_beam = False
        for prefix in beam:
            prefix.in_beam = True
        for prefix in before:
            if not prefix.in_beam:
                prefix.detach()
        # Probabilities, not logs, are summed; scaling prevents underflow.
        scale = max(prefix.blank + prefix.label for prefix in beam)
        log_scale += math.log(scale)
        for prefix in beam:
            prefix.blank /= scale
            prefix.label /= scale
    ended = sorted(((p.score() + scorer.end(p) + log_scale, p) for p in beam), key=lambda e: -e[0])
    best: dict[str, Hypothesis] = {}
    for score, prefix in ended:
        labels = prefix.tokens()
        text = spell(tokenizer, labels)
        if text not in best:
            best[text] = hypothesis(log_probs, tokenizer, labels, score)
        if len(best) == n_best:
            break
    return list(best.values())


@dataclass(slots=True, eq=False)
class _Prefix:
    """A labelling, as a node in the tree of all prefixes of the search.

    `blank` and `label` are the total probabilities of its alignments that end in a blank and in
    its last label; `bonus` is the sum of the log-scores of language model and hot words.
    """

    parent: _Prefix | None
    token: int
    word: str
    """The characters since the last space."""
    bonus: float
    unknown: bool
    """Whether `bonus` includes the penalty for an unknown word."""
    lm_state: State
    hotword_state: int
    children: dict[int, _Prefix] = field(default_factory=dict)
    blank: float = 0.0
    label: float = 0.0
    new_blank: float = 0.0
    new_label: float = 0.0
    frame: int = -1
    """The last frame in which it was extended or reached."""
    in_beam: bool = False

    def score(self) -> float:
        return math.log(self.blank + self.label) + self.bonus

    def tokens(self) -> list[int]:
        tokens = []
        node = self
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tokens[::-1]

    def detach(self) -> None:
        """Remove the nodes below and above this one that lead to no prefix in the beam."""
        self.children = {
            token: child
            for token, child in self.children.items()
            if child.children or child.in_beam
        }
        node, parent = self, self.parent
        while parent is not None and not node.children and not parent.in_beam:
            parent.children.pop(node.token, None)
            node, parent = parent, parent.parent


def _extend_beam(
    beam: list[_Prefix],
    frame: int,
    tokens: dict[int, float],
    blank: float,
    threshold: float,
    extend: Callable[[_Prefix, int], _Prefix],
) -> list[_Prefix]:
    """Return the prefixes after one more frame, with their new probabilities.

    New prefixes whose score before the bonus of the new label is below `threshold` are not created.
    """
    active: list[_Prefix] = []
    for prefix in beam:
        total = prefix.blank + prefix.label
        if prefix.frame != frame:
            prefix.frame = frame
            prefix.new_label = 0.0
            active.append(prefix)
        prefix.new_blank = total * blank
        prefix.new_label += prefix.label * tokens.get(prefix.token, 0.0)
        children = prefix.children
        min_mass = max(math.exp(min(threshold - prefix.bonus, 0.0)), math.ulp(0.0))
        for token, p in tokens.items():
            # A repeated label is a new label only after a blank.
            mass = (prefix.blank if token == prefix.token else total) * p
            child = children.get(token)
            if mass < min_mass and (child is None or not child.in_beam):
                continue
            if child is None:
                child = children[token] = extend(prefix, token)
            if child.frame == frame:
                child.new_label += mass
            else:
                child.frame = frame
                child.new_label = mass
                child.new_blank = 0.0
                active.append(child)
    for prefix in active:
        prefix.blank = prefix.new_blank
        prefix.label = prefix.new_label
    return active


def _score_threshold(
    beam: list[_Prefix], tokens: dict[int, float], blank: float, size: int, margin: float
) -> float:
    """Return a lower bound of the scores that `_prune` retains after this frame.

    The prefixes of the beam remain candidates with at least the probability that adds no label, so
    that they alone give a bound. Prefixes below it need not be created and scored.
    """
    scores = [
        math.log(mass) + p.bonus
        for p in beam
        if (mass := (p.blank + p.label) * blank + p.label * tokens.get(p.token, 0.0)) > 0.0
    ]
    if not scores:
        return -math.inf
    return max(max(scores) - margin, min(scores) if len(scores) >= size else -math.inf)


def _prune(prefixes: list[_Prefix], size: int, margin: float) -> list[_Prefix]:
    log = math.log
    scored = [
        (log(total) + p.bonus, -i, p)
        for i, p in enumerate(prefixes)
        if (total := p.blank + p.label) > 0.0
    ]
    best = nlargest(size, scored) if len(scored) > size else scored
    min_score = max(scored)[0] - margin
    return [prefix for score, _, prefix in best if score >= min_score]


class _Scorer:
    """Computes the score of language model and hot words, label by label."""

    def __init__(
        self,
        tokenizer: CTCTokenizer,
        lm: LanguageModel | None,
        alpha: float,
        beta: float,
        unknown_penalty: float,
        hotwords: Sequence[str],
        hotword_boost: float,
    ) -> None:
        self.symbols = tokenizer.symbols
        self.lm = lm
        self.alpha = alpha
        self.beta = beta
        self.unknown_penalty = unknown_penalty
        self.boost = hotword_boost
        phrases = [" ".join(phrase.split()) for phrase in hotwords]
        for phrase in phrases:
            tokenizer.encode(phrase)  # Raises for characters that the tokenizer does not have.
        self.automaton = HotWords(phrases, " ")
        self.hot_words = {word for phrase in hotwords for word in phrase.split()}
        self.hot_prefixes = Prefixes(self.hot_words)
        # This is the maximum that a label adds to `bonus`, since it ends at most one word.
        longest = max(map(len, self.symbols[1:]), default=0)
        hotword_gain = hotword_boost * self.automaton.max_gain * longest
        self.max_gain = hotword_gain + (max(beta, 0.0) if lm else 0.0)
        self.cache: dict[tuple[State, str], tuple[float, State]] = {}

    def root(self) -> _Prefix:
        state = self.lm.start() if self.lm else ()
        root = _Prefix(None, -1, "", 0.0, False, state, self.automaton.start)
        root.blank = 1.0
        return root

    def extend(self, prefix: _Prefix, token: int) -> _Prefix:
        bonus, unknown, state, hotword_state, word = (
            prefix.bonus,
            prefix.unknown,
            prefix.lm_state,
            prefix.hotword_state,
            prefix.word,
        )
        for character in self.symbols[token] or ("",):  # A silent symbol interrupts a hot word.
            if character == " ":
                if not word:  # Repeated spaces have no effect.
                    continue
                gain, state = self._word(state, word, unknown)
                bonus += gain
                word, unknown = "", False
            else:
                word += character
                if self.lm is not None and not unknown and not self._begins_word(word):
                    bonus -= self.unknown_penalty
                    unknown = True
            if self.hot_words:
                hotword_state, characters = self.automaton.step(hotword_state, character)
                bonus += self.boost * characters
        return _Prefix(prefix, token, word, bonus, unknown, state, hotword_state)

    def end(self, prefix: _Prefix) -> float:
        """Return the score at the end of the text: of the last word, of </s>, and of removing the
        characters of a hot word that is incomplete."""
        gain, state, hotword_state, characters = 0.0, prefix.lm_state, prefix.hotword_state, 0
        if prefix.word:
            gain, state = self._word(state, prefix.word, prefix.unknown)
            hotword_state, characters = self.automaton.step(hotword_state, " ")
        gain += self.boost * (characters - self.automaton.pending[hotword_state])
        return gain + (self.alpha * self.lm.end(state) if self.lm else 0.0)

    def _begins_word(self, text: str) -> bool:
        """Return whether some word of the language model or hot word begins with a text."""
        assert self.lm is not None
        return text in self.lm.prefixes or text in self.hot_prefixes

    def _word(self, state: State, word: str, unknown: bool) -> tuple[float, State]:
        """Return the score of a complete word, and the language model's state after it."""
        if self.lm is None:
            return 0.0, ()
        key = state, word
        if (found := self.cache.get(key)) is None:
            log_prob, state = self.lm.score(*key)
            gain = self.alpha * log_prob + self.beta
            found = self.cache[key] = gain, state
        gain, state = found
        if not unknown and word not in self.hot_words and word not in self.lm:
            gain -= self.unknown_penalty
        return gain, state
