"""Model families: each file defines one as plain functions over ``tynda.ops``.

The file of a family ends with ``FAMILY``, a `Family`, which tells every reader what it needs. A
new family is one such file and one line here.
"""

from __future__ import annotations

from importlib import import_module

from tynda.errors import TyndaError
from tynda.models.base import Family

__all__ = ["FAMILIES", "family", "of_format", "of_model_type"]

FAMILIES = (
    "conformer",
    "moonshine",
    "moonshine_streaming",
    "n2",
    "parakeet",
    "wav2vec2",
    "whisper",
)
"""The files beside this one that define a family; its name is the file's."""


def family(name: str) -> Family:
    """The family of that name. Raises `TyndaError` for a name not in `FAMILIES`."""
    if name not in FAMILIES:
        raise TyndaError(f"unknown model family {name!r}; known: {', '.join(FAMILIES)}")
    found: Family = import_module(f"tynda.models.{name}").FAMILY
    return found


def of_model_type(kind: object) -> Family:
    """The family that reads published checkpoints of this ``model_type``.

    Raises `TyndaError` where none does.
    """
    readers = {t: f for f in map(family, FAMILIES) for t in f.model_types}
    if not isinstance(kind, str) or kind not in readers:
        raise TyndaError(f"models of type {kind!r} are not known; known: {', '.join(readers)}")
    return readers[kind]


def of_format(kind: str) -> Family:
    """Return the family that reads another program's format; see `Family.foreign`.

    Raises ValueError where none does.
    """
    readers = {name: f for f in map(family, FAMILIES) for name in f.foreign}
    if kind not in readers:
        raise ValueError(f"models of type {kind!r} are not known; known: {', '.join(readers)}")
    return readers[kind]
