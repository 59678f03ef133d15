"""Word n-gram language models: training, compression and scoring.

`train` returns the ARPA text of an interpolated, modified Kneser-Ney model; `LanguageModel` scores
words with `kenlm`, by this text or by any other ARPA or KenLM binary file.
"""

from __future__ import annotations

import lzma
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from tynda.errors import TyndaError
from tynda.files import check_readable

__all__ = ["LanguageModel", "State", "available", "pack", "train", "unpack"]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
RESERVED = frozenset({START, END, UNKNOWN})

Gram: TypeAlias = tuple[str, ...]
State: TypeAlias = Any
"""The state of a `LanguageModel` after some words; it is hashable and compared by value."""


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
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_UNPACKED_BYTES)
        text = stream.decompress(packed, _MAX_UNPACKED_BYTES)
        if not stream.eof:
            raise EOFError
        return text.decode()
    except (lzma.LZMAError, UnicodeDecodeError, EOFError):
        raise TyndaError("the packed language model is damaged") from None


def available() -> bool:
    """Return whether `kenlm`, which scores n-grams, is installed; it needs a C++ compiler."""
    return find_spec("kenlm") is not None


class LanguageModel:
    """A word n-gram, scored by `kenlm` and created by `load` or `from_arpa`.

    `order` is its n; `words` has its words without <s>, </s> and <unk>, or is None for a KenLM
    binary file, which does not list them.
    """

    def __init__(self, path: Path, words: frozenset[str] | None, name: str) -> None:
        try:
            import kenlm
        except ImportError:
            raise TyndaError(
                'a language model needs kenlm: pip install "tynda[lm]", or decode without one'
            ) from None
        config = kenlm.Config()
        config.show_progress = False  # Otherwise kenlm writes to stderr.
        config.arpa_complain = kenlm.ARPALoadComplain.NONE
        try:
            self._model = kenlm.Model(str(path), config)
        except (OSError, RuntimeError):  # kenlm's own message refers to its source code.
            raise TyndaError(
                f"{name} is not a language model that kenlm can read: "
                "give an ARPA or KenLM binary file of order 2 or more"
            ) from None
        self._new_state = kenlm.State
        self.words = words
        self.order: int = self._model.order

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Read an ARPA or KenLM binary file.

        Raises `TyndaError` if it is missing, no language model, or kenlm is not installed.
        """
        path = Path(path)
        check_readable(path, "language model file")
        with path.open("rb") as file:
            binary = file.read(len(_BINARY)) == _BINARY
        return cls(path, None if binary else _vocabulary(path), str(path))

    @classmethod
    def from_arpa(cls, text: str) -> LanguageModel:
        """Return the model of an ARPA text; raises as `load` does."""
        # kenlm would also accept its binary format, without checking the numbers in it.
        if not text.startswith("\\data\\"):
            raise TyndaError("the ARPA text is invalid: it does not begin with \\data\\")
        with tempfile.TemporaryDirectory() as folder:  # kenlm reads files only, immediately.
            path = Path(folder) / "model.arpa"
            path.write_text(text, encoding="utf-8", newline="\n")
            return cls(path, _vocabulary(path), "the ARPA text")

    def start(self) -> State:
        """Return the state before the first word."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: State, word: str) -> tuple[float, State]:
        """Return the natural log of p(word | state), and the state after the word."""
        after = self._new_state()
        return self._model.BaseScore(state, word, after) * _LN10, after

    def end(self, state: State) -> float:
        """Return the natural log of the probability that the sentence ends here."""
        return self.score(state, END)[0]

    def __contains__(self, word: str) -> bool:
        return word in self._model

    @cached_property
    def prefixes(self) -> frozenset[str] | None:
        """All prefixes of known words, including whole words and ""; None as for `words`."""
        if self.words is None:
            return None
        return frozenset(word[:n] for word in self.words for n in range(len(word) + 1))


_BINARY = b"mmap lm http://kheafield.com/code"
_LN10 = math.log(10)
_MAX_UNPACKED_BYTES = 1 << 27
"""Maximum size of a language model in bytes, after decompression."""


def _vocabulary(path: Path) -> frozenset[str]:
    """Return the unigrams of an ARPA file. A damaged file is not an error here: kenlm reports
    it."""
    words = set()
    with path.open(encoding="utf-8", errors="replace") as lines:
        inside = False
        for line in lines:
            if line.startswith("\\"):
                if inside:
                    break
                inside = line.strip() == "\\1-grams:"
            elif inside and len(fields := line.split()) >= 2:
                words.add(fields[1])
    return frozenset(words - RESERVED)
