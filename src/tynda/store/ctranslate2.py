"""Checkpoints in the format of CTranslate2: a folder with ``model.bin``, as faster-whisper reads.

``model.bin`` has little-endian numbers: the version of the format, the name of the model's class
and its revision, then tensors (name, shape, type, data), then further names of some of them
(``src/models/model.cc``). Codes of 8 and 16 bits have a tensor of scales beside them, by which they
are divided: one for each row in 8 bits, a single one in 16 bits.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.files import check_readable, read_json, read_text
from tynda.models.foreign import CTranslate2, Part
from tynda.store.binary import MAX_TENSORS, Binary
from tynda.store.checkpoint import Checkpoint
from tynda.store.foreign import Source, assemble
from tynda.store.huggingface import folder_name
from tynda.weights.tensors import MappedRows, release_memory
from tynda.weights.weight import Tensor, Weight

__all__ = ["load"]

_VERSIONS = (4, 6)
"""The first and the last version of the format that is read; the ones before are from 2021."""
_TYPES = {
    0: ("float32", 4),
    1: ("int8", 1),
    2: ("int16", 2),
    3: ("int32", 4),
    4: ("float16", 2),
    5: ("bfloat16", 2),
}
"""Number of a type -> its name, and the bytes of an element."""
_CODES = {"float32": "<f4", "int8": "i1", "int16": "<i2", "int32": "<i4", "float16": "<f2"}
_SCALE = "_scale"


def load(path: Path, *, weights: bool = True) -> Checkpoint:
    """Read a folder; without ``weights``, only the description of the model.

    Weights in 8 bits stay in the file, as a `Weight`; others become float32, one tensor after the
    other. Raises `TyndaError`, naming the file, where one is missing, truncated or damaged, or
    where the folder has a model of another kind.
    """
    file = Binary(path / "model.bin", "model of CTranslate2")
    version = file.number("I")
    if not _VERSIONS[0] <= version <= _VERSIONS[1]:
        raise file.error(f"it has version {version}, not one from {_VERSIONS[0]} to {_VERSIONS[1]}")
    kind = _name(file)
    file.skip(4)  # the revision of the class
    entries = _entries(file)
    config = _json(path, "config.json")
    tokenizer = _json(path, "tokenizer.json")
    about = CTranslate2(
        {name: entry.shape for name, entry in entries.items() if not name.endswith(_SCALE)},
        {name: entry.scalar(file) for name, entry in entries.items() if entry.is_integer},
        config,
        tokenizer,
        [] if tokenizer else _vocabulary(path),
    )
    source = Source(
        file,
        path,
        folder_name(path),
        kind,
        about,
        about.shapes,
        lambda part: entries[part.name].read(file, part, entries.get(part.name + _SCALE)),
    )
    return assemble(source, weights=weights)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the file."""

    name: str
    kind: str
    width: int
    """Bytes of an element."""
    shape: tuple[int, ...]
    offset: int

    @property
    def is_integer(self) -> bool:
        """Whether it is one integer."""
        return not self.shape and self.kind.startswith("int")

    def scalar(self, file: Binary) -> int:
        """Return the value of one integer."""
        return int(self.array(file, 0, 1)[0])

    def array(self, file: Binary, start: int, stop: int) -> NDArray[Any]:
        """Return elements of the flat tensor, in the type of the file, bfloat16 as float32."""
        data = file.data[self.offset + start * self.width : self.offset + stop * self.width]
        if self.kind == "bfloat16":  # the upper half of a float32
            return (data.view("<u2").astype("<u4") << 16).view("<f4")
        return data.view(_CODES[self.kind])

    def read(self, file: Binary, part: Part, scale: _Entry | None) -> Tensor:
        """Return rows of a tensor, which it has; ``scale`` is the one of its codes."""
        rows = self.shape[0]
        start, stop = part.start, rows if part.stop is None else part.stop
        shape, inner = (stop - start, *self.shape[1:]), math.prod(self.shape[1:])
        if not self.kind.startswith("int"):
            data = self.array(file, start * inner, stop * inner)
            values = np.require(data, np.float32, "A").reshape(shape)
            release_memory(data)
            return self.finite(file, values)
        if scale is None or self.kind == "int32":
            raise file.error(f"tensor {self.name} has integers without scales")
        # Codes are divided by their scale in this format, and multiplied by it in a `Weight`.
        factor = scale.factors(file, rows)[start:stop]
        if self.kind == "int8":
            codes = MappedRows(file.file, self.offset + start * inner, shape, np.int8)
            return Weight.int8(codes, factor)
        wide = self.array(file, start * inner, stop * inner).astype(np.float32)
        divided = wide.reshape(shape) * factor.reshape(-1, *[1] * (len(shape) - 1))
        return self.finite(file, divided)

    def factors(self, file: Binary, rows: int) -> NDArray[np.float32]:
        """Return one over the scale of each row of another tensor, float32 ``[rows]``."""
        if self.kind.startswith("int") or self.shape not in ((), (rows,)):
            raise file.error(f"tensor {self.name} does not fit its codes")
        scale = self.array(file, 0, math.prod(self.shape)).astype(np.float32)
        with np.errstate(all="ignore"):
            inverse: NDArray[np.float32] = np.reciprocal(scale)
        return np.broadcast_to(self.finite(file, inverse), rows)

    def finite(self, file: Binary, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values; raise `TyndaError` where one is not finite."""
        if not np.isfinite(values).all():
            raise file.error(f"tensor {self.name} has values that are not finite")
        return values


def _entries(file: Binary) -> dict[str, _Entry]:
    """Read the descriptions of all tensors, by all of their names."""
    found: dict[str, _Entry] = {}
    for _ in range(_count(file)):
        name = _name(file)
        shape = file.numbers(f"{file.number('B')}I")
        kind, stated = file.numbers("BI")
        if kind not in _TYPES:
            raise file.error(f"tensor {name} has a type of number {kind}")
        size = math.prod(shape) * _TYPES[kind][1]
        if size != stated or name in found or not size:
            raise file.error(f"tensor {name} is empty, there twice, or of another size")
        found[name] = _Entry(name, *_TYPES[kind], shape, file.skip(size))
    for _ in range(_count(file)):
        alias, name = _name(file), _name(file)
        if name not in found:
            raise file.error(f"tensor {name} is missing")
        found[alias] = found[name]
    return found


def _count(file: Binary) -> int:
    count = file.number("I")
    if count > MAX_TENSORS:
        raise file.error(f"it states {count} tensors")
    return count


def _name(file: Binary) -> str:
    return file.name(file.number("H")).rstrip("\0")


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a file of the folder; empty where there is no file."""
    try:
        return read_json(folder / name)
    except FileNotFoundError:
        return {}


def _vocabulary(folder: Path) -> list[str]:
    """Return the names of tokens: a JSON list, or the lines of a text."""
    for path in (folder / "vocabulary.json", folder / "vocabulary.txt"):
        if path.exists():
            check_readable(path, "vocabulary")
            break
    else:
        raise TyndaError(f"{folder} has neither tokenizer.json nor vocabulary.json: get it again")
    try:
        text = read_text(path)
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")[:-1]
    except (OSError, ValueError, RecursionError):
        raise TyndaError(f"{path} is damaged: get it again") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TyndaError(f"{path} is damaged: it is no list of names")
    return names
