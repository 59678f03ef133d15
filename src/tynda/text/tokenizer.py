"""Tokenizers of CTC models, and the one whose symbols are characters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any, ClassVar, Self

from tynda.errors import TyndaError

__all__ = ["BLANK", "ENGLISH", "CTCTokenizer", "CharTokenizer", "is_silent"]

BLANK = "<blank>"


class CTCTokenizer(ABC):
    """A tokenizer with one id for each symbol; id 0 is the CTC blank.

    `names[i]` is the name of id `i`: `"<blank>"`, then distinct symbols; other names in angle
    brackets, such as `"<unk>"`, are ids without text. `symbols[i]` is the text of id `i` (of the
    blank, its name); if it has a space, this is the first character, and begins a word. Raises
    `TyndaError` for an invalid list, since lists are usually read from model files.
    """

    type: ClassVar[str]
    """The tokenizer's type in a model file."""
    blank: ClassVar[int] = 0

    def __init__(self, names: Sequence[str]) -> None:
        if not names or names[0] != BLANK:
            raise TyndaError(f"the tokenizer's first symbol must be {BLANK}: fix the symbol list")
        if len(set(names)) != len(names):
            raise TyndaError("the tokenizer's symbols must be distinct")
        self.names = list(names)
        printed = ("" if is_silent(name) else self.text(name) for name in names[1:])
        self.symbols = [BLANK, *printed]

    @staticmethod
    def text(name: str) -> str:
        """Return the text of a symbol with this name, which must not be a silent one."""
        return name

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a normalised text.

        Raises `TyndaError` for a character that the model does not have.
        """

    def in_case(self, text: str) -> str:
        """Write a text in capitals where the model has no other letters."""
        return text if any(symbol.islower() for symbol in self.symbols[1:]) else text.upper()

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.names == self.names

    __hash__ = None  # type: ignore[assignment]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without blanks. Repeated ids are not merged, since they are
        labels, not frames."""
        return "".join(self.symbols[i] for i in ids if i != self.blank)

    def token_bytes(self) -> list[bytes]:
        """Return the bytes in UTF-8 that each token adds to a text."""
        return [b"" if i == self.blank else s.encode() for i, s in enumerate(self.symbols)]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data that `from_dict` reads."""
        return {"type": self.type, "symbols": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the tokenizer that `to_dict` described.

        Raises `TyndaError` where `data` is not such a description.
        """
        symbols = data.get("symbols")
        if (
            data.get("type") != cls.type
            or not isinstance(symbols, list)
            or not all(isinstance(s, str) for s in symbols)
        ):
            raise TyndaError("the tokenizer's description is not readable: get the model again")
        return cls(symbols)


class CharTokenizer(CTCTokenizer):
    """A tokenizer whose symbols are characters, including the space."""

    type = "char"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        if not all(len(name) == 1 or is_silent(name) for name in names):
            raise TyndaError("the tokenizer's symbols must be single, distinct characters")
        if " " not in names:
            raise TyndaError("the tokenizer has no space: add ' ' to the symbol list")
        self.space_id = self.symbols.index(" ")
        self._ids = {symbol: i for i, symbol in enumerate(self.names) if len(symbol) == 1}

    def encode(self, text: str) -> list[int]:
        """Return the id of every character of `text`; see `CTCTokenizer.encode`."""
        try:
            return [self._ids[c] for c in text]
        except KeyError as unknown:
            raise TyndaError(
                f"the model cannot spell {unknown.args[0]!r} (in {text!r}): spell it in its letters"
            ) from None


def is_silent(name: str) -> bool:
    """Return whether a symbol with this name has no text."""
    return len(name) > 2 and name[0] == "<" and name[-1] == ">"


ENGLISH = CharTokenizer([BLANK, " ", "'", *ascii_lowercase])
