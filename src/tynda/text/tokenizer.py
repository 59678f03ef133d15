"""Conversion of characters to ids and back, for models trained with CTC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from tynda.errors import TyndaError

__all__ = ["BLANK", "ENGLISH", "CharTokenizer"]

BLANK = "<blank>"


class CharTokenizer:
    """A tokenizer with one id per character; id 0 is the CTC blank.

    `names[i]` is the name of id `i`: `"<blank>"` first, then distinct single characters, one of
    them the space; other names in angle brackets, such as `"<unk>"`, are ids that decode to no
    text. Any other list raises `TyndaError`, since it is usually read from a model file.
    `symbols` are the names, with `""` for all ids without text except the blank.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names or names[0] != BLANK:
            raise TyndaError(f"the tokenizer's first symbol must be {BLANK}: fix the symbol list")
        if any(len(s) != 1 and not _is_silent(s) for s in names) or len(set(names)) != len(names):
            raise TyndaError("the tokenizer's symbols must be single, distinct characters")
        if " " not in names:
            raise TyndaError("the tokenizer has no space: add ' ' to the symbol list")
        self.names = list(names)
        self.symbols = [BLANK, *("" if _is_silent(name) else name for name in names[1:])]
        self.blank = 0
        self.space_id = self.symbols.index(" ")
        self._ids = {symbol: i for i, symbol in enumerate(self.names) if len(symbol) == 1}

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.names == other.names

    __hash__ = None  # type: ignore[assignment]

    def encode(self, text: str) -> list[int]:
        """Return the id of every character of the normalised `text`.

        Raises `TyndaError` for a character that is not in the vocabulary.
        """
        try:
            return [self._ids[c] for c in text]
        except KeyError as unknown:
            raise TyndaError(
                f"the model cannot spell {unknown.args[0]!r} (in {text!r}): use letters it knows"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without blanks. Repeats are kept: ids are labels, not frames."""
        return "".join(self.symbols[i] for i in ids if i != self.blank)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data that `from_dict` reads."""
        return {"type": "char", "symbols": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CharTokenizer:
        """Return the tokenizer that `to_dict` described. Raises `TyndaError` for other data."""
        symbols = data.get("symbols")
        if (
            data.get("type") != "char"
            or not isinstance(symbols, list)
            or not all(isinstance(s, str) for s in symbols)
        ):
            raise TyndaError("the tokenizer's description is not readable: get the model again")
        return cls(symbols)


def _is_silent(name: str) -> bool:
    return len(name) > 2 and name[0] == "<" and name[-1] == ">"


ENGLISH = CharTokenizer([BLANK, " ", "'", *ascii_lowercase])
