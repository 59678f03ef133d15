"""The language of a line, and of each of its words.

A naive Bayes classifier over letter n-grams of 1 to 4 letters, with word boundaries (Cavnar &
Trenkle 1994 introduced such n-grams for the task). ``languages.safetensors`` has their
probabilities; ``bench/language_id.py`` makes and scores that file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODEL", "SCALE", "Guess", "cost", "identify", "languages", "ngrams", "shares", "words"]

MODEL: Final = Path(__file__).with_name("languages.safetensors")
SCALE: Final = 16
"""Units of a cost, -ln p, in the file."""
_LONGEST = 4
_MISSING = 255
"""The cost of an n-gram that the file does not have."""
_SWITCH = 6.0
"""The cost, in nats, of another language from one word to the next. A word has about 5 n-grams for
each letter, and these are not independent, so that a smaller cost would follow single words."""

_FREQUENT = frozenset(("kk", "ru", "uk", "en"))
_RARE = 8.0
"""The cost, in nats, of any other language: it is known in order that lines of it are dropped."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʻʹ′´`", "'"))


@dataclass(frozen=True)
class Guess:
    """The language of a text, and how far it is ahead of the second, in nats for each n-gram."""

    language: str
    margin: float


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without digits."""
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES).lower()
    return _WORD.findall(text)


def ngrams(text: str) -> Iterator[str]:
    """Yield the n-grams of all words, each word between spaces."""
    for word in words(text):
        yield from _of_word(word)


def _of_word(word: str) -> Iterator[str]:
    word = f" {word} "
    for n in range(1, _LONGEST + 1):
        for i in range(len(word) - n + 1):
            if n > 1 or word[i] != " ":
                yield word[i : i + n]


@cache
def _model() -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    from safetensors import safe_open

    with safe_open(MODEL, "numpy") as file:
        codes = tuple(file.metadata()["languages"].split())
        names = file.get_tensor("ngrams").tobytes().decode().split("\n")
        costs = file.get_tensor("costs").astype(np.float32) / SCALE
    return dict(zip(names, costs, strict=True)), codes


def languages() -> tuple[str, ...]:
    """Return the codes of the languages that are told apart."""
    return _model()[1]


@lru_cache(1 << 16)
def _costs(word: str) -> tuple[NDArray[np.float32], int]:
    """Return the cost of a word in each language, in nats, and the number of its n-grams."""
    table, codes = _model()
    found = [table.get(gram) for gram in _of_word(word)]
    known = [costs for costs in found if costs is not None]
    total = np.sum(known, axis=0) if known else np.zeros(len(codes), np.float32)
    return total + np.float32((len(found) - len(known)) * _MISSING / SCALE), len(found)


def cost(text: str, language: str) -> float:
    """Return -ln p of the n-grams of a text in one language, for each n-gram; infinite without
    letters."""
    total, count = 0.0, 0
    for word in words(text):
        costs, n = _costs(word)
        total, count = total + float(costs[languages().index(language)]), count + n
    return total / count if count else float("inf")


def identify(text: str, among: Sequence[str] | None = None) -> Guess | None:
    """Return the language of a text, or None where it has no letters.

    ``among`` are codes of `languages`, by default all of them. Cyrillic and Latin texts of other
    languages than these get the nearest one.
    """
    found = [_costs(word) for word in words(text)]
    if not found:
        return None
    codes = languages()
    total = np.sum([costs for costs, _ in found], axis=0)
    total += [0.0 if code in _FREQUENT else _RARE for code in codes]
    chosen = [i for i, code in enumerate(codes) if among is None or code in among]
    order = sorted(chosen, key=lambda i: float(total[i]))
    count = sum(n for _, n in found)
    margin = float(total[order[1]] - total[order[0]]) / count if len(order) > 1 else 0.0
    return Guess(codes[order[0]], margin)


def shares(text: str, among: Sequence[str]) -> dict[str, float]:
    """Return the share of the letters of a text in words of each language ``among`` these.

    Each word has a language; the sequence of languages is the one of minimum cost, in which a
    change from one word to the next has a cost as well (Viterbi 1967). A text without letters has
    no shares.
    """
    found = words(text)
    if not found:
        return {}
    codes = languages()
    rows = np.array([_costs(word)[0][[codes.index(code) for code in among]] for word in found])
    # The n-grams of a word overlap: each letter stands in several of them.
    rows /= _LONGEST
    best, origins = rows[0], list[NDArray[np.int64]]()
    for row in rows[1:]:
        stay, change = best, float(best.min()) + _SWITCH
        origins.append(np.where(stay <= change, np.arange(len(among)), int(best.argmin())))
        best = np.minimum(stay, change) + row
    state = int(best.argmin())
    path = [state]
    for origin in reversed(origins):
        state = int(origin[state])
        path.append(state)
    letters = dict.fromkeys(among, 0)
    for word, state in zip(found, reversed(path), strict=True):
        letters[among[state]] += len(word)
    total = sum(letters.values())
    return {code: count / total for code, count in letters.items() if count}
