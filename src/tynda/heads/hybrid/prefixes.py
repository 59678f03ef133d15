"""The states of all words of a lexicon as one tree, which shares what words begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.heads.hybrid.lexicon import Spelling
from tynda.heads.hybrid.states import POSITIONS

__all__ = ["PAUSE", "PrefixTree"]

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

PAUSE = -1
"""The number of a pause among words."""


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """A tree whose root, node 0, has no state; all other nodes have one, and may end words.

    Source: Ney et al. 1992, "Improvements in beam search for 10000-word continuous speech
    recognition". Lists of different lengths lie behind each other: those of node ``i`` are from
    ``starts[i]`` to ``starts[i + 1]``.
    """

    words: tuple[str, ...]
    states: Integers
    """``[nodes]``: the acoustic state of each node, 0 for the root."""
    parents: Integers
    """``[nodes]``: the parent of each node, which comes before it; 0 for the root."""
    next_starts: Integers
    nexts: Integers
    """The nodes that follow each node, without itself."""
    end_starts: Integers
    ends: Integers
    """The numbers of the words that end at each node, or `PAUSE`."""

    @classmethod
    def of(cls, spelling: Spelling, *, skip: bool) -> PrefixTree:
        """Return the tree of a lexicon, with a pause as one more word.

        With ``skip``, the middle state of a phone may be left out.
        """
        words = tuple(sorted(spelling.lexicon))
        children: list[dict[tuple[int, int], int]] = [{}]
        states, parents, positions = [0], [0], [POSITIONS - 1]
        ends: list[list[int]] = [[]]

        def add(phones: Sequence[Sequence[int]], word: int) -> None:
            node = 0
            for phone in phones:
                for position, state in enumerate(phone):
                    child = children[node].get((position, state))
                    if child is None:
                        child = children[node][position, state] = len(states)
                        children.append({})
                        ends.append([])
                        states.append(state)
                        parents.append(node)
                        positions.append(position)
                    node = child
            if word not in ends[node]:
                ends[node].append(word)

        add([spelling.tying.silence], PAUSE)
        for number, word in enumerate(words):
            for phones in spelling.lexicon[word]:
                add(spelling.tying.spell(phones), number)
        nexts = [list(below.values()) for below in children]
        if skip:
            for node, position in enumerate(positions):
                if position == 0:
                    nexts[node] += [last for middle in list(nexts[node]) for last in nexts[middle]]
        return cls(words, np.array(states), np.array(parents), *_rows(nexts), *_rows(ends))

    def best_below(self, scores: Callable[[str], float]) -> Doubles:
        """Return the greatest score ``[nodes]`` of the words that each node leads to.

        A pause scores 0, and so does the root, at which a word has not begun.
        """
        best = np.full(len(self.states), -np.inf)
        values = np.array([*map(scores, self.words), 0.0])  # The last is that of `PAUSE`, -1.
        owners = np.repeat(np.arange(len(best)), np.diff(self.end_starts))
        np.maximum.at(best, owners, values[self.ends])
        for node in range(len(best) - 1, 0, -1):
            if best[node] > best[self.parents[node]]:
                best[self.parents[node]] = best[node]
        best[0] = 0.0
        return best


def _rows(lists: Sequence[Sequence[int]]) -> tuple[Integers, Integers]:
    """Return where each list starts in the second array, which has all of them."""
    starts = np.cumsum([0, *map(len, lists)])
    return starts, np.array([item for row in lists for item in row], np.int64)
