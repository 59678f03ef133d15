"""Where models are: those that come with tynda, and those in the user's cache."""

from __future__ import annotations

import os
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tynda.checkpoint import read_header
from tynda.errors import TyndaError

__all__ = ["DEFAULT", "bundled", "cached", "describe", "find"]

DEFAULT = "sentences-en"
"""The model that is used when none is named."""


def bundled() -> dict[str, Path]:
    """Name -> file of the models inside the package."""
    return _models(Path(str(resources.files("tynda") / "bundled")))


def cached() -> dict[str, Path]:
    """Name -> file of the models in the user's cache folder (``tynda/models``)."""
    try:
        return _models(user_cache_path("tynda") / "models")
    except (OSError, RuntimeError):  # it may not be read, or nobody knows where home is
        return {}


def find(name: str | Path) -> Path:
    """The file of a model, by bundled or cached name or by path.

    Raises `TyndaError` when there is none, naming those that are there.
    """
    known = cached() | bundled()
    if str(name) in known:
        return known[str(name)]
    if os.path.exists(name):
        return Path(name)
    raise TyndaError(
        f"no model {str(name)!r}: give "
        + " or ".join(["a .safetensors file", *([f"one of {', '.join(known)}"] if known else [])])
    )


def describe() -> list[dict[str, Any]]:
    """What is bundled and cached: one JSON-able row for each model.

    A damaged file is passed over with a warning.
    """
    own = bundled()
    rows = []
    for name, path in (cached() | own).items():
        try:
            header = read_header(path)
        except TyndaError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        rows.append(
            {
                "name": name,
                "bundled": name in own,
                "default": name == DEFAULT,
                "bytes": path.stat().st_size,
                "family": header.family,
                "languages": header.languages,
                "licence": header.licence,
                "scores": header.scores,
            }
        )
    return rows


def _models(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
