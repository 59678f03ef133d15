"""Checkpoints as the Hugging Face hub has them: a folder of JSON files and tensors.

What is read: ``config.json``, ``model.safetensors`` (or its shards by their index), the
tokenizer's files, ``preprocessor_config.json`` and ``generation_config.json`` where they are,
and the licence that the model card names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.errors import TyndaError
from tynda.files import read_json
from tynda.models import wav2vec2, whisper
from tynda.sound.frontend import FrontEnd, LogMel, Raw
from tynda.store.checkpoint import Checkpoint, Header
from tynda.text.tokenizer import BLANK, CharTokenizer
from tynda.text.whisper import WhisperTokenizer
from tynda.weights.tensors import map_tensors
from tynda.weights.weight import dense

__all__ = ["ADAPTER", "CONVERT", "FILES", "PICKLED", "adapt", "check_kind", "load"]

FILES = (
    *("README.md", "config.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors"),
)
"""Names, as patterns, of all that `load` may read."""

ADAPTER = "adapter.{}.safetensors"
"""What an MMS checkpoint adds for a language: adapters and head."""

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "flax_model.msgpack")
"""Weights that are not read, since unpickling can run any code."""

CONVERT = (
    "python -c \"import sys, transformers as t; m = t.pipeline('automatic-speech-recognition', "
    'sys.argv[1]).model; m.save_pretrained(sys.argv[1])" '
)
"""The command, less the folder, that makes safetensors of them."""


def load(folder: Path, *, weights: bool = True) -> Checkpoint:
    """Read a checkpoint's folder; without ``weights``, what describes the model.

    Raises `TyndaError`, naming the file, when one is missing or damaged, when a tensor is
    missing or has a wrong shape, when the architecture is not known, and for pickled weights.
    """
    settings = _json(folder / "config.json")
    kind = settings.get("model_type")
    check_kind(folder, kind)
    model = _READERS[str(kind)](folder, settings, weights)
    model.path = folder
    model.bytes = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return model


def adapt(model: Checkpoint, language: str) -> Checkpoint:
    """An MMS checkpoint, as `load` gave it, for another of its languages (ISO 639-3).

    Raises `TyndaError` where the folder has no adapter for it, or a damaged one.
    """
    assert model.path is not None
    path = model.path / ADAPTER.format(language)
    if not path.exists():
        name = model.header.name
        how = f": `tynda models pull {name} --language {language}`" if "/" in name else ""
        raise TyndaError(f"{path} is missing: {name} hears {language} with it{how}")
    names, order = _symbols(model.path, language)
    try:
        weights = wav2vec2.adapt(dense(model.weights), map_tensors(path))
    except ValueError as error:
        raise TyndaError(f"{path}: {error}") from None
    return _with_symbols(model.path, replace(model, weights=weights), names, order)


def check_kind(where: object, kind: object) -> None:
    """Raise `TyndaError` for a ``model_type`` that is not read."""
    if not isinstance(kind, str) or kind not in _READERS:
        raise TyndaError(
            f"{where}: models of type {kind!r} are not known; known: {', '.join(_READERS)}"
        )


def _whisper(folder: Path, settings: dict[str, Any], whole: bool) -> Checkpoint:
    config = _configure(folder, whisper, settings)
    weights = {}
    if whole:
        tensors = _tensors(folder)
        if not any(name.startswith("model.") for name in tensors):  # the bare encoder-decoder
            tensors = {f"model.{name}": value for name, value in tensors.items()}
        weights = _fit(folder, tensors, whisper.specs(config))
    tokenizer = WhisperTokenizer.from_folder(folder, multilingual=_multilingual(settings))
    if tokenizer.highest >= config.vocab:
        raise TyndaError(
            f"{folder}: the tokenizer has tokens beyond the model's {config.vocab}: it belongs to "
            "another model"
        )
    front = LogMel(fft=400, bins=config.bins, normalize="whisper")
    languages = list(tokenizer.languages) if tokenizer.multilingual else ["en"]
    generation = _json(folder / "generation_config.json", optional=True)
    header = _header(folder, "whisper", front, languages)
    header.decoding = _decoding(generation, config)
    return Checkpoint(header, config, front, tokenizer, weights, None, 0)


def _wav2vec2(folder: Path, settings: dict[str, Any], whole: bool) -> Checkpoint:
    config = _configure(folder, wav2vec2, settings)
    languages = _languages(folder)
    names, order = _symbols(folder, languages[0] if languages else None)
    if len(names) != config.vocab:
        raise TyndaError(f"{folder}: {config.vocab} outputs do not fit {len(names)} symbols")
    front = Raw(normalize=_normalizes(folder))
    header = _header(folder, "wav2vec2", front, languages)
    model = Checkpoint(header, config, front, CharTokenizer(names), {}, None, 0)
    if not whole:
        return model
    model.weights = _fit(folder, wav2vec2.fold(_tensors(folder)), wav2vec2.specs(config))
    return _with_symbols(folder, model, names, order)


def _normalizes(folder: Path) -> Any:
    """Whether each recording is brought to zero mean and unit variance."""
    listening = _json(folder / "preprocessor_config.json", optional=True)
    if not listening:  # since transformers 5, all parts of a processor share a file
        listening = _json(folder / "processor_config.json", optional=True)
        part = listening.get("feature_extractor")
        listening = part if isinstance(part, dict) else {}
    return listening.get("do_normalize", True)


def _with_symbols(
    folder: Path, model: Checkpoint, names: list[str], order: list[int]
) -> Checkpoint:
    """The model with the outputs of its head in this ``order``, the blank first."""
    weights = dense(model.weights)
    head = {f"lm_head.{part}": weights[f"lm_head.{part}"] for part in ("weight", "bias")}
    if len(head["lm_head.bias"]) != len(names):
        count = len(head["lm_head.bias"])
        raise TyndaError(f"{folder}: {count} outputs do not fit {len(names)} symbols")
    return replace(
        model,
        config=replace(model.config, vocab=len(names)),
        tokenizer=CharTokenizer(names),
        weights=weights | {name: value[order] for name, value in head.items()},
    )


def _languages(folder: Path) -> list[str]:
    """Those that an MMS checkpoint has symbols for, the one of its own head first."""
    vocab = _json(folder / "vocab.json")
    languages = [name for name, symbols in vocab.items() if isinstance(symbols, dict)]
    own = _json(folder / "tokenizer_config.json", optional=True).get("target_lang") or "eng"
    return sorted(languages, key=lambda language: (language != own, language))


_READERS: dict[str, Callable[[Path, dict[str, Any], bool], Checkpoint]] = {
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "hubert": _wav2vec2,
}


def _configure(folder: Path, module: ModuleType, settings: dict[str, Any]) -> Any:
    path = folder / "config.json"
    try:
        return models.configure(module, module.from_huggingface(settings))
    except KeyError as missing:
        raise TyndaError(f"{path} has no {missing.args[0]}") from None
    except (TyndaError, ValueError) as error:
        raise TyndaError(f"{path}: {error}") from None


def _header(folder: Path, family: str, front: FrontEnd, languages: list[str]) -> Header:
    return Header(
        name=_name(folder),
        family=family,
        config={},
        frontend=front.config,
        tokenizer={},
        languages=languages,
        licence=_licence(folder),
    )


def _name(folder: Path) -> str:
    """The folder's; in the hub's cache, ``models--OWNER--NAME/snapshots/COMMIT``, the model's."""
    if folder.parent.name != "snapshots":
        return folder.name
    return folder.parents[1].name.removeprefix("models--").replace("--", "/")


