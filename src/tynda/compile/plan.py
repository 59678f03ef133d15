"""A plan: the operations of the native engine as plain records, and their text.

A plan knows of no processor. The text is what ``native/src/plan.h`` reads, runs and saves;
``docs/native.md`` has its grammar and the table of operations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Buffer", "Constant", "Field", "Matrix", "Operation", "Plan", "View"]

_HEADER = "tynda-plan 1"
_STRANGE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(eq=False)
class Buffer:
    """Memory for a tensor, rows one after another."""

    name: str
    rows: int
    row: int | None
    """Bytes; None for packed keys or values, which are as long as the kernels have them."""
    kind: Literal["buffer", "argument", "constant"] = "buffer"
    """A result of the run, an argument, or a tensor that never changes."""
    packed: str = ""
    """``keys`` or ``values``, then heads, keys, channels and bits."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.rows} {self.packed or self.row}"


@dataclass(frozen=True)
class View:
    """A buffer as a tensor: rows of some bytes, beginning at an offset."""

    buffer: Buffer
    rows: int
    row: int | None
    offset: int = 0

    def columns(self, start: int) -> View:
        """The same rows from a byte on."""
        return View(self.buffer, self.rows, self.row, self.offset + start)

    def __str__(self) -> str:
        offset = f"+{self.offset}" if self.offset else ""
        row = "" if self.row == self.buffer.row else f"/{self.row}"
        return f"{self.buffer.name}{offset}{row}"


@dataclass(frozen=True)
class Matrix:
    """Outputs ``[first, first + count)`` of a weight, as a product reads them."""

    weight: str
    first: int
    count: int
    inputs: int
    bits: int
    group: int
    """Below 8 bits: inputs that share a step; 0: all."""


@dataclass(frozen=True)
class Constant:
    """A tensor that is made once of weights.

    ``how``: ``weight``, as it is; ``taps`` of a depthwise convolution, transposed; ``scale`` and
    ``shift`` of a batch norm; ``sum`` of several.
    """

    how: str
    weights: tuple[str, ...]
    eps: float = 0.0


Field = View | Matrix | int | float | str | None


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the native engine."""

    name: str
    fields: Mapping[str, Field]
    """By the names that ``native/src`` gives them."""
    step: int
    """The place in the traced program of the operation that it belongs to."""

    @property
    def matrices(self) -> list[Matrix]:
        """Weights that it reads in the kernels' form."""
        return [value for value in self.fields.values() if isinstance(value, Matrix)]

    @property
    def is_integer_matmul(self) -> bool:
        """Whether its products are of whole numbers."""
        attention = "attention" in self.name and bool(self.fields.get("integer"))
        return attention or self.name == "matmul_8"


@dataclass(eq=False)
class Plan:
    """Operations in order, with what they work on."""

    operations: list[Operation] = field(default_factory=list)
    matrices: dict[Matrix, str] = field(default_factory=dict)
    """With the name of each."""
    constants: dict[str, Constant] = field(default_factory=dict)
    """By the names of their buffers."""
    arguments: list[Buffer] = field(default_factory=list)
    """Inputs, then those outputs that are none of them."""
    results: list[Buffer] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _made: dict[Constant, Buffer] = field(default_factory=dict)

    def buffer(self, name: str, rows: int, row: int | None, packed: str = "") -> Buffer:
        """A new one; where the name is taken, a number is added to it."""
        return Buffer(self._free(name), rows, row, packed=packed)

    def constant(self, name: str, rows: int, row: int, made: Constant) -> Buffer:
        """A tensor that never changes; the same one for the same ``made``."""
        if made not in self._made:
            buffer = self._made[made] = self.buffer(name, rows, row)
            buffer.kind = "constant"
            self.constants[buffer.name] = made
        return self._made[made]

    def matrix(self, made: Matrix) -> Matrix:
        """Note that a weight is read in this form."""
        if made not in self.matrices:
            part = f".{made.first}" if made.first else ""
            self.matrices[made] = self._free(f"{made.weight}{part}")
        return made

    def argument(self, buffer: Buffer) -> None:
        """Make a buffer the next argument."""
        buffer.kind = "argument"
        self.arguments.append(buffer)

    def text(self) -> str:
        """The plan as ``native/src/plan.h`` reads it; equal plans have equal texts."""
        lines = [_HEADER, *map(str, self.arguments)]
        told = set(self.arguments)
        named = set[str]()
        for operation in self.operations:
            for value in operation.fields.values():
                if isinstance(value, View) and value.buffer not in told:
                    told.add(value.buffer)
                    lines.append(str(value.buffer))
                elif isinstance(value, Matrix) and self.matrices[value] not in named:
                    name = self.matrices[value]
                    named.add(name)
                    sizes = value.first, value.count, value.inputs, value.bits, value.group
                    lines.append(" ".join(map(str, ("matrix", name, value.weight, *sizes))))
            lines.append(self.line(operation))
        lines += [f"result {buffer.name}" for buffer in self.results]
        return "\n".join(lines) + "\n"

    def line(self, operation: Operation) -> str:
        """An operation as it stands in the text."""
        fields = (f"{name}={self._value(value)}" for name, value in operation.fields.items())
        return " ".join((operation.name, *fields))

    def _value(self, value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, Matrix):
            return self.matrices[value]
        if isinstance(value, bool):
            return str(int(value))
        return repr(value) if isinstance(value, float) else str(value)

    def _free(self, name: str) -> str:
        name = _STRANGE.sub("-", name) or "x"
        while (count := self._names.get(name, 0)) > 0:
            self._names[name] = count + 1
            name = f"{name}.{count + 1}"
        self._names[name] = 1
        return name
