"""The states of hidden Markov models, and the decision trees that tie those of triphones.

A phone has three states from left to right (Rabiner 1989, section IV). Which acoustic state each of
them is depends on the phone before and after in the word, by questions of a decision tree (Young et
al. 1994, "Tree-based state tying for high accuracy acoustic modelling").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from tynda.errors import TyndaError

__all__ = ["EDGE", "POSITIONS", "SILENCE", "Pronunciation", "Tying"]

SILENCE = "SIL"
"""The phone of pauses, whose states have no context."""
EDGE = "#"
"""The neighbour of the first and of the last phone of a word."""
POSITIONS = 3
"""Number of states of a phone."""

Pronunciation = tuple[str, ...]
"""The phones of a word."""

_MAX_NODES = 1 << 16
_DAMAGED = "the model's decision trees are damaged: get the model again"


@dataclass(frozen=True, eq=False)
class Tying:
    """Maps a phone in its context to its states, which are numbers from 0 to ``count - 1``.

    A place in a tree is a question if it is 0 or more, an index of ``nodes``, and otherwise the
    state ``~place``. A node is (side, question, no, yes): the side is 0 for the phone before and 1
    for the phone after, and its question is an index of ``questions``, sets of phones. Nodes point
    to later nodes only, so that every way down ends.
    """

    roots: Mapping[str, Sequence[int]]
    """The places of the trees of each phone's states."""
    nodes: Sequence[Sequence[int]]
    questions: Sequence[frozenset[str]]
    count: int

    @cached_property
    def states(self) -> Callable[[str, str, str], tuple[int, ...]]:
        """The states of a phone, by the phone before or `EDGE`, itself, and the one after or
        `EDGE`. The function raises KeyError for a phone that the model does not have."""
        # A model's trees never change, and the same triphones occur again and again.
        return lru_cache(1 << 16)(self._find)

    def _find(self, before: str, phone: str, after: str) -> tuple[int, ...]:
        found = []
        for place in self.roots[phone]:
            while place >= 0:
                side, question, no, yes = self.nodes[place]
                place = yes if (before, after)[side] in self.questions[question] else no
            found.append(~place)
        return tuple(found)

    def spell(self, phones: Pronunciation) -> list[tuple[int, ...]]:
        """Return the states of each phone of a word."""
        around = (EDGE, *phones, EDGE)
        return [self.states(*around[i : i + 3]) for i in range(len(phones))]

    @property
    def silence(self) -> tuple[int, ...]:
        """The states of a pause."""
        return self.states(EDGE, SILENCE, EDGE)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data that `from_dict` reads."""
        return {
            "roots": {phone: list(places) for phone, places in self.roots.items()},
            "nodes": [list(node) for node in self.nodes],
            "questions": [sorted(question) for question in self.questions],
            "states": self.count,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Tying:
        """Return what `to_dict` described. Raises `TyndaError` for anything else."""
        try:
            roots, nodes, questions, count = (
                data[key] for key in ("roots", "nodes", "questions", "states")
            )
            sound = (
                type(count) is int
                and 1 <= count <= _MAX_NODES
                and len(nodes) <= _MAX_NODES
                and SILENCE in roots
                and all(
                    len(places) == POSITIONS
                    and all(_is_place(place, -1, len(nodes), count) for place in places)
                    for places in roots.values()
                )
                and all(
                    len(node) == 4
                    and node[0] in (0, 1)
                    and type(node[1]) is int
                    and 0 <= node[1] < len(questions)
                    and all(_is_place(place, i, len(nodes), count) for place in node[2:])
                    for i, node in enumerate(nodes)
                )
                and all(isinstance(p, str) for question in questions for p in question)
            )
        except (KeyError, TypeError, AttributeError):
            raise TyndaError(_DAMAGED) from None
        if not sound:
            raise TyndaError(_DAMAGED)
        return cls(roots, nodes, [frozenset(q) for q in questions], count)


def _is_place(place: Any, after: int, nodes: int, states: int) -> bool:
    """Return whether a place is a node after another one, or a state."""
    return type(place) is int and (after < place < nodes or 0 <= ~place < states)
