"""Checkpoints in the layout of the Hugging Face hub: a folder of JSON files and tensors.

`load` reads ``config.json``, ``model.safetensors`` (or its shards by their index), the tokenizer's
files, ``preprocessor_config.json`` and ``generation_config.json`` where they exist, and the
licence that the model card names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.errors import TyndaError
from tynda.files import read_json, read_text
from tynda.models.base import CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.store.checkpoint import Checkpoint, Header
from tynda.weights.tensors import is_finite, map_tensors, release_memory
from tynda.weights.weight import Tensor, dequantize_all

__all__ = [
    "ADAPTER",
    "CONVERT",
    "FILES",
    "PICKLED",
    "adapt",
    "assemble",
    "check_kind",
    "configure",
    "folder_name",
    "json_files",
    "load",
]

FILES = (
    *("README.md", "config.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors"),
)
"""Patterns of the names of all files that `load` may read."""

ADAPTER = "adapter.{}.safetensors"
"""The file name of an MMS language's adapters and head."""

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "flax_model.msgpack")
"""Weights that are not read, since unpickling can run any code."""

CONVERT = (
    "python -c \"import sys, transformers as t; m = t.pipeline('automatic-speech-recognition', "
    'sys.argv[1]).model; m.save_pretrained(sys.argv[1])" '
)
"""The command, without the folder, that converts pickled weights to safetensors."""


@dataclass(frozen=True)
class _CheckpointFolder:
    """The JSON files of a checkpoint's folder; see ``models.base.CheckpointFolder``."""

    path: Path

    def json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return the object in a file, or ``{}`` for a missing ``optional`` file."""
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            if optional:
                return {}
            raise TyndaError(
                f"{self.path} is not a complete model: {name} is missing; get the checkpoint again"
            ) from None

    def card_values(self, key: str) -> list[str]:
        """Return the words under a key of the model card's front matter."""
        plain = re.sub(r"(^|\s)#.*", "", _front_matter(self.path))
        found = re.search(rf"^{key}:(.*(?:\n[ \t]*- .*)*)", plain, re.MULTILINE)
        words = re.sub(r"(^|\s)- |[\[\],\"']", " ", found[1]) if found else ""
        return words.split()


def load(path: Path, *, weights: bool = True) -> Checkpoint:
    """Read a checkpoint's folder; without ``weights``, only the description of the model.

    Raises `TyndaError`, naming the file, when one is missing or damaged, when a tensor is
    missing or has a wrong shape, when the architecture is unknown, and for pickled weights.
    """
    folder = _CheckpointFolder(path)
    settings = folder.json("config.json")
    check_kind(path, settings.get("model_type"))
    family = models.family_of_model_type(settings["model_type"])
    assert family.read is not None
    config = configure(path / "config.json", family, settings)
    found = family.read(folder, settings, config)
    held: Mapping[str, Any] = {}
    if weights:
        held = _fit(path, found.tensors(_tensors(folder)), family.specs(config))
    size = sum(file.stat().st_size for file in path.glob("model*.safetensors"))
    return assemble(path, folder_name(path), family, config, found, held, size)


def json_files(path: Path) -> CheckpointFolder:
    """Return the JSON files of a folder, for `Family.read`."""
    return _CheckpointFolder(path)


def configure(where: Path, family: Family, settings: Mapping[str, Any]) -> Any:
    """Return the family's ``Config`` for the settings of a ``config.json``.

    Raises `TyndaError`, naming ``where``, for settings that are missing or not supported.
    """
    assert family.settings is not None
    try:
        return family.configure(family.settings(settings))
    except KeyError as missing:
        raise TyndaError(f"{where} has no {missing.args[0]}") from None
    except (TyndaError, ValueError) as error:
        raise TyndaError(f"{where}: {error}") from None


def assemble(
    path: Path,
    name: str,
    family: Family,
    config: Any,
    found: PublishedCheckpoint,
    weights: Mapping[str, Tensor],
    size: int,
) -> Checkpoint:
    """Return the checkpoint at ``path``, of ``size`` bytes, with the licence of its model card."""
    header = Header(
        name=name,
        family=family.name,
        config={},
        frontend=found.frontend.config,
        tokenizer={},
        languages=found.languages,
        licence=_licence(path),
        decoding=found.decoding,
    )
    return Checkpoint(header, config, found.frontend, found.tokenizer, weights, None, size, path)


