"""Cleans lines of text, for language models and for prompts: one language, one script, no figures,
no duplicates."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tynda.errors import TyndaError
from tynda.text import kazakh, language
from tynda.text.duplicates import Duplicates
from tynda.text.figures import speak
from tynda.text.lines import Line, encode
from tynda.text.normalize import normalizer_of
from tynda.text.repetition import is_repetitive

__all__ = ["LANGUAGES", "Cleaner", "Counts", "Settings"]

LANGUAGES: Final = ("kk", "uk", "ru", "en")
_COMPANIONS: Final = ("ru", "en")
"""Languages whose words stand in texts of the others."""
_MAX_KAZAKH_COST: Final = 9.5
"""The cost, in nats for each n-gram, above which a text in Arabic letters is not Kazakh."""
_MIN_AHEAD: Final = 0.3
"""The cost by which a text in Latin letters has to be nearer to Kazakh than to other languages."""
_MIN_LETTERS: Final = 0.5
"""The minimum share of letters among all characters that are no spaces, digits or common signs."""
_SIGNS: Final = re.compile(r"[^\W\d_]|[\d\s.,!?;:'\"«»“”„’‘ʼ()%№–—-]")
_ADDRESS: Final = re.compile(r"https?://|www\.|\S@\S|\S\.(?:com|org|net|kz|ru|ua)\b")


@dataclass(frozen=True)
class Settings:
    """The conditions that a line must meet in order to be kept."""

    language: str = "kk"
    min_words: int = 1
    max_words: int = 60
    min_share: float = 0.5
    """The minimum share of letters in words of the language."""
    duplicates: float = 0.7
    """The similarity from which on a line is a duplicate."""
    remembered: int = 500_000
    """The number of lines with which each line is compared."""

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise TyndaError(f"texts in {self.language!r} cannot be cleaned: choose one of {known}")
        if self.min_words > self.max_words:
            raise TyndaError("the minimum number of words is above the maximum: change one of them")


@dataclass
class Counts:
    """How many lines were read and kept, what was changed, and why others were dropped."""

    read: int = 0
    kept: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-able data, most frequent reasons first."""
        return {
            "read": self.read,
            "kept": self.kept,
            "changed": dict(self.changed.most_common()),
            "dropped": dict(self.dropped.most_common()),
        }


class _DroppedError(Exception):
    """A line is dropped, for a reason."""


class Cleaner:
    """Cleans lines one after the other; ``counts`` are those of the lines so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.counts = settings, Counts()
        self._normalize = normalizer_of([settings.language])
        self._earlier = Duplicates(settings.duplicates, settings.remembered)

    def lines(self, lines: Iterable[Line]) -> Iterator[str]:
        """Yield the lines that are kept, as JSON."""
        for text, entry in self._kept(lines):
            yield encode(text, entry, language=self.settings.language)

    def texts(self, lines: Iterable[Line]) -> Iterator[str]:
        """Yield the texts of the lines that are kept."""
        for text, _ in self._kept(lines):
            yield text

    def text(self, text: str) -> str | None:
        """Return a clean text, or None where it is dropped; it is counted in either case."""
        return next(self.texts([Line(text)]), None)

    def _kept(self, lines: Iterable[Line]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """Yield the clean text and the object of each line that is kept, and count all."""
        for line in lines:
            self.counts.read += 1
            try:
                if line.text is None:
                    raise _DroppedError(line.problem)
                text, changes = self._cleaned(line.text)
            except _DroppedError as reason:
                self.counts.dropped[str(reason)] += 1
                continue
            self.counts.kept += 1
            self.counts.changed.update(changes)
            yield text, line.entry

    def _cleaned(self, text: str) -> tuple[str, list[str]]:
        settings, changes = self.settings, list[str]()
        text = _plain(text)
        if _ADDRESS.search(text):
            raise _DroppedError("an address of the web")
        self._check_signs(text)
        if settings.language == "kk":
            text, script = _in_cyrillic(text)
            changes += [script] if script else []
        if (repaired := kazakh.repair(text, settings.language)) != text:
            text = repaired
            changes.append("look-alike letters")
        changes += self._check_language(text)
        if (spoken := speak(text, settings.language)) != text:
            text = spoken
            changes.append("figures")
        words = self._normalize(text).split()
        if len(words) < settings.min_words:
            raise _DroppedError("too few words")
        if len(words) > settings.max_words:
            raise _DroppedError("too many words")
        if is_repetitive(words):
            raise _DroppedError("repetition")
        if self._earlier.add(" ".join(words)):
            raise _DroppedError("a duplicate")
        return text, changes

    def _check_signs(self, text: str) -> None:
        letters = sum(map(str.isalpha, text))
        odd = len(_SIGNS.sub("", text))
        if not letters and not any(map(str.isdigit, text)):
            raise _DroppedError("no words")
        if letters < _MIN_LETTERS * (letters + odd):
            raise _DroppedError("signs")

    def _check_language(self, text: str) -> list[str]:
        """Return what is to be counted of a line in the language; other lines are dropped."""
        own = self.settings.language
        guess = language.identify(text)
        if guess is None:  # There are only figures.
            return []
        if kazakh.script_of(text) not in ("cyrillic", "latin"):
            raise _DroppedError("other script")
        among = dict.fromkeys((own, *_COMPANIONS, guess.language))
        shares = language.shares(text, list(among))
        share = shares.get(own, 0.0)
        if share < self.settings.min_share:
            other = max(shares, key=lambda code: shares[code] * (code != own))
            raise _DroppedError(f"other language: {other}")
        return ["mixed languages, kept"] if share < 1 else []


def _plain(text: str) -> str:
    """Return a text in NFC with single spaces, without control and format characters."""
    text = unicodedata.normalize("NFC", text)
    return " ".join(
        "".join(
            c if (kind := unicodedata.category(c))[0] != "C" else "" if kind == "Cf" else " "
            for c in text
        ).split()
    )


def _in_cyrillic(text: str) -> tuple[str, str | None]:
    """Return a Kazakh text in Cyrillic, and the script that it was in; others are unchanged."""
    script = kazakh.script_of(text)
    if script == "arabic" and kazakh.is_tote(text):
        converted = kazakh.from_arabic(text)
        if language.cost(converted, "kk") < _MAX_KAZAKH_COST:
            return converted, "Arabic script"
    if script == "latin":
        readings = list(kazakh.from_latin(text))
        if readings:
            best = min(readings, key=lambda reading: language.cost(reading, "kk"))
            guess = language.identify(text)
            ahead = language.cost(text, guess.language) - language.cost(best, "kk") if guess else 0
            if ahead > _MIN_AHEAD:
                return best, "Latin script"
    return text, None
