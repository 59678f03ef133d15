"""New sentences from a few, by a language model or a grammar (Self-Instruct, Wang et al. 2022).

In each round, some sentences are given as examples, and new ones come back. A new sentence is kept
where it is in the language, of a fitting length, not repetitive, and its ROUGE-L with each sentence
so far is below 0.7 (section 2.2 of the paper). Kept sentences become examples in turn.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tynda.commands.templates import Choice, Grammar, Series, Slot, Template, Text
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.files import write_whole
from tynda.text.clean import Cleaner, Settings
from tynda.text.endpoint import Endpoint, listed_lines, prompt
from tynda.text.lines import encode, read
from tynda.text.normalize import normalizer_of

__all__ = ["FromEndpoint", "FromGrammar", "Generator", "Pool", "Record", "Source", "rouge_l"]

_SEEDS, _GENERATED = 6, 2
"""Examples of a prompt: seeds, and sentences that were generated before (section 2.2)."""
_ROUND = 20
"""Sentences of a round."""
_MAX_BARREN = 10
"""Rounds in a row without a kept sentence after which nothing more is expected."""


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """Return ROUGE-L of two texts as words: the F1 of their longest common subsequence (Lin 2004).

    This is the normalised similarity by insertions and deletions, for which there is fast code.
    """
    try:
        from rapidfuzz.distance import Indel
    except ImportError:
        raise TyndaError(f"comparing sentences needs rapidfuzz: {install('text')}") from None
    return float(Indel.normalized_similarity(a, b)) if a or b else 0.0


class Pool:
    """The sentences so far, as words; a new one is compared with all of them."""

    def __init__(self) -> None:
        self._texts: list[list[str]] = []

    def add(self, words: list[str]) -> None:
        """Add the words of a sentence."""
        self._texts.append(words)

    def similarity(self, words: list[str], enough: float) -> float:
        """Return the maximum ROUGE-L with a sentence so far, or one that is ``enough``."""
        best, length = 0.0, len(words)
        for other in self._texts:
            # The measure is at most that of a sentence that contains the other.
            bound = 2 * min(length, len(other)) / max(1, length + len(other))
            if bound > best:
                best = max(best, rouge_l(words, other))
                if best >= enough:
                    break
        return best


class Source(Protocol):
    """A maker of sentences."""

    requests: int
    """Number of requests or draws of a round so far."""

    def round(self, seeds: Sequence[str], generated: Sequence[str]) -> list[str]:
        """Return new sentences, given those so far. Raises `TyndaError` where that failed."""


@dataclass
class FromEndpoint:
    """Sentences of a language model that gets examples."""

    endpoint: Endpoint
    language: str
    about: str
    rng: random.Random
    requests: int = 0

    def round(self, seeds: Sequence[str], generated: Sequence[str]) -> list[str]:
        """See `Source.round`."""
        examples = self.rng.sample(generated, min(_GENERATED, len(generated)))
        wanted = _SEEDS + _GENERATED - len(examples)
        examples += self.rng.sample(seeds, min(wanted, len(seeds)))
        self.rng.shuffle(examples)
        self.requests += 1
        return listed_lines(
            self.endpoint.answer(prompt(examples, _ROUND, self.language, self.about))
        )


@dataclass
class FromGrammar:
    """Random sentences of a grammar."""

    grammar: Grammar
    rng: random.Random
    requests: int = 0

    def round(self, seeds: Sequence[str], generated: Sequence[str]) -> list[str]:
        """See `Source.round`."""
        self.requests += 1
        chosen = self.rng.choices(self.grammar.sentences, k=_ROUND)
        return [" ".join(self._drawn(sentence.template).split()) for sentence in chosen]

    def _drawn(self, template: Template) -> str:
        match template:
            case Text(text=text):
                return text
            case Slot(item=item):
                return self._drawn(item)
            case Choice(items=items):
                return self._drawn(self.rng.choice(items)) if items else ""
            case Series(items=items):
                return "".join(map(self._drawn, items))
        return ""


@dataclass
class Record:
    """The bookkeeping of all runs that wrote one file."""

    seeds: int = 0
    requests: int = 0
    generated: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON-able data."""
        return {**vars(self), "dropped": dict(self.dropped.most_common())}

    @classmethod
    def load(cls, path: Path) -> Record:
        """Return the record in a file, or a new one where there is none or it is damaged."""
        try:
            data = json.loads(path.read_text("utf-8"))
            dropped = Counter({str(why): int(n) for why, n in data["dropped"].items()})
            numbers = {name: int(data[name]) for name in ("seeds", "requests", "generated", "kept")}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls()
        return cls(**numbers, dropped=dropped)


