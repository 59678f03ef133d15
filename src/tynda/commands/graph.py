"""The words of a grammar as a graph, through which each sentence is a path.

States are numbers, and 0 is where all sentences begin. The graph has no circle, since a template
that contains itself is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from tynda.commands.templates import Choice, Grammar, Series, Slot, Template, Text
from tynda.errors import TyndaError

__all__ = ["MAX_STATES", "Arc", "Meaning", "WordGraph"]

MAX_STATES = 50_000
"""The maximum number of states and of arcs, as well as of texts between two spaces."""
_MAX_WORD = 100
"""The maximum number of characters between two spaces."""
_SPACE = " "
_PUNCTUATION = ".,!?;:…"

Tag = tuple[str, Any]
"""The name and the value of a slot."""


@dataclass(frozen=True)
class Meaning:
    """The meaning of a sentence."""

    words: str
    """The words of the sentence, normalised, with single spaces."""
    intent: str | None
    slots: Mapping[str, Any]


@dataclass(frozen=True)
class Arc:
    """Words that follow a state; there may be none."""

    target: int
    written: str
    """The text as it stands in the grammar, without spaces."""
    words: tuple[str, ...]
    """The words of the normalised text."""
    tags: tuple[Tag, ...] = ()


class WordGraph:
    """All sentences of a grammar, and their meanings."""

    def __init__(self, grammar: Grammar, normalize: Callable[[str], str]) -> None:
        """``normalize`` gives a text's words as they are spoken, separated by spaces.

        Raises `TyndaError` for a grammar that is too large, or has a sentence without words.
        """
        self.grammar = grammar
        self._normalize = cache(normalize)  # Words come again and again.
        fragments = _Fragments()
        starts, ends = [], []
        for sentence in grammar.sentences:
            starts.append(fragments.state())
            ends.append(fragments.add(sentence.template, starts[-1]))
        self.arcs: list[list[Arc]] = [[]]
        """The arcs of each state."""
        self.ends: dict[int, int] = {}
        """The sentence that ends at a state."""
        self._count = 0
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            self._add(fragments.arcs, number, start, end)
        for number, sentence in enumerate(grammar.sentences):
            if self._is_silent(number):
                raise TyndaError(
                    f"the sentence {sentence.source[:80]!r} may have no words: not all of it can "
                    "be optional"
                )

    @cached_property
    def words(self) -> list[str]:
        """All words, in alphabetical order."""
        return sorted({word for arcs in self.arcs for arc in arcs for word in arc.words})

    def is_end(self, state: int) -> bool:
        """Return whether a sentence ends at a state."""
        return state in self.ends

    def meaning(self, text: str) -> Meaning | None:
        """Return the meaning of a spoken or written text, or None where it is no sentence.

        Of several meanings, the one that stands first in the grammar is returned.
        """
        words = self._words(text)
        # Each state is tried at a position once: what failed would fail again.
        pending: list[tuple[int, int, tuple[Tag, ...]]] = [(0, 0, ())]
        seen = set[tuple[int, int]]()
        while pending:
            state, position, tags = pending.pop()
            if (state, position) in seen:
                continue
            seen.add((state, position))
            if position == len(words) and state in self.ends:
                sentence = self.grammar.sentences[self.ends[state]]
                return Meaning(" ".join(words), sentence.intent, {**sentence.slots, **dict(tags)})
            for arc in reversed(self.arcs[state]):
                end = position + len(arc.words)
                if tuple(words[position:end]) == arc.words:
                    pending.append((arc.target, end, tags + arc.tags))
        return None

    def goes_on(self, text: str) -> bool:
        """Return whether a longer sentence begins with the words of a text."""
        words = self._words(text)
        pending, seen = [(0, 0)], set[tuple[int, int]]()
        while pending:
            state, position = pending.pop()
            if (state, position) in seen:
                continue
            seen.add((state, position))
            for arc in self.arcs[state]:
                end = position + len(arc.words)
                if end > len(words) and arc.words[: len(words) - position] == tuple(
                    words[position:]
                ):
                    return True
                if tuple(words[position:end]) == arc.words:
                    pending.append((arc.target, end))
        return False

    def sentences(self, limit: int) -> Iterator[str]:
        """Yield the words of at most ``limit`` sentences, in the order of the grammar; a sentence
        that is written in several ways comes several times."""
        pending, count = [(0, "")], 0
        while pending and count < limit:
            state, text = pending.pop()
            if state in self.ends:
                count += 1
                yield text.strip()
            for arc in reversed(self.arcs[state]):
                pending.append((arc.target, " ".join((text, *arc.words))))

    def examples(self) -> Iterator[str]:
        """Yield the first sentence of each template, in the order of the grammar."""
        for arc in self.arcs[0]:
            state, words = arc.target, list[str]()
            while state not in self.ends:
                first = self.arcs[state][0]
                state = first.target
                words += first.words
            yield " ".join(words)

    def _words(self, text: str) -> list[str]:
        """Normalise each word by itself, as those of the grammar were."""
        return [word for part in text.split() for word in self._spoken(part)]

    def _spoken(self, written: str) -> tuple[str, ...]:
        # A full stop at the end would make abbreviations of words: "st." is a street.
        return tuple(self._normalize(written.strip(_PUNCTUATION)).split())

    def _state(self) -> int:
        self.arcs.append([])
        return len(self.arcs) - 1

    def _add(self, fragments: _FragmentArcs, number: int, start: int, end: int) -> None:
        """Add the words of one sentence, of which ``fragments`` are those of all."""
        states = {start: self._state(), end: self._state()}
        self.ends[states[end]] = number
        self._connect(0, Arc(states[start], "", ()))
        pending = [start]
        while pending:
            source = pending.pop()
            for text, tags, target in _until_space(fragments, source, end):
                if target not in states:
                    states[target] = self._state()
                    pending.append(target)
                arc = Arc(states[target], text, self._spoken(text), tags)
                self._connect(states[source], arc)

    def _connect(self, source: int, arc: Arc) -> None:
        self._count += 1
        if max(self._count, len(self.arcs)) > MAX_STATES:
            raise _too_large()
        self.arcs[source].append(arc)

    def _is_silent(self, number: int) -> bool:
        """Return whether a sentence can be spoken without any word."""
        pending, seen = [self.arcs[0][number].target], set[int]()
        while pending:
            state = pending.pop()
            if state in seen:
                continue
            seen.add(state)
            if state in self.ends:
                return True
            pending += [arc.target for arc in self.arcs[state] if not arc.words]
        return False


_FragmentArcs = Sequence[Sequence[tuple[str | Tag, int]]]
"""For each state, labels and targets. A label is a text without spaces, a space, or a tag."""


class _Fragments:
    """The templates as a graph of texts, of which several may form a word."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[str | Tag, int]]] = []

    def state(self) -> int:
        if len(self.arcs) >= MAX_STATES:
            raise _too_large()
        self.arcs.append([])
        return len(self.arcs) - 1

    def add(self, template: Template, start: int) -> int:
        """Add a template that follows the state ``start``; return the state after it."""
        match template:
            case Text(text=text):
                for part in re.findall(r"\s+|\S+", text):
                    end = self.state()
                    self.arcs[start].append((_SPACE if part.isspace() else part, end))
                    start = end
                return start
            case Series(items=items):
                for item in items:
                    start = self.add(item, start)
                return start
            case Choice(items=items):
                end = self.state()
                for item in items:
                    begin = self.state()
                    self.arcs[start].append(("", begin))
                    self.arcs[self.add(item, begin)].append(("", end))
                return end
            case Slot(name=name, value=value, item=item):
                begin = self.state()
                self.arcs[start].append(((name, value), begin))
                return self.add(item, begin)


def _until_space(
    arcs: _FragmentArcs, start: int, end: int
) -> Iterator[tuple[str, tuple[Tag, ...], int]]:
    """Yield text, tags and last state of each path from ``start`` to a space, or to the end."""
    pending: list[tuple[str, tuple[Tag, ...], int]] = [("", (), start)]
    steps = 0
    while pending:
        steps += 1
        if steps > MAX_STATES:
            raise _too_large()
        text, tags, state = pending.pop()
        if len(text) > _MAX_WORD:
            raise TyndaError(
                f"a word of the grammar has more than {_MAX_WORD} letters: {text[:40]!r}"
            )
        if state == end:
            yield text, tags, end
        for label, target in reversed(arcs[state]):
            if label == _SPACE:
                yield text, tags, target
            elif isinstance(label, str):
                pending.append((text + label, tags, target))
            else:
                pending.append((text, (*tags, label), target))


def _too_large() -> TyndaError:
    return TyndaError(
        f"the grammar has more than {MAX_STATES:,} words and places for them: make its lists and "
        "optional parts fewer"
    )