def adapt(model: Checkpoint, language: str) -> Checkpoint:
    """Return a checkpoint with adapters (MMS), the result of `load`, for another language.

    ``language`` is a code of ISO 639-3. Raises `TyndaError` where the folder has no adapter for
    the language, or a damaged one.
    """
    assert model.path is not None
    assert model.family.adapt is not None
    path = model.path / ADAPTER.format(language)
    if not path.exists():
        name = model.header.name
        how = f": `tynda models pull {name} --language {language}`" if "/" in name else ""
        raise TyndaError(f"{path} is missing: {name} needs it for {language}{how}")
    adapter = map_tensors(path)
    _check_finite(path, adapter)
    try:
        config, tokenizer, weights = model.family.adapt(
            _CheckpointFolder(model.path),
            language,
            model.config,
            dequantize_all(model.weights),
            adapter,
        )
    except ValueError as error:
        raise TyndaError(f"{path}: {error}") from None
    return replace(model, config=config, tokenizer=tokenizer, weights=weights)


def check_kind(where: object, kind: object) -> None:
    """Raise `TyndaError` for a ``model_type`` that is not supported."""
    try:
        models.family_of_model_type(kind)
    except TyndaError as error:
        raise TyndaError(f"{where}: {error}") from None


def folder_name(folder: Path) -> str:
    """Return the folder's name, or OWNER/NAME in the hub's cache.

    A folder in that cache is ``models--OWNER--NAME/snapshots/COMMIT``.
    """
    if folder.parent.name != "snapshots":
        return folder.name
    return folder.parents[1].name.removeprefix("models--").replace("--", "/")


def _front_matter(folder: Path) -> str:
    """Return the YAML front matter of the model card, or "" where there is none."""
    try:
        card_values = read_text(folder / "README.md")
    except (OSError, ValueError):
        return ""
    front = re.match(r"---\n(.*?)^---", card_values, re.DOTALL | re.MULTILINE)
    return front[1] if front else ""


def _licence(folder: Path) -> str:
    """Return a word of the model card, or "" where it has none."""
    line = re.search(r"^license:[ \t]*([^\s#]+)", _front_matter(folder), re.MULTILINE)
    return line[1].strip("\"'") if line else ""


def _tensors(folder: _CheckpointFolder) -> dict[str, NDArray[np.float32]]:
    path, name = folder.path, "model.safetensors.index.json"
    whole, index = path / "model.safetensors", path / name
    if whole.exists():
        return dict(map_tensors(whole))
    if index.exists():
        shards = folder.json(name).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in shards.values()
        ):
            raise TyndaError(f"{index} is damaged: it lists no shards")
        tensors: dict[str, NDArray[np.float32]] = {}
        for name in sorted(set(shards.values())):
            if not (path / name).exists():
                raise TyndaError(f"{path / name} is missing: get the checkpoint again")
            tensors |= map_tensors(path / name)
        return tensors
    for name in PICKLED:
        if (path / name).exists():
            raise TyndaError(
                f"{path / name} is pickled: loading it could run any code. If you trust "
                f"it, convert it: {CONVERT}{path}"
            )
    raise TyndaError(
        f"{path} has no weights: model.safetensors is missing; get the checkpoint again"
    )


def _fit(
    folder: Path, tensors: Mapping[str, NDArray[np.float32]], specs: Mapping[str, Spec]
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that the model needs, by name, after checking their shapes."""
    for name, spec in specs.items():
        if name not in tensors:
            raise TyndaError(f"{folder}: tensor {name} is missing; the checkpoint is damaged")
        if tensors[name].shape != spec.shape:
            raise TyndaError(
                f"{folder}: tensor {name} is {tensors[name].shape}, but config.json requires "
                f"{spec.shape}: one of the files belongs to another model"
            )
    found = {name: tensors[name] for name in specs}
    _check_finite(folder, found)
    return found


def _check_finite(where: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise TyndaError(
                f"{where}: tensor {name} has values that are not finite; the checkpoint is damaged"
            )
        release_memory(tensor)  # The tensors of a large model are read again one by one.
