"""Splicing augmentation: words of a sentence are replaced by other words of the same speaker.

A network that is trained on few sentences memorises them; words in random context make it rely on
the audio. The method is the random form of Lam et al. 2021, "On-the-Fly Aligned Data Augmentation
for Sequence-to-Sequence ASR". A model's CTC alignment locates the words, which are cut at the
point of minimum energy between their letters.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tynda.files import write_whole
from tynda.heads.ctc import paths
from tynda.model import Model
from tynda.sound.frontend import SAMPLE_RATE
from tynda.text.normalize import english_letters
from tynda.train.data import Corpus

__all__ = ["Splicer", "cut_words", "find_words"]

Floats = NDArray[np.float32]

_STEP = SAMPLE_RATE // 100
_EDGE = SAMPLE_RATE // 4
"""Maximum distance of a sentence's start and end from its first and last letter, in samples."""
_FADE = SAMPLE_RATE // 200
_SHARE = 0.5
"""Probability that a word of a sentence is replaced."""


class Splicer:
    """Returns an utterance of ``corpus`` with some words replaced, and its text.

    ``cuts[i]`` are the samples at which utterance ``i`` may be cut: the start of each word and
    the end of the last; the list is empty where the words are not aligned.
    """

    def __init__(self, corpus: Corpus, cuts: list[list[int]]) -> None:
        self._corpus, self._cuts = corpus, cuts
        self._texts = [english_letters(u.text).split() for u in corpus.utterances]
        self._said: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for i, places in enumerate(cuts):
            self._said[self._who(i)] += [(i, word) for word in range(len(places) - 1)]

    def _who(self, index: int) -> tuple[str, str]:
        utterance = self._corpus.utterances[index]
        return utterance.source, utterance.speaker or ""

    def __call__(self, index: int, rng: Generator) -> tuple[Floats, str]:
        """Return samples ``[n]`` and text, unchanged if the utterance's words are not aligned."""
        samples, words, cuts = self._corpus.samples(index), self._texts[index], self._cuts[index]
        if not cuts:
            return samples, " ".join(words)
        others = self._said[self._who(index)]
        parts, text = [samples[: cuts[0]]], []
        for i, word in enumerate(words):
            source, place = index, i
            if rng.random() < _SHARE:
                source, place = others[int(rng.integers(len(others)))]
                word = self._texts[source][place]
            start, stop = self._cuts[source][place : place + 2]
            parts.append(self._corpus.samples(source)[start:stop])
            text.append(word)
        return _join([*parts, samples[cuts[-1] :]]), " ".join(text)


def _join(parts: list[Floats]) -> Floats:
    """Concatenate parts, faded in and out so that there are no clicks."""
    faded = []
    for part in parts:
        part, n = part.copy(), min(_FADE, len(part) // 2)
        ramp = np.linspace(0, 1, n, dtype=np.float32)
        part[:n] *= ramp
        part[len(part) - n :] *= ramp[::-1]
        faded.append(part)
    return np.concatenate(faded)


def find_words(
    model: Model,
    corpus: Corpus,
    cache: Path,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Return where each utterance's words may be cut, for `Splicer`, cached in the file."""
    cuts: list[list[int]]
    with suppress(OSError, ValueError):
        cuts = json.loads(cache.read_text())
        if len(cuts) == len(corpus):
            return cuts
    cuts = []
    for i, utterance in enumerate(corpus.utterances):
        cuts.append(cut_words(model, corpus.samples(i), english_letters(utterance.text)))
        if on_progress:
            on_progress(i)
    write_whole(cache, json.dumps(cuts).encode())
    return cuts


def cut_words(model: Model, samples: Floats, text: str) -> list[int]:
    """Return the samples at which each word of ``text`` starts, and at which the last one ends.

    The list is empty for a text of fewer than two words, and for audio too short for its text.
    """
    words = text.split()
    if len(words) < 2 or len(samples) < _STEP:
        return []
    tokenizer = model.checkpoint.tokenizer
    log_probs = model.encode(samples)
    tokens = tokenizer.encode(" ".join(words))
    try:
        spans = paths.align(log_probs, tokens, tokenizer.blank)
    except ValueError:
        return []
    letters = [i for i, token in enumerate(tokens) if token != tokenizer.space_id]
    spaces = [i for i, token in enumerate(tokens) if token == tokenizer.space_id]
    frame = len(samples) / max(1, len(log_probs))
    first, last = spans[letters[0]][0] * frame, spans[letters[-1]][1] * frame
    between = [(spans[i - 1][1] * frame, (spans[i + 1][0] + 1) * frame) for i in spaces]
    places = [(first - _EDGE, first), *between, (last, last + _EDGE)]
    cuts = [_quietest(samples, int(start), int(stop)) for start, stop in places]
    return cuts if all(a < b for a, b in pairwise(cuts)) else []


def _quietest(samples: Floats, start: int, stop: int) -> int:
    """Return the middle of the 10 ms with minimum energy between two samples."""
    start, stop = max(0, start), min(len(samples), max(stop, start + _STEP))
    places = np.arange(start, max(start + 1, stop - _STEP), _STEP // 2)
    energy = [float(np.sum(samples[p : p + _STEP] ** 2)) for p in places]
    return min(int(places[int(np.argmin(energy))]) + _STEP // 2, len(samples))
