"""Mixtures for phones, then for tied triphones: each is trained on the alignment by the last one.

Source: Young et al., The HTK Book, chapters 8 and 10. Alignments are the best paths only (Viterbi
training), and mixtures are estimated from the frames of their states.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError, listed
from tynda.heads.hybrid.alignment import Graph, TooShortError, best_path, spans
from tynda.heads.hybrid.states import EDGE, POSITIONS, Pronunciation, Tying
from tynda.hybrid.dictionary import Dictionary
from tynda.hybrid.mixtures import Mixtures, fit
from tynda.hybrid.tree import Statistics, Triphone, build, monophones
from tynda.train.phones import PHONES

__all__ = ["Acoustics", "Spoken", "Stages", "align", "pronounced"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_EMPTY = 100.0
"""Smallest number of frames of a tied state."""
_FLOOR = 0.01
"""Smallest variance in the trees, as a share of that of all frames."""


@dataclass(eq=False)
class Spoken:
    """An utterance with a known text."""

    features: Floats
    """``[frames, features]``."""
    words: list[str]
    pronunciations: list[list[Pronunciation]]
    """The pronunciations of each word."""
    speaker: str = "-"
    path: Integers | None = None
    """The acoustic state of each frame; None before the first alignment, and where the utterance
    is too short for its text."""
    triphones: list[tuple[Triphone, int, int]] = field(default_factory=list)
    """The states of triphones in the alignment, with their frames [start, end)."""


@dataclass(frozen=True, eq=False)
class Acoustics:
    """Tied states and their mixtures."""

    tying: Tying
    mixtures: Mixtures


def pronounced(words: Sequence[str], dictionary: Dictionary) -> dict[str, list[Pronunciation]]:
    """Return the lexicon of words; those that have no pronunciation are left out with a warning.

    Raises `TyndaError` where no word has any.
    """
    lexicon = {word: dictionary.pronunciations(word) for word in sorted(set(words))}
    if unknown := [word for word, said in lexicon.items() if not said]:
        warnings.warn(
            f"{len(unknown)} words have no pronunciation, and their utterances are left out: "
            f"{listed(unknown)}",
            stacklevel=2,
        )
    lexicon = {word: said for word, said in lexicon.items() if said}
    if not lexicon:
        raise TyndaError("the lexicon is empty: no word of the texts has a pronunciation")
    return lexicon


def align(speech: Sequence[Spoken], acoustics: Acoustics) -> int:
    """Align utterances with their texts; return how many are too short, whose path is None."""
    short = 0
    for spoken in speech:
        graph = Graph.of(spoken.pronunciations, acoustics.tying)
        states, columns = np.unique(graph.states, return_inverse=True)
        scores = acoustics.mixtures.log_likelihoods(spoken.features, states)[:, columns]
        try:
            path, _ = best_path(scores, graph)
        except TooShortError:
            spoken.path, spoken.triphones = None, []
            short += 1
            continue
        spoken.path = graph.states[path]
        spoken.triphones = list(_triphones(path, graph))
    return short


def _triphones(path: Integers, graph: Graph) -> Iterator[tuple[Triphone, int, int]]:
    """Yield the states of triphones on a path, with their frames [start, end)."""
    found = spans(path, graph)
    for i, span in enumerate(found):
        around = [
            found[j].phone if 0 <= j < len(found) and found[j].word == span.word >= 0 else EDGE
            for j in (i - 1, i + 1)
        ]
        positions = graph.positions[path[span.start : span.end]]
        for position in range(POSITIONS):
            inside = np.flatnonzero(positions == position)
            if len(inside):
                start, end = span.start + int(inside[0]), span.start + int(inside[-1]) + 1
                yield (around[0], span.phone, around[1], position), start, end


@dataclass(eq=False)
class Stages:
    """Flat start, monophones, triphones."""

    speech: list[Spoken]
    states: int = 900
    """Number of tied states of triphones."""
    components: int = 8
    """Maximum number of components of a triphone's mixture."""
    report: Callable[[str], None] = print

    def run(self) -> Acoustics:
        """Return the triphones, by which all utterances are aligned.

        Utterances that are too short for their texts are left out with a warning. Raises
        `TyndaError` where all are.
        """
        self._start()
        phones = self.monophones()
        short = align(self.speech, phones)
        self._check(short)
        if short:
            warnings.warn(
                f"{short} of {len(self.speech)} utterances are too short for their texts, and left "
                "out",
                stacklevel=2,
            )
        return self.triphones()

    def _check(self, short: int) -> None:
        if short == len(self.speech):
            raise TyndaError("all utterances are too short for their texts: check the manifests")

    def _start(self) -> None:
        """Align all utterances evenly, with a pause at both ends."""
        tying = monophones(PHONES)
        for spoken in self.speech:
            words = [said[0] for said in spoken.pronunciations]
            states = [s for phones in words for phone in tying.spell(phones) for s in phone]
            states = [*tying.silence, *states, *tying.silence]
            frames = len(spoken.features)
            even = np.arange(frames) * len(states) // max(1, frames)
            spoken.path = np.array(states)[even] if frames >= len(states) else None
        self._check(sum(spoken.path is None for spoken in self.speech))

    def monophones(self) -> Acoustics:
        """Return mixtures of phones without context, from an even alignment of all utterances."""
        tying = monophones(PHONES)
        # Short utterances have fewer places where a word may be, and are aligned fast.
        started = (spoken for spoken in self.speech if spoken.path is not None)
        shortest = sorted(started, key=lambda spoken: len(spoken.features))
        part = shortest[: max(400, len(shortest) // 2)]
        found = self._fit(part, tying, 1)
        for components in (1, 1, 1, 1, 2, 2, 4, 4, 8, 8):
            align(part, found)
            found = self._fit(part, tying, components, found.mixtures)
        self._say("monophones", part, found)
        return found

    def triphones(self) -> Acoustics:
        """Return mixtures of tied triphones, from an alignment of all utterances by phones."""
        aligned = [s.features for s in self.speech if s.path is not None]
        tying = build(
            PHONES,
            self._statistics(),
            floor=_FLOOR * np.concatenate(aligned).var(0, dtype=np.float64),
            states=self.states,
            smallest=_EMPTY,
        )
        for spoken in self.speech:
            spoken.path = None if spoken.path is None else _tied(spoken, tying)
        found = self._fit(self.speech, tying, 1)
        for components in (*(n for n in (2, 4) if n < self.components), *[self.components] * 2):
            align(self.speech, found)
            found = self._fit(self.speech, tying, components, found.mixtures)
        align(self.speech, found)
        self._say(f"{tying.count} tied triphone states", self.speech, found)
        return found

    def _fit(
        self,
        speech: Sequence[Spoken],
        tying: Tying,
        components: int,
        start: Mixtures | None = None,
    ) -> Acoustics:
        aligned = [s for s in speech if s.path is not None]
        values = np.concatenate([s.features for s in aligned])
        states = np.concatenate([s.path for s in aligned if s.path is not None])
        return Acoustics(tying, fit(values, states, tying.count, components, start))

    def _statistics(self) -> dict[Triphone, Statistics]:
        """Return the statistics of the states of all triphones in the alignment."""
        found: dict[Triphone, Statistics] = {}
        for spoken in self.speech:
            values = spoken.features.astype(np.float64)
            for triphone, start, end in spoken.triphones:
                x = values[start:end]
                new = Statistics(end - start, x.sum(0), (x**2).sum(0))
                found[triphone] = found[triphone] + new if triphone in found else new
        return found

    def _say(self, what: str, speech: Sequence[Spoken], found: Acoustics) -> None:
        """Report the mean log-likelihood of frames by their states."""
        total, frames = 0.0, 0
        for spoken in speech[:: max(1, len(speech) // 200)]:
            if spoken.path is not None:
                states, columns = np.unique(spoken.path, return_inverse=True)
                scores = found.mixtures.log_likelihoods(spoken.features, states)
                total += float(scores[np.arange(len(columns)), columns].sum())
                frames += len(columns)
        self.report(f"{what}: log-likelihood of a frame {total / max(1, frames):.2f}")


def _tied(spoken: Spoken, tying: Tying) -> Integers:
    """Return the tied states of an alignment of phones."""
    path = np.zeros(len(spoken.features), np.int64)
    for (before, phone, after, position), start, end in spoken.triphones:
        path[start:end] = tying.states(before, phone, after)[position]
    return path
