"""Checkpoints in other programs' formats, read as ones of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tynda import models
from tynda.errors import TyndaError
from tynda.models.foreign import Part
from tynda.store import huggingface
from tynda.store.binary import Binary
from tynda.store.checkpoint import Checkpoint
from tynda.weights.weight import Tensor

__all__ = ["Source", "assemble"]


@dataclass(frozen=True)
class Source:
    """A file whose tensors have been found, but not read."""

    file: Binary
    path: Path
    """The file, or its folder, as the user names it."""
    name: str
    """The name of the model."""
    kind: str
    """The format; see `tynda.models.family_of_format`."""
    about: Any
    """The description in the file: a `Ggml` or `CTranslate2` of ``models.foreign``."""
    shapes: Mapping[str, tuple[int, ...]]
    """Name of each tensor -> its shape."""
    read: Callable[[Part], Tensor]
    """Reads a tensor, or some of its rows."""


@dataclass(frozen=True)
class _Folder:
    """The JSON files of a translated checkpoint; see ``models.base.CheckpointFolder``."""

    path: Path
    files: Mapping[str, Any]

    def json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return the content of a file, or ``{}`` for a missing ``optional`` file."""
        if name not in self.files and not optional:
            raise TyndaError(f"{self.path} is not a complete model: {name} is missing")
        return dict(self.files.get(name, {}))

    def card_values(self, key: str) -> list[str]:
        """Return no words: these formats have no model card."""
        return []


def assemble(source: Source, *, weights: bool = True) -> Checkpoint:
    """Return the checkpoint of a file; without ``weights``, only the description of the model.

    Shapes are compared with those of the model before any tensor is read. Raises `TyndaError`,
    naming the file, where it has a model of another kind, or tensors are missing or do not fit.
    """
    file = source.file
    try:
        family = models.family_of_format(source.kind)
        found = family.foreign[source.kind](source.about)
    except KeyError as missing:
        raise file.error(f"{missing.args[0]} is missing") from None
    except ValueError as error:
        raise file.error(str(error)) from None
    config = huggingface.configure(file.path, family, found.settings)
    if config.layers + getattr(config, "decoder_layers", 0) > len(source.shapes):
        raise file.error("most of its layers are missing")
    parts = {name: found.part(name) for name in family.specs(config)}
    for name, shape in family.shapes(config).items():
        _check(source, parts[name], shape)
    assert family.read is not None
    published = family.read(_Folder(source.path, found.files), found.settings, config)
    held = {name: source.read(part) for name, part in parts.items()} if weights else {}
    return huggingface.assemble(
        source.path, source.name, family, config, published, held, file.size
    )


def _check(source: Source, part: Part, shape: tuple[int, ...]) -> None:
    """Raise `TyndaError` unless these rows are there, with the model's shape."""
    there = source.shapes.get(part.name)
    if there is None:
        raise source.file.error(f"tensor {part.name} is missing")
    rows = there[0] if there else 0
    stop = rows if part.stop is None else part.stop
    if stop > rows or (stop - part.start, *there[1:]) != shape:
        raise source.file.error(f"tensor {part.name} is {there}, which does not fit the others")
