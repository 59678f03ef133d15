"""SentencePiece's byte pair encoding with byte fallback.

Kudo & Richardson 2018, "SentencePiece"; the format is that of Llama's ``tokenizer.json``, which
Moonshine uses. All pieces are stored in one array, as in ``tynda.text.whisper``, which decoding
reads; ``tokenizers`` is loaded when a text is first encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError

__all__ = ["BytePairTokenizer"]

_SPACE = "\u2581"
"""The character for a space in pieces."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_MAX_TOKENS = 1 << 22  # A number in a file may not request gigabytes.
_UNREADABLE = "the tokenizer's description is not readable: get the model again"


class BytePairTokenizer:
    """Converts text to tokens and back.

    ``pieces [bytes]``, uint8, has the concatenated names of the tokens in UTF-8, and ``ends
    [tokens]``, int32, the offset at which each name ends. ``merges [n, 2]``, int32, lists the pairs
    of tokens in the order in which they are merged. ``special`` tokens have no text; ``sot`` is the
    start token, ``eot`` the end token. Raises `TyndaError` for arrays and tokens that do not match
    each other.
    """

    # There are no tokens for timestamps, silence, languages or tasks, and none to suppress.
    timestamp_begin = None
    no_speech = None
    multilingual = False
    languages: Mapping[str, int] = MappingProxyType({})
    unwritten: frozenset[int] = frozenset()
    non_speech: frozenset[int] = frozenset()
    blanks: Sequence[int] = ()

    def __init__(
        self,
        pieces: NDArray[np.uint8],
        ends: NDArray[np.int32],
        merges: NDArray[np.int32],
        special: Sequence[int],
        sot: int,
        eot: int,
    ) -> None:
        self.sot, self.eot = sot, eot
        self._pieces, self._ends, self._merges = pieces, ends, merges
        self._special = frozenset(special)
        bounds = np.concatenate([[0], ends])
        if (np.diff(bounds) < 0).any() or bounds[-1] != len(pieces):
            raise TyndaError(_UNREADABLE)
        if not all(0 <= token < len(ends) for token in (sot, eot, *special)):
            raise TyndaError(_UNREADABLE)
        if merges.shape[1:] != (2,) or ((merges < 0) | (merges >= len(ends))).any():
            raise TyndaError(_UNREADABLE)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def names(self) -> list[str]:
        """The pieces, indexed by token, as spelled in ``tokenizer.json``."""
        return [self._name(token) for token in range(len(self))]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; a spelled-out special token is treated as plain text.

        Raises `TyndaError` for a text that the tokens cannot represent.
        """
        tokens = list(self._bpe.encode(text).ids) if text else []
        if self.decode(tokens) != text:
            raise TyndaError(f"the tokenizer cannot spell {text!r}")
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, without special ones and the space before the first word.

        Each byte of a run of byte tokens that is not valid UTF-8 becomes U+FFFD.
        """
        parts = list[str]()
        run = bytearray()
        for token in (*tokens, -1):
            if token in self._special:
                continue
            name = self._name(token)
            if byte := _BYTE.fullmatch(name):
                run.append(int(byte[1], 16))
                continue
            if run:
                parts.append(_text(bytes(run)))
                run.clear()
            parts.append(name.replace(_SPACE, " "))
        return "".join(parts).removeprefix(" ")

    def _name(self, token: int) -> str:
        if not 0 <= token < len(self):
            return ""
        start = self._ends[token - 1] if token else 0
        return self._pieces[start : self._ends[token]].tobytes().decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """Return data that `from_dict` reads, JSON-able except for the arrays."""
        return {
            "type": "bytepairs",
            "pieces": self._pieces,
            "ends": self._ends,
            "merges": self._merges,
            "special": sorted(self._special),
            "sot": self.sot,
            "eot": self.eot,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BytePairTokenizer:
        """Return the tokenizer that `to_dict` described.

        Raises `TyndaError` where ``data`` is not such a description.
        """
        keys = ("pieces", "ends", "merges", "special", "sot", "eot")
        values: list[Any] = [data.get(key) for key in keys]
        pieces, ends, merges, special, *tokens = values
        integers = isinstance(special, list) and all(type(t) is int for t in (*tokens, *special))
        if data.get("type") != "bytepairs" or not integers:
            raise TyndaError(_UNREADABLE)
        arrays = (pieces, np.uint8, 1), (ends, np.int32, 1), (merges, np.int32, 2)
        if not all(_is_array(*array) for array in arrays):
            raise TyndaError(_UNREADABLE)
        return cls(*values)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, sot: int, eot: int) -> BytePairTokenizer:
        """Return the tokenizer of a ``tokenizer.json``.

        Raises `TyndaError` where it is damaged or of another kind.
        """
        try:
            model, added = data["model"], data["added_tokens"]
            if not model["byte_fallback"]:
                raise TyndaError("tokenizer.json has no byte_fallback, which tynda needs")
            pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
            merges = [(model["vocab"][left], model["vocab"][right]) for left, right in pairs]
            ids = model["vocab"] | {token["content"]: token["id"] for token in added}
            special = [token["id"] for token in added if token["special"]]
            names = {token: name.encode() for name, token in ids.items()}
            if len(names) < len(ids) or not all(0 <= token < _MAX_TOKENS for token in names):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise TyndaError("tokenizer.json is not a byte pair encoding") from None
        pieces = [names.get(token, b"") for token in range(max(names, default=-1) + 1)]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
        joined = np.array(merges, np.int32).reshape(-1, 2)
        return cls(np.frombuffer(b"".join(pieces), np.uint8), ends, joined, special, sot, eot)

    @cached_property
    def _bpe(self) -> Any:
        from tokenizers import Tokenizer, normalizers
        from tokenizers.models import BPE

        names = self.names
        vocab = {name: token for token, name in enumerate(names) if name}
        try:
            pairs = [(names[left], names[right]) for left, right in self._merges.tolist()]
            bpe = Tokenizer(BPE(vocab=vocab, merges=pairs, byte_fallback=True))
        except Exception as error:  # The library raises this class for invalid merges.
            raise TyndaError(f"the tokenizer's merges are damaged: {error}") from None
        steps = normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)
        bpe.normalizer = normalizers.Sequence([*steps])
        return bpe


def _is_array(array: Any, kind: type[np.generic], axes: int) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == kind and array.ndim == axes


def _text(run: bytes) -> str:
    try:
        return run.decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(run)
