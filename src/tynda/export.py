"""Models as files that native code runs without Python.

``native/src/exported.h`` reads what is written here; ``docs/native.md`` has the format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tynda import archive
from tynda.compile.engine import convert_weights
from tynda.compile.native import build_constant, machine
from tynda.compile.plan import Constant, Matrix
from tynda.errors import TyndaError
from tynda.files import temporary_folder, whole_folder, write_whole
from tynda.heads import head_of
from tynda.heads.base import ShortWindow
from tynda.plans import Planned, lower_runs
from tynda.store.checkpoint import Checkpoint
from tynda.text.tokenlines import token_lines
from tynda.weights.kernels import kernel_arrays

__all__ = ["MAX_SECONDS", "MIN_SECONDS", "export_archive", "export_model"]

MIN_SECONDS, MAX_SECONDS = 1, 3600
"""Length of the longest recording that an exported model takes."""

_HEADER = "tynda-export 1"
_MANIFEST, _WEIGHTS, _TOKENS = "manifest.txt", "weights.bin", "tokens.txt"
_ALIGN = 64
"""A blob begins at a multiple of so many bytes."""
_ROWS = 2048
"""Rows of a weight that are read and written at a time."""


def export_model(
    model: Checkpoint, folder: Path, seconds: float | None = None, bits: int | None = None
) -> None:
    """Write a model's plans, weights and tokens to ``folder``, whole or not at all.

    ``seconds``: the length of the longest recording, by default 30, or the window of a model that
    has one, which is also the most. ``bits``: the matmul precision, as `tynda.load` takes it.

    Raises `TyndaError` where ``folder`` holds anything but an older export or cannot be written,
    where native code does not know the front end, and where there are no kernels.
    """
    if seconds is not None and not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise TyndaError(f"an export is for {MIN_SECONDS} to {MAX_SECONDS} seconds, not {seconds}")
    head = head_of(model.family).exported(model, seconds)
    numbers, tables = model.frontend.exported()
    trainable = model.family.trainable(model.config)
    weights, bits = convert_weights(model.weights, trainable, "native", bits)
    planned = lower_runs(head.runs, weights, machine(1, bits))
    sound = {"samples": head.samples, "silence": head.padding_samples, "frames": head.frames}
    with whole_folder(folder, _is_export) as part:
        with (part / _WEIGHTS).open("wb") as file:
            blobs = _Blobs(file, weights)
            places = {name: blobs.write(table) for name, table in tables.items()}
            lines = [
                _HEADER,
                f"frontend {model.frontend.kind} {_fields(numbers | places)}",
                f"sound {_fields(sound | {'whole': int(head.attends_to_padding)})}",
                f"head {model.family.head} {_fields(head.numbers)}",
                *(" ".join((name, *map(str, ids))) for name, ids in head.tokens.items()),
                *([f"timestamps {_fields(head.timestamps)}"] if head.timestamps else ()),
                *(_window(window, blobs) for window in head.windows),
            ]
            for program in planned:
                lines += _program(program, blobs)
        texts = {
            _MANIFEST: "".join(f"{line}\n" for line in lines),
            _TOKENS: token_lines(model.tokenizer.token_bytes(), model.config.vocab),
            **{f"{p.run.name}.plan": p.lowered.plan.text() for p in planned},
        }
        for name, text in texts.items():
            (part / name).write_text(text, encoding="ascii", newline="\n")


def export_archive(
    model: Checkpoint, path: Path, seconds: float | None = None, bits: int | None = None
) -> None:
    """Write the files of `export_model` as one file, which a web page downloads, whole or not at
    all.

    Raises `TyndaError` where the model cannot be exported, and where ``path`` is no file or cannot
    be written.
    """
    if path.is_dir():
        raise TyndaError(f"{path} is a folder: give a file")
    with temporary_folder() as folder:
        export_model(model, folder / "model", seconds, bits)
        write_whole(path, archive.pack(folder / "model"))


def _fields(values: Mapping[str, int | str]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _window(window: ShortWindow, blobs: _Blobs) -> str:
    merged = window.merged
    arrays = {"rows": merged.rows, "positions": merged.positions, "log_counts": merged.log_counts}
    sizes = {"samples": window.samples, "frames": window.frames, "kept": len(merged.rows)}
    places = {name: blobs.write(array) for name, array in arrays.items()}
    return f"window {_fields(sizes | places)}"


def _program(planned: Planned, blobs: _Blobs) -> list[str]:
    """The lines about a program: where each of its weights is, in the order of the plan."""
    plan, layout = planned.lowered.plan, planned.lowered.layout
    matrices = {name: matrix for matrix, name in plan.matrices.items()}
    return [
        f"program {planned.run.name}",
        *(f"constant {n} {blobs.constant(plan.constants[n])}" for n in layout.constant_names),
        *(f"matrix {n} {blobs.matrix(matrices[n])}" for n in layout.matrix_names),
    ]


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an export and nothing else."""
    names = {path.name for path in folder.iterdir() if path.suffix != ".plan"}
    try:
        with (folder / _MANIFEST).open("rb") as file:
            begins = file.read(len(_HEADER)) == _HEADER.encode()
    except OSError:
        return False
    return begins and names <= {_MANIFEST, _WEIGHTS, _TOKENS}


