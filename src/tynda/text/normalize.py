"""Text normalisation, for training and for scoring."""

import importlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["NORMALIZERS", "basic", "english_letters", "normalizer_of", "spell_figures"]


def basic(text: str) -> str:
    """Normalise a text of any script to lower-case words with one space between them.

    Letters, their combining marks and digits are kept, in Unicode's form NFKC. Apostrophes within
    words are kept (Ukrainian "п'ять", English "don't"), as U+0027 however they were typed. All
    other characters separate words. The function is idempotent.
    """
    kept: list[str] = []
    for c in _plain(text):
        kind = unicodedata.category(c)[0]
        follows_letter = bool(kept) and kept[-1] not in " '"
        kept.append(c if kind in "LN" or c == "'" or (kind == "M" and follows_letter) else " ")
    return " ".join(re.sub(r"(?<![^\s'])'|'(?![^\s'])", " ", "".join(kept)).split())


def english_letters(text: str) -> str:
    """Normalise English to its spoken form, with the letters a to z, apostrophe and space only.

    Accents are stripped. Numbers (also years, decimals, ordinals, times, money and telephone
    numbers), the signs in SIGNS and the abbreviations below become the words that a speaker says.
    Apostrophes within words are kept; all other characters separate words. The function is
    idempotent.
    """
    text = unicodedata.normalize("NFKD", _plain(text).translate(LETTERS))
    text = "".join(c for c in text if not unicodedata.combining(c))
    for pattern, spoken in ABBREVIATIONS:
        text = pattern.sub(spoken, text)
    text = spell_figures(text)
    for sign, spoken in SIGNS.items():
        text = text.replace(sign, f" {spoken} ")
    text = re.sub(r"[^a-z']|(?<![a-z])'|'(?![a-z])", " ", text)
    return " ".join(WORDS.get(word, word) for word in text.split())


def _whisper(name: str) -> Callable[[str], str]:
    try:
        module = importlib.import_module(f"whisper_normalizer.{name.lower()}")
    except ImportError:
        raise TyndaError(
            f"Whisper's normalisers need whisper-normalizer: {install('normalizers')}"
        ) from None
    normalize = getattr(module, f"{name}TextNormalizer")()
    return lambda text: " ".join(normalize(text).split())


def normalizer_of(languages: Sequence[str]) -> Callable[[str], str]:
    """Return the normaliser with which texts of a model for these languages are scored."""
    return english_letters if list(languages) == ["en"] else basic


NORMALIZERS: Final[Mapping[str, Callable[[], Callable[[str], str]]]] = {
    "letters": lambda: english_letters,
    "basic": lambda: basic,
    "whisper-english": partial(_whisper, "English"),
    "whisper-basic": partial(_whisper, "Basic"),
}
"""Normalisers for scoring, by name; calling a value returns the normaliser.

The last two are those of Radford et al. 2022, appendix C, from the package ``whisper-normalizer``.
"""


@lru_cache(1 << 12)
def _words(number: int, to: str = "cardinal") -> str:
    from num2words import num2words  # slow to import, and few texts have digits

    return str(num2words(number, to=to))


