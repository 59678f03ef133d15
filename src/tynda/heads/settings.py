"""Types of values and headings that the options of all decoders share."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Annotated

from tynda.checks import MAX_COUNT, MAX_NUMBER, Range, Rule

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
Words = Annotated[str | Sequence[str], Rule("words", lambda _: True)]
"""A list of words, or one text with commas between them."""
