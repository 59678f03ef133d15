"""Pieces of words as symbols of models trained with CTC, as SentencePiece makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tynda.errors import TyndaError
from tynda.text.tokenizer import CTCTokenizer, is_silent

__all__ = ["PieceTokenizer"]

_SPACE = "\u2581"
"""How SentencePiece writes the space that begins a word (Kudo & Richardson 2018)."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class PieceTokenizer(CTCTokenizer):
    """A symbol for each piece of a word; one that begins with "▁" begins a word.

    Raises `TyndaError` for an empty piece, for "▁" elsewhere in a piece and for bytes as pieces
    (``<0x41>``).
    """

    type = "pieces"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        for name in names:
            if not name or name.rfind(_SPACE) > 0 or " " in name or _BYTE.fullmatch(name):
                raise TyndaError(f"the tokenizer has a piece {name!r}, which is not covered")
        pieces = (i for i, name in enumerate(names) if not is_silent(name))
        self._ids = {self.symbols[i]: i for i in pieces}
        self._longest = max(map(len, self._ids), default=0)

    @staticmethod
    def text(name: str) -> str:
        """The text of a piece."""
        return name.replace(_SPACE, " ")

    def encode(self, text: str) -> list[int]:
        """The fewest pieces that spell `text`; of several ways, that with the longest piece last.

        See `CTCTokenizer.encode`. Any other way of spelling has the same text: which one a model
        was trained with does not matter to who searches for it by its letters.
        """
        text = "".join(f" {word}" for word in text.split())
        # The piece that ends at each place of the text, and the number of pieces up to there.
        last: list[tuple[int, int]] = [(0, 0)]
        for end in range(1, len(text) + 1):
            ways = [
                (last[start][0] + 1, start)
                for start in range(max(0, end - self._longest), end)
                if last[start][0] < len(text) + 1 and text[start:end] in self._ids
            ]
            last.append(min(ways, default=(len(text) + 1, end - 1)))
        if last[-1][0] > len(text):
            raise TyndaError(f"the model cannot spell {text.strip()!r}: spell it in its letters")
        ids, end = list[int](), len(text)
        while end:
            start = last[end][1]
            ids.append(self._ids[text[start:end]])
            end = start
        return ids[::-1]
