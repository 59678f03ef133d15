"""Tokenizers of published CTC checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tynda.errors import TyndaError
from tynda.text.pieces import PieceTokenizer
from tynda.text.tokenizer import BLANK, CharTokenizer

if TYPE_CHECKING:
    from tynda.models.base import CheckpointFolder

__all__ = ["read_languages", "read_pieces", "read_symbols"]


def read_languages(folder: CheckpointFolder) -> list[str]:
    """Return the languages that a checkpoint has symbols for, the one of its own head first.

    The list is empty where ``vocab.json`` is one vocabulary, not one for each language (MMS).
    """
    vocab = folder.json("vocab.json")
    languages = [name for name, symbols in vocab.items() if isinstance(symbols, dict)]
    own = folder.json("tokenizer_config.json", optional=True).get("target_lang") or "eng"
    return sorted(languages, key=lambda language: (language != own, language))


def read_symbols(folder: CheckpointFolder, language: str | None) -> tuple[CharTokenizer, list[int]]:
    """Return the tokenizer, blank first, and the rows of the published head in its order.

    ``language`` selects the vocabulary where there are several. Raises `TyndaError`, naming the
    file, for a vocabulary that is damaged or has no blank or word delimiter.
    """
    path = folder.path / "vocab.json"
    vocab = folder.json("vocab.json")
    if language is not None:
        vocab = vocab[language]
    vocab = vocab | folder.json("added_tokens.json", optional=True)
    roles = _read_roles(folder)
    blank, delimiter = roles["pad_token"], roles["word_delimiter_token"]
    if sorted(vocab.values(), key=str) != sorted(range(len(vocab)), key=str):
        raise TyndaError(f"{path} does not number its symbols from 0 on")
    for role, symbol in (("blank", blank), ("word delimiter", delimiter)):
        if symbol not in vocab:
            raise TyndaError(f"{path} has no {symbol!r}, which is its {role}")
    order = sorted(range(len(vocab)), key=lambda i: i != vocab[blank])
    by_id = {i: symbol for symbol, i in vocab.items()}
    # A special symbol decodes to no text, whatever its spelling, such as "[UNK]".
    ours = {symbol: f"<{symbol.strip('<>')}>" for symbol in roles.values()}
    ours |= {blank: BLANK, delimiter: " "}
    try:
        return CharTokenizer([ours.get(by_id[i], by_id[i]) for i in order]), order
    except TyndaError as error:
        raise TyndaError(f"{path}: {error}") from None


def read_pieces(folder: CheckpointFolder, blank: int) -> tuple[PieceTokenizer, list[int]]:
    """Return the tokenizer of a ``tokenizer.json``, blank first, and the rows of the head in its
    order.

    ``blank`` is the id of the blank in this file. Raises `TyndaError`, naming the file, where it is
    damaged.
    """
    path, data = folder.path / "tokenizer.json", folder.json("tokenizer.json")
    try:
        vocab = data["model"]["vocab"]
        if isinstance(vocab, list):  # pieces with their scores (unigram)
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        added = {token["content"]: token for token in data["added_tokens"]}
        vocab = vocab | {name: token["id"] for name, token in added.items()}
        special = {name for name, token in added.items() if token["special"]}
    except (KeyError, TypeError, ValueError):
        raise TyndaError(f"{path} is damaged: get the checkpoint again") from None
    if sorted(vocab.values(), key=str) != sorted(range(len(vocab)), key=str):
        raise TyndaError(f"{path} does not number its pieces from 0 on")
    if blank not in range(len(vocab)):
        raise TyndaError(f"{path} has no piece {blank}, which is the blank")
    names = {i: f"<{name.strip('<>')}>" if name in special else name for name, i in vocab.items()}
    names[blank] = BLANK
    order = sorted(range(len(vocab)), key=lambda i: i != blank)
    try:
        return PieceTokenizer([names[i] for i in order]), order
    except TyndaError as error:
        raise TyndaError(f"{path}: {error}") from None


def _read_roles(folder: CheckpointFolder) -> dict[str, str]:
    """Return the special symbols: role -> symbol."""
    roles = {"pad_token": "<pad>", "word_delimiter_token": "|"}
    known = (*roles, "unk_token", "bos_token", "eos_token")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, symbol in folder.json(name, optional=True).items():
            symbol = symbol.get("content") if isinstance(symbol, dict) else symbol
            if role not in known or symbol is None:
                continue
            if not isinstance(symbol, str):
                path = folder.path / name
                raise TyndaError(f"{path}: {role} is not a string: get the checkpoint again")
            roles[role] = symbol
    return roles