def _licence(folder: Path) -> str:
    """What the model card's front matter, in YAML, says; "" where it says nothing."""
    try:
        card = (folder / "README.md").read_text("utf-8")
    except (OSError, ValueError):
        return ""
    front = re.match(r"---\n(.*?)^---", card, re.DOTALL | re.MULTILINE)
    line = front and re.search(r"^license:[ \t]*([^\s#]+)", front[1], re.MULTILINE)
    return line[1].strip("\"'") if line else ""


def _symbols(folder: Path, language: str | None) -> tuple[list[str], list[int]]:
    """The symbols of a CTC vocabulary, blank first, and the rows of the head in that order."""
    vocab = _json(folder / "vocab.json")
    if language is not None:
        vocab = vocab[language]
    vocab = vocab | _json(folder / "added_tokens.json", optional=True)
    roles = _roles(folder)
    blank, delimiter = roles["pad_token"], roles["word_delimiter_token"]
    if sorted(vocab.values(), key=str) != sorted(range(len(vocab)), key=str):
        raise TyndaError(f"{folder / 'vocab.json'} does not number its symbols from 0 on")
    for role, symbol in (("blank", blank), ("word delimiter", delimiter)):
        if symbol not in vocab:
            raise TyndaError(f"{folder / 'vocab.json'} has no {symbol!r}, which is its {role}")
    order = sorted(range(len(vocab)), key=lambda i: i != vocab[blank])
    by_id = {i: symbol for symbol, i in vocab.items()}
    # What is special prints nothing, however it is spelled: "[UNK]".
    ours = {symbol: f"<{symbol.strip('<>')}>" for symbol in roles.values()}
    ours |= {blank: BLANK, delimiter: " "}
    names = [ours.get(by_id[i], by_id[i]) for i in order]
    try:
        CharTokenizer(names)
    except TyndaError as error:
        raise TyndaError(f"{folder / 'vocab.json'}: {error}") from None
    return names, order