class Generator:
    """Adds sentences to a file, which a later run goes on with.

    ``output`` has a line of JSON for each kept sentence, and ``output.counts.json`` beside it the
    `Record`. Both are up to date after each round.
    """

    def __init__(
        self, output: Path, seeds: Iterable[str], settings: Settings, below: float
    ) -> None:
        """Read the seeds and what ``output`` has already; ``below`` is the bound of ROUGE-L.

        Raises `TyndaError` where there are no seeds, or a file cannot be read.
        """
        self._output, self._below = output, below
        self._counts = output.with_name(f"{output.name}.counts.json")
        self.record = Record.load(self._counts)
        self._normalize = normalizer_of([settings.language])
        self._cleaner, self._pool = Cleaner(settings), Pool()
        self.seeds = list(dict.fromkeys(text for text in seeds if self._normalize(text)))
        if not self.seeds:
            raise TyndaError(
                "there are no seeds: give a file with some sentences, one on each line"
            )
        self.kept = self._written()
        for text in (*self.seeds, *self.kept):
            self._pool.add(self._normalize(text).split())
        self.record.seeds, self.record.kept = len(self.seeds), len(self.kept)

    def _written(self) -> list[str]:
        """Return the sentences of earlier runs; an incomplete last line is removed."""
        if not self._output.exists():
            return []
        with self._output.open("rb+") as file:
            data = file.read()
            if not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
        return [line.text for line in read([str(self._output)]) if line.text]

    def run(self, source: Source, count: int, on_progress: Callable[[int, int], None]) -> bool:
        """Generate until ``count`` sentences are kept; return False where no more can be found.

        Raises `TyndaError` where the source fails; what was kept before stays.
        """
        barren, before = 0, self.record.requests
        while len(self.kept) < count and barren < _MAX_BARREN:
            try:
                texts = source.round(self.seeds, self.kept)
            finally:
                self.record.requests = before + source.requests
                self._save()
            found = list(self._accepted(texts, count - len(self.kept)))
            with self._output.open("a", encoding="utf-8", newline="\n") as file:
                for text, similarity in found:
                    more = {"round": self.record.requests, "rouge_l": round(similarity, 3)}
                    file.write(encode(text, None, **more) + "\n")
            self.record.kept = len(self.kept)
            self._save()
            barren = 0 if found else barren + 1
            on_progress(len(self.kept), count)
        return len(self.kept) >= count

    def _accepted(self, texts: Iterable[str], wanted: int) -> Iterator[tuple[str, float]]:
        for text in texts:
            if wanted <= 0:
                return
            self.record.generated += 1
            clean = self._cleaner.text(text)
            self.record.dropped.update(self._cleaner.counts.dropped)
            self._cleaner.counts.dropped.clear()
            if clean is None:
                continue
            words = self._normalize(clean).split()
            similarity = self._pool.similarity(words, self._below)
            if similarity >= self._below:
                self.record.dropped["similar"] += 1
                continue
            self._pool.add(words)
            self.kept.append(clean)
            wanted -= 1
            yield clean, similarity

    def _save(self) -> None:
        data = json.dumps(self.record.to_dict(), ensure_ascii=False, indent=2) + "\n"
        write_whole(self._counts, data.encode())
