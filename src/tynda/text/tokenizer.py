"""Symbols of models trained with CTC: ids to text and back; here of single characters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any, ClassVar, Self

from tynda.errors import TyndaError

__all__ = ["BLANK", "ENGLISH", "CTCTokenizer", "CharTokenizer", "is_silent"]

BLANK = "<blank>"


class CTCTokenizer(ABC):
    """One id per symbol; id 0 is the CTC blank.

    `names[i]` is what id `i` stands for: `"<blank>"` first, then symbols, each once; other names
    in angle brackets, such as `"<unk>"`, are ids that print nothing. `symbols[i]` is the text that
    id `i` prints, the blank excepted; a space in it, if there is one, comes first, and begins a
    word. Raises `TyndaError` for another list, since it is usually read from a model file.
    """

    type: ClassVar[str]
    """Its name in a model file."""
    blank: ClassVar[int] = 0

    def __init__(self, names: Sequence[str]) -> None:
        if not names or names[0] != BLANK:
            raise TyndaError(f"the tokenizer's first symbol must be {BLANK}: mend the symbol list")
        if len(set(names)) != len(names):
            raise TyndaError("the tokenizer's symbols must be distinct")
        self.names = list(names)
        printed = ("" if is_silent(name) else self.text(name) for name in names[1:])
        self.symbols = [BLANK, *printed]

    @staticmethod
    def text(name: str) -> str:
        """The text that a symbol of this name prints, if it is not silent."""
        return name

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids that spell `text`, which has been normalised before.

        Raises `TyndaError` for a character that the model does not know.
        """

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.names == self.names

    __hash__ = None  # type: ignore[assignment]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, blanks left out. Repeats stay: these are labels, not frames."""
        return "".join(self.symbols[i] for i in ids if i != self.blank)

    def token_bytes(self) -> list[bytes]:
        """The bytes, UTF-8, that each token adds to a text."""
        return [b"" if i == self.blank else s.encode() for i, s in enumerate(self.symbols)]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data that `from_dict` reads."""
        return {"type": self.type, "symbols": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The tokenizer that `to_dict` described; `TyndaError` if `data` describes none."""
        symbols = data.get("symbols")
        if (
            data.get("type") != cls.type
            or not isinstance(symbols, list)
            or not all(isinstance(s, str) for s in symbols)
        ):
            raise TyndaError("the tokenizer's description is not readable: get the model again")
        return cls(symbols)


class CharTokenizer(CTCTokenizer):
    """A symbol for each character, the space among them."""

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
        """The id of every character of `text`; see `CTCTokenizer.encode`."""
        try:
            return [self._ids[c] for c in text]
        except KeyError as unknown:
            raise TyndaError(
                f"the model cannot spell {unknown.args[0]!r} (in {text!r}): spell it in its letters"
            ) from None


def is_silent(name: str) -> bool:
    """Whether a symbol of this name prints nothing."""
    return len(name) > 2 and name[0] == "<" and name[-1] == ">"


ENGLISH = CharTokenizer([BLANK, " ", "'", *ascii_lowercase])
