"""Trains and scores the model by which `tynda text` tells languages apart.

    python bench/language_id.py train FOLDER     writes src/tynda/text/languages.safetensors
    python bench/language_id.py score FOLDER     scores it, on other texts than those of training

FOLDER has unpacked packages of Debian: ``libreoffice-l10n-CODE`` (training) and
``firefox-esr-l10n-CODE`` with its ``.xpi`` unpacked as ``x/CODE`` (scores). ``docs/text.md`` has
the commands that get them. Lines are sentences and labels of menus that people have translated;
what is the same in two languages, or is as in English, is left out.
"""

from __future__ import annotations

import gettext
import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tynda.text import language

CODES = [
    *("kk", "ru", "uk", "en", "be", "bg", "sr", "mn", "tg"),
    *("tr", "uz", "de", "fr", "es"),
]
KEPT = 3000
"""The n-grams of each language in the model."""
MAX_LINES = 20_000
_MARKUP = re.compile(r"<[^>]*>|%[\w$()-]*|\{[^}]*\}|\$\(?\w+\)?|_|~|&|#\w+|\\\w")


def plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", text).split())


def libreoffice(folder: Path, code: str) -> dict[str, str]:
    """Return English -> translation."""
    lines = {}
    for path in sorted(folder.glob(f"libreoffice-l10n-{code}/**/*.mo")):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for key, value in catalogue.items():
            if key and isinstance(key, str) and isinstance(value, str):
                lines[plain(key.split("\x04")[-1])] = plain(value)
    return lines


def firefox(folder: Path, code: str) -> set[str]:
    lines = []
    for path in sorted((folder / "x" / code).glob("**/*.ftl")):
        for line in path.read_text("utf-8").splitlines():
            if found := re.match(r"\s*\.?[\w-]+\s*=\s*(.+)", line):
                lines.append(found[1])
            elif re.match(r" +[^\s\[*}{]", line) and lines:
                lines[-1] += " " + line.strip()
    return {plain(line) for line in lines if "{" not in line}


def distinct(texts: dict[str, set[str]]) -> dict[str, list[str]]:
    counts = Counter(text for lines in texts.values() for text in lines)
    return {
        code: sorted(t for t in lines if counts[t] == 1 and sum(map(str.isalpha, t)) >= 3)
        for code, lines in texts.items()
    }


def training(folder: Path) -> dict[str, list[str]]:
    texts: dict[str, set[str]] = {"en": set()}
    for code in CODES:
        if code != "en":
            both = libreoffice(folder, code)
            texts[code] = {t for en, t in both.items() if t != en}
            texts["en"] |= set(both)
    return distinct(texts)


def train(folder: Path) -> None:
    rng, counts = random.Random(0), {}
    for code, lines in training(folder).items():
        sample = rng.sample(lines, min(MAX_LINES, len(lines)))
        counts[code] = Counter(g for line in sample for g in language.ngrams(line))
        print(code, len(lines), len(counts[code]), file=sys.stderr)
    kept = sorted({g for c in counts.values() for g, _ in c.most_common(KEPT)})
    rows = np.zeros((len(kept), len(CODES)))
    for i, code in enumerate(CODES):
        total = sum(counts[code].values())
        rows[:, i] = [(counts[code][g] + 0.5) / (total + 0.5 * len(kept)) for g in kept]
    costs = np.clip(np.rint(-np.log(rows) * language.SCALE), 0, 255).astype(np.uint8)
    text = "\n".join(kept).encode()
    save_file(
        {"ngrams": np.frombuffer(text, np.uint8), "costs": costs},
        language.MODEL,
        {"languages": " ".join(CODES)},
    )
    print(f"{len(kept)} n-grams, {language.MODEL.stat().st_size:,} bytes")


def score(folder: Path) -> None:
    texts = distinct(
        {code: firefox(folder, code) for code in CODES if (folder / "x" / code).is_dir()}
    )
    rng = random.Random(1)
    print("| words of a line | " + " | ".join(texts) + " |")
    print("|---" * (len(texts) + 1) + "|")
    for low, high in ((1, 1), (2, 2), (3, 5), (6, 1000)):
        row = []
        for code, lines in texts.items():
            lines = [t for t in lines if low <= len(language.words(t)) <= high]
            sample = rng.sample(lines, min(1000, len(lines)))
            right = sum(language.identify(t).language == code for t in sample)
            row.append(f"{right / max(1, len(sample)):.3f} ({len(sample)})")
        print(f"| {low} to {high} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    {"train": train, "score": score}[sys.argv[1]](Path(sys.argv[2]))