def _roles(folder: Path) -> dict[str, str]:
    """The symbols that stand for something else than themselves: role -> symbol."""
    roles = {"pad_token": "<pad>", "word_delimiter_token": "|"}
    known = (*roles, "unk_token", "bos_token", "eos_token")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        for role, symbol in _json(path, optional=True).items():
            symbol = symbol.get("content") if isinstance(symbol, dict) else symbol
            if role not in known or symbol is None:
                continue
            if not isinstance(symbol, str):
                raise TyndaError(f"{path}: {role} is no text: get the checkpoint again")
            roles[role] = symbol
    return roles


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        if optional:
            return {}
        raise TyndaError(
            f"{path.parent} holds no whole model: {path.name} is missing; get the checkpoint again"
        ) from None


def _multilingual(settings: Mapping[str, Any]) -> bool:
    """English-only models end their texts with GPT-2's own token (reference implementation)."""
    return settings.get("eos_token_id") != 50256 and settings.get("vocab_size", 0) >= 51865


def _tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return dict(map_tensors(whole))
    if index.exists():
        shards = _json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in shards.values()
        ):
            raise TyndaError(f"{index} is damaged: it lists no shards")
        tensors: dict[str, NDArray[np.float32]] = {}
        for name in sorted(set(shards.values())):
            if not (folder / name).exists():
                raise TyndaError(f"{folder / name} is missing: get the checkpoint again")
            tensors |= map_tensors(folder / name)
        return tensors
    for name in PICKLED:
        if (folder / name).exists():
            raise TyndaError(
                f"{folder / name} is pickled: loading it could run any code. Where you trust "
                f"it, convert it: {CONVERT}{folder}"
            )
    raise TyndaError(
        f"{folder} has no weights: model.safetensors is missing; get the checkpoint again"
    )


def _fit(
    folder: Path, tensors: Mapping[str, NDArray[np.float32]], specs: Mapping[str, models.Spec]
) -> dict[str, NDArray[np.float32]]:
    """The tensors that the model needs, under its names."""
    for name, spec in specs.items():
        if name not in tensors:
            raise TyndaError(f"{folder}: tensor {name} is missing; the checkpoint is damaged")
        if tensors[name].shape != spec.shape:
            raise TyndaError(
                f"{folder}: tensor {name} is {tensors[name].shape}, by config.json it should be "
                f"{spec.shape}: one of the files belongs to another model"
            )
    return {name: tensors[name] for name in specs}


def _decoding(generation: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The heads whose attention follows the sound; half of the layers where none are named."""
    heads = generation.get("alignment_heads")
    try:
        pairs = [(int(layer), int(head)) for layer, head in heads] if heads else []
    except (TypeError, ValueError):
        pairs = []
    known = [
        (layer, head)
        for layer, head in pairs
        if 0 <= layer < config.decoder_layers and 0 <= head < config.decoder_heads
    ]
    return {
        "alignment_heads": known
        or [
            (layer, head)
            for layer in range(config.decoder_layers // 2, config.decoder_layers)
            for head in range(config.decoder_heads)
        ]
    }
