"""Types of values and headings that the options of all decoders share."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Annotated

from tynda.checks import MAX_COUNT, MAX_NUMBER, Range, Rule
from tynda.errors import TyndaError

__all__ = [
    "DOUBT",
    "EXPECTED",
    "HEADINGS",
    "LONG",
    "SEARCH",
    "TIMES",
    "AboveZero",
    "Count",
    "FileName",
    "NotNegative",
    "Number",
    "Words",
    "check_text",
]

SEARCH = "Search"
EXPECTED = "Language and expected words"
LONG = "Long recordings"
TIMES = "Times and words"
DOUBT = "Doubtful text"
HEADINGS = (EXPECTED, SEARCH, LONG, TIMES, DOUBT)
"""The headings of the groups of options, in the order in which help lists them."""

Count = Annotated[int, Range(1, MAX_COUNT)]
Number = Annotated[float, Range(-MAX_NUMBER, MAX_NUMBER)]
NotNegative = Annotated[float, Range(0, MAX_NUMBER)]
AboveZero = Annotated[float, Range(0, MAX_NUMBER, above=True)]
FileName = Annotated[
    str | PathLike[str], Rule("the name of a file, or 'none'", lambda x: str(x) != "")
]
_MAX_TEXT = 100_000
_MAX_WORD = 256


def _are_words(words: str | Sequence[str]) -> bool:
    """Return whether hot words are few and short enough for a search that stays fast."""
    several = words.split(",") if isinstance(words, str) else words
    return (
        sum(map(len, several)) <= _MAX_TEXT
        and len(several) <= _MAX_TEXT
        and max(map(len, several), default=0) <= _MAX_WORD
    )


Words = Annotated[
    str | Sequence[str],
    Rule(f"words of up to {_MAX_WORD} characters, {_MAX_TEXT} in all", _are_words),
]
"""A list of words, or one text with commas between them."""


def check_text(name: str, text: str) -> None:
    """Raise `TyndaError` for a text that no model could read to its end."""
    if len(text) > _MAX_TEXT:
        raise TyndaError(f"{name} must be text of up to {_MAX_TEXT} characters, not {len(text)}")
