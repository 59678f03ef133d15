"""Whisper's tokens: byte pairs for text, and special tokens for everything else.

Byte-level byte pair encoding as in GPT-2 (Radford et al. 2019, section 2.2) through
``tokenizers``; special tokens as in Whisper (Radford et al. 2022, section 2.3 and figure 1).
Fifty thousand pieces are held as one string of bytes: as Python's objects they would take more
memory than the weights of a small model, and longer to make than a sentence to hear. Decoding
reads them there; ``tokenizers`` is loaded, and given them, when a text is first encoded.
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
from tynda.files import read_json

__all__ = ["WhisperTokenizer"]

# Written without spaces between words: any character may begin one.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
# What stands for sounds, speakers and effects in subtitles, and is never said.
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))"),
    *("(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
_NOTES = "♩♪♫♬♭♮♯"


def _byte_table() -> dict[str, int]:
    """The printable character that stands for each byte in the vocabulary (GPT-2)."""
    latin = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in latin)
    return {chr(b): b for b in latin} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_table()
_LETTERS = np.array([ord(letter) for letter in sorted(_BYTES, key=_BYTES.__getitem__)], "<u4")
_CODES = np.full(_LETTERS.max() + 2, -1, np.int16)  # letter -> byte; the last stands for others
_CODES[_LETTERS] = range(256)
# No vocabulary is as large: a number in a file may not ask for gigabytes.
_MOST_TOKENS = 1 << 22
_UNREADABLE = "the tokenizer's description is not readable: get the model again"


class WhisperTokenizer:
    """Text to tokens and back, and the numbers of the special tokens.

    ``pieces [bytes]`` has what the tokens stand for, one behind the other, uint8, and
    ``ends [tokens]`` where each ends, int32; a token that is none stands for nothing.
    ``merges [n, 2]``, int32, lists the pairs of tokens in the order in which they are joined;
    ``special`` maps ``"<|endoftext|>"`` and its like to tokens. Raises `TyndaError` where a
    special token that decoding needs is missing.
    """

    def __init__(
        self,
        pieces: NDArray[np.uint8],
        ends: NDArray[np.int32],
        merges: NDArray[np.int32],
        special: Mapping[str, int],
        *,
        multilingual: bool,
    ) -> None:
        self._pieces, self._ends, self._merges = pieces, ends, merges
        self._special = dict(special)
        self.multilingual = multilingual
        self.eot = self._token("<|endoftext|>")
        self.sot = self._token("<|startoftranscript|>")
        self.translate = self._token("<|translate|>")
        self.transcribe = self._token("<|transcribe|>")
        self.sot_lm = self._token("<|startoflm|>")
        self.sot_prev = self._token("<|startofprev|>")
        self.no_timestamps = self._token("<|notimestamps|>")
        # Checkpoints disagree on its name and may not list the time stamps at all.
        self.no_speech = self.no_timestamps - 1
        self.timestamp_begin = self.no_timestamps + 1
        between = {t: name[2:-2] for name, t in special.items() if self.sot < t < self.translate}
        self.languages = {between[t]: t for t in sorted(between)}
        """Language code -> token."""

    @classmethod
    def spelt(
        cls,
        vocab: Mapping[str, int],
        merges: Iterable[str | Sequence[str]],
        special: Mapping[str, int],
        *,
        multilingual: bool,
    ) -> WhisperTokenizer:
        """The tokenizer of pieces in GPT-2's spelling of bytes.

        ``vocab`` maps each piece to its token; ``merges`` are pairs, or ``"left right"``. Raises
        `TyndaError` where a piece or a merge is damaged.
        """
        tokens = list(vocab.values())
        if len(set(tokens)) < len(tokens) or max(tokens, default=0) >= _MOST_TOKENS:
            raise TyndaError(_UNREADABLE)
        try:
            pairs = [m.split(" ") if isinstance(m, str) else m for m in merges]
            joined = [(vocab[left], vocab[right]) for left, right in pairs]
        except (KeyError, TypeError, ValueError):
            raise TyndaError("the tokenizer's merges are damaged: get the model again") from None
        lengths = np.zeros(max(tokens, default=-1) + 1, np.int32)
        lengths[tokens] = [len(piece) for piece in vocab]
        return cls(
            _to_bytes("".join(sorted(vocab, key=vocab.__getitem__))),
            np.cumsum(lengths, dtype=np.int32),
            np.array(joined, np.int32).reshape(-1, 2),
            special,
            multilingual=multilingual,
        )

    @property
    def highest(self) -> int:
        """The greatest token that has a name."""
        return max(len(self._ends) - 1, *self._special.values())

    def _token(self, name: str) -> int:
        try:
            return self._special[name]
        except KeyError:
            raise TyndaError(f"the tokenizer has no {name}: it is not one of Whisper's") from None

    def encode(self, text: str) -> list[int]:
        """The tokens of a plain text; what looks like a special token is text as well."""
        return list(self._bpe.encode(text).ids)

    def spell(self, text: str) -> list[int]:
        """`encode` of a single word or symbol, in few steps and without a library to load."""
        return _spell(text, self._made_of(text))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens without the special ones; broken UTF-8 becomes U+FFFD."""
        return self._text([t for t in tokens if t < self.eot])

    def token_bytes(self) -> list[bytes]:
        """The bytes that each token adds to a text; special tokens add none."""
        return [self._piece(t) if t < self.eot else b"" for t in range(len(self._ends))]

    def words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, list[int]]]:
        """Text tokens cut into words: the text of each, its leading space included, its tokens.

        A word begins at a space or is a mark of punctuation; in languages without spaces it is
        what makes whole characters.
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
        """The shortest runs of tokens that decode to whole characters."""
        whole = self._text(tokens)
        done, run = 0, list[int]()
        for token in tokens:
            run.append(token)
            text = self._text(run)
            # U+FFFD is a character cut in two, unless the whole text has it there as well.
            broken = text.find("\ufffd")
            if broken < 0 or whole[done + broken : done + broken + 1] == "\ufffd":
                yield text, run
                done, run = done + len(text), []

    @cached_property
    def non_speech(self) -> frozenset[int]:
        """Tokens of symbols that are not said: brackets, notes, dashes before a speaker's turn."""
        known = self._made_of(" -'" + "".join(_SYMBOLS) + _NOTES)
        # A small vocabulary may spell them with a space alone, which many words begin with.
        (space,) = _spell(" ", known)
        tokens = {_spell(" -", known)[0], _spell(" '", known)[0]} - {space}
        for symbol in (*_SYMBOLS, *_NOTES):
            for text in (symbol, " " + symbol):
                encoded = _spell(text, known)
                # The notes share their first bytes with nothing but their like.
                if len(encoded) == 1 or symbol in _NOTES:
                    tokens.add(encoded[0])
        return frozenset(tokens)

    @property
    def names(self) -> list[str]:
        """The pieces by token, in GPT-2's spelling."""
        letters = _LETTERS[self._pieces].tobytes().decode("utf-32-le")
        return [letters[a:b] for a, b in pairwise([0, *self._ends.tolist()])]

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads back: plain enough for JSON, but for the arrays."""
        return {
            "type": "whisper",
            "pieces": self._pieces,
            "ends": self._ends,
            "merges": self._merges,
            "special": self._special,
            "multilingual": self.multilingual,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WhisperTokenizer:
        """The tokenizer that `to_dict` described, or one as `spelt` takes it.

        Raises `TyndaError` if ``data`` describes none.
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
            vocab, merges = data["vocab"], data.get("merges")
            if not _is_vocab(vocab) or not isinstance(merges, list):
                raise TyndaError(_UNREADABLE)
            return cls.spelt(vocab, merges, special, multilingual=multilingual)
        pieces: Any = data.get("pieces")
        ends: Any = data.get("ends")
        pairs: Any = data.get("merges")
        if not _fit(pieces, ends, pairs):
            raise TyndaError(_UNREADABLE)
        return cls(pieces, ends, pairs, special, multilingual=multilingual)

    @classmethod
    def from_folder(cls, folder: Path, *, multilingual: bool) -> WhisperTokenizer:
        """Read a hub checkpoint's ``tokenizer.json``, or ``vocab.json`` and its companions.

        Raises `TyndaError` where neither is there or one is damaged.
        """
        try:
            if (folder / "tokenizer.json").exists():
                return cls._from_json(read_json(folder / "tokenizer.json"), multilingual)
            vocab = read_json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text("utf-8").splitlines()
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
    def _from_json(cls, data: dict[str, Any], multilingual: bool) -> WhisperTokenizer:
        try:
            vocab, merges = data["model"]["vocab"], data["model"]["merges"]
            special = {t["content"]: t["id"] for t in data["added_tokens"]}
            vocab = {k: t for k, t in vocab.items() if k not in special}
        except (KeyError, TypeError, AttributeError):
            raise TyndaError("tokenizer.json is no byte pair encoding") from None
        return cls.from_dict(
            {
                "type": "whisper",
                "vocab": vocab,
                "merges": merges,
                "special": special,
                "multilingual": multilingual,
            }
        )

    def _text(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < len(self._ends):
            return b""
        return self._pieces[self._ends[token - 1] if token else 0 : self._ends[token]].tobytes()

    def _made_of(self, text: str) -> dict[bytes, int]:
        """Piece -> token, of those pieces that have no other bytes than ``text``."""
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
            pairs = [(names[left], names[right]) for left, right in self._merges.tolist()]
            vocab = {name: token for token, name in enumerate(names) if name}
            bpe = Tokenizer(BPE(vocab=vocab, merges=pairs))
        except Exception as error:  # as the library says that merges are bad
            raise TyndaError(f"the tokenizer's merges are damaged: {error}") from None
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        return bpe


def _spell(text: str, known: Mapping[bytes, int]) -> list[int]:
    """The tokens of a word, where ``known`` has all of its pieces.

    As openai's tokenizer does it: of all neighbours that make a token together, those that
    make the one with the least number are joined first.
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
    """What GPT-2 spells so."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    codes: NDArray[np.int16] = _CODES[np.minimum(letters, len(_CODES) - 1)]
    if len(unknown := letters[codes < 0]):
        name = unicodedata.name(chr(unknown[0]), "unknown")
        raise TyndaError(f"the tokenizer spells a byte as {name}")
    return codes.astype(np.uint8)


def _fit(pieces: Any, ends: Any, merges: Any) -> bool:
    """Whether these arrays make a tokenizer."""
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
