"""Figures of a text in words, as a speaker says them: numbers, dates, times, units.

The word before or after a number decides on its form where that is written: "2021 году" is an
ordinal in the case of "году". Russian and Ukrainian cardinals stay in the nominative, since their
case is nowhere written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from tynda.text.normalize import spell_figures
from tynda.text.numerals import KAZAKH, RUSSIAN, UKRAINIAN, Numerals

__all__ = ["speak"]

_LANGUAGES: Final[Mapping[str, Numerals]] = {"kk": KAZAKH, "ru": RUSSIAN, "uk": UKRAINIAN}
_NUMBER: Final = r"(?:[0-9]{1,3}(?:[   ][0-9]{3})+(?![0-9])|[0-9]+)"
_DASH: Final = "[-‐‑‒–—−]"
_ROMAN: Final = r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})(?![IVX])"
_VALUES: Final = {"I": 1, "V": 5, "X": 10}
_MAX_DIGITS = 15
_CASES: Final = (
    "д[еа]|т[еа]|д[еа]н|т[еа]н|н[еа]н|г[е]|ға|ке|қа|не|на|[дтн]і|[дтн]ы|[дтн]ің|[дтн]ың|"
    "[мбп]ен|і|ы|сі|сы|сін|сын|еу|ау|еуі|ауы|д[еа]й|т[еа]й|[лдт]ік|[лдт]ық"
)
"""The endings that Kazakh writes after a number and a hyphen; any other word makes an ordinal."""

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def speak(text: str, language: str) -> str:
    """Return a text without digits, for "kk", "ru", "uk" or "en"; other languages stay as they are.

    Long runs of figures, and those that begin with 0, are spoken one by one.
    """
    if not re.search(r"[0-9№]|[IVX] ", text):
        return text
    if language == "en":
        return _single_spaces(spell_figures(text))
    if language not in _LANGUAGES:
        return text
    for pattern, spoken in _rules(language):
        text = pattern.sub(lambda match, s=spoken: f" {s(match)} ", text)  # type: ignore[misc]
    return _single_spaces(text)


def _single_spaces(text: str) -> str:
    return re.sub(r" +([.,!?;:…%»)])", r"\1", " ".join(text.split())).replace("( ", "(")


def _plain(figures: str) -> str:
    return re.sub("[^0-9]", "", figures)


def _roman(numeral: str) -> int:
    values = [_VALUES[c] for c in numeral]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))


@cache
def _rules(language: str) -> tuple[Rule, ...]:
    """Return the rules of a language. Their order matters: a rule finds no digits of an earlier."""
    n = _LANGUAGES[language]
    kazakh = language == "kk"

    def cardinal(figures: str) -> str:
        plain = _plain(figures)
        has_zeros = len(plain) > 1 and plain[0] == "0"
        return n.digits(plain) if has_zeros or len(plain) > _MAX_DIGITS else n.cardinal(int(plain))

    def date(match: re.Match[str]) -> str:
        day, month, year = int(match["d"]), int(match["m"]), int(match["y"])
        name, ending = n.months[month - 1], n.years[n.year]
        first = n.ordinal(day, "" if kazakh else "е")
        return f"{first} {name} {n.ordinal(year, ending)} {n.year}"

    def year(match: re.Match[str]) -> str:
        word = n.written.get(match[3], match[3])
        ending = n.years.get(word, "го")
        first = "" if match[1] is None else f"{n.ordinal(int(match[1]), ending)}-"
        return f"{first}{n.ordinal(int(match[2]), ending)} {word}"

    def century(match: re.Match[str]) -> str:
        word = n.written.get(match[2], match[2])
        return f"{n.ordinal(_roman(match[1]), n.centuries[word])} {word}"

    def clock(match: re.Match[str]) -> str:
        return f"{cardinal(str(int(match[1])))} {cardinal(match[2])}"

    def suffixed(match: re.Match[str]) -> str:
        figures, ending = _plain(match[1]), match[2]
        if len(figures) > _MAX_DIGITS:
            return f"{n.digits(figures)} {ending}"
        number = int(figures)
        if not kazakh:
            # The last letters of a whole ending ("21-ого") are the ending that is written shortly.
            short = next((e for e in ("ми", "го", "му") if ending.endswith(e)), ending[-1])
            return n.ordinal(number, short)
        if re.fullmatch("(?:[іы]?н)?ш[іы]", ending):
            return n.ordinal(number, "")
        if re.fullmatch(_CASES, ending):
            word = n.cardinal(number)
            drops = ending[0] in "еаіы" and word[-1] in "аеіы"
            return (word[:-1] if drops else word) + ending
        return f"{n.ordinal(number, '')} {ending}"

    def decimal(whole: str, rest: str) -> str:
        whole = _plain(whole)
        if len(whole) + len(rest) > _MAX_DIGITS:
            return f"{n.digits(whole)} {n.points} {n.digits(rest)}"
        return n.fractions(whole, rest)

    def signed(match: re.Match[str]) -> str:
        number, rest, sign, ending = match[1], match[2], match[3], match[4] or ""
        words = cardinal(number) if rest is None else decimal(number, rest)
        return f"{words} {n.noun(sign, int(_plain(number)[-3:]), rest is None)}{ending}"

    signs = _any_of(s for s in n.nouns if not s.isalpha())
    units = _any_of(s for s in n.nouns if s.isalpha())
    of_centuries = {short for short, word in n.written.items() if word in n.centuries}
    years = _any_of((*n.years, *(n.written.keys() - of_centuries)))
    centuries = _any_of((*n.centuries, *of_centuries))
    endings = "[а-яәғқңөұүһіёїє]+" if kazakh else "[а-яіїє]{1,3}"
    day, month, long_year = (
        "(?P<d>0?[1-9]|[12][0-9]|3[01])",
        "(?P<m>0?[1-9]|1[0-2])",
        "[12][0-9]{3}",
    )
    after = rf"(?![0-9])(?:\s?(?:{years})(?!\w))?"
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        ("[0-9]{16,}", lambda m: n.digits(m[0])),
        (rf"(?<![0-9.]){day}\.{month}\.(?P<y>{long_year}){after}", date),
        (rf"(?<![0-9/]){day}/{month}/(?P<y>{long_year}){after}", date),
        (rf"(?<![0-9-])(?P<y>{long_year})-{month}-{day}(?![0-9-])", date),
        (
            rf"(?<![0-9])(?:({long_year}){_DASH})?({long_year}){_DASH}?\s?({years})(?!\w)",
            year,
        ),
        (rf"\b({_ROMAN})\s({centuries})(?!\w)", century),
        (
            rf"(?<![0-9])(0?[1-9]|[12][0-9]|3[01])\s((?:{_any_of(n.months)})\w*)",
            lambda m: f"{n.ordinal(int(m[1]), n.day)} {m[2]}",
        ),
        (r"(?<![0-9:])([01]?[0-9]|2[0-4]):([0-5][0-9])(?![0-9:])", clock),
        (rf"({_NUMBER}){_DASH}({endings})(?!\w)", suffixed),
        (rf"(?<![\w.,]){_DASH}(?=[0-9])", lambda _: n.minus),
        (rf"({_NUMBER})(?:[.,]([0-9]+))?\s?({signs})(?:-({_CASES})(?!\w))?", signed),
        (rf"({_NUMBER})(?:[.,]([0-9]+))?\s?({units})()(?!\w)", signed),
        (
            rf"([$€£₸₽₴])\s?({_NUMBER})(?![.,][0-9])",
            lambda m: f"{cardinal(m[2])} {n.noun(m[1], int(_plain(m[2])[-3:]))}",
        ),
        (r"[0-9]+(?:\.[0-9]+){2,}", lambda m: f" {n.points} ".join(map(cardinal, m[0].split(".")))),
        (rf"(?<![0-9])({_NUMBER})[.,]([0-9]+)", lambda m: decimal(m[1], m[2])),
        ("№", lambda _: n.number),
        (rf"({_NUMBER}){_DASH}({_NUMBER})", lambda m: f"{cardinal(m[1])}-{cardinal(m[2])}"),
        (_NUMBER, lambda m: cardinal(m[0])),
    ]
    return tuple((re.compile(pattern), spoken) for pattern, spoken in rules)


def _any_of(texts: Iterable[str]) -> str:
    """Return a pattern of any of these texts, the longest first."""
    return "|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text))))
