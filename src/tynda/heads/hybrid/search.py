"""The search for the most probable words, frame by frame, through a tree of the lexicon.

A hypothesis is a node of the tree together with the state of the n-gram, and stands for the best
way there (token passing, Young et al. 1989). All hypotheses of a frame move at once, as arrays.
Before a word is known, it is scored by the most probable word that its node leads to, by unigrams
(language model look-ahead, Steinbiss et al. 1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tynda.heads.ctc.ngram import LanguageModel, State
from tynda.heads.hybrid.prefixes import PAUSE, PrefixTree

__all__ = ["Search"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Search:
    """A search with fixed settings; it may be used for any number of utterances.

    A text of W words with acoustic score a scores

        a + alpha log p_lm(words) + beta W - unknown_penalty U

    where U is the number of words that the language model does not have. Transitions cost nothing.
    """

    tree: PrefixTree
    lm: LanguageModel | None = None
    alpha: float = 8.0
    beta: float = 0.0
    unknown_penalty: float = 0.0
    bonuses: Mapping[str, float] = field(default_factory=dict)
    """Added scores of single words, by name."""
    beam_size: int = 500
    """Maximum number of hypotheses."""
    margin: float = 100.0
    """Maximum distance of a hypothesis from the best one."""

    def word_score(self, state: State, word: str) -> tuple[float, State]:
        """Return what a word adds to the score after the n-gram's ``state``, and its next state."""
        added = self.beta + self.bonuses.get(word, 0.0)
        if self.lm is None:
            return added, state
        log_prob, after = self.lm.score(state, word)
        if word not in self.lm:
            added -= self.unknown_penalty
        return self.alpha * log_prob + added, after

    @cached_property
    def ahead(self) -> Doubles:
        """The look-ahead of each node ``[nodes]``."""
        return self.tree.best_below(lambda word: self.word_score((), word)[0])

    def find(self, scores: Floats) -> tuple[list[str], float]:
        """Return the words with the best score, and this score.

        ``scores [frames, states]`` are log-likelihoods of acoustic states. Where no word can end
        with the last frame, the last one is left out.
        """
        return _Run(self).find(scores)


