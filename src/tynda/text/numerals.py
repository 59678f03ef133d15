"""Numbers in words: Kazakh, Russian and Ukrainian, with the endings that a text gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

__all__ = ["KAZAKH", "RUSSIAN", "UKRAINIAN", "Numerals", "kazakh", "kazakh_ordinal"]

_KK_ONES: Final = ("", "бір", "екі", "үш", "төрт", "бес", "алты", "жеті", "сегіз", "тоғыз")
_KK_TENS: Final = (
    *("", "он", "жиырма", "отыз", "қырық", "елу"),
    *("алпыс", "жетпіс", "сексен", "тоқсан"),
)
_KK_SCALES: Final = ("", "мың", "миллион", "миллиард", "триллион")
_KK_ORDINALS: Final = {"екі": "екінші", "қырық": "қырқыншы", "жиырма": "жиырмасыншы"}
_FRONT: Final = frozenset("әеөүі")
_BACK: Final = frozenset("аоұы")


def kazakh(number: int) -> str:
    """Return a number below 10**15 in Kazakh; a thousand is "мың" alone, as years are spoken."""
    if number == 0:
        return "нөл"
    parts: list[str] = []
    for scale in range(4, -1, -1):
        three = number // 1000**scale % 1000
        if not three:
            continue
        hundreds, rest = divmod(three, 100)
        if hundreds:
            parts += [_KK_ONES[hundreds], "жүз"] if hundreds > 1 else ["жүз"]
        if not (three == 1 and scale == 1):
            parts += [_KK_TENS[rest // 10], _KK_ONES[rest % 10]]
        parts.append(_KK_SCALES[scale])
    return " ".join(part for part in parts if part)


def kazakh_ordinal(number: int) -> str:
    """Return the ordinal number in Kazakh: only its last word has the ending."""
    *before, last = kazakh(number).split()
    if last in _KK_ORDINALS:
        ordinal = _KK_ORDINALS[last]
    else:
        vowel = next(c for c in reversed(last) if c in _FRONT | _BACK or c in "иу")
        is_front = vowel in _FRONT or any(c in _FRONT for c in last)
        ends_in_vowel = last[-1] in _FRONT | _BACK
        ordinal = last + ("" if ends_in_vowel else "і" if is_front else "ы")
        ordinal += "нші" if is_front else "ншы"
    return " ".join([*before, ordinal])


@lru_cache(1 << 12)
def _cardinal(number: int, language: str) -> str:
    from num2words import num2words  # It is slow to import, and few texts have digits.

    return str(num2words(number, lang=language))


@lru_cache(1 << 12)
def _ordinal(number: int, language: str) -> str:
    from num2words import num2words

    return str(num2words(number, lang=language, to="ordinal"))


_Endings = Mapping[str, tuple[str, str]]
"""How the ending of an ordinal is written after a number -> its ending, and that after a soft stem
(третий)."""

_RU_ENDINGS: Final[_Endings] = {
    "я": ("ая", "ья"),
    "е": ("ое", "ье"),
    "го": ("ого", "ьего"),
    "му": ("ому", "ьему"),
    "м": ("ом", "ьем"),
    "ю": ("ую", "ью"),
    "х": ("ых", "ьих"),
    "ми": ("ыми", "ьими"),
}
_UK_ENDINGS: Final[_Endings] = {
    "а": ("а", "я"),
    "е": ("е", "є"),
    "го": ("ого", "ього"),
    "му": ("ому", "ьому"),
    "ї": ("ої", "ьої"),
    "у": ("у", "ю"),
    "х": ("их", "іх"),
    "ми": ("ими", "іми"),
}


def _slavic_ordinal(language: str, endings: _Endings) -> Callable[[int, str], str]:
    soft = "третий" if language == "ru" else "третій"

    def ordinal(number: int, ending: str = "") -> str:
        """Return an ordinal with the ending as it is written after digits, such as "го"."""
        plain = _ordinal(number, language)
        if ending not in endings:
            return plain
        return plain[:-2] + endings[ending][plain.split()[-1] == soft]

    return ordinal


def _one_few_many(number: int, forms: Sequence[str]) -> str:
    """Return the form of a noun after a number: 1 рубль, 2 рубля, 5 рублей."""
    if len(forms) == 1:
        return forms[0]
    if number % 100 in range(11, 15):
        return forms[2]
    return forms[0] if number % 10 == 1 else forms[1] if number % 10 in (2, 3, 4) else forms[2]


@dataclass(frozen=True)
class Numerals:
    """How a language speaks figures."""

    cardinal: Callable[[int], str]
    ordinal: Callable[[int, str], str]
    """The ordinal of a number with an ending, as it is written after digits."""
    months: tuple[str, ...]
    """The names of the months, as they follow a day."""
    day: str
    """The ending of a day before the name of its month in a running text."""
    fractions: Callable[[str, str], str]
    """The words of the digits before and after a decimal sign."""
    nouns: Mapping[str, tuple[str, ...]]
    """Words of units and signs: one form, or those after 1, 2, 5 and a fraction."""
    years: Mapping[str, str]
    """Words for a year as they follow a number -> the ending of its ordinal."""
    year: str
    """The word after the year of a date, and its key in `years`."""
    centuries: Mapping[str, str]
    """Words for a century -> the ending of the ordinal before it."""
    minus: str = "минус"
    number: str = "номер"
    points: str = "точка"
    written: Mapping[str, str] = field(default_factory=dict)
    """Abbreviations after a number -> the word that they stand for."""

    def noun(self, sign: str, number: int, is_whole: bool = True) -> str:
        """Return the word for a sign after a number. After a fraction stands the fourth form, or
        the one after 2."""
        forms = self.nouns[sign]
        return _one_few_many(number, forms) if is_whole else (forms[3:] or forms[1:2] or forms)[0]

    def digits(self, figures: str) -> str:
        """Return figures one by one."""
        return " ".join(self.cardinal(int(c)) for c in figures)


def _kk_fractions(whole: str, rest: str) -> str:
    places = {1: "оннан", 2: "жүзден", 3: "мыңнан"}
    if len(rest) not in places:
        return f"{kazakh(int(whole))} бүтін {' '.join(kazakh(int(c)) for c in rest)}"
    return f"{kazakh(int(whole))} бүтін {places[len(rest)]} {kazakh(int(rest))}"


def _slavic_fractions(language: str, point: str) -> Callable[[str, str], str]:
    def spoken(whole: str, rest: str) -> str:
        digits = [_cardinal(int(c), language) for c in rest]
        if language == "ru" and len(rest) <= 3 and int(rest):
            from num2words import num2words

            return str(num2words(f"{whole}.{rest}", lang="ru"))
        return " ".join([_cardinal(int(whole), language), point, *digits])

    return spoken


_KK_NOUNS: Final = {
    "%": ("пайыз",),
    "₸": ("теңге",),
    "$": ("доллар",),
    "€": ("еуро",),
    "₽": ("рубль",),
    "₴": ("гривна",),
    "£": ("фунт",),
    "°": ("градус",),
    "км": ("километр",),
    "м": ("метр",),
    "см": ("сантиметр",),
    "мм": ("миллиметр",),
    "кг": ("килограмм",),
    "г": ("грамм",),
    "т": ("тонна",),
    "л": ("литр",),
    "га": ("гектар",),
    "тг": ("теңге",),
    "млн": ("миллион",),
    "млрд": ("миллиард",),
}

KAZAKH: Final = Numerals(
    cardinal=kazakh,
    ordinal=lambda number, ending="": kazakh_ordinal(number),  # type: ignore[misc]
    months=(
        *("қаңтар", "ақпан", "наурыз", "сәуір", "мамыр", "маусым"),
        *("шілде", "тамыз", "қыркүйек", "қазан", "қараша", "желтоқсан"),
    ),
    day="",
    fractions=_kk_fractions,
    nouns=_KK_NOUNS,
    years={"жыл": "", "жылы": "", "жылғы": "", "жылдар": "", "жылдары": "", "жылдан": ""}
    | {"жылға": "", "жылдың": "", "жылда": "", "жылды": ""},
    year="жыл",
    centuries=dict.fromkeys(("ғасыр", "ғасырда", "ғасырдың", "ғасырдан", "ғасырға"), ""),
    number="нөмір",
    points="нүкте",
    written={"ж.": "жыл", "жж.": "жылдар", "ғ.": "ғасыр"},
)

_RU_NOUNS: Final = {
    "%": ("процент", "процента", "процентов"),
    "₸": ("тенге",),
    "$": ("доллар", "доллара", "долларов"),
    "€": ("евро",),
    "₽": ("рубль", "рубля", "рублей"),
    "₴": ("гривна", "гривны", "гривен"),
    "£": ("фунт", "фунта", "фунтов"),
    "°": ("градус", "градуса", "градусов"),
    "км": ("километр", "километра", "километров"),
    "м": ("метр", "метра", "метров"),
    "см": ("сантиметр", "сантиметра", "сантиметров"),
    "мм": ("миллиметр", "миллиметра", "миллиметров"),
    "кг": ("килограмм", "килограмма", "килограммов"),
    "г": ("грамм", "грамма", "граммов"),
    "т": ("тонна", "тонны", "тонн"),
    "л": ("литр", "литра", "литров"),
    "га": ("гектар", "гектара", "гектаров"),
    "млн": ("миллион", "миллиона", "миллионов"),
    "млрд": ("миллиард", "миллиарда", "миллиардов"),
}

RUSSIAN: Final = Numerals(
    cardinal=lambda number: _cardinal(number, "ru"),
    ordinal=_slavic_ordinal("ru", _RU_ENDINGS),
    months=(
        *("января", "февраля", "марта", "апреля", "мая", "июня"),
        *("июля", "августа", "сентября", "октября", "ноября", "декабря"),
    ),
    day="го",
    fractions=_slavic_fractions("ru", "целых"),
    nouns=_RU_NOUNS,
    years={"год": "", "года": "го", "году": "м", "годом": "м"},
    year="года",
    centuries={"век": "", "века": "го", "веке": "м", "веку": "му"},
    written={"г.": "года", "гг.": "годов", "в.": "века"},
)

_UK_NOUNS: Final = {
    "%": ("відсоток", "відсотки", "відсотків", "відсотка"),
    "₸": ("тенге",),
    "$": ("долар", "долари", "доларів", "долара"),
    "€": ("євро",),
    "₽": ("рубль", "рублі", "рублів", "рубля"),
    "₴": ("гривня", "гривні", "гривень", "гривні"),
    "£": ("фунт", "фунти", "фунтів", "фунта"),
    "°": ("градус", "градуси", "градусів", "градуса"),
    "км": ("кілометр", "кілометри", "кілометрів", "кілометра"),
    "м": ("метр", "метри", "метрів", "метра"),
    "см": ("сантиметр", "сантиметри", "сантиметрів", "сантиметра"),
    "мм": ("міліметр", "міліметри", "міліметрів", "міліметра"),
    "кг": ("кілограм", "кілограми", "кілограмів", "кілограма"),
    "г": ("грам", "грами", "грамів", "грама"),
    "т": ("тонна", "тонни", "тонн", "тонни"),
    "л": ("літр", "літри", "літрів", "літра"),
    "га": ("гектар", "гектари", "гектарів", "гектара"),
    "млн": ("мільйон", "мільйони", "мільйонів", "мільйона"),
    "млрд": ("мільярд", "мільярди", "мільярдів", "мільярда"),
}

UKRAINIAN: Final = Numerals(
    cardinal=lambda number: _cardinal(number, "uk"),
    ordinal=_slavic_ordinal("uk", _UK_ENDINGS),
    months=(
        *("січня", "лютого", "березня", "квітня", "травня", "червня"),
        *("липня", "серпня", "вересня", "жовтня", "листопада", "грудня"),
    ),
    day="го",
    fractions=_slavic_fractions("uk", "кома"),
    nouns=_UK_NOUNS,
    years={"рік": "", "року": "го", "році": "му", "роком": "м"},
    year="року",
    centuries={"століття": "го", "столітті": "му", "століттю": "му"},
    minus="мінус",
    points="крапка",
    written={"р.": "року", "рр.": "років", "ст.": "століття"},
)
