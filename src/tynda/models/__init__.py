"""Model families: each file defines one as plain functions over ``tynda.ops``.

The module of a family ends with ``FAMILY``, a `Family`, which describes the family to all other
packages. A new family needs one such module and one line in `FAMILIES`.
"""

from __future__ import annotations

from importlib import import_module

from tynda.errors import TyndaError
from tynda.models.base import Family

__all__ = ["FAMILIES", "family", "family_of_format", "family_of_model_type"]

FAMILIES = (
    "conformer",
    "chunked_conformer",
    "mfa_conformer",
    "moonshine",
    "moonshine_streaming",
    "n2",
    "overlap",
    "parakeet",
    "tdnn",
    "wav2vec2",
    "whisper",
    "whisper_states",
    "campplus",
    "speaker_resnet",
)
"""The modules of this package that define a family; a family has the name of its module."""


def family(name: str) -> Family:
    """Return a family by name. Raises `TyndaError` for a name that is not in `FAMILIES`."""
    if name not in FAMILIES:
        raise TyndaError(f"unknown model family {name!r}; known: {', '.join(FAMILIES)}")
    found: Family = import_module(f"tynda.models.{name}").FAMILY
    return found


def family_of_model_type(kind: object) -> Family:
    """Return the family that reads published checkpoints with this ``model_type``.

    Raises `TyndaError` where no family does.
    """
    readers = {t: f for f in map(family, FAMILIES) for t in f.model_types}
    if not isinstance(kind, str) or kind not in readers:
        raise TyndaError(f"models of type {kind!r} are not known; known: {', '.join(readers)}")
    return readers[kind]


def family_of_format(kind: str) -> Family:
    """Return the family that reads another program's format; see `Family.foreign`.

    Raises ValueError where none does.
    """
    readers = {name: f for f in map(family, FAMILIES) for name in f.foreign}
    if kind not in readers:
        raise ValueError(f"models of type {kind!r} are not known; known: {', '.join(readers)}")
    return readers[kind]
