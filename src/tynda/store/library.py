"""Finds models by name: in the package, in the user's cache, and on the Hugging Face hub."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tynda.errors import TyndaError
from tynda.store import checkpoint, formats, hub
from tynda.store.checkpoint import Checkpoint, Header, read_header

__all__ = ["DEFAULT", "bundled", "cached", "describe", "find", "load", "remove", "show"]

DEFAULT = "whisper-tiny.en"
"""The model that is used when none is named."""


def bundled() -> dict[str, Path]:
    """Return name -> file of the models inside the package."""
    return _models(Path(__file__).parents[1] / "bundled")


def cached() -> dict[str, Path]:
    """Return name -> file of the models in the user's cache folder (``tynda/models``)."""
    from platformdirs import user_cache_path  # not needed for a model that is given by its path

    try:
        return _models(user_cache_path("tynda") / "models")
    except (OSError, RuntimeError):  # the folder is not readable, or there is no home folder
        return {}


def load(name: str | Path) -> Checkpoint:
    """Load a model by name, as `find` does. Raises `TyndaError` also when it is damaged."""
    path = find(name)
    return formats.load(path) if formats.is_published(path) else checkpoint.load(path)


def find(name: str | Path, *, pull: bool = True) -> Path:
    """Return a model's file or folder by bundled or cached name, by path, or by name on the hub.

    A model of the hub that is not cached is pulled, unless ``pull`` is False. Raises `TyndaError`
    when there is no such model, naming the models that exist.
    """
    if not os.path.dirname(name) and (path := (cached() | bundled()).get(str(name))):
        return path
    if os.path.isdir(name) or os.path.isfile(name):
        return Path(name)
    if os.path.exists(name):
        raise TyndaError(f"{name} is neither a file nor a folder: a model cannot be read from it")
    if isinstance(name, str) and hub.is_name(name):
        if folder := hub.cached(name):
            return folder
        command = f"`tynda models pull {name}`"
        if not pull:
            raise TyndaError(f"{name} is not on this machine: get it with {command}")
        try:
            return hub.pull(name)
        except hub.UnreachableError as error:
            raise TyndaError(
                f"{name} is not on this machine, and {error}; {command} gets it when the hub can "
                f"be reached, and {DEFAULT} is bundled with tynda"
            ) from error
    known = ", ".join(cached() | bundled())
    known_names = [f"one of {known}"] if known else []
    raise TyndaError(
        f"no model {str(name)!r}: give "
        + " or ".join(["a .safetensors file", "owner/name on the hub", *known_names])
    )


def describe() -> list[dict[str, Any]]:
    """Return one JSON-able row for each bundled, cached and pulled model.

    Damaged models are skipped with a warning.
    """
    rows = []
    for name, path in (cached() | bundled() | hub.pulled()).items():
        try:
            if path.is_dir() and hub.cached(name) is None:
                raise TyndaError(f"{name} is damaged: get it with `tynda models pull {name}`")
            rows.append(_row(name, path)[0])
        except TyndaError as error:
            warnings.warn(str(error), stacklevel=2)
    return rows


def show(name: str) -> dict[str, Any]:
    """Return the row of `describe` for one model, with path, config and settings of quantisation.

    Raises `TyndaError` as `find` does without pulling, and when the model is damaged.
    """
    path = find(name, pull=False)
    row, quantized, config = _row(name, path)
    return row | {"path": str(path), "quantized": quantized, "config": config}


def remove(name: str) -> None:
    """Delete a cached or pulled model. Raises `TyndaError` when it is neither."""
    if name in bundled():
        raise TyndaError(f"{name} is bundled with tynda and cannot be removed")
    if name in (own := cached()):
        try:
            own[name].unlink()
        except OSError as error:
            raise TyndaError(f"cannot remove {own[name]} ({error.strerror})") from None
    elif name in (pulled := hub.pulled()):
        hub.remove(name)
    else:
        known = ", ".join([*own, *pulled]) or "none"
        raise TyndaError(f"no cached or pulled model {name!r}; known: {known}")


def _row(name: str, path: Path) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    header, config, size = _read(path)
    row = {
        "name": name,
        "bundled": path in bundled().values(),
        "default": name == DEFAULT,
        "bytes": size,
        "family": header.family,
        "languages": header.languages,
        "licence": header.licence,
        "scores": header.scores,
    }
    return row, header.training.get("quantized"), config


def _read(path: Path) -> tuple[Header, dict[str, Any], int]:
    """Read the description of a model: header, config and size in bytes, without weights."""
    if formats.is_published(path):
        model = formats.load(path, weights=False)
        return model.header, asdict(model.config), model.bytes
    header = read_header(path)
    return header, header.config, path.stat().st_size


def _models(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