def _plain(text: str) -> str:
    """Apply NFKC and lower case, straighten apostrophes, remove soft hyphens and joiners."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).lower()
    return unicodedata.normalize("NFKC", text).translate(APOSTROPHES)


APOSTROPHES: Final = str.maketrans(dict.fromkeys("’‘‛ʼʻʹ′´`", "'"))
LETTERS: Final = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
SIGNS: Final = {"&": "and", "@": "at", "%": "percent", "+": "plus"}

# Abbreviations that need their full stop: without it they are other words.
ABBREVIATIONS: Final = [
    (re.compile(pattern), spoken)
    for pattern, spoken in (
        (r"\bst\.\s*(?=[a-z])", "saint "),  # "St. Louis"; without a following word it is a street
        (r"\bst\.", "street "),
        (r"\bprof\.", "professor "),
        (r"\brev\.", "reverend "),
        (r"\bhon\.", "honorable "),
        (r"\bcapt\.", "captain "),
        (r"\bgen\.", "general "),
        (r"\bsr\.", "senior "),
        (r"(?:\bno\.\s?|#)(?=[0-9])", "number "),
        (r"(?<=[0-9])\s*([ap])\.?m\b", r" \1 m"),
        (r"\bwww\.", "www dot "),
        (r"(?<=[a-z0-9])\.(?=(?:com|org|net|edu|gov)\b)", " dot "),
    )
]
# Abbreviations that have one meaning only, with a full stop or without.
WORDS: Final = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "jr": "junior",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
}

Speller = Callable[[re.Match[str]], str]

LONG_FIGURES: Final = re.compile(r"[0-9][0-9,]{99,}")
NUMBER: Final = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
CURRENCIES: Final = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spell_figures(text: str) -> str:
    """Return English with its numbers in words: years, ordinals, times, money, telephone numbers.

    Capitals and signs stay as they are.
    """
    # The patterns would take time that grows with the square of a run's length.
    text = LONG_FIGURES.sub(lambda match: f" {_digits(match[0])} ", text)
    for pattern, spell in FIGURES:
        text = pattern.sub(partial(_spaced, spell), text)
    return text


def _spaced(spell: Speller, match: re.Match[str]) -> str:
    return f" {spell(match)} "


def _digits(figures: str) -> str:
    return " ".join(DIGITS[int(c)] for c in figures if c.isdigit())


def _cardinal(figures: str) -> str:
    """Spell an integer, with or without thousands separators, as a number, year or digits."""
    plain = figures.replace(",", "")
    has_commas = plain != figures
    is_code = not has_commas and (
        (len(plain) > 1 and plain[0] == "0") or (len(plain) >= 7 and not plain.endswith("000"))
    )
    if is_code or len(plain) > 15:
        return _digits(plain)
    is_year = not has_commas and len(plain) == 4 and 1100 <= int(plain) < 2100
    return _words(int(plain), to="year" if is_year else "cardinal")


def _decimal(figures: str) -> str:
    """Spell a number with any count of decimal points: 3.14, or version 1.2.3."""
    whole, *parts = figures.split(".")
    return " point ".join([_cardinal(whole), *map(_digits, parts)])


def _time(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), match[3]
    if minute == 0:
        exact = "" if half else "o'clock" if 1 <= hour <= 12 else "hundred"
        return f"{_words(hour)} {exact}{half or ''}"
    return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}{half or ''}"


def _money(match: re.Match[str]) -> str:
    one, many, small_one, small_many = CURRENCIES[match[1]]
    whole, decimals, scale = match[2], match[3], match[4]
    if scale:
        return f"{_decimal(whole + (decimals or ''))} {scale} {many}"
    if decimals and len(decimals) != 3:
        return f"{_decimal(whole + decimals)} {many}"
    cents = int(decimals[1:]) if decimals else 0
    parts = []
    if cents == 0 or whole != "0":
        parts.append(f"{_cardinal(whole)} {one if whole == '1' else many}")
    if cents:
        parts.append(f"{_words(cents)} {small_one if cents == 1 else small_many}")
    return " and ".join(parts)


def _ordinal(match: re.Match[str]) -> str:
    plain = match[1].replace(",", "")
    return _digits(plain) if len(plain) > 15 else _words(int(plain), to="ordinal")


def _decade(match: re.Match[str]) -> str:
    spoken = _cardinal(match[1])
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


# The order matters: a pattern does not match what an earlier one has already spelled out.
FIGURES: Final[list[tuple[re.Pattern[str], Speller]]] = [
    (re.compile(pattern), spell)
    for pattern, spell in (
        (r"(?<![^\s(])[-−](?=\.?[0-9]|[$£€])", lambda _: "minus"),
        (r"(?<![0-9:])([01]?[0-9]|2[0-4]):([0-5][0-9])(?![0-9:])(\s[ap] m\b)?", _time),
        (
            rf"([$£€])\s?({NUMBER})(\.[0-9]+)?(?:\s?(thousand|million|billion|trillion)\b)?",
            _money,
        ),
        (rf"({NUMBER})(?:st|nd|rd|th)\b", _ordinal),
        (r"(?<![0-9.,])((?:[0-9]{2})?[1-9]0|[0-9]{2}00)'?s\b", _decade),
        (
            r"(?<![0-9-])(?:1[- ])?(?:\([0-9]{3}\) ?|[0-9]{3}-)?[0-9]{3}-[0-9]{4}(?![0-9-])",
            lambda match: _digits(match[0]),
        ),
        (r"(?<![0-9a-z])\.(?=[0-9])", lambda _: "point"),
        (rf"{NUMBER}(?:\.[0-9]+)*", lambda match: _decimal(match[0])),
    )
]
