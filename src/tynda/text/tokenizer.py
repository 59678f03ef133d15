"""Characters to ids and back, for models trained with CTC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from tynda.errors import TyndaError

__all__ = ["BLANK", "ENGLISH", "CharTokenizer"]

BLANK = "<blank>"


class CharTokenizer:
    """One id per character; id 0 is the CTC blank.

    `names[i]` is what id `i` stands for: `"<blank>"` first, then single characters, each once,
    the space among them; other names in angle brackets, such as `"<unk>"`, are ids that print
    nothing. Anything else raises `TyndaError`, since the list is usually read from a model
    file. `symbols` are the same with nothing for what prints nothing, the blank excepted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names or names[0] != BLANK:
            raise TyndaError(f"the tokenizer's first symbol must be {BLANK}: mend the symbol list")
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
        """The id of every character of `text`, which has been normalised before.

        Raises `TyndaError` for a character that the model does not know.
        """
        try:
            return [self._ids[c] for c in text]
        except KeyError as unknown:
            raise TyndaError(
                f"the model cannot spell {unknown.args[0]!r} (in {text!r}): spell it in its letters"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of `ids`, blanks left out. Repeats stay: these are labels, not frames."""
        return "".join(self.symbols[i] for i in ids if i != self.blank)

    def token_bytes(self) -> list[bytes]:
        """The bytes, UTF-8, that each token adds to a text."""
        return [b"" if i == self.blank else s.encode() for i, s in enumerate(self.symbols)]

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads back; plain enough for JSON."""
        return {"type": "char", "symbols": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CharTokenizer:
        """The tokenizer that `to_dict` described; `TyndaError` if `data` describes none."""
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
