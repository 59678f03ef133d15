"""Aligns a text with its recording."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tynda.alignment.edges import refine
from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord
from tynda.model import Model
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.text.normalize import normalizer_of

__all__ = ["Alignment", "align"]

_MAX_SECONDS = 3 * 3600
"""The maximum duration of a recording, of which all samples are in memory."""


@dataclass(frozen=True)
class Alignment:
    """The words of a recording that lasts ``duration`` seconds, in the order of time."""

    words: list[AlignedWord]
    duration: float
    parts: str = "letters"
    """The name of the parts of words: ``letters`` or ``phones``."""

    @property
    def confidence(self) -> float:
        """The mean probability of the words, from 0 to 1; a wrong text has a low one."""
        return sum(word.confidence for word in self.words) / max(1, len(self.words))


def align(
    model: Model, source: Any, text: str, *, language: str | None = None, track: int | None = None
) -> Alignment:
    """Return when each word of a text is spoken in a recording.

    ``source`` is a path, bytes or a binary file. Words are as in the text, without the signs around
    them, where each can be normalised by itself; otherwise they are those that are spoken ("St."
    may be "saint" or "street"). Raises `TyndaError` for a text without words or with letters that
    the model does not have, and where `Head.align` does.
    """
    languages = model.header.languages
    normalize = normalizer_of([language] if language else languages)
    written, spoken = _words(text, normalize)
    if not spoken:
        raise TyndaError("the text has no words: give what is said in the recording")
    samples = audio.load(source, track)
    duration = len(samples) / SAMPLE_RATE
    if duration > _MAX_SECONDS:
        raise TyndaError(
            f"{duration:.0f} s of audio are too long to be aligned at once: cut the recording"
        )
    flat = [word for words in spoken for word in words]
    found = iter(refine(samples, model.head.align(samples, flat, language)))
    aligned = [
        _joined(name, [next(found) for _ in words])
        for name, words in zip(written, spoken, strict=True)
    ]
    return Alignment(aligned, duration, model.head.aligned_parts)


def _words(text: str, normalize: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the words of a text as they are written, and the spoken words of each."""
    written, spoken = list[str](), list[list[str]]()
    for word in text.split():
        words = normalize(word).split()
        if words:
            written.append(_bare(word))
            spoken.append(words)
        elif any(c.isalnum() for c in word):
            raise TyndaError(
                f"the model has no letters for {word[:80]!r}: write it in the model's language"
            )
    together = normalize(text).split()
    if [word for words in spoken for word in words] != together:
        return together, [[word] for word in together]
    return written, spoken


def _bare(word: str) -> str:
    """Return a word without the punctuation around it."""
    kept = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LNM" or c in "%$€£+&@#"]
    return word[kept[0] : kept[-1] + 1] if kept else word


def _joined(name: str, words: list[AlignedWord]) -> AlignedWord:
    """Return several spoken words as one that is written, such as "1999"."""
    letters = [letter for word in words for letter in word.letters]
    confidence = sum(word.confidence for word in words) / len(words)
    return replace(
        words[0], text=name, end=words[-1].end, confidence=confidence, letters=tuple(letters)
    )