class _Blobs:
    """The file of weights while it is written; each weight is in it once."""

    def __init__(self, file: BinaryIO, weights: Mapping[str, Any]) -> None:
        self._file, self._weights = file, weights
        self._constants: dict[Constant, int] = {}
        self._matrices: dict[Matrix, str] = {}
        self._places: dict[bytes, int] = {}

    def write(self, *arrays: NDArray[Any]) -> int:
        """Write a blob, one array behind the other; the offset is where it begins."""
        offset = self._begin()
        self._append(arrays)
        return offset

    def constant(self, constant: Constant) -> int:
        """The offset of a plan's constant."""
        if constant not in self._constants:
            self._constants[constant] = self._once(build_constant(constant, self._weights))
        return self._constants[constant]

    def matrix(self, matrix: Matrix) -> str:
        """The kind of a plan's matrix and the offsets of its arrays."""
        if matrix not in self._matrices:
            is_table = matrix.bits == 32 and matrix.count <= _ROWS
            self._matrices[matrix] = self._table(matrix) if is_table else self._parts(matrix)
        return self._matrices[matrix]

    def _table(self, matrix: Matrix) -> str:
        rows = self._weights[matrix.weight][matrix.first : matrix.first + matrix.count]
        kind, (values,) = kernel_arrays(rows, matrix.bits)
        return f"{kind} {self._once(values)}"

    def _parts(self, matrix: Matrix) -> str:
        weight, stop = self._weights[matrix.weight], matrix.first + matrix.count
        offset, kind, others = self._begin(), "", list[list[NDArray[Any]]]()
        for row in range(matrix.first, stop, _ROWS):
            part = weight[row : min(row + _ROWS, stop)]
            kind, (codes, *steps) = kernel_arrays(part, matrix.bits)
            self._append([codes])
            others.append(steps)
        offsets = [offset, *(self.write(*parts) for parts in zip(*others, strict=True))]
        return " ".join((kind, *map(str, offsets)))

    def _once(self, array: NDArray[Any]) -> int:
        """Write a blob, unless there is an equal one: a table may be a constant of one plan and a
        matrix of another. The offset is where it begins."""
        digest = hashlib.blake2b(np.ascontiguousarray(array).data).digest()
        if digest not in self._places:
            self._places[digest] = self.write(array)
        return self._places[digest]

    def _begin(self) -> int:
        self._file.write(bytes(-self._file.tell() % _ALIGN))
        return self._file.tell()

    def _append(self, arrays: Iterable[NDArray[Any]]) -> None:
        for array in arrays:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            self._file.write(np.ascontiguousarray(little).data)
