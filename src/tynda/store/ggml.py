"""Checkpoints in whisper.cpp's format: the first of ggml's, a single file without a container.

All numbers are little-endian. The file has a magic number, ten sizes and the type of its weights,
the filters of the front end, the bytes of each token, and then tensors up to its end: number of
axes, length of the name, number of a type in `tynda.weights.blocks`, axes (the last of NumPy's
first), name and data (``whisper_model_load`` in ``whisper.cpp``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tynda.models.foreign import Ggml
from tynda.store.binary import MAX_TENSORS, Binary
from tynda.store.checkpoint import Checkpoint
from tynda.store.foreign import Source, assemble
from tynda.weights.blocks import FORMATS, Format
from tynda.weights.tensors import release_memory
from tynda.weights.weight import Floats

__all__ = ["load"]

_KIND = "ggml"
_MAGIC = b"lmgg"
_SIZES = 10
_MAX_TOKENS = 1 << 16
_MAX_AXES = 4


def load(path: Path, *, weights: bool = True) -> Checkpoint:
    """Read a file; without ``weights``, only the description of the model.

    Weights become float32, one tensor after the other. Raises `TyndaError`, naming the file, where
    it is truncated, damaged, or a model of another kind.
    """
    file = Binary(path, "ggml file of whisper.cpp")
    if file.bytes(len(_MAGIC)) != _MAGIC:
        raise file.error("it begins with another number")
    *sizes, _ = file.numbers(f"{_SIZES + 1}i")
    bins, points = file.numbers("2i")
    if min(bins, points) < 0:
        raise file.error("a size of its filters is negative")
    file.skip(4 * bins * points)
    count = file.number("i")
    if not 0 <= count <= _MAX_TOKENS:
        raise file.error(f"it states {count} tokens")
    tokens = [file.bytes(file.number("I")) for _ in range(count)]
    entries = _entries(file)
    source = Source(
        file,
        path,
        path.stem,
        _KIND,
        Ggml(sizes, tokens),
        {name: entry.shape for name, entry in entries.items()},
        lambda part: entries[part.name].read(file)[part.start : part.stop],
    )
    return assemble(source, weights=weights)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the file."""

    name: str
    format: Format
    shape: tuple[int, ...]
    offset: int
    bytes: int

    def read(self, file: Binary) -> Floats:
        """Return the values, and release the memory of the file's pages."""
        data = file.data[self.offset : self.offset + self.bytes]
        values = self.format.floats(data, self.shape)
        if not np.isfinite(values).all():
            raise file.error(f"tensor {self.name} has values that are not finite")
        release_memory(data)
        return values


def _entries(file: Binary) -> dict[str, _Entry]:
    """Read the descriptions of all tensors, up to the end of the file."""
    found: dict[str, _Entry] = {}
    while not file.ended:
        axes, length, kind = file.numbers("3i")
        if not 1 <= axes <= _MAX_AXES:
            raise file.error(f"a tensor in it has {axes} axes")
        shape = file.numbers(f"{axes}i")[::-1]
        name = file.name(length)
        if min(shape) < 1:
            raise file.error(f"tensor {name} has an axis of length {min(shape)}")
        if kind not in FORMATS:
            known = ", ".join(each.name for each in FORMATS.values())
            raise file.error(f"tensor {name} has a type of number {kind}, not one of {known}")
        size = FORMATS[kind].bytes(shape)
        if size is None:
            raise file.error(f"tensor {name} has rows that are no multiple of its blocks")
        if name in found or len(found) == MAX_TENSORS:
            raise file.error(f"tensor {name} is there twice, or there are too many")
        # A bias of a convolution is a column here, and a vector on the hub.
        stated = shape[:1] if math.prod(shape[1:]) == 1 else shape
        found[name] = _Entry(name, FORMATS[kind], stated, file.skip(size), size)
    return found
