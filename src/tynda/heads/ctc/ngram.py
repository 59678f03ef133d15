"""Word n-gram language models: training, compression and scoring.

`train` returns the ARPA text of an interpolated, modified Kneser-Ney model; `LanguageModel` scores
words by this text or by any other ARPA file.
"""

from __future__ import annotations

import io
import lzma
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from tynda.errors import TyndaError
from tynda.files import check_readable
from tynda.heads.ctc import arpa
from tynda.heads.ctc.arpa import Table

__all__ = ["LanguageModel", "Prefixes", "State", "pack", "train", "unpack"]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
RESERVED = frozenset({START, END, UNKNOWN})

Gram: TypeAlias = tuple[str, ...]
State: TypeAlias = tuple[int, ...]
"""The state of a `LanguageModel` after some words: the indices of the n-grams that these words end
with, shortest first, -1 for one that has no influence on what follows."""


def train(
    sentences: Iterable[str], order: int = 3, prune: Sequence[int] = (0,), decimals: int = 3
) -> str:
    """Return the ARPA text of an interpolated modified Kneser-Ney n-gram over `sentences`.

    Let a(g) be the number of distinct words before the n-gram g, or its count where g has the
    highest order or begins with <s> (Chen & Goodman 1999, sections 2.7 and 3). Then

        p(w|h) = (a(hw) - D(a(hw))) / sum_v a(hv) + gamma(h) p(w|h without its first word)

    where unigrams are interpolated with the uniform distribution over all words, </s> and <unk>.
    gamma(h) is the probability mass of the discounts D, and also the back-off weight of h (Heafield
    et al. 2013, section 3).

    `sentences` are normalised, with spaces between words; empty sentences are ignored. k-grams with
    a count of at most `prune[k-1]` are dropped; the last value also applies to higher orders. (0,
    0, 1) drops the trigrams with a count of 1. Their mass is added to gamma. Log10 probabilities
    are rounded to `decimals`. The result is deterministic.

    Raises `TyndaError` if there are no words, or reserved ones such as <s>; `ValueError` for an
    `order` below 2, and for thresholds that decrease or do not begin with 0.
    """
    cuts = [*prune, *[prune[-1]] * order][:order]
    if order < 2 or cuts[0] != 0 or any(a > b for a, b in pairwise(cuts)):
        raise ValueError("order must be at least 2; prune must begin with 0 and not decrease")
    raw = _count(sentences, order)
    uniform = 1 / len(raw[0])  # The counts include <s>, which is not predicted, but not <unk>.
    lower: dict[Gram, float] = {(): uniform}
    log_probs: list[dict[Gram, float]] = []
    backoffs: list[dict[Gram, float]] = []
    for n in range(order):
        adjusted = raw[n] if n == order - 1 else _adjust(raw[n], raw[n + 1])
        adjusted.pop((START,), None)
        discounts = _discounts(adjusted)
        totals: Counter[Gram] = Counter()
        freed: dict[Gram, float] = {}
        for gram, a in adjusted.items():
            totals[gram[:-1]] += a
            retained = raw[n][gram] > cuts[n]
            mass = discounts[min(a, 3)] if retained else a
            freed[gram[:-1]] = freed.get(gram[:-1], 0.0) + mass
        gamma = {h: freed[h] / totals[h] for h in totals}
        # The count of an n-gram is at most that of its suffix, and thresholds do not decrease:
        # therefore the suffix of a retained n-gram is retained as well.
        probs = {
            g: (a - discounts[min(a, 3)]) / totals[g[:-1]] + gamma[g[:-1]] * lower[g[1:]]
            for g, a in adjusted.items()
            if raw[n][g] > cuts[n]
        }
        if n == 0:
            probs[(UNKNOWN,)] = gamma[()] * uniform
        log_probs.append({g: math.log10(p) for g, p in probs.items()})
        backoffs.append({h: math.log10(g) for h, g in gamma.items()})
        lower = probs
    log_probs[0][(START,)] = -99.0  # By convention, this means a probability of 0.
    return _arpa(log_probs, [*backoffs[1:], {}], decimals)


def _count(sentences: Iterable[str], order: int) -> list[Counter[Gram]]:
    """Return the counts of all n-grams, for each n from 1 to `order`."""
    raw: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = sentence.split()
        if not words:
            continue
        if not RESERVED.isdisjoint(words):
            raise TyndaError(f"a sentence has a reserved word (<s>, </s>, <unk>): {sentence!r}")
        words = [START, *words, END]
        for n, counter in enumerate(raw, start=1):
            counter.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not raw[0]:
        raise TyndaError("there are no words to train a language model on: give it sentences")
    return raw


def _adjust(raw: Counter[Gram], longer: Counter[Gram]) -> Counter[Gram]:
    """Return the number of distinct words before each n-gram, or the count of one that begins with
    <s>, since nothing precedes it."""
    adjusted = Counter(gram[1:] for gram in longer)
    adjusted.update({gram: count for gram, count in raw.items() if gram[0] == START})
    return adjusted


def _discounts(adjusted: Counter[Gram]) -> tuple[float, float, float, float]:
    """Return the discounts of counts of 0, 1, 2 and at least 3 (Chen & Goodman 1999, equation 26).

    Where the text is too small for the estimate, the discount is half of the count.
    """
    t = Counter(adjusted.values())
    if all(t[k] for k in (1, 2, 3, 4)):
        y = t[1] / (t[1] + 2 * t[2])
        d1, d2, d3 = (k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))
        if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
            return 0.0, d1, d2, d3
    return 0.0, 0.5, 1.0, 1.5


