"""Subwords of SentencePiece as symbols of CTC models."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tynda.errors import TyndaError
from tynda.text.tokenizer import CTCTokenizer, is_silent

__all__ = ["PieceTokenizer"]

_SPACE = "\u2581"
"""SentencePiece's character for the space that begins a word (Kudo & Richardson 2018)."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class PieceTokenizer(CTCTokenizer):
    """A tokenizer whose symbols are subwords; one that begins with "▁" begins a word.

    Raises `TyndaError` for an empty subword, for "▁" elsewhere in a subword and for byte tokens
    (``<0x41>``).
    """

    type = "pieces"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        for name in names:
            if not name or name.rfind(_SPACE) > 0 or " " in name or _BYTE.fullmatch(name):
                raise TyndaError(f"the tokenizer has a piece {name!r}, which is not supported")
        pieces = (i for i, name in enumerate(names) if not is_silent(name))
        self._ids = {self.symbols[i]: i for i in pieces}
        self._longest = max(map(len, self._ids), default=0)

    @staticmethod
    def text(name: str) -> str:
        """Return the text of a subword."""
        return name.replace(_SPACE, " ")

    def encode(self, text: str) -> list[int]:
        """Return the fewest subwords that spell `text`; among several segmentations, the one with
        the longest last subword.

        See `CTCTokenizer.encode`. The segmentation need not be that of training, since beam search
        compares letters.
        """
        text = "".join(f" {word}" for word in text.split())
        # For each position of the text: the number of subwords up to it, and the start of the last.
        last: list[tuple[int, int]] = [(0, 0)]
        for end in range(1, len(text) + 1):
            candidates = [
                (last[start][0] + 1, start)
                for start in range(max(0, end - self._longest), end)
                if last[start][0] < len(text) + 1 and text[start:end] in self._ids
            ]
            last.append(min(candidates, default=(len(text) + 1, end - 1)))
        if last[-1][0] > len(text):
            raise TyndaError(f"the model cannot spell {text.strip()!r}: spell it in its letters")
        ids, end = list[int](), len(text)
        while end:
            start = last[end][1]
            ids.append(self._ids[text[start:end]])
            end = start
        return ids[::-1]
