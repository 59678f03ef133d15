"""A traced program as a plan: what native code does for each operation of ``tynda.ops.base``.

`Lowering` knows the plan's memory. How an operation becomes native ones is said by a rule, a
function in ``products``, ``rows`` or ``attention``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tynda.compile import attention, products, rows
from tynda.compile.plan import Buffer, Constant, Field, Matrix, Operation, Plan, View
from tynda.compile.trace import VIEWS, Program, Step, Value
from tynda.weights.kernels import kernel_format

__all__ = ["FLOAT", "INTEGER", "Lowering"]

FLOAT, INTEGER = 4, 8
"""Bytes of a number."""

RULES: Mapping[str, Callable[[Lowering, Step], None]] = {
    **products.RULES,
    **rows.RULES,
    **attention.RULES,
}
"""By the names of operations in ``tynda.ops.base``."""


class Lowering:
    """A program on its way to be a plan."""

    plan: Plan
    bits: int
    """In which attention multiplies; other products are as their weights decide."""
    codes: dict[Value, tuple[View, View]]
    """Rows that were brought to 8 bits already: codes and scales."""
    done: set[int]
    """Steps that became part of an operation before them."""

    def __init__(self, program: Program, weights: Mapping[str, Any], bits: int) -> None:
        """``weights``: by name; only their shapes and formats are asked for."""
        self.program, self.weights, self.bits = program, weights, bits
        self.plan, self.codes, self.done = Plan(), {}, set()
        self._step = 0
        self._views: dict[Value, View] = {}
        self._made = {step.result: i for i, step in enumerate(program.steps)}
        self._users: dict[Value, list[int]] = {}
        for i, step in enumerate(program.steps):
            for value in step.tensors.values():
                self._users.setdefault(value, []).append(i)
        for value in program.inputs:
            view = self.new(value, INTEGER if value.is_integer else FLOAT, name="input")
            self.plan.argument(view.buffer)
        for i, step in enumerate(program.steps):
            if i not in self.done:
                self._step = i
                RULES[step.operation](self, step)
        self.plan.results += [self._output(value) for value in program.outputs]

    # ---- places

    def new(self, value: Value, size: int = FLOAT, name: str = "") -> View:
        """Room for a value that an operation makes, of numbers of ``size`` bytes."""
        name = value.name or name
        if value.packed:
            what, heads = value.packed.split()
            items, keys, channels = value.shape
            packed = f"{what} {heads} {keys} {channels} {8 if self.bits == 8 else 32}"
            self._views[value] = View(self.plan.buffer(name, items, None, packed), items, None)
        else:
            width = value.shape[-1] if value.shape else 1
            self._views[value] = self.room(name, math.prod(value.shape[:-1]), width * size)
        return self._views[value]

    def room(self, name: str, rows: int, row: int) -> View:
        """Room for rows of so many bytes that no value of the program has."""
        return View(self.plan.buffer(name, rows, row), rows, row)

    def over(self, value: Value, result: Value) -> View:
        """Room for a result made row by row: that of ``value``, if nobody reads it again."""
        maker = self._made.get(value)
        if (
            maker is None
            or self.program.steps[maker].operation in (*VIEWS, "write")
            or self.only_user(value) is None
            or value.shape != result.shape
        ):
            return self.new(result)
        return self.see(result, self.view(value))

    def see(self, value: Value, view: View) -> View:
        """Say where a value is."""
        self._views[value] = view
        return view

    def view(self, value: Value) -> View:
        """Where a value is, or a weight that is read as it is."""
        if value not in self._views:
            *rows, width = self.weights[value.name].shape
            self.see(value, self.constant("weight", value.name, rows=math.prod(rows), width=width))
        return self._views[value]

    def constant(
        self,
        how: str,
        *weights: str,
        rows: int = 1,
        width: int,
        eps: float = 0.0,
    ) -> View:
        """A tensor ``[rows, width]`` made of weights; see `plan.Constant`."""
        name = weights[0] if how == "weight" else f"{weights[0].rpartition('.')[0]}.{how}"
        made = Constant(how, weights, eps)
        buffer = self.plan.constant(name, rows, width * FLOAT, made)
        return View(buffer, rows, width * FLOAT)

    def vector(self, step: Step, name: str) -> View | None:
        """A weight of one axis, if the step has it."""
        return self.view(step.tensors[name]) if name in step.tensors else None

    def matrix(self, name: str, first: int = 0, count: int | None = None, bits: int = 0) -> Matrix:
        """Outputs of a weight in the kernels' form; ``bits``: others than its own."""
        weight = self.weights[name]
        outputs, *inputs = weight.shape
        own, group = (bits, 0) if bits else kernel_format(weight)
        count = outputs if count is None else count
        return self.plan.matrix(Matrix(name, first, count, math.prod(inputs), own, group))

    def _output(self, value: Value) -> Buffer:
        view = self.view(value)
        buffer = view.buffer
        if buffer.kind == "constant" or view.offset:
            raise ValueError(f"{value.name} is a part of something: it cannot be a result")
        if buffer.kind != "argument":
            self.plan.argument(buffer)
        return buffer

    # ---- operations

    def emit(self, operation: str, **fields: Field) -> None:
        """Add an operation; its fields are those of its struct in ``native/src``."""
        self.plan.operations.append(Operation(operation, fields, self._step))

    def each_row(self, operation: str, step: Step, **fields: Field) -> None:
        """Add one that makes a row ``y`` of a row ``x``, which have ``width`` numbers."""
        value = step.tensors["x"]
        x, y = self.view(value), self.over(value, step.result)
        self.emit(operation, rows=y.rows, width=step.result.shape[-1], **fields, x=x, y=y)

    def only_user(self, value: Value) -> int | None:
        """The step that reads a value, if it is the only one and the value is no result."""
        users = self._users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.program.outputs else None

    def is_known(self, value: Value) -> bool:
        """Whether a value is there before the step that is being lowered."""
        return value.is_weight or self._made.get(value, -1) < self._step
