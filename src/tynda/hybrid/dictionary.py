"""Pronunciations for training: a dictionary, and rules from letters to sounds for other words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.heads.hybrid.lexicon import parse
from tynda.heads.hybrid.states import Pronunciation

__all__ = ["Dictionary", "LettersToSounds"]

_MOST = 3
"""Number of pronunciations of a word that are used."""
_SAMPLE = 12_000
"""Number of words of a dictionary from which letters and sounds are learnt, evenly spaced."""
_ITERATIONS = 4
_LONGEST = 2
"""Maximum number of phones of a letter, as of x."""
_REACHES = ((3, 3), (2, 2), (1, 1), (1, 0), (0, 1), (0, 0))
"""Letters before and after a letter on which its sound may depend, the longest first."""
_REACH = 3
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_HISSING = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])


class Dictionary:
    """The pronunciations of English words, those of the CMU Pronouncing Dictionary first.

    The dictionary is the one of the ``pocketsphinx`` package (BSD licence), or a file of the same
    form: a word and its phones on each line. A possessive follows its noun; all other words are
    spelled by `LettersToSounds`.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or _installed()
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TyndaError(f"{path}: the dictionary cannot be read ({error})") from None
        # "word(2)" is an alternative pronunciation.
        lines = (line.partition(" ") for line in text.splitlines())
        self.known = parse("\n".join(f"{word.partition('(')[0]} {p}" for word, _, p in lines))

    def pronunciations(self, word: str) -> list[Pronunciation]:
        """Return the pronunciations of a normalised word; there are none for a word without
        letters."""
        if word in self.known:
            return self.known[word][:_MOST]
        noun = word.removesuffix("'s")
        if noun != word and noun in self.known:
            return [(*phones, *_possessive(phones[-1])) for phones in self.known[noun][:_MOST]]
        phones = self._letters(word)
        return [phones] if phones else []

    @cached_property
    def _letters(self) -> LettersToSounds:
        step = max(1, len(self.known) // _SAMPLE)
        words = [word for word in sorted(self.known) if word.isalpha()][::step]
        return LettersToSounds({word: self.known[word][0] for word in words})


def _installed() -> Path:
    spec = find_spec("pocketsphinx")
    if spec is None or spec.origin is None:
        raise TyndaError(f"a hybrid model needs CMUdict: {install('train')}")
    return Path(spec.origin).parent / "model" / "en-us" / "cmudict-en-us.dict"


def _possessive(phone: str) -> tuple[str, ...]:
    if phone in _HISSING:
        return ("IH", "Z")
    return ("S",) if phone in _VOICELESS else ("Z",)


class LettersToSounds:
    """Spells words by the sounds of letters in the most similar surroundings.

    Each letter of the examples is aligned with up to two phones (hard expectation-maximization);
    a letter of another word gets the phones that it has most often between the same letters, as
    many of them as the examples have, up to three on either side.
    """

    def __init__(self, examples: Mapping[str, Pronunciation]) -> None:
        costs: Mapping[tuple[str, Pronunciation], float] = {}
        aligned: list[tuple[str, list[Pronunciation]]] = []
        for _ in range(_ITERATIONS):
            pairs = ((word, _align(word, said, costs)) for word, said in examples.items())
            aligned = [(word, chunks) for word, chunks in pairs if chunks is not None]
            counts = Counter(
                pair for word, chunks in aligned for pair in zip(word, chunks, strict=True)
            )
            totals = Counter(letter for word, _ in aligned for letter in word)
            costs = {pair: 1 - count / totals[pair[0]] for pair, count in counts.items()}
        self._sounds: dict[tuple[str, str, str], Counter[Pronunciation]] = defaultdict(Counter)
        for word, chunks in aligned:
            for keys, chunk in zip(_surroundings(word), chunks, strict=True):
                for key in keys:
                    self._sounds[key][chunk] += 1

    def __call__(self, word: str) -> Pronunciation:
        """Return the phones of a word; letters that no example has are silent."""
        phones: list[str] = []
        for keys in _surroundings(word):
            key = next((key for key in keys if key in self._sounds), None)
            if key is not None:
                phones += self._sounds[key].most_common(1)[0][0]
        return tuple(phones)


def _surroundings(word: str) -> Iterable[list[tuple[str, str, str]]]:
    """Yield for each letter: the letters before it, itself, those after it, the longest first."""
    around = "^" * _REACH + word + "$" * _REACH
    for i in range(_REACH, _REACH + len(word)):
        yield [
            (around[i - before : i], around[i], around[i + 1 : i + 1 + after])
            for before, after in _REACHES
        ]


def _align(
    word: str, phones: Sequence[str], costs: Mapping[tuple[str, Pronunciation], float]
) -> list[Pronunciation] | None:
    """Return the phones of each letter at the least cost, or None where they are too many.

    Without ``costs``, phones are spread evenly.
    """
    best: dict[int, tuple[float, list[Pronunciation]]] = {0: (0.0, [])}
    for i, letter in enumerate(word):
        after: dict[int, tuple[float, list[Pronunciation]]] = {}
        for done, (cost, chunks) in best.items():
            for size in range(_LONGEST + 1):
                chunk = tuple(phones[done : done + size])
                if len(chunk) < size:
                    break
                place = abs((done + size) / len(phones) - (i + 1) / len(word))
                total = cost + (costs.get((letter, chunk), 2.0) if costs else place)
                if done + size not in after or total < after[done + size][0]:
                    after[done + size] = total, [*chunks, chunk]
        best = after
    return best[len(phones)][1] if len(phones) in best else None
