"""Checkpoints as the Hugging Face hub has them: a folder of JSON files and tensors.

What is read: ``config.json``, ``model.safetensors`` (or its shards by their index), the
tokenizer's files, ``preprocessor_config.json`` and ``generation_config.json`` where they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.checkpoint import Checkpoint, Header
from tynda.errors import TyndaError
from tynda.frontend import LogMel
from tynda.tensors import map_tensors
from tynda.text.whisper import WhisperTokenizer

__all__ = ["FILES", "load"]

FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors"),
)
"""Names, as patterns, of all that `load` may read."""

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "flax_model.msgpack")
_CONVERT = (
    "python -c \"import sys, transformers as t; m = t.pipeline('automatic-speech-recognition', "
    'sys.argv[1]).model; m.save_pretrained(sys.argv[1])" '
)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint's folder.

    Raises `TyndaError`, naming the file, when one is missing or damaged, when a tensor is
    missing or has a wrong shape, when the architecture is not known, and for pickled weights.
    """
    settings = _json(folder / "config.json")
    kind = settings.get("model_type")
    if kind != "whisper":
        raise TyndaError(f"{folder}: models of type {kind!r} are not known; known: whisper")
    module = models.family(kind)
    try:
        config = models.configure(module, module.from_huggingface(settings))
    except KeyError as missing:
        raise TyndaError(f"{folder / 'config.json'} has no {missing.args[0]}") from None
    except (TyndaError, ValueError) as error:
        raise TyndaError(f"{folder / 'config.json'}: {error}") from None
    weights = _fit(folder, _weights(folder), module.specs(config))
    generation = _json(folder / "generation_config.json", optional=True)
    tokenizer = WhisperTokenizer.from_folder(folder, multilingual=_multilingual(settings))
    front = LogMel(fft=400, bins=config.bins, normalize="whisper")
    header = Header(
        name=folder.name,
        family=kind,
        config={},
        frontend=front.config,
        tokenizer={},
        languages=list(tokenizer.languages) if tokenizer.multilingual else ["en"],
        licence="",
        decoding=_decoding(generation, config),
    )
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return Checkpoint(header, config, front, tokenizer, weights, None, size)


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise TyndaError(f"{path.parent} holds no model: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError):
        raise TyndaError(f"{path} is damaged: get it again") from None
    if not isinstance(value, dict):
        raise TyndaError(f"{path} is damaged: it is no JSON object")
    return value


def _multilingual(settings: Mapping[str, Any]) -> bool:
    """English-only models end their texts with GPT-2's own token (reference implementation)."""
    return settings.get("eos_token_id") != 50256 and settings.get("vocab_size", 0) >= 51865


def _weights(folder: Path) -> dict[str, NDArray[np.float32]]:
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
            tensors |= map_tensors(folder / name)
        return tensors
    for name in _PICKLED:
        if (folder / name).exists():
            raise TyndaError(
                f"{folder / name} is pickled: loading it could run any code. Where you trust "
                f"it, convert it: {_CONVERT}{folder}"
            )
    raise TyndaError(f"{folder} has no weights: model.safetensors is missing")


def _fit(
    folder: Path, tensors: Mapping[str, NDArray[np.float32]], specs: Mapping[str, models.Spec]
) -> dict[str, NDArray[np.float32]]:
    """The tensors that the model needs, under its names."""
    if not any(name.startswith("model.") for name in tensors):  # the bare encoder-decoder
        tensors = {f"model.{name}": value for name, value in tensors.items()}
    for name, spec in specs.items():
        if name not in tensors:
            raise TyndaError(f"{folder}: tensor {name} is missing; the checkpoint is damaged")
        if tensors[name].shape != spec.shape:
            raise TyndaError(
                f"{folder}: tensor {name} is {tensors[name].shape}, should be {spec.shape}"
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
