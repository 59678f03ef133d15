"""Decision trees that tie the states of triphones.

Source: Young et al. 1994, "Tree-based state tying for high accuracy acoustic modelling". The frames
of a node are described by one Gaussian; the question is asked that raises their likelihood most.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.heads.hybrid.states import EDGE, POSITIONS, SILENCE, Tying

__all__ = ["QUESTIONS", "Statistics", "Triphone", "build", "monophones"]

Doubles = NDArray[np.float64]

Triphone = tuple[str, str, str, int]
"""The phone before, the phone, the phone after, and the position of the state in it."""

_CLASSES = (
    "P B T D K G",
    "P B",
    "T D",
    "K G",
    "P T K",
    "B D G",
    "F V TH DH S Z SH ZH HH",
    "F V",
    "TH DH",
    "S Z",
    "SH ZH",
    "CH JH",
    "S Z SH ZH CH JH",
    "F TH S SH HH P T K CH",
    "V DH Z ZH B D G JH",
    "M N NG",
    "M",
    "N",
    "NG",
    "L R",
    "L",
    "R",
    "R ER",
    "W Y",
    "W",
    "Y",
    "L R W Y",
    "P B F V M W",
    "T D S Z TH DH N L",
    "K G NG",
    "HH",
    "IY IH EY EH AE Y",
    "IY IH",
    "EY EH",
    "AE",
    "AA AH AO ER AW AY",
    "AA AO",
    "AH",
    "ER",
    "UW UH OW OY W",
    "UW UH",
    "OW AO OY",
    "IY UW",
    "AY EY OY IY",
    "AW OW UW",
    "IY IH UW UH",
    "AA AE AY AW",
    "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW",
    EDGE,
)
QUESTIONS = tuple(frozenset(names.split()) for names in _CLASSES)
"""Classes of sounds by place, manner and voicing, and the edge of a word."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """The number of frames, their sum and the sum of their squares ``[features]``."""

    count: float
    sums: Doubles
    squares: Doubles

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.count + other.count, self.sums + other.sums, self.squares + other.squares
        )


def monophones(phones: Sequence[str]) -> Tying:
    """Return states without context, and those of pauses first."""
    names = [SILENCE, *sorted(phones)]
    roots = {name: [~(POSITIONS * i + k) for k in range(POSITIONS)] for i, name in enumerate(names)}
    return Tying(roots, [], [], POSITIONS * len(names))


def build(
    phones: Sequence[str],
    found: Mapping[Triphone, Statistics],
    floor: Doubles,
    *,
    states: int,
    smallest: float,
    questions: Sequence[frozenset[str]] = QUESTIONS,
) -> Tying:
    """Return trees with about ``states`` leaves in all, each with at least ``smallest`` frames.

    ``found`` has the statistics of each state of a triphone; variances are at least ``floor``.
    Among all leaves, the one is split next whose best question raises the likelihood most. Every
    phone has at least one state at each position.
    """
    trees = _Trees(floor, smallest, questions)
    roots: dict[str, list[int]] = {}
    for name in [SILENCE, *sorted(phones)]:
        for position in range(POSITIONS):
            members = {
                (t[0], t[2]): s for t, s in found.items() if t[1] == name and t[3] == position
            }
            roots.setdefault(name, []).append(trees.add(members, splits=name != SILENCE))
    trees.grow(states)
    return trees.tying(roots)


_Members = Mapping[tuple[str, str], Statistics]
"""The statistics by the phones before and after."""


class _Trees:
    """Leaves of all trees, and the questions that split some of them."""

    def __init__(
        self, floor: Doubles, smallest: float, questions: Sequence[frozenset[str]]
    ) -> None:
        self.floor, self.smallest, self.questions = floor, smallest, questions
        self.leaves: list[_Members] = []
        self.split: dict[int, tuple[int, int, int, int]] = {}
        """The side, question and new leaves (no, yes) of each leaf that is a node now."""
        self._queue: list[tuple[float, int, tuple[int, int]]] = []

    def add(self, members: _Members, *, splits: bool = True) -> int:
        """Add a leaf, and find its best question; return its number."""
        number = len(self.leaves)
        self.leaves.append(members)
        if splits and (best := self._best_question(members)):
            heapq.heappush(self._queue, (-best[0], number, best[1:]))
        return number

    def grow(self, states: int) -> None:
        """Split leaves until there are so many, or no question helps."""
        while self._queue and len(self.leaves) - len(self.split) < states:
            _, number, (side, question) = heapq.heappop(self._queue)
            members, asked = self.leaves[number], self.questions[question]
            no, yes = (
                self.add({c: s for c, s in members.items() if (c[side] in asked) is answer})
                for answer in (False, True)
            )
            self.split[number] = side, question, no, yes

    def tying(self, roots: Mapping[str, Sequence[int]]) -> Tying:
        """Return the finished trees, with nodes and states numbered again."""
        nodes = {number: i for i, number in enumerate(self.split)}
        whole = [number for number in range(len(self.leaves)) if number not in self.split]
        places = nodes | {number: ~i for i, number in enumerate(whole)}
        rows = [
            (side, question, places[no], places[yes])
            for side, question, no, yes in self.split.values()
        ]
        named = {phone: [places[n] for n in numbers] for phone, numbers in roots.items()}
        return Tying(named, rows, self.questions, len(whole))

    def _best_question(self, members: _Members) -> tuple[float, int, int] | None:
        """Return the gain in log-likelihood, the side and the question of the best split."""
        if len(members) < 2:
            return None
        contexts = list(members)
        counts = np.array([s.count for s in members.values()])
        sums = np.stack([s.sums for s in members.values()])
        squares = np.stack([s.squares for s in members.values()])
        asked = [(side, q) for side in (0, 1) for q in range(len(self.questions))]
        yes = np.array(
            [[c[side] in self.questions[q] for c in contexts] for side, q in asked], np.float64
        )
        whole = self._likelihood(counts.sum()[None], sums.sum(0)[None], squares.sum(0)[None])
        parts = [(y @ counts, y @ sums, y @ squares) for y in (yes, 1 - yes)]
        enough = np.minimum(parts[0][0], parts[1][0]) >= self.smallest
        if not enough.any():
            return None
        gains = sum(self._likelihood(*part) for part in parts) - whole
        best = int(np.where(enough, gains, -np.inf).argmax())
        return (float(gains[best]), *asked[best]) if gains[best] > 0 else None

    def _likelihood(self, counts: Doubles, sums: Doubles, squares: Doubles) -> Doubles:
        """Return the log-likelihood ``[n]`` of frames by their own Gaussian, up to a constant for
        each frame."""
        n = np.maximum(counts, 1e-9)[:, None]
        variances = np.maximum(squares / n - (sums / n) ** 2, self.floor)
        result: Doubles = -0.5 * counts * np.log(variances).sum(1)
        return result
