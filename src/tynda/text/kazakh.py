"""Kazakh in its three scripts, all written in Cyrillic, and look-alike letters of other scripts.

Latin text has one of four alphabets: that of 2021, those with acutes (2018) and apostrophes (2017),
or that of Kazakh Wikipedia and Kazinform. Arabic text is in the alphabet Töte jazu of Baitursynov,
in which a high hamza before a word, or one of the letters for e, g and k in it, makes its vowels
front vowels.

Neither script says all that Cyrillic does: х and һ are one letter in Latin, и and й, and letters of
loanwords (э, ц, щ, ъ, ь) have none. The conversions follow the most frequent spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["ALPHABETS", "from_arabic", "from_latin", "is_tote", "repair", "script_of"]

VOWELS: Final = frozenset("аәеёиіоөуұүыэюя")

_COMMON: Final = {
    **dict(zip("abdefghjklmnopqrstvz", "абдефгхжклмнопқрствз", strict=True)),
    # Letters that no Latin alphabet of Kazakh has, but loanwords and names.
    "c": "ц",
    "x": "х",
    "w": "в",
}
_UMLAUTS: Final = {"ä": "ә", "ö": "ө", "ü": "ү", "ğ": "ғ", "ñ": "ң", "ş": "ш", "ç": "ч"}
_GLIDE: Final = "\0"
"""The place of и or й, where an alphabet has one letter for both."""

ALPHABETS: Final[Mapping[str, Mapping[str, str]]] = {
    "2021": {**_COMMON, **_UMLAUTS, "y": "ы", "ı": "і", "i": _GLIDE, "u": "у", "ū": "ұ", "ŋ": "ң"},
    "2018": {
        **_COMMON,
        **{"á": "ә", "ǵ": "ғ", "ń": "ң", "ó": "ө", "ú": "ү", "ý": "у", "sh": "ш", "ch": "ч"},
        **{"y": "ы", "i": "і", "ı": _GLIDE, "u": "ұ"},
    },
    "2017": {
        **_COMMON,
        **{"a'": "ә", "g'": "ғ", "n'": "ң", "o'": "ө", "u'": "ү", "y'": "у", "s'": "ш", "c'": "ч"},
        **{"y": "ы", "i": "і", "i'": _GLIDE, "u": "ұ"},
    },
    "wikipedia": {
        **_COMMON,
        **_UMLAUTS,
        **{"ı": "ы", "i": "і", "y": "й", "ï": "и", "w": "у", "u": "ұ"},
    },
}
"""The Latin alphabets, by name: letter -> Cyrillic."""

_APOSTROPHES: Final = str.maketrans(dict.fromkeys("’‘‛ʼʻʹ′´`", "'"))

_TOTE: Final = dict(
    zip("ابۆگعدەجزكقلمنڭوپرستۋۇفحهھچشى", "абвгғдежзкқлмнңопрстуұфхһһчшы", strict=True)
)
_FRONT: Final = {"а": "ә", "о": "ө", "ұ": "ү", "ы": "і"}
_HAMZA: Final = "ٴ"
_ARABIC_VARIANTS: Final = str.maketrans(
    {"ء": _HAMZA, "ٔ": _HAMZA, "ي": "ي", "ی": "ي", "ک": "ك", "ـ": None, "أ": "ٴا", "ہ": "ه"}
    | {"‌": None, "‍": None}
)
_ARABIC_SIGNS: Final = str.maketrans("،؛؟٪۔٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", ",;?%.01234567890123456789")
_TOTE_ONLY: Final = frozenset("ەۇۋڭۆٴ")
"""Letters of Töte jazu that Arabic, Persian and Urdu do not have."""

_LATIN_LIKE: Final = dict(
    zip("aeopcyxiABCEHKMOPTXYIhəƏɵ", "аеорсухіАВСЕНКМОРТХУІһәӘө", strict=True)
)
_CYRILLIC_LIKE: Final = {
    cyrillic: latin for latin, cyrillic in _LATIN_LIKE.items() if latin.isascii()
}
_FOREIGN_CYRILLIC: Final = str.maketrans("ӊӉӄӃҡҠҥҤӷӶѳѲҽҼ", "ңҢқҚқҚңҢғҒөӨеЕ")
"""Letters of other languages in Cyrillic that old fonts and keyboards put for Kazakh ones."""

_WORD: Final = re.compile(r"[^\W\d_]+(?:['’ʼ][^\W\d_]+)*'?")


def script_of(text: str) -> str | None:
    """Return the script of most letters: ``cyrillic``, ``latin``, ``arabic`` or ``other``.

    A text without letters has None.
    """
    counts: dict[str, int] = {}
    for c in text:
        if c.isalpha():
            name = _script(c)
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else None


def _script(c: str) -> str:
    if "Ѐ" <= c <= "ԯ":
        return "cyrillic"
    if c < "ɐ" or "Ḁ" <= c <= "ỿ" or c in "əɵ":
        return "latin"
    return "arabic" if "؀" <= c <= "ۿ" or "ݐ" <= c <= "ݿ" or "ﭐ" <= c <= "﻿" else "other"


def repair(text: str, language: str = "kk") -> str:
    """Return a text whose words have letters of one script, where letters only look alike.

    In a word with letters of Cyrillic and Latin, those of one script become those of the other, if
    all of them have a double there: "cәлем" with a Latin c is Cyrillic, "Windоws" with a Cyrillic о
    is Latin. Words with other letters of both ("Google-дан") stay as they are. For Kazakh, letters
    of related alphabets (ӊ, ҡ) become Kazakh ones, too.
    """
    text = unicodedata.normalize("NFC", text)
    if language == "kk":
        text = text.translate(_FOREIGN_CYRILLIC)
    return re.sub(r"[^\W\d_]+", lambda match: _repaired(match[0]), text)


def _repaired(word: str) -> str:
    latin = [c for c in word if _script(c) == "latin"]
    cyrillic = [c for c in word if _script(c) == "cyrillic"]
    if not latin or not cyrillic:
        return word
    if all(c in _LATIN_LIKE for c in latin):
        return "".join(_LATIN_LIKE.get(c, c) for c in word)
    if all(c in _CYRILLIC_LIKE for c in cyrillic):
        return "".join(_CYRILLIC_LIKE.get(c, c) for c in word)
    return word


def from_latin(text: str) -> Iterator[str]:
    """Yield the readings in Cyrillic of a text in Latin: one for each alphabet that has all of its
    letters. Which one is Kazakh, if any, has to be judged by their letters."""
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    letters = {c for c in _lower(text) if c.isalpha() and _script(c) == "latin"}
    for name, alphabet in ALPHABETS.items():
        if letters <= {c for key in alphabet for c in key}:
            dotted = name == "2021"
            yield _WORD.sub(
                lambda match, a=alphabet, d=dotted: _read_latin(match[0], a, d),  # type: ignore[misc]
                text,
            )


def _lower(text: str, dotted: bool = False) -> str:
    """Return a text in lower case; ``dotted`` for alphabets in which I is the capital of ı."""
    text = text.replace("İ", "i")
    return (text.replace("I", "ı") if dotted else text).lower()


def _read_latin(word: str, alphabet: Mapping[str, str], dotted: bool) -> str:
    plain = _lower(word, dotted)
    if all(_script(c) != "latin" for c in plain if c.isalpha()):
        return word
    read, i = list[str](), 0
    while i < len(plain):
        length = 2 if plain[i : i + 2] in alphabet else 1
        read.append(alphabet.get(plain[i : i + length], plain[i : i + length]))
        i += length
    return _in_case(_spelled(read), word)


def _spelled(read: list[str]) -> str:
    """Return the Cyrillic spelling of letters: и or й, and я, ю, щ for two letters."""
    out: list[str] = []
    for i, c in enumerate(read):
        before = out[-1] if out else ""
        after = read[i + 1] if i + 1 < len(read) else ""
        if c == _GLIDE:
            is_glide = before in VOWELS if before and before != "и" else after in VOWELS
            is_glide &= not before or before in VOWELS
            out.append("й" if is_glide else "и")
        elif c in "ау" and before == "й" and (len(out) == 1 or out[-2] in VOWELS):
            out[-1] = "я" if c == "а" else "ю"
        elif c in "ау" and before == "и":
            out.append("я" if c == "а" else "ю")
        elif c == "ш" and before == "ш":
            out[-1] = "щ"
        else:
            out.append(c)
    return "".join(out)


def _in_case(text: str, written: str) -> str:
    letters = [c for c in written if c.isalpha()]
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return text.upper()
    return text[:1].upper() + text[1:] if letters and letters[0].isupper() else text


def is_tote(text: str) -> bool:
    """Return whether a text in Arabic script may be Kazakh: all letters are those of Töte jazu,
    some of them only of that."""
    letters = {c for c in _arabic(text) if c.isalpha() or c == _HAMZA}
    arabic = {c for c in letters if _script(c) == "arabic"}
    return arabic <= _TOTE.keys() | {"ي", _HAMZA} and bool(arabic & _TOTE_ONLY)


def _arabic(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_ARABIC_VARIANTS)


def from_arabic(text: str) -> str:
    """Return a text in Töte jazu in Cyrillic, in lower case, with European signs and digits."""
    text = _arabic(text).translate(_ARABIC_SIGNS)
    return re.sub(r"[ٴؠ-ۓەۺ-ۿ]+", lambda match: _read_arabic(match[0]), text)


def _read_arabic(word: str) -> str:
    is_front = _HAMZA in word or any(c in word for c in "ەگك")
    letters = [c for c in word if c != _HAMZA]
    read = [_GLIDE if c == "ي" else _TOTE.get(c, c) for c in letters]
    if is_front:
        read = _fronted(read, every=_HAMZA in word)
    return _spelled(read)


def _fronted(read: list[str], every: bool) -> list[str]:
    """Return letters with front vowels, except beside қ and ғ, which have back ones.

    The vowel ә stands in first syllables; later ones keep а, unless a hamza fronts ``every`` one.
    """
    out, syllable = list[str](), 0
    for i, c in enumerate(read):
        if c in VOWELS or c == _GLIDE:
            syllable += 1
        around = read[max(0, i - 1) : i + 2]
        is_back = "қ" in around or "ғ" in around or (c == "а" and syllable > 1 and not every)
        out.append(c if is_back else _FRONT.get(c, c))
    return out