class _Run:
    """The search of one utterance."""

    def __init__(self, search: Search) -> None:
        self.search, self.tree = search, search.tree
        self.nodes = len(self.tree.states)
        self.lm_states: list[State] = [() if search.lm is None else search.lm.start()]
        self.numbers = {self.lm_states[0]: 0}
        self.followed: dict[tuple[int, int], tuple[float, int]] = {}
        self.previous: list[int] = []
        """The history before each word that ended, an index of the same list, or -1."""
        self.ended: list[int] = []
        """The number of each word that ended."""

    def find(self, scores: Floats) -> tuple[list[str], float]:
        """See `Search.find`."""
        keys, values = np.zeros(1, np.int64), np.zeros(1)
        histories = np.full(1, -1, np.int64)
        offset = 0.0  # The best score so far, which is taken from all others.
        roots = (keys, values, histories)
        for row in scores:
            keys, values, histories = self._advance(row, keys, values, histories, roots)
            best = values.max()
            offset, values = offset + float(best), values - best
            roots = self._end_words(keys, values, histories)
        complete = [
            (value + self._end_of_text(int(key)), history)
            for key, value, history in zip(*roots, strict=True)
        ]
        if complete:
            value, history = max(complete)
            return self._words(int(history)), offset + float(value)
        best_at = int(values.argmax())
        return self._words(int(histories[best_at])), offset + float(values[best_at])

    def _advance(
        self,
        row: Floats,
        keys: Integers,
        values: Doubles,
        histories: Integers,
        roots: tuple[Integers, Doubles, Integers],
    ) -> tuple[Integers, Doubles, Integers]:
        """Return the hypotheses after one more frame, whose states have the scores ``row``.

        A hypothesis stays at its node or moves to one that follows; those at ``roots`` move.
        """
        tree, ahead = self.tree, self.search.ahead
        at_root = keys % self.nodes == 0
        stay = ~at_root
        from_keys, from_values, from_histories = (
            np.concatenate([array[stay], more])
            for array, more in zip((keys, values, histories), roots, strict=True)
        )
        before = from_keys % self.nodes
        starts = tree.next_starts[before]
        counts = tree.next_starts[before + 1] - starts
        source = np.repeat(np.arange(len(before)), counts)
        place = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        target = tree.nexts[starts[source] + place]
        new_keys = np.concatenate([keys[stay], from_keys[source] - before[source] + target])
        new_values = np.concatenate(
            [
                values[stay] + row[tree.states[keys[stay] % self.nodes]],
                from_values[source]
                + ahead[target]
                - ahead[before[source]]
                + row[tree.states[target]],
            ]
        )
        new_histories = np.concatenate([histories[stay], from_histories[source]])
        kept = np.flatnonzero(new_values >= new_values.max() - self.search.margin)
        new_keys, new_values, new_histories = _best_of_each(
            new_keys[kept], new_values[kept], new_histories[kept]
        )
        if len(new_keys) > self.search.beam_size:
            kept = np.argpartition(-new_values, self.search.beam_size)[: self.search.beam_size]
            kept.sort()
            return new_keys[kept], new_values[kept], new_histories[kept]
        return new_keys, new_values, new_histories

    def _end_words(
        self, keys: Integers, values: Doubles, histories: Integers
    ) -> tuple[Integers, Doubles, Integers]:
        """Return hypotheses at the root, for the words that may end at a frame."""
        tree = self.tree
        node = keys % self.nodes
        starts = tree.end_starts[node]
        counts = tree.end_starts[node + 1] - starts
        source = np.repeat(np.arange(len(node)), counts)
        if not len(source):
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        place = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        words = tree.ends[starts[source] + place]
        lm_states = keys[source] // self.nodes
        pairs = zip(lm_states.tolist(), words.tolist(), strict=True)
        follow = [self._follow(state, word) for state, word in pairs]
        added, after = np.array([f[0] for f in follow]), np.array([f[1] for f in follow])
        totals = values[source] - self.search.ahead[node[source]] + added
        kept = np.flatnonzero(totals >= -self.search.margin)
        order = np.arange(len(source))
        states, totals, order = _best_of_each(after[kept], totals[kept], order[kept])
        numbers = len(self.ended) + np.arange(len(order))
        ended = words[order]
        earlier = histories[source[order]]
        self.ended += ended.tolist()
        self.previous += earlier.tolist()
        # A pause is no word: the history goes on as before.
        return states * self.nodes, totals, np.where(ended == PAUSE, earlier, numbers)

    def _follow(self, lm_state: int, word: int) -> tuple[float, int]:
        """Return what a word adds to the score, and the number of the n-gram's next state."""
        if word == PAUSE:
            return 0.0, lm_state
        key = lm_state, word
        if key not in self.followed:
            state = self.lm_states[lm_state]
            added, after = self.search.word_score(state, self.tree.words[word])
            if after not in self.numbers:
                self.numbers[after] = len(self.lm_states)
                self.lm_states.append(after)
            self.followed[key] = added, self.numbers[after]
        return self.followed[key]

    def _end_of_text(self, key: int) -> float:
        lm = self.search.lm
        if lm is None:
            return 0.0
        return self.search.alpha * lm.end(self.lm_states[key // self.nodes])

    def _words(self, history: int) -> list[str]:
        found = []
        while history >= 0:
            found.append(self.tree.words[self.ended[history]])
            history = self.previous[history]
        return found[::-1]


def _best_of_each(
    keys: Integers, values: Doubles, others: Integers
) -> tuple[Integers, Doubles, Integers]:
    """Return the best of all hypotheses with the same key, in the order of keys."""
    # Most keys are in order, which a stable sort makes use of.
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    if not len(starts):
        return keys, values, others
    best = np.maximum.reduceat(values, starts)
    group = np.cumsum(is_first) - 1
    winners = np.flatnonzero(values == best[group])
    # The first one is kept where several are equally good.
    own = group[winners]
    winners = winners[np.append(True, own[1:] != own[:-1])]
    return keys[winners], best, others[order[winners]]
