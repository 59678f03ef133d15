"""Descriptions of other programs' checkpoints, and their translation to the hub's terms.

``tynda.store`` reads the files; a family translates what they state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CTranslate2", "Ggml", "Part", "Translated", "Voices"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Ggml:
    """A file in the first of ggml's formats, which has no container, as whisper.cpp writes it."""

    sizes: Sequence[int]
    """The ten sizes of the model at the beginning of the file."""
    tokens: Sequence[bytes]
    """The bytes of each token."""


@dataclass(frozen=True)
class CTranslate2:
    """A folder in the format of CTranslate2."""

    shapes: Shapes
    """Name -> shape of every tensor, without their scales."""
    scalars: Mapping[str, int]
    """Name -> value of every integer without axes."""
    config: Mapping[str, Any]
    """``config.json``."""
    tokenizer: Mapping[str, Any]
    """``tokenizer.json``; empty where there is none."""
    vocabulary: Sequence[str]
    """The name of each token; empty where there is a ``tokenizer.json``."""


@dataclass(frozen=True)
class Voices:
    """The weights of a network that tells voices apart, without a description."""

    shapes: Shapes
    """Name -> shape of every tensor."""


@dataclass(frozen=True)
class Part:
    """Rows of a tensor in a file: all of them, or those from ``start`` to before ``stop``."""

    name: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Translated:
    """A checkpoint in the terms of the Hugging Face hub."""

    settings: Mapping[str, Any]
    """``config.json``."""
    files: Mapping[str, Mapping[str, Any]]
    """Name -> content of the other JSON files of a checkpoint on the hub."""
    part: Callable[[str], Part]
    """Name of a tensor on the hub -> what of the file it is."""
