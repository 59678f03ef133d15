"""Feedback on a grammar: what a model may confuse, and what it cannot spell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
    texts, found = list(meanings), []
    for i, text in enumerate(texts):
        others = texts[i + 1 :]
        for other, count in zip(others, edits(text, others), strict=True):
            limit = max(_MIN_EDITS, int(_SHARE * max(len(text), len(other))))
            if count <= limit and not _is_same(meanings[text], meanings[other]):
                found.append(Confusable(text, other, count))
    return sorted(found, key=lambda pair: pair.edits / max(len(pair.first), len(pair.second)))


def _is_same(first: Meaning, second: Meaning) -> bool:
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


def edits(text: str, others: Sequence[str]) -> list[int]:
    """Return the number of insertions, deletions and substitutions from a text to each of the
    others (Levenshtein 1966)."""
    lengths = np.array([len(other) for other in others], np.int64)
    columns = np.arange(max(lengths, default=0) + 1)
    letters = np.zeros((len(others), len(columns) - 1), np.uint32)
    for row, other in zip(letters, others, strict=True):
        row[: len(other)] = [ord(letter) for letter in other]
    # The distances from the first letters of the text to the first letters of all others.
    distances = np.tile(columns, (len(others), 1))
    for letter in text:
        changed = distances + 1
        np.minimum(changed[:, 1:], distances[:, :-1] + (letters != ord(letter)), out=changed[:, 1:])
        # An insertion adds one to the distance on the left.
        distances = np.minimum.accumulate(changed - columns, axis=1) + columns
    return [int(x) for x in distances[np.arange(len(others)), lengths]]
