"""Whisper's tokens: byte pairs for text, and special tokens for everything else.

Byte-level byte pair encoding as in GPT-2 (Radford et al. 2019, section 2.2) through
``tokenizers``; special tokens as in Whisper (Radford et al. 2022, section 2.3 and figure 1).
Decoding needs the vocabulary alone: ``tokenizers`` is loaded when a text is first encoded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from string import punctuation
from typing import Any

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
_LETTERS = {byte: letter for letter, byte in _BYTES.items()}


class WhisperTokenizer:
    """Text to tokens and back, and the numbers of the special tokens.

    ``vocab`` maps each piece of text, in GPT-2's spelling of bytes, to its token; ``merges``
    lists the pairs ``"left right"`` in the order in which they are joined; ``special`` maps
    ``"<|endoftext|>"`` and its like to tokens. Raises `TyndaError` where a special token that
    decoding needs is missing.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[str],
        special: Mapping[str, int],
        *,
        multilingual: bool,
    ) -> None:
        self._vocab, self._merges, self._special = dict(vocab), list(merges), dict(special)
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

    @property
    def highest(self) -> int:
        """The greatest token that has a name."""
        return max([*self._vocab.values(), *self._special.values()])

    def _token(self, name: str) -> int:
        try:
            return self._special[name]
        except KeyError:
            raise TyndaError(f"the tokenizer has no {name}: it is not one of Whisper's") from None

    def encode(self, text: str) -> list[int]:
        """The tokens of a plain text; what looks like a special token is text as well."""
        return list(self._bpe.encode(text).ids)

    def spell(self, text: str) -> list[int]:
        """`encode` of a single word or symbol, in few steps and without a library to load.

        As openai's tokenizer does it: of all neighbours that make a token together, those that
        make the one with the least number are joined first.
        """
        pieces = [_LETTERS[byte] for byte in text.encode()]
        while True:
            joined = [
                (token, i)
                for i, pair in enumerate(pairwise(pieces))
                if (token := self._vocab.get("".join(pair))) is not None
            ]
            if not joined:
                return [self._vocab[piece] for piece in pieces]
            _, i = min(joined)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens without the special ones; broken UTF-8 becomes U+FFFD."""
        return self._text([t for t in tokens if t < self.eot])

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
        # A small vocabulary may spell them with a space alone, which many words begin with.
        space = self.spell(" ")[0]
        tokens = {self.spell(" -")[0], self.spell(" '")[0]} - {space}
        for symbol in (*_SYMBOLS, *_NOTES):
            for text in (symbol, " " + symbol):
                encoded = self.spell(text)
                # The notes share their first bytes with nothing but their like.
                if len(encoded) == 1 or symbol in _NOTES:
                    tokens.add(encoded[0])
        return frozenset(tokens)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads back; plain enough for JSON."""
        return {
            "type": "whisper",
            "vocab": self._vocab,
            "merges": self._merges,
            "special": self._special,
            "multilingual": self.multilingual,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WhisperTokenizer:
        """The tokenizer that `to_dict` described; `TyndaError` if ``data`` describes none."""
        vocab: Any = data.get("vocab")
        special: Any = data.get("special")
        merges: Any = data.get("merges")
        if (
            data.get("type") != "whisper"
            or not _is_vocab(vocab)
            or not _is_vocab(special)
            or not isinstance(merges, list)
            or not all(isinstance(m, str) for m in merges)
            or not isinstance(data.get("multilingual"), bool)
        ):
            raise TyndaError("the tokenizer's description is not readable: get the model again")
        return cls(vocab, merges, special, multilingual=data["multilingual"])

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
            merges = [m if isinstance(m, str) else " ".join(m) for m in merges]
        except (KeyError, TypeError):
            raise TyndaError("tokenizer.json is no byte pair encoding") from None
        return cls.from_dict(
            {
                "type": "whisper",
                "vocab": {k: t for k, t in vocab.items() if k not in special},
                "merges": merges,
                "special": special,
                "multilingual": multilingual,
            }
        )

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {token: piece for piece, token in self._vocab.items()}

    def _text(self, tokens: Iterable[int]) -> str:
        try:
            return bytes(_BYTES[c] for t in tokens for c in self._pieces.get(t, "")).decode(
                "utf-8", "replace"
            )
        except KeyError as unknown:
            raise TyndaError(
                f"the tokenizer spells a byte as {unicodedata.name(unknown.args[0], 'unknown')}"
            ) from None

    @cached_property
    def _bpe(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        try:
            pairs = [(left, right) for left, right in (m.split(" ") for m in self._merges)]
            bpe = Tokenizer(BPE(vocab=self._vocab, merges=pairs))
        except Exception as error:  # ValueError of ours, or what the library raises for bad merges
            raise TyndaError(f"the tokenizer's merges are damaged: {error}") from None
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        return bpe


def _is_special(piece: str) -> bool:
    return piece.startswith("<|") and piece.endswith("|>")


def _is_vocab(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and type(t) is int and t >= 0 for k, t in value.items()
    )
