"""The graph of a grammar over the tokens of a model: deterministic, and as small as it can be.

Words become the tokens that spell them. Determinisation joins common beginnings and removes
alternatives of the same spelling, so that a search computes each prefix once; minimisation joins
common ends (Mohri 1997, "Finite-state transducers in language and speech processing", section 3).
Both are those of OpenFst in ``kaldifst``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tynda.commands.graph import Arc, WordGraph
from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["MAX_STATES", "Spell", "TokenGraph", "compile_tokens"]

MAX_STATES = 20_000
"""The maximum number of states, before and after determinisation, and of arcs after it."""
_MAX_ARCS = 400_000
"""The maximum number of arcs before determinisation, which has each spelling of each word."""

Spell = Callable[[Arc, bool], Iterable[Sequence[int]]]
"""Arc with words, whether it begins the sentence -> the tokens of each of its spellings."""


@dataclass(frozen=True)
class TokenGraph:
    """Sentences as paths of tokens from state 0 to one of the ends."""

    arcs: Sequence[Mapping[int, int]]
    """For each state, token -> next state."""
    ends: frozenset[int]

    @cached_property
    def shortest(self) -> int:
        """The number of tokens of the shortest sentence."""
        frontier, length = {0}, 0
        while not frontier & self.ends:
            frontier, length = {t for s in frontier for t in self.arcs[s].values()}, length + 1
        return length


def compile_tokens(
    graph: WordGraph, spell: Spell, last: Iterable[Sequence[int]] = ((),)
) -> TokenGraph:
    """Return the graph of tokens, where each sentence ends with one of the ``last`` tokens.

    Raises `TyndaError` where it is too large, and where ``kaldifst`` is not installed.
    """
    try:
        import kaldifst
    except ImportError:
        raise TyndaError(f"commands need kaldifst: {install('commands')}") from None
    spelled = _Spelled()
    # A state of the words comes twice: where a sentence begins, spelling differs.
    states = {(0, True): spelled.state()}
    pending, end = [(0, True)], -1
    while pending:
        key = pending.pop()
        source, begins = key
        for arc in graph.arcs[source]:
            target = arc.target, begins and not arc.words
            if target not in states:
                states[target] = spelled.state()
                pending.append(target)
            spellings = spell(arc, begins) if arc.words else ((),)
            for tokens in spellings:
                spelled.add(states[key], tokens, states[target])
        if graph.is_end(source):
            end = spelled.state() if end < 0 else end
            for tokens in last:
                spelled.add(states[key], tokens, end)
    # Tokens are numbered from 1, since 0 is an arc without a token.
    fst = kaldifst.StdVectorFst()
    for _ in range(spelled.count):
        fst.add_state()
    fst.start = 0
    for source, token, next_state in spelled.arcs:
        fst.add_arc(source, kaldifst.StdArc(token + 1, token + 1, 0.0, next_state))
    fst.set_final(end, 0.0)
    try:
        kaldifst.determinize_star(fst, max_states=MAX_STATES)
    except RuntimeError:
        raise _too_large() from None
    kaldifst.minimize(fst)
    arcs: list[dict[int, int]] = []
    for state in range(fst.num_states):
        found = kaldifst.ArcIterator(fst, state)
        arcs.append({arc.ilabel - 1: arc.nextstate for arc in found})
    if sum(map(len, arcs)) > MAX_STATES:
        raise _too_large()
    return _from_start(arcs, fst.start, [_is_end(fst, i) for i in range(len(arcs))])


def _is_end(fst: object, state: int) -> bool:
    """Return whether a path may end at a state: its final weight is then finite."""
    weight = fst.final(state)  # type: ignore[attr-defined]
    return float(weight.value) != float("inf")


def _from_start(
    arcs: Sequence[Mapping[int, int]], start: int, ends: Sequence[bool]
) -> TokenGraph:
    """Number the states so that the first one is 0."""
    order = [start, *(i for i in range(len(arcs)) if i != start)]
    number = {state: i for i, state in enumerate(order)}
    return TokenGraph(
        [{token: number[target] for token, target in arcs[state].items()} for state in order],
        frozenset(number[state] for state in order if ends[state]),
    )


class _Spelled:
    """The arcs of single tokens; the token -1 is an arc without one."""

    def __init__(self) -> None:
        self.count, self.arcs = 0, list[tuple[int, int, int]]()

    def state(self) -> int:
        if self.count >= MAX_STATES:
            raise _too_large()
        self.count += 1
        return self.count - 1

    def add(self, source: int, tokens: Sequence[int], target: int) -> None:
        """Connect two states by tokens."""
        if len(self.arcs) > _MAX_ARCS:
            raise _too_large()
        for token in tokens[:-1]:
            middle = self.state()
            self.arcs.append((source, token, middle))
            source = middle
        self.arcs.append((source, tokens[-1] if tokens else -1, target))


def _too_large() -> TyndaError:
    return TyndaError(
        f"the grammar has more than {MAX_STATES:,} states in the model's tokens: make its lists "
        "and optional parts fewer, or use several grammars"
    )
