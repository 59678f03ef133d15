"""Forced alignment: the most probable way of a known text through its states (Viterbi 1967)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.heads.hybrid.states import POSITIONS, SILENCE, Pronunciation, Tying

__all__ = ["Graph", "Span", "TooShortError", "best_path", "spans"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class TooShortError(ValueError):
    """An utterance has fewer frames than its text has states."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The states of a text in the order of its words, with pauses that may be left out.

    Every word has the states of each of its pronunciations side by side.
    """

    states: Integers
    """``[n]``: the acoustic state of each node."""
    before: Integers
    """``[n, k]``: the nodes from which each node is reached, itself first; ``n`` stands for none.
    """
    first: NDArray[np.bool_]
    """``[n]``: whether a text may begin at a node."""
    last: NDArray[np.bool_]
    """``[n]``: whether a text may end at a node."""
    owners: tuple[tuple[int, int, str], ...]
    """The phone of each node: its word's index (-1 for a pause), its own number, its name."""
    positions: Integers
    """``[n]``: which of its phone's states a node is."""

    @classmethod
    def of(
        cls, words: Sequence[Sequence[Pronunciation]], tying: Tying, *, skip: bool = False
    ) -> Graph:
        """Return the graph of ``words``, each with its pronunciations.

        With ``skip``, the middle state of a phone may be left out, for networks with few frames.
        """
        graph = _Builder(tying, skip)
        ends = graph.pause([])
        start = list(ends)
        for number, pronunciations in enumerate(words):
            # A word follows the one before, or the pause after it.
            ends = graph.word(number, pronunciations, ends, at_start=number == 0)
            ends = ends + graph.pause(ends)
        n = len(graph.states)
        width = max(map(len, graph.before))
        before = np.full((n, width), n, np.int64)
        for row, nodes in zip(before, graph.before, strict=True):
            row[: len(nodes)] = nodes
        first, last = np.zeros(n, bool), np.zeros(n, bool)
        first[graph.starts] = True
        last[ends or start] = True
        places = np.arange(n) % POSITIONS
        return cls(np.array(graph.states), before, first, last, tuple(graph.owners), places)


class _Builder:
    """The nodes of a graph, added phone by phone."""

    def __init__(self, tying: Tying, skip: bool) -> None:
        self.tying, self.skip = tying, skip
        self.states: list[int] = []
        self.before: list[list[int]] = []
        self.owners: list[tuple[int, int, str]] = []
        self.starts: list[int] = []
        self._phones = 0

    def pause(self, ends: Sequence[int]) -> list[int]:
        """Add a pause after ``ends``, or at the start; return its last nodes."""
        return self._phone(-1, SILENCE, self.tying.silence, ends, at_start=not ends)

    def word(
        self,
        number: int,
        pronunciations: Sequence[Pronunciation],
        ends: list[int],
        *,
        at_start: bool,
    ) -> list[int]:
        """Add a word in all its pronunciations; return their last nodes."""
        found = []
        for phones in pronunciations:
            after = ends
            for i, (phone, states) in enumerate(zip(phones, self.tying.spell(phones), strict=True)):
                after = self._phone(number, phone, states, after, at_start=at_start and i == 0)
            found += after
        return found

    def _phone(
        self, word: int, name: str, states: Sequence[int], after: Sequence[int], *, at_start: bool
    ) -> list[int]:
        node = len(self.states)
        if at_start:
            self.starts.append(node)
        for i, state in enumerate(states):
            entries = [*after] if i == 0 else [node + i - 1]
            if self.skip and i == POSITIONS - 1:
                entries.append(node)
            self.states.append(state)
            self.before.append([node + i, *entries])
            self.owners.append((word, self._phones, name))
        self._phones += 1
        return [node + len(states) - 1]


def best_path(scores: Floats, graph: Graph) -> tuple[Integers, float]:
    """Return the node of each frame on the best path, and the path's score.

    ``scores [frames, n]`` are log-likelihoods of the nodes. Transitions cost nothing. Raises
    `TooShortError` where no path has so few frames.
    """
    frames, n = scores.shape
    if n != len(graph.states):
        raise ValueError(f"{n} columns of scores for {len(graph.states)} nodes")
    back = np.zeros((frames, n), np.int8)
    nodes = np.arange(n)
    padded = np.full(n + 1, -np.inf)
    for frame in range(frames):
        if frame == 0:
            padded[:n] = np.where(graph.first, scores[0], -np.inf)
            continue
        reached = padded[graph.before]
        choice = reached.argmax(1)
        back[frame] = choice
        padded[:n] = reached[nodes, choice] + scores[frame]
    ended = np.where(graph.last, padded[:n], -np.inf)
    node = int(ended.argmax()) if frames else 0
    if not frames or ended[node] == -np.inf:
        raise TooShortError(f"{frames} frames are too few for the states of the text")
    score, path = float(ended[node]), np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = node
        node = int(graph.before[node, back[frame, node]])
    return path, score


@dataclass(frozen=True)
class Span:
    """A phone of an alignment and its frames [start, end); ``word`` is -1 in a pause."""

    word: int
    phone: str
    start: int
    end: int


def spans(path: Integers, graph: Graph) -> list[Span]:
    """Return the phones of a path of `best_path`, in order."""
    owners = [graph.owners[node] for node in path]
    changes = [i for i in range(len(path)) if i == 0 or owners[i] != owners[i - 1]]
    return [
        Span(owners[a][0], owners[a][2], a, b)
        for a, b in zip(changes, [*changes[1:], len(path)], strict=True)
    ]
