"""A plan: the operations of the native engine as plain records, and their text.

A plan does not depend on the processor. ``native/src/plan.cpp`` parses the text; its grammar and
the table of operations are in ``docs/native.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "FLOAT",
    "INTEGER",
    "Buffer",
    "Constant",
    "Field",
    "Matrix",
    "Operation",
    "Plan",
    "View",
]

FLOAT, INTEGER = 4, 8
"""Bytes of a float32 and of an int64."""

_HEADER = "tynda-plan 2"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(eq=False)
class Buffer:
    """Memory for a tensor, whose rows follow each other without gaps."""

    name: str
    rows: int
    row: int | None
    """Bytes of a row; None for packed keys or values, whose size is known to the kernels only."""
    kind: Literal["buffer", "argument", "constant"] = "buffer"
    """An intermediate result, an input or output, or a tensor that never changes."""
    packed: str = ""
    """For packed keys or values: ``keys`` or ``values``, then heads, keys, channels and bits."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.rows} {self.packed or self.row}"


@dataclass(frozen=True)
class View:
    """A strided view of a buffer: rows that are ``row`` bytes apart, from a byte offset on."""

    buffer: Buffer
    rows: int
    row: int | None
    offset: int = 0

    def columns(self, start: int) -> View:
        """Return the view of the same rows without their first ``start`` bytes."""
        return View(self.buffer, self.rows, self.row, self.offset + start)

    def __str__(self) -> str:
        offset = f"+{self.offset}" if self.offset else ""
        row = "" if self.row == self.buffer.row else f"/{self.row}"
        return f"{self.buffer.name}{offset}{row}"


@dataclass(frozen=True)
class Matrix:
    """Outputs ``[first, first + count)`` of a weight, in the layout of matrix products."""

    weight: str
    first: int
    count: int
    inputs: int
    bits: int
    group: int
    """Below 8 bits, the number of inputs that share a scale; 0: all."""


@dataclass(frozen=True)
class Constant:
    """A tensor computed from weights once, before the first run.

    ``kind``: ``weight`` (a weight itself), ``taps`` (that of a depthwise convolution, transposed),
    ``scale`` and ``shift`` (of a batch norm), ``sum`` (of two biases).
    """

    kind: str
    weights: tuple[str, ...]
    eps: float = 0.0


Field = View | Matrix | int | float | str | None


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the native engine."""

    name: str
    fields: Mapping[str, Field]
    """Name in ``native/src`` -> value."""
    step: int
    """The index of the traced program's step that it belongs to."""

    @property
    def matrices(self) -> list[Matrix]:
        """The weights that it reads in the layout of matrix products."""
        return [value for value in self.fields.values() if isinstance(value, Matrix)]

    @property
    def is_integer_matmul(self) -> bool:
        """Whether it multiplies 8-bit codes instead of float32."""
        attention = "attention" in self.name and bool(self.fields.get("integer"))
        return attention or self.name == "matmul_8"


@dataclass(eq=False)
class Plan:
    """Operations in order, and the tensors that they read and write."""

    operations: list[Operation] = field(default_factory=list)
    matrices: dict[Matrix, str] = field(default_factory=dict)
    """Matrix -> its name in the text."""
    constants: dict[str, Constant] = field(default_factory=dict)
    """Name of a buffer -> the constant in it."""
    arguments: list[Buffer] = field(default_factory=list)
    """Inputs, then those outputs that are not inputs too."""
    results: list[Buffer] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _constant_buffers: dict[Constant, Buffer] = field(default_factory=dict)

    def buffer(self, name: str, rows: int, row: int | None, packed: str = "") -> Buffer:
        """Return a new buffer; a number is added to a name that is already used."""
        return Buffer(self._unique_name(name), rows, row, packed=packed)

    def constant(self, name: str, rows: int, row: int, constant: Constant) -> Buffer:
        """Return the buffer of a constant; equal constants share one."""
        if constant not in self._constant_buffers:
            buffer = self._constant_buffers[constant] = self.buffer(name, rows, row)
            buffer.kind = "constant"
            self.constants[buffer.name] = constant
        return self._constant_buffers[constant]

    def matrix(self, matrix: Matrix) -> Matrix:
        """Add a matrix to the plan unless it has it, and return it."""
        if matrix not in self.matrices:
            suffix = f".{matrix.first}" if matrix.first else ""
            self.matrices[matrix] = self._unique_name(f"{matrix.weight}{suffix}")
        return matrix

    def argument(self, buffer: Buffer) -> None:
        """Make a buffer the next argument."""
        buffer.kind = "argument"
        self.arguments.append(buffer)

    def text(self) -> str:
        """Return the plan's text; equal plans have equal texts."""
        lines = [_HEADER, *map(str, self.arguments)]
        declared: set[Buffer | Matrix] = set(self.arguments)
        for operation in self.operations:
            for value in operation.fields.values():
                tensor = value.buffer if isinstance(value, View) else value
                if isinstance(tensor, Buffer | Matrix) and tensor not in declared:
                    declared.add(tensor)
                    lines.append(self._declaration(tensor))
            lines.append(self.line(operation))
        lines += [f"result {buffer.name}" for buffer in self.results]
        return "\n".join(lines) + "\n"

    def line(self, operation: Operation) -> str:
        """Return the line of an operation."""
        fields = (f"{name}={self._value(value)}" for name, value in operation.fields.items())
        return " ".join((operation.name, *fields))

    def _declaration(self, tensor: Buffer | Matrix) -> str:
        if isinstance(tensor, Buffer):
            return str(tensor)
        m = tensor
        words = self.matrices[m], m.weight, m.first, m.count, m.inputs, m.bits, m.group
        return " ".join(map(str, ("matrix", *words)))

    def _value(self, value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, Matrix):
            return self.matrices[value]
        if isinstance(value, bool):
            return str(int(value))
        return repr(value) if isinstance(value, float) else str(value)

    def _unique_name(self, name: str) -> str:
        name = _NOT_IN_NAMES.sub("-", name) or "x"
        while (count := self._names.get(name, 0)) > 0:
            self._names[name] = count + 1
            name = f"{name}.{count + 1}"
        self._names[name] = 1
        return name
