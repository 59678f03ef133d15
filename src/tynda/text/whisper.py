"""Whisper's tokens: byte pairs for text, and special tokens for everything else.

Text uses the byte-level byte pair encoding of GPT-2 (Radford et al. 2019, section 2.2), through
``tokenizers``; special tokens are those of Whisper (Radford et al. 2022, section 2.3 and figure 1).
The fifty thousand pieces are stored as one array of bytes: as Python objects they would use more
memory than the weights of a small model, and creating them would take longer than transcribing a
sentence. Decoding reads this array; ``tokenizers`` is loaded when a text is first encoded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from string import punctuation
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.files import read_json, read_text
from tynda.text.merges import ordered_merges

__all__ = ["WhisperTokenizer", "spelled"]

# Languages that are written without spaces between words: any character may start a word.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
# Symbols that mark sounds, speakers and effects in subtitles and are never spoken.
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))"),
    *("(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
_NOTES = "♩♪♫♬♭♮♯"


def _byte_table() -> dict[str, int]:
    """Return byte by printable character, as GPT-2's vocabulary spells bytes."""
    latin = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in latin)
    return {chr(b): b for b in latin} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_table()
_SPELLING = {byte: letter for letter, byte in _BYTES.items()}
_LETTERS = np.array([ord(letter) for letter in sorted(_BYTES, key=_BYTES.__getitem__)], "<u4")
_CODES = np.full(_LETTERS.max() + 2, -1, np.int16)  # letter -> byte; the last is for all others
_CODES[_LETTERS] = range(256)
# Vocabularies are far smaller; the limit keeps a number in a file from allocating gigabytes.
_MAX_TOKENS = 1 << 22
_UNREADABLE = "the tokenizer's description is not readable: get the model again"


