"""The graph of a grammar over the tokens of a model: deterministic, and as small as it can be.

Words become the tokens that spell them. Determinisation joins common beginnings and removes
alternatives of the same spelling, so that a search computes each prefix once; minimisation joins
common ends (Mohri 1997, "Finite-state transducers in language and speech processing", section 3;
for graphs without circles: Revuz 1992, "Minimisation of acyclic deterministic automata in linear
time"). ``docs/commands.md`` says why no library does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tynda.commands.graph import Arc, WordGraph
from tynda.errors import TyndaError

__all__ = ["MAX_STATES", "Spell", "TokenGraph", "compile_tokens"]

MAX_STATES = 20_000
"""The maximum number of states and of arcs of the result."""
_MAX_SPELLED = 200_000
"""The maximum number of arcs before determinisation, which has each spelling of each word."""
_MAX_WORK = 1_000_000
"""The maximum number of states in all sets of states that determinisation forms. The sets of a
grammar can be many in number and large, whatever the size of the result."""

Spell = Callable[[Arc, bool], Iterable[Sequence[int]]]
"""Arc with words, whether it begins the sentence -> the tokens of each of its spellings."""


@dataclass(frozen=True)
class TokenGraph:
    """Sentences as paths of tokens from state 0 to one of the ends."""

    arcs: Sequence[Mapping[int, int]]
    """For each state, token -> next state."""
    ends: frozenset[int]


def compile_tokens(graph: WordGraph, spell: Spell) -> TokenGraph:
    """Return the graph of tokens. Raises `TyndaError` where it is too large."""
    spelled = _Spelled()
    # A state of the words comes twice: where a sentence begins, spelling differs.
    states = {(0, True): spelled.state()}
    pending, ends = [(0, True)], set[int]()
    while pending:
        key = pending.pop()
        source, begins = key
        if graph.is_end(source):
            ends.add(states[key])
        for arc in graph.arcs[source]:
            target = arc.target, begins and not arc.words
            if target not in states:
                states[target] = spelled.state()
                pending.append(target)
            for tokens in spell(arc, begins) if arc.words else ((),):
                spelled.add(states[key], tokens, states[target])
    return _minimal(*_deterministic(spelled, ends))


class _Spelled:
    """The arcs of single tokens."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[int, int]]] = []
        """For each state, tokens and targets."""
        self.jumps: list[list[int]] = []
        """For each state, the targets that need no token."""
        self._count = 0

    def state(self) -> int:
        self.arcs.append([])
        self.jumps.append([])
        return len(self.arcs) - 1

    def add(self, source: int, tokens: Sequence[int], target: int) -> None:
        """Connect two states by tokens."""
        self._count += max(1, len(tokens))
        if self._count > _MAX_SPELLED:
            raise _too_large()
        if not tokens:
            self.jumps[source].append(target)
            return
        for token in tokens[:-1]:
            middle = self.state()
            self.arcs[source].append((token, middle))
            source = middle
        self.arcs[source].append((tokens[-1], target))

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states that need no token from any of ``states``."""
        found = set(states)
        pending = list(found)
        while pending:
            for target in self.jumps[pending.pop()]:
                if target not in found:
                    found.add(target)
                    pending.append(target)
        return frozenset(found)


def _deterministic(spelled: _Spelled, ends: set[int]) -> tuple[list[dict[int, int]], list[bool]]:
    """Return the arcs of each set of states that a beginning can lead to, and whether it ends."""
    first = spelled.closure([0])
    numbers, pending = {first: 0}, [first]
    arcs: list[dict[int, int]] = [{}]
    work = len(first)
    while pending:
        states = pending.pop()
        targets: dict[int, set[int]] = {}
        for state in states:
            for token, target in spelled.arcs[state]:
                targets.setdefault(token, set()).add(target)
        for token, found in targets.items():
            closed = spelled.closure(found)
            work += len(closed)
            if closed not in numbers:
                numbers[closed] = len(arcs)
                arcs.append({})
                pending.append(closed)
            arcs[numbers[states]][token] = numbers[closed]
        if work > _MAX_WORK or len(arcs) > _MAX_SPELLED:
            raise _too_large()
    return arcs, [not states.isdisjoint(ends) for states in numbers]


def _minimal(arcs: list[dict[int, int]], is_end: list[bool]) -> TokenGraph:
    """Join the states after which the same texts follow."""
    known: dict[tuple[bool, frozenset[tuple[int, int]]], int] = {}
    joined: dict[int, int] = {}
    pending = [0]
    while pending:
        state = pending[-1]
        if state in joined:
            pending.pop()
            continue
        if missing := [target for target in arcs[state].values() if target not in joined]:
            pending += missing
            continue
        pending.pop()
        following = frozenset((token, joined[t]) for token, t in arcs[state].items())
        joined[state] = known.setdefault((is_end[state], following), len(known))
    # The beginning was the last one to be numbered: the numbers go the other way round.
    last = len(known) - 1
    result: list[dict[int, int]] = [{} for _ in known]
    ends = set[int]()
    for (ends_here, following), number in known.items():
        result[last - number] = {token: last - target for token, target in sorted(following)}
        if ends_here:
            ends.add(last - number)
    if max(len(result), sum(map(len, result))) > MAX_STATES:
        raise _too_large()
    return TokenGraph(result, frozenset(ends))


def _too_large() -> TyndaError:
    return TyndaError(
        f"the grammar has more than {MAX_STATES:,} states in the model's tokens: make its lists "
        "and optional parts fewer, or use several grammars"
    )
