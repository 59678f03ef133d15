"""Lowering: a traced program becomes a plan of native operations.

`Lowering` keeps track of the plan's memory. For each operation of ``tynda.ops.base``, a rule (a
function in ``products``, ``rows`` or ``attention``) emits the native operations that compute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tynda.compile import attention, products, rows
from tynda.compile.plan import (
    FLOAT,
    INTEGER,
    Buffer,
    Constant,
    Field,
    Matrix,
    Operation,
    Plan,
    View,
)
from tynda.compile.trace import VIEWS, Program, Step, Value
from tynda.weights.kernels import kernel_format

__all__ = ["Lowering"]

RULES: Mapping[str, Callable[[Lowering, Step], None]] = {
    **products.RULES,
    **rows.RULES,
    **attention.RULES,
}
"""Name of an operation in ``tynda.ops.base`` -> its rule."""


class Lowering:
    """The state of lowering one program. The constructor does all the work: see `plan`."""

    plan: Plan
    bits: int
    """The matmul precision of attention; other products follow the formats of their weights."""
    codes: dict[Value, tuple[View, View]]
    """Values that were already rounded to 8 bits: codes and roundings."""
    fused: set[int]
    """Steps that an earlier native operation computes as its epilogue."""

    def __init__(self, program: Program, weights: Mapping[str, Any], bits: int) -> None:
        """``weights``: name -> weight, of which only shapes and formats are read."""
        self.program, self.weights, self.bits = program, weights, bits
        self.plan, self.codes, self.fused = Plan(), {}, set()
        self._step = 0
        self._views: dict[Value, View] = {}
        self._producers = {step.result: i for i, step in enumerate(program.steps)}
        self._users: dict[Value, list[int]] = {}
        for i, step in enumerate(program.steps):
            for value in step.tensors.values():
                self._users.setdefault(value, []).append(i)
        for value in program.inputs:
            view = self.new_view(value, INTEGER if value.is_integer else FLOAT, name="input")
            self.plan.argument(view.buffer)
        for i, step in enumerate(program.steps):
            if i not in self.fused:
                self._step = i
                if (rule := RULES.get(step.operation)) is None:
                    raise NotImplementedError(f"no rule of tynda.compile lowers {step.operation}")
                rule(self, step)
        self.plan.results += [self._output(value) for value in program.outputs]

    # ---- memory

    def new_view(self, value: Value, size: int = FLOAT, name: str = "") -> View:
        """Return a new buffer for a value whose elements have ``size`` bytes."""
        name = value.name or name
        if value.packed:
            kind, heads = value.packed.split()
            items, keys, channels = value.shape
            packed = f"{kind} {heads} {keys} {channels} {8 if self.bits == 8 else 32}"
            return self.bind(value, View(self.plan.buffer(name, items, None, packed), items, None))
        width = value.shape[-1] if value.shape else 1
        return self.bind(value, self.buffer(name, math.prod(value.shape[:-1]), width * size))

    def buffer(self, name: str, rows: int, row: int) -> View:
        """Return a new buffer of rows of ``row`` bytes, for a tensor that is no `Value`."""
        return View(self.plan.buffer(name, rows, row), rows, row)

    def reuse_or_new(self, value: Value, result: Value) -> View:
        """Return memory for a result computed row by row from ``value``.

        It is the memory of ``value`` itself if nothing else reads that.
        """
        producer = self._producers.get(value)
        if (
            producer is None
            or self.program.steps[producer].operation in (*VIEWS, "write")
            or self.only_user(value) is None
            or value.shape != result.shape
        ):
            return self.new_view(result)
        return self.bind(result, self.view(value))

    def bind(self, value: Value, view: View) -> View:
        """Record where a value is stored, and return that."""
        self._views[value] = view
        return view

    def view(self, value: Value) -> View:
        """Return where a value is stored; a weight becomes a constant of the plan."""
        if value not in self._views:
            *rows, width = self.weights[value.name].shape
            self.bind(value, self.constant("weight", value.name, rows=math.prod(rows), width=width))
        return self._views[value]

    def views(self, step: Step, *names: str) -> dict[str, View]:
        """Return the views of several tensors of a step, by their names."""
        return {name: self.view(step.tensors[name]) for name in names}

    def optional_view(self, step: Step, name: str) -> View | None:
        """Return the view of a tensor that a step may lack, such as a bias."""
        return self.view(step.tensors[name]) if name in step.tensors else None

    def constant(
        self, kind: str, *weights: str, rows: int = 1, width: int, eps: float = 0.0
    ) -> View:
        """Return a constant ``[rows, width]`` computed from weights; see `plan.Constant`."""
        name = weights[0] if kind == "weight" else f"{weights[0].rpartition('.')[0]}.{kind}"
        constant = Constant(kind, weights, eps)
        return View(self.plan.constant(name, rows, width * FLOAT, constant), rows, width * FLOAT)

    def matrix(self, name: str, first: int = 0, count: int | None = None, bits: int = 0) -> Matrix:
        """Return ``count`` outputs of a weight, from ``first`` on, in the kernels' layout.

        ``bits``: the width of its elements; 0: that of the weight's own format.
        """
        weight = self.weights[name]
        outputs, *inputs = weight.shape
        bits, group = (bits, 0) if bits else kernel_format(weight)
        count = outputs if count is None else count
        return self.plan.matrix(Matrix(name, first, count, math.prod(inputs), bits, group))

    def _output(self, value: Value) -> Buffer:
        view = self.view(value)
        buffer = view.buffer
        size = buffer.rows * (buffer.row or 0)
        if buffer.kind == "constant" or view.offset or view.rows * (view.row or 0) != size:
            buffer = self._copied(value, view).buffer
        if buffer.kind != "argument":
            self.plan.argument(buffer)
        return buffer

    def _copied(self, value: Value, view: View) -> View:
        """Copy a value that is stored inside another tensor."""
        copy = self.new_view(value, INTEGER if value.is_integer else FLOAT)
        self.emit_copy(view, copy, view.row or 0)
        return copy

    # ---- operations

    def emit(self, operation: str, **fields: Field) -> None:
        """Add a native operation; its fields are those of its struct in ``native/src``."""
        self.plan.operations.append(Operation(operation, fields, self._step))

    def emit_rowwise(self, operation: str, step: Step, **fields: Field) -> None:
        """Add an operation that computes each row of ``y [rows, width]`` from that of ``x``."""
        value = step.tensors["x"]
        x, y = self.view(value), self.reuse_or_new(value, step.result)
        self.emit(operation, rows=y.rows, width=step.result.shape[-1], **fields, x=x, y=y)

    def emit_copy(self, x: View, y: View, size: int) -> None:
        """Copy the first ``size`` bytes of each row of ``x`` to the same row of ``y``."""
        rows = max(y.rows, 1)
        sizes = {"rows": y.rows, "bytes": size, "frames": rows, "time": rows, "start": 0}
        self.emit("copy", **sizes, x=x, y=y)

    def only_user(self, value: Value) -> int | None:
        """Return the step that reads a value, or None where there are several or it is a result."""
        users = self._users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.program.outputs else None

    def is_available(self, value: Value) -> bool:
        """Whether a value is computed before the step that is being lowered."""
        return value.is_weight or self._producers.get(value, -1) < self._step