class WhisperTokenizer:
    """Converts text to tokens and back, and holds the ids of the special tokens.

    ``pieces [bytes]``, uint8, is the concatenation of all tokens' bytes, and ``ends [tokens]``,
    int32, the end of each token in it; an unused id has no bytes. ``merges [n, 2]``, int32, lists
    the pairs of tokens in the order in which they are merged; None means that tokens are numbered
    in this order. ``special`` maps names such as ``"<|endoftext|>"`` to tokens. Raises
    `TyndaError` where a special token that decoding needs is missing.
    """

    def __init__(
        self,
        pieces: NDArray[np.uint8],
        ends: NDArray[np.int32],
        merges: NDArray[np.int32] | None,
        special: Mapping[str, int],
        *,
        multilingual: bool,
    ) -> None:
        self._pieces, self._ends, self._listed = pieces, ends, merges
        self._special = dict(special)
        self.multilingual = multilingual
        self.eot = self._token("<|endoftext|>")
        self.sot = self._token("<|startoftranscript|>")
        self.translate = self._token("<|translate|>")
        self.transcribe = self._token("<|transcribe|>")
        self.sot_lm = self._token("<|startoflm|>")
        self.sot_prev = self._token("<|startofprev|>")
        self.no_timestamps = self._token("<|notimestamps|>")
        # Checkpoints disagree on the name of this token and may not list the timestamps at all.
        self.no_speech = self.no_timestamps - 1
        self.timestamp_begin = self.no_timestamps + 1
        between = {t: name[2:-2] for name, t in special.items() if self.sot < t < self.translate}
        self.languages = {between[t]: t for t in sorted(between)}
        """Language code -> token."""

    @classmethod
    def from_vocab(
        cls,
        vocab: Mapping[str, int],
        merges: Iterable[str | Sequence[str]] | None,
        special: Mapping[str, int],
        *,
        multilingual: bool,
    ) -> WhisperTokenizer:
        """Return the tokenizer for pieces in GPT-2's spelling of bytes.

        ``vocab`` maps each piece to its token; ``merges`` are pairs, ``"left right"``, or None for
        a vocabulary in the order of its merges. Raises `TyndaError` where a piece or a merge is
        damaged.
        """
        tokens = list(vocab.values())
        if len(set(tokens)) < len(tokens) or max(tokens, default=0) >= _MAX_TOKENS:
            raise TyndaError(_UNREADABLE)
        try:
            pairs = [m.split(" ") if isinstance(m, str) else m for m in merges or ()]
            joined = [(vocab[left], vocab[right]) for left, right in pairs]
        except (KeyError, TypeError, ValueError):
            raise TyndaError("the tokenizer's merges are damaged: get the model again") from None
        lengths = np.zeros(max(tokens, default=-1) + 1, np.int32)
        lengths[tokens] = [len(piece) for piece in vocab]
        return cls(
            _to_bytes("".join(sorted(vocab, key=vocab.__getitem__))),
            np.cumsum(lengths, dtype=np.int32),
            None if merges is None else np.array(joined, np.int32).reshape(-1, 2),
            special,
            multilingual=multilingual,
        )

    @cached_property
    def merges(self) -> NDArray[np.int32]:
        """The pairs of tokens ``[n, 2]`` in the order in which they are merged."""
        return ordered_merges(self.names) if self._listed is None else self._listed

    @property
    def highest(self) -> int:
        """The maximum token id that has a name."""
        return max(len(self._ends) - 1, *self._special.values())

    def _token(self, name: str) -> int:
        try:
            return self._special[name]
        except KeyError:
            raise TyndaError(f"the tokenizer has no {name}: it is not one of Whisper's") from None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; a spelled-out special token is treated as plain text."""
        return list(self._bpe.encode(text).ids)

    def spell(self, text: str) -> list[int]:
        """Encode a single word or symbol fast, without loading ``tokenizers``."""
        return _spell(text, self._made_of(text))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, ignoring special ones; invalid UTF-8 becomes U+FFFD."""
        return self._text([t for t in tokens if t < self.eot])

    def token_bytes(self) -> list[bytes]:
        """The bytes that each token adds to a text; special tokens add none."""
        return [self._piece(t) if t < self.eot else b"" for t in range(len(self._ends))]

    def words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, list[int]]]:
        """Split text tokens into words; return each word's text, with leading space, and tokens.

        A word starts at a space or is a punctuation mark; in languages without spaces, the
        shortest run of tokens that decodes to whole characters is a word.
        """
        words: list[tuple[str, list[int]]] = []
        for text, part in self._characters(tokens):
            if (
                language in _UNSPACED
                or not words
                or text.startswith(" ")
                or text.strip() in punctuation
            ):
                words.append((text, part))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + part)
        return words

    def _characters(self, tokens: Sequence[int]) -> Iterable[tuple[str, list[int]]]:
        """Yield the shortest runs of tokens that decode to whole characters."""
        whole = self._text(tokens)
        done, run = 0, list[int]()
        for token in tokens:
            run.append(token)
            text = self._text(run)
            # U+FFFD means an incomplete character, unless the whole text has it there as well.
            broken = text.find("\ufffd")
            if broken < 0 or whole[done + broken : done + broken + 1] == "\ufffd":
                yield text, run
                done, run = done + len(text), []

    @cached_property
    def non_speech(self) -> frozenset[int]:
        """Tokens of unspoken symbols: brackets, notes, dashes before a speaker's turn."""
        known = self._made_of(" -'" + "".join(_SYMBOLS) + _NOTES)
        # A small vocabulary may spell " -" with the token of a space, which starts many words, so
        # that token is not suppressed.
        (space,) = _spell(" ", known)
        tokens = {_spell(" -", known)[0], _spell(" '", known)[0]} - {space}
        for symbol in (*_SYMBOLS, *_NOTES):
            for text in (symbol, " " + symbol):
                encoded = _spell(text, known)
                # The first bytes of notes occur only in other notes and similar symbols.
                if len(encoded) == 1 or symbol in _NOTES:
                    tokens.add(encoded[0])
        return frozenset(tokens)

    @property
    def unwritten(self) -> frozenset[int]:
        """Special tokens that a decoder is given and never writes."""
        given = (self.transcribe, self.translate, self.sot, self.sot_prev, self.sot_lm)
        return frozenset((*given, self.no_speech))

    @property
    def blanks(self) -> list[int]:
        """Tokens that no text begins with: a space, and the end."""
        return [*self.spell(" "), self.eot]

    @property
    def names(self) -> list[str]:
        """The pieces, indexed by token, in GPT-2's spelling."""
        letters = _LETTERS[self._pieces].tobytes().decode("utf-32-le")
        return [letters[a:b] for a, b in pairwise([0, *self._ends.tolist()])]

    def to_dict(self) -> dict[str, Any]:
        """Return data that `from_dict` reads, JSON-able except for the arrays.

        Merges that follow from the order of the tokens are left out: OpenAI's take 400 kB.
        """
        described = {
            "type": "whisper",
            "pieces": self._pieces,
            "ends": self._ends,
            "special": self._special,
            "multilingual": self.multilingual,
        }
        listed = self._listed
        if listed is None or np.array_equal(listed, ordered_merges(self.names)):
            return described
        return described | {"merges": listed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WhisperTokenizer:
        """Return the tokenizer that `to_dict` described, or one described as for `from_vocab`.

        Raises `TyndaError` for other data.
        """
        special: Any = data.get("special")
        multilingual: Any = data.get("multilingual")
        if (
            data.get("type") != "whisper"
            or not _is_vocab(special)
            or not isinstance(multilingual, bool)
        ):
            raise TyndaError(_UNREADABLE)
        if "vocab" in data:
            vocab = data["vocab"]
            if not _is_vocab(vocab) or not isinstance(data.get("merges", []), list):
                raise TyndaError(_UNREADABLE)
            return cls.from_vocab(vocab, data.get("merges"), special, multilingual=multilingual)
        pieces: Any = data.get("pieces")
        ends: Any = data.get("ends")
        pairs: Any = data.get("merges")
        if not _fit(pieces, ends, pairs):
            raise TyndaError(_UNREADABLE)
        return cls(pieces, ends, pairs, special, multilingual=multilingual)

    @classmethod
    def from_folder(cls, folder: Path, *, multilingual: bool) -> WhisperTokenizer:
        """Read a hub checkpoint's ``tokenizer.json``, or ``vocab.json`` and the files beside it.

        Raises `TyndaError` where both are missing or one is damaged.
        """
        try:
            if (folder / "tokenizer.json").exists():
                data = read_json(folder / "tokenizer.json")
                return cls.from_json(data, multilingual=multilingual)
            vocab = read_json(folder / "vocab.json")
            lines = read_text(folder / "merges.txt").splitlines()
            special = read_json(folder / "added_tokens.json")
        except FileNotFoundError as error:
            raise TyndaError(
                f"{folder} has no tokenizer: neither tokenizer.json nor {Path(error.filename).name}"
            ) from None
        except (OSError, UnicodeDecodeError):
            raise TyndaError(f"the tokenizer in {folder} cannot be read") from None
        merges = [line for line in lines if line and not line.startswith("#version")]
        special = {k: t for k, t in (vocab | special).items() if _is_special(k)}
        vocab = {k: t for k, t in vocab.items() if not _is_special(k)}
        return cls.from_dict(
            {
                "type": "whisper",
                "vocab": vocab,
                "merges": merges,
                "special": special,
                "multilingual": multilingual,
            }
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, multilingual: bool) -> WhisperTokenizer:
        """Return the tokenizer of a ``tokenizer.json``, whose model may have no ``merges``.

        Raises `TyndaError` for other data.
        """
        try:
            model = data["model"]
            special = {t["content"]: t["id"] for t in data["added_tokens"]}
            vocab = {k: t for k, t in model["vocab"].items() if k not in special}
            merges = {"merges": model["merges"]} if "merges" in model else {}
        except (KeyError, TypeError, AttributeError):
            raise TyndaError("tokenizer.json is not a byte pair encoding") from None
        return cls.from_dict(
            {
                "type": "whisper",
                "vocab": vocab,
                "special": special,
                "multilingual": multilingual,
                **merges,
            }
        )

    def _text(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < len(self._ends):
            return b""
        return self._pieces[self._ends[token - 1] if token else 0 : self._ends[token]].tobytes()

    def _made_of(self, text: str) -> dict[bytes, int]:
        """Return piece -> token for all pieces that consist of bytes of ``text`` only."""
        foreign = np.ones(256, bool)
        foreign[list(text.encode())] = False
        before = np.append(0, np.cumsum(foreign[self._pieces], dtype=np.int32))
        starts = np.append(0, self._ends[:-1])
        own = (before[self._ends] == before[starts]) & (self._ends > starts)
        return {self._piece(token): token for token in np.flatnonzero(own).tolist()}

    @cached_property
    def _bpe(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        names = self.names
        try:
            pairs = [(names[left], names[right]) for left, right in self.merges.tolist()]
            vocab = {name: token for token, name in enumerate(names) if name}
            bpe = Tokenizer(BPE(vocab=vocab, merges=pairs))
        except Exception as error:  # the library raises this class for bad merges
            raise TyndaError(f"the tokenizer's merges are damaged: {error}") from None
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        return bpe


def spelled(piece: bytes) -> str:
    """Return a piece in GPT-2's spelling of bytes."""
    return piece.decode("latin-1").translate(_SPELLING)


def _spell(text: str, known: Mapping[bytes, int]) -> list[int]:
    """Return the tokens of a word, where ``known`` has all of its pieces.

    The order is that of OpenAI's tokenizer: of all adjacent pairs that form a token, the pair
    with the minimum token id is merged first.
    """
    pieces = [bytes([byte]) for byte in text.encode()]
    while joined := [
        (known[pair], i) for i, pair in enumerate(map(b"".join, pairwise(pieces))) if pair in known
    ]:
        _, i = min(joined)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    try:
        return [known[piece] for piece in pieces]
    except KeyError:
        raise TyndaError(f"the tokenizer has no token for a byte of {text!r}") from None


def _to_bytes(text: str) -> NDArray[np.uint8]:
    """Return the bytes that a text in GPT-2's spelling stands for."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    codes: NDArray[np.int16] = _CODES[np.minimum(letters, len(_CODES) - 1)]
    if len(unknown := letters[codes < 0]):
        name = unicodedata.name(chr(unknown[0]), "unknown")
        raise TyndaError(f"the tokenizer spells a byte as {name}")
    return codes.astype(np.uint8)


def _fit(pieces: Any, ends: Any, merges: Any) -> bool:
    """Return whether these arrays form a valid tokenizer; ``merges`` may be None."""
    if merges is None:
        merges = np.zeros((0, 2), np.int32)
    arrays = (pieces, ends, merges)
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return False
    if [(a.dtype, a.ndim) for a in arrays] != [(np.uint8, 1), (np.int32, 1), (np.int32, 2)]:
        return False
    places = np.concatenate([[0], ends, [len(pieces)]])
    fits = (places[1:] >= places[:-1]).all() and places[-2] == len(pieces)
    return bool(fits and merges.shape[1] == 2 and ((merges >= 0) & (merges < len(ends))).all())


def _is_special(piece: str) -> bool:
    return piece.startswith("<|") and piece.endswith("|>")


def _is_vocab(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and type(t) is int and t >= 0 for k, t in value.items()
    )
