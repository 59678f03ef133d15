"""Measures `tynda text clean` on real lines of translated programs, for docs/text.md.

    python bench/text.py FOLDER [LINES...]

FOLDER is that of ``bench/language_id.py``; the lines are those of Firefox, on which nothing was
trained or chosen. LINES are further files with Kazakh, a sentence on each line.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from language_id import distinct, firefox, libreoffice
from tynda.text import language
from tynda.text.clean import Cleaner, Settings
from tynda.text.kazakh import ALPHABETS
from tynda.text.lines import Line

TOTE = dict(zip("абвгғдежзкқлмнңопрстуұфхһчшы", "ابۆگعدەجزكقلمنڭوپرستۋۇفحھچشى", strict=True)) | {
    "и": "ي",
    "й": "ي",
    "я": "يا",
    "ю": "يۋ",
    "э": "ە",
    "ц": "تس",
    "щ": "شش",
    "ё": "يو",
}
FRONT = {"ә": "ا", "ө": "و", "ү": "ۇ", "і": "ى"}


def to_latin(text: str, name: str) -> str:
    inverse = {c: latin for latin, c in ALPHABETS[name].items() if c not in "цв\0"} | {"в": "v"}
    glide = next((latin for latin, c in ALPHABETS[name].items() if c == "\0"), None)
    inverse |= {"и": glide or inverse["и"], "й": glide or inverse["й"]}
    a, u = inverse["а"], inverse["у"]
    inverse |= {"я": inverse["й"] + a, "ю": inverse["й"] + u, "э": "e", "ц": "ts", "һ": "h"}
    inverse |= {"щ": inverse["ш"] * 2, "ё": inverse["й"] + "o", "ъ": "", "ь": ""}
    inverse.setdefault("ч", "tş" if name == "2021" else "ch")
    return "".join(inverse.get(c, c) for c in text.lower())


def to_tote(word: str) -> str:
    is_front = any(c in FRONT for c in word)
    shown = is_front and not any(c in "егк" for c in word)
    return ("ٴ" if shown else "") + "".join(
        FRONT.get(c) or TOTE.get(c, "" if c in "ъь" else c) for c in word
    )


def is_kazakh(text: str) -> bool:
    return bool(set(text.lower()) & set("әғқңөұүһі")) and not set(text.lower()) & set("їєґ")


def report_languages(texts: dict[str, list[str]], rng: random.Random) -> None:
    """Kazakh among Russian lines, and lines that have both."""
    print("lines of Kazakh that are kept, and others that are, by words of a line")
    for low, high in ((1, 1), (2, 2), (3, 5), (6, 60)):
        counts = []
        for code in ("kk", "ru", "uk", "en", "tg", "tr", "uz"):
            lines = [t for t in texts[code] if low <= len(language.words(t)) <= high]
            sample = rng.sample(lines, min(1000, len(lines)))
            cleaner = Cleaner(Settings("kk", duplicates=1.01, max_words=100))
            list(cleaner.lines(map(Line, sample)))
            wrong = sum(n for why, n in cleaner.counts.dropped.items() if "language" in why)
            counts.append(f"{code} {1 - wrong / max(1, len(sample)):.4f} of {len(sample)}")
        print(f"  {low} to {high}:", ", ".join(counts))
    both = {"both": 0, "kk": 0, "ru": 0}
    kazakh, russian = (
        [t for t in texts[c] if 3 <= len(language.words(t)) <= 8] for c in ("kk", "ru")
    )
    right = letters = 0
    for _ in range(1000):
        pair = [rng.choice(kazakh), rng.choice(russian)]
        first = rng.randrange(2)
        text = f"{pair[first]} {pair[1 - first]}"
        shares = language.shares(text, ("kk", "ru", "en"))
        both["both" if {"kk", "ru"} <= shares.keys() else max(shares, key=shares.get)] += 1
        sizes = [sum(map(len, language.words(t))) for t in pair]
        right += sum(sizes) - abs(shares.get("kk", 0) * sum(sizes) - sizes[0])
        letters += sum(sizes)
    print(f"lines with a Kazakh and a Russian half: {both}")
    print(f"  letters in the right language: {right / letters:.4f}")


def report_scripts(lines: list[str]) -> None:
    """Lines that are written in another script and back."""
    writers = {name: lambda t, n=name: to_latin(t, n) for name in ALPHABETS}
    writers["Töte jazu"] = lambda t: " ".join(map(to_tote, t.split()))
    for name, write in writers.items():
        cleaner = Cleaner(Settings("kk", duplicates=1.01, max_words=100))
        found = same = same_words = words = 0
        for text in lines:
            text = " ".join(language.words(text))
            back = cleaner.text(write(text))
            found += back is not None
            back = back or ""
            same += back == text
            pairs = list(zip(text.split(), back.split(), strict=False))
            words += len(text.split())
            same_words += sum(a == b for a, b in pairs)
        shares = (found / len(lines), same_words / words, same / len(lines))
        print(f"{name}: kept, words and lines as before", *(f"{share:.3f}" for share in shares))
        print("   ", cleaner.counts.to_dict())


def main(folder: Path, *paths: str) -> None:
    codes = [c for c in ("kk", "ru", "uk", "be", "bg", "sr", "tg", "tr", "uz", "de", "fr")]
    texts = {code: firefox(folder, code) for code in codes}
    texts["en"] = set(libreoffice(folder, "ru"))
    texts = distinct(texts)
    rng = random.Random(2)
    report_languages(texts, rng)
    lines = [
        t
        for t in texts["kk"]
        if is_kazakh(t)
        and t.isascii() is False
        and len(language.words(t)) > 2
        and not any(c.isascii() and c.isalpha() for c in t)
    ]
    report_scripts(rng.sample(lines, 1000))
    for path in paths:
        given = Path(path).read_text("utf-8").splitlines()
        cleaner = Cleaner(Settings("kk", duplicates=1.01))
        list(cleaner.lines(map(Line, given)))
        print(path, cleaner.counts.to_dict())
        report_scripts(given)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
