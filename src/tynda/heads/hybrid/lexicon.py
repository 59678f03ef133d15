"""The lexicon of a hybrid model: the words that it can recognise, and their pronunciations."""

from __future__ import annotations

import io
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError, listed
from tynda.heads.hybrid.states import Pronunciation, Tying

__all__ = ["Lexicon", "Spelling", "parse", "unparse"]

_MAX_BYTES = 1 << 24
"""Maximum size of a lexicon: that of half a million words."""
_MAX_PHONES = 64
"""Maximum number of phones of a word."""
_DAMAGED = "the model's lexicon is damaged: get the model again"

Lexicon = Mapping[str, Sequence[Pronunciation]]
"""The pronunciations of each word, the most common one first."""


def parse(text: str) -> dict[str, list[Pronunciation]]:
    """Return the lexicon of lines of a word and its phones, such as ``tea T IY``.

    A word with several pronunciations has several lines. Raises `TyndaError` for a line without
    phones, and where there is no word.
    """
    lexicon: dict[str, list[Pronunciation]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        word, *phones = line.split()[: _MAX_PHONES + 2] or [""]
        if not word:
            continue
        if not 1 <= len(phones) <= _MAX_PHONES:
            raise TyndaError(
                f"line {number} of the lexicon should be a word and 1 to {_MAX_PHONES} phones, "
                f"not {line[:50]!r}"
            )
        known = lexicon.setdefault(word, [])
        if tuple(phones) not in known:
            known.append(tuple(phones))
    if not lexicon:
        raise TyndaError("the lexicon is empty: it needs a line for each word, with its phones")
    return lexicon


def unparse(lexicon: Lexicon) -> str:
    """Return the text that `parse` reads."""
    lines = (" ".join((word, *phones)) for word, said in sorted(lexicon.items()) for phones in said)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class Spelling:
    """The tokenizer of a hybrid model: words, their phones, and the states of these.

    A symbol is an acoustic state; symbols have no text, only those of pauses are spaces.
    """

    lexicon: Lexicon
    tying: Tying

    type = "hybrid"
    blank = 0

    def __post_init__(self) -> None:
        for word, said in self.lexicon.items():
            for phone in {p for phones in said for p in phones}:
                if phone not in self.tying.roots:
                    raise TyndaError(
                        f"the word {word!r} has the phone {phone}, which has no states"
                    )

    def __len__(self) -> int:
        return self.tying.count

    @cached_property
    def symbols(self) -> list[str]:
        """A text for each state: a space for those of pauses, and nothing for all others."""
        pauses = set(self.tying.silence)
        return [" " if state in pauses else "" for state in range(len(self))]

    def pronunciations(self, words: Sequence[str]) -> list[Sequence[Pronunciation]]:
        """Return the pronunciations of each word. Raises `TyndaError` for words without any."""
        if unknown := sorted({word for word in words if word not in self.lexicon}):
            raise TyndaError(
                f"the model has no pronunciation of {listed(unknown)}: leave these words out, or "
                "use a model that writes letters"
            )
        return [self.lexicon[word] for word in words]

    def to_dict(self) -> dict[str, Any]:
        """Return the description for a model file, which `from_dict` reads."""
        packed = lzma.compress(unparse(self.lexicon).encode(), preset=9)
        pieces = np.frombuffer(packed, np.uint8)
        return {"type": self.type, "tying": self.tying.to_dict(), "pieces": pieces}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spelling:
        """Return what `to_dict` described. Raises `TyndaError` for anything else."""
        pieces = data.get("pieces")
        if data.get("type") != cls.type or not isinstance(pieces, np.ndarray):
            raise TyndaError("the tokenizer's description is not readable: get the model again")
        return cls(parse(_unpack(pieces)), Tying.from_dict(data.get("tying")))


def _unpack(pieces: NDArray[Any]) -> str:
    """Decompress a lexicon, of which a damaged file may not make gigabytes."""
    try:
        with lzma.open(io.BytesIO(pieces.tobytes())) as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise EOFError
        return text.decode()
    except (lzma.LZMAError, UnicodeDecodeError, EOFError):
        raise TyndaError(_DAMAGED) from None
