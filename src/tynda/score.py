"""Word and character error rates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Change", "Errors", "Scores", "change", "errors", "score"]

EDIT: Final = 1 << 32  # above any number of substitutions; int64 can count 2**31 edits


@dataclass(frozen=True, slots=True)
class Errors:
    """The edits that turn a reference into a hypothesis."""

    substitutions: int
    insertions: int
    deletions: int

    @property
    def total(self) -> int:
        """The Levenshtein distance."""
        return self.substitutions + self.insertions + self.deletions


@dataclass(frozen=True, slots=True)
class Scores:
    """Error rates over a set of utterances.

    ``wer`` and ``cer`` are errors divided by the ``words`` and ``chars`` of all references (not a
    mean over utterances), so they may exceed 1. ``substitutions``, ``insertions`` and
    ``deletions`` count words; ``char_errors`` counts characters, including the spaces between
    words. Without any reference words, a rate is 0 if nothing was inserted, and None (undefined)
    otherwise.
    """

    wer: float | None
    cer: float | None
    utterances: int
    words: int
    chars: int
    substitutions: int
    insertions: int
    deletions: int
    char_errors: int


def errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Count the edits between two sequences of words, or of characters (a string).

    The distance is the minimum; of the alignments that reach it, the one with the fewest
    substitutions, and therefore the most correct words, is counted.
    """
    if len(hypothesis) < len(reference):  # Fewer rows are faster, and the counts are symmetric.
        swapped = errors(hypothesis, reference)
        return Errors(swapped.substitutions, swapped.deletions, swapped.insertions)
    codes: dict[str, int] = {}
    ref, hyp = (
        np.array([codes.setdefault(unit, len(codes)) for unit in units], dtype=np.int64)
        for units in (reference, hypothesis)
    )
    # The algorithm is that of Wagner and Fischer (1974), with a row for each unit of the reference.
    # A cost encodes both counts, edits * EDIT + substitutions, so that its minimum minimises first
    # the one and then the other, and no matrix is needed for tracing back.
    inserted = EDIT * np.arange(len(hyp) + 1)
    row = inserted
    for unit in ref:
        reached = row + EDIT  # the cost after a deletion
        reached[1:] = np.minimum(reached[1:], row[:-1] + np.where(hyp == unit, 0, EDIT + 1))
        # Insertions come from any cell to the left: min over k <= j of reached[k] + (j - k) * EDIT.
        row = np.minimum.accumulate(reached - inserted) + inserted
    distance, substitutions = divmod(int(row[-1]), EDIT)
    gaps, surplus = distance - substitutions, len(hyp) - len(ref)
    return Errors(substitutions, (gaps + surplus) // 2, (gaps - surplus) // 2)


def score(pairs: Iterable[tuple[str, str]]) -> Scores:
    """Score (reference, hypothesis) pairs of texts that are already normalised.

    Words are separated by whitespace; characters are those of the words joined by single spaces.
    """
    utterances = words = chars = char_errors = 0
    substitutions = insertions = deletions = 0
    for reference, hypothesis in pairs:
        ref, hyp = reference.split(), hypothesis.split()
        edits = errors(ref, hyp)
        utterances += 1
        words += len(ref)
        chars += len(" ".join(ref))
        substitutions += edits.substitutions
        insertions += edits.insertions
        deletions += edits.deletions
        char_errors += errors(" ".join(ref), " ".join(hyp)).total
    return Scores(
        wer=_rate(substitutions + insertions + deletions, words),
        cer=_rate(char_errors, chars),
        utterances=utterances,
        words=words,
        chars=chars,
        substitutions=substitutions,
        insertions=insertions,
        deletions=deletions,
        char_errors=char_errors,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """The difference of two word error rates on the same utterances, and its interval."""

    wer: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes 0, so that there may be no difference."""
        return self.low <= 0 <= self.high


def change(
    before: Iterable[tuple[str, str]],
    after: Iterable[tuple[str, str]],
    *,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Change:
    """Return the increase of the word error rate from one set of pairs to another.

    Both are (reference, hypothesis) of the same utterances in the same order. The interval is
    computed by a paired bootstrap over utterances, which resamples both results of an utterance
    together (Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation"). Raises ValueError where the references differ or have no words.
    """
    rows = []
    for (reference, first), (same, second) in zip(before, after, strict=True):
        if reference != same:
            raise ValueError("the references differ: these are not the same utterances")
        said = reference.split()
        edits = [errors(said, hypothesis.split()).total for hypothesis in (first, second)]
        rows.append((edits[1] - edits[0], len(said)))
    more, words = np.array(rows, np.float64).reshape(-1, 2).T
    if not words.sum():
        raise ValueError("the references have no words")
    # Each row of `drawn` counts how often each utterance is drawn.
    rng, share = np.random.default_rng(seed), np.full(len(words), 1 / len(words))
    rates = []
    for start in range(0, draws, 1000):
        drawn = rng.multinomial(len(words), share, min(1000, draws - start))
        rates.append(drawn @ more / np.maximum(drawn @ words, 1))
    rest = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(rates), [rest, 1 - rest])
    return Change(float(more.sum() / words.sum()), float(low), float(high))


def _rate(count: int, of: int) -> float | None:
    if of == 0:
        return None if count else 0.0
    return count / of
