"""Feedback on a grammar: what a model may confuse, and what it cannot spell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tynda.commands.graph import Meaning, WordGraph

__all__ = ["MAX_SENTENCES", "Confusable", "confusable", "doubts", "edits"]

MAX_SENTENCES = 400
"""The maximum number of sentences whose pairs are compared."""
_SHARE = 0.2
"""Sentences that differ in at most this share of their letters sound alike ..."""
_MIN_EDITS = 1
"""... and those that differ in this many letters do so whatever their length."""


@dataclass(frozen=True)
class Confusable:
    """Two sentences that sound alike but have different meanings."""

    first: str
    second: str
    edits: int
    """The number of letters in which they differ."""


def confusable(graph: WordGraph) -> list[Confusable]:
    """Return the pairs among the first `MAX_SENTENCES` sentences whose spelling is alike and whose
    meaning is not, the most alike first."""
    meanings: dict[str, Meaning] = {}
    for text in graph.sentences(MAX_SENTENCES):
        meaning = graph.meaning(text)
        if meaning is not None:
            meanings.setdefault(text, meaning)
    found = []
    for (a, first), (b, second) in combinations(meanings.items(), 2):
        if _is_same(graph, first, second):
            continue
        limit = max(_MIN_EDITS, int(_SHARE * max(len(a), len(b))))
        if abs(len(a) - len(b)) <= limit and (count := edits(a, b)) <= limit:
            found.append(Confusable(a, b, count))
    return sorted(found, key=lambda pair: pair.edits / max(len(pair.first), len(pair.second)))


def _is_same(graph: WordGraph, first: Meaning, second: Meaning) -> bool:
    """Return whether two sentences mean the same: those without an intent mean their words."""
    if first.intent is None or second.intent is None:
        return False
    return (first.intent, first.slots) == (second.intent, second.slots)


def doubts(graph: WordGraph, doubt: Callable[[str], str | None]) -> Iterator[str]:
    """Yield what a model may not recognise, of each word of the grammar; ``doubt`` is
    `Head.spelling_doubt`."""
    for word in graph.words:
        if reason := doubt(word):
            yield reason


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the number of insertions, deletions and substitutions from one text to the other
    (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