def _arpa(
    log_probs: list[dict[Gram, float]], backoffs: list[dict[Gram, float]], decimals: int
) -> str:
    lines = ["\\data\\", *(f"ngram {n}={len(p)}" for n, p in enumerate(log_probs, start=1))]
    for n, (probs, weights) in enumerate(zip(log_probs, backoffs, strict=True), start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in sorted(probs):
            line = f"{probs[gram]:.{decimals}f}\t{' '.join(gram)}"
            weight = f"{weights.get(gram, 0.0):.{decimals}f}"
            lines.append(f"{line}\t{weight}" if float(weight) else line)
    return "\n".join([*lines, "", "\\end\\", ""])


def pack(arpa: str) -> bytes:
    """Compress an ARPA text with xz, for a model file."""
    return lzma.compress(arpa.encode(), preset=9 | lzma.PRESET_EXTREME)


def unpack(packed: bytes) -> str:
    """Return the text that `pack` compressed. Raises `TyndaError` if the bytes are damaged."""
    try:
        # A model file may come from anywhere: a few bytes could decompress to gigabytes.
        limit = min(_MAX_UNPACKED_BYTES, _MIN_UNPACKED_BYTES + _MAX_RATIO * len(packed))
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_UNPACKED_BYTES)
        text = stream.decompress(packed, limit)
        if not stream.eof:
            raise EOFError
        return text.decode()
    except (lzma.LZMAError, UnicodeDecodeError, EOFError):
        raise TyndaError("the packed language model is damaged") from None


class LanguageModel:
    """A word n-gram, created by `load` or `from_arpa`; it never changes.

    `order` is its n; `words` has its words without <s>, </s> and <unk>.
    """

    def __init__(self, table: Table) -> None:
        self._numbers, self._levels = table.numbers, table.levels
        self.order = len(table.levels)
        self.words = frozenset(self._numbers.keys() - RESERVED)
        self._unknown = self._numbers.get(UNKNOWN)

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Read an ARPA file.

        Raises `TyndaError` if it is missing or not a sound ARPA file; see `arpa.read`.
        """
        path = Path(path)
        check_readable(path, "language model file")
        with path.open("rb") as file:
            if file.read(len(_BINARY)) == _BINARY:
                raise TyndaError(
                    f"{path} is a binary file of KenLM, whose numbers cannot be checked: give the "
                    "ARPA file from which it was built"
                )
            file.seek(0)
            return cls(arpa.read(file, str(path)))

    @classmethod
    def from_arpa(cls, text: str) -> LanguageModel:
        """Return the model of an ARPA text; raises as `load` does."""
        return cls(arpa.read(io.BytesIO(text.encode()), "the ARPA text"))

    def start(self) -> State:
        """Return the state before the first word."""
        return self._relevant([self._numbers[START]])

    def score(self, state: State, word: str) -> tuple[float, State]:
        """Return the natural log of p(word | state), and the state after the word.

        p(w | h) is the probability of the n-gram hw, or where there is none, the back-off weight of
        h times p(w | h without its first word) (Katz 1987).
        """
        number = self._numbers.get(word, self._unknown)
        if number is None:
            return sum(self._backoff(state)) * _LN10 + _UNKNOWN_LOG_PROB, ()
        log_prob, ending = self._levels[0].log_probs[number], [number]
        for context, level, longer in zip(state, self._levels, self._levels[1:], strict=False):
            found = -1
            if context >= 0:
                stop = level.starts[context + 1]
                at = bisect_left(longer.words, number, level.starts[context], stop)
                if at < stop and longer.words[at] == number:
                    found, log_prob = at, longer.log_probs[at]
                else:
                    log_prob += level.backoffs[context]
            ending.append(found)
        return log_prob * _LN10, self._relevant(ending[: self.order - 1])

    def end(self, state: State) -> float:
        """Return the natural log of the probability that the sentence ends here."""
        return self.score(state, END)[0]

    def __contains__(self, word: str) -> bool:
        return word != UNKNOWN and word in self._numbers

    @cached_property
    def prefixes(self) -> Prefixes:
        """All prefixes of known words, including whole words and ""."""
        return Prefixes(self.words)

    def _backoff(self, state: State) -> Iterable[float]:
        return (
            level.backoffs[index]
            for index, level in zip(state, self._levels, strict=False)
            if index >= 0
        )

    def _relevant(self, ending: list[int]) -> State:
        """Return the state of these n-grams: those that are no context, and without back-off weight
        become -1 or are left out, so that equal futures are equal states."""
        for n, (index, level) in enumerate(zip(ending, self._levels, strict=False)):
            if index < 0:
                continue
            if level.starts[index] == level.starts[index + 1] and not level.backoffs[index]:
                ending[n] = -1
        while ending and ending[-1] < 0:
            ending.pop()
        return tuple(ending)


class Prefixes:
    """All prefixes of some words, including whole words and "" if there are any words.

    They are found among the sorted words, since a set of all of them would need memory that grows
    with the square of a word's length.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted(words)

    def __contains__(self, text: str) -> bool:
        at = bisect_left(self._words, text)
        return at < len(self._words) and self._words[at].startswith(text)


_BINARY = b"mmap lm http://kheafield.com/code"
_LN10 = math.log(10)
_UNKNOWN_LOG_PROB = -100 * _LN10
"""The natural log of the probability of an unknown word where there is no <unk>, as in KenLM."""
_MAX_UNPACKED_BYTES = 1 << 27
"""Maximum size of a language model in bytes, after decompression."""
_MIN_UNPACKED_BYTES, _MAX_RATIO = 1 << 20, 50
"""Language models above 1 MiB may be at most 50 times as large as they are packed: real ones are 3
to 10 times as large, and a few bytes of repeated lines could take minutes to read."""
