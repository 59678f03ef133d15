"""The native backend: a model's functions, traced once for each shape and run in C++.

What a function means is said by the NumPy backend; what it becomes by ``compile.lower``; how that
runs, and in how many bytes, by ``native/src``. A weight is rearranged for the kernels when it is
first used, and held only so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from tynda.compile.lower import Lowering
from tynda.compile.plan import Constant, Matrix, Plan
from tynda.compile.trace import Program, Value, trace_call
from tynda.errors import TyndaError
from tynda.ops.tree import leaves, map_tree
from tynda.weights.kernels import put_rows
from tynda.weights.weight import floats

try:
    _native: Any = import_module("tynda._native")
except ImportError:  # installed where there was no compiler
    _native = None

__all__ = [
    "Compiled",
    "Lowered",
    "Machine",
    "Native",
    "available",
    "instruction_sets",
    "lowered",
    "machine",
]

# The number of plans that are kept, since recordings come in many lengths.
_PLANS = 64
# Rows of a weight that are rearranged at a time.
_ROWS = 2048


def available() -> bool:
    """Whether the kernels were compiled."""
    return _native is not None


def instruction_sets() -> list[str]:
    """Return the sets that have kernels and that this processor supports, best first."""
    return list(_native.instruction_sets())


@dataclass(frozen=True)
class Machine:
    """A processor, as plans see it: their layout depends on it, and nothing else does."""

    instructions: str
    """One of `instruction_sets`."""
    threads: int
    bits: int = 32
    """In which attention multiplies; other products are as their weights decide."""

    @property
    def kernels(self) -> Any:
        """The kernels of its instruction set."""
        return _native.kernels(self.instructions)


def machine(threads: int, bits: int = 32, instructions: str | None = None) -> Machine:
    """This processor; ``instructions``: one of `instruction_sets`, the best by default.

    Raises `TyndaError` where no kernels were compiled: what they take, they alone know.
    """
    if not available():
        raise TyndaError(
            "the native engine's memory is known where its kernels are: install tynda again with a "
            "C++ compiler"
        )
    return Machine(instructions or instruction_sets()[0], threads, bits)


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program as a plan, and how a machine lays it out."""

    program: Program
    plan: Plan
    layout: Any
    """``_native.Layout``."""

    @property
    def arena_bytes(self) -> int:
        """All that a run needs beside weights, inputs and outputs."""
        bytes_: int = self.layout.bytes
        return bytes_

    @cached_property
    def matrices(self) -> dict[Matrix, int]:
        """Weights as products read them, and the bytes that each takes."""
        sizes = dict(zip(self.layout.matrix_names, self.layout.matrix_bytes, strict=True))
        return {matrix: sizes[name] for matrix, name in self.plan.matrices.items()}

    @property
    def made_bytes(self) -> int:
        """Bytes of the results that are not inputs."""
        return sum(self.layout.argument_bytes[len(self.program.inputs) :])


def lowered(program: Program, weights: Mapping[str, Any], machine: Machine) -> Lowered:
    """The plan of a program; of ``weights`` only shapes and formats are asked for."""
    plan = Lowering(program, weights, machine.bits).plan
    return Lowered(program, plan, _native.Layout(plan.text(), machine.kernels, machine.threads))


@dataclass(frozen=True)
class Packed:
    """Keys or values in the kernels' form; ``data`` is bytes ``[items, size]``."""

    shape: tuple[int, ...]
    """The shape of the tensor in rows."""
    packed: str
    data: NDArray[np.uint8]


class Native:
    """A model's weights in the hands of the kernels.

    ``weights``: name -> float32 array or `Weight`. ``instructions``: one of
    `instruction_sets`, the best by default. ``bits``: see `Machine`. Several threads may run it at
    once: plans and rearranged weights are made once and never change, and each run has an arena
    for itself meanwhile.
    """

    def __init__(
        self,
        weights: Mapping[str, Any],
        threads: int,
        instructions: str | None = None,
        bits: int = 32,
    ) -> None:
        self.machine = machine(threads, bits, instructions)
        self.kernels = self.machine.kernels
        self.arena = _native.Arena()
        _native.set_threads(threads)
        self._lock = threading.Lock()  # held while something is made that others may want too
        self._weights = dict(weights)
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self._matrices: dict[Matrix, Any] = {}
        self._constants: dict[Constant, NDArray[np.float32]] = {}
        self._plans: dict[Any, Compiled] = {}
        _ENGINES.add(self)

    def run(self, function: Callable[..., Any], config: Any, *inputs: Any) -> Any:
        """``function(ops, weights, config, *inputs)``, on NumPy arrays.

        ``inputs`` and the result are arrays or structures of them (``ops.tree``). A cache
        that is written to is changed in place.
        """
        compiled, arrays = self._prepared(function, config, inputs)
        return compiled.run(arrays)

    def timings(
        self, function: Callable[..., Any], config: Any, *inputs: Any
    ) -> tuple[Any, dict[int, float]]:
        """Run as `run` does, and return the seconds of each operation by its place in the program.

        The program is that of ``compile(function, config, inputs)``. An operation that a product
        does on its way out (an activation, a factor, a sum) has no time: it is in the product's,
        as are the windows of a convolution and the rounding of what is multiplied in 8 bits. Where
        threads take blocks of rows through several operations, an operation's time is the threads'
        sum over how many they are: all times together are less than the whole by what threads
        waited for each other.
        """
        compiled, arrays = self._prepared(function, config, inputs)
        seconds: dict[int, float] = {}
        result = compiled.run(arrays, seconds)
        return result, seconds

    def _prepared(
        self, function: Callable[..., Any], config: Any, inputs: Any
    ) -> tuple[Compiled, list[NDArray[Any]]]:
        """The plan for such inputs, and what it is given."""
        tensors = list(leaves(inputs))
        arrays = [_plain(tensor) for tensor in tensors]
        shapes = tuple((t.shape, a.dtype.char) for t, a in zip(tensors, arrays, strict=True))
        key = (function, config, shapes)
        with self._lock:
            if (compiled := self._plans.get(key)) is None:
                if len(self._plans) >= _PLANS:
                    self._plans.pop(next(iter(self._plans)))
                compiled = self._plans[key] = Compiled(self, function, config, inputs)
        return compiled, arrays

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arenas of all runs that were ever made at once."""
        bytes_: int = self.arena.bytes
        return bytes_

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights that were used so far, as the kernels hold them."""
        return sum(matrix.bytes for matrix in self._matrices.values())

    def array(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Its tensors are arrays."""
        return tensor

    def matrix(self, matrix: Matrix) -> Any:
        """A weight as a product reads it, some rows at a time: it is never held twice."""
        if matrix not in self._matrices:
            weight, stop = self._weights[matrix.weight], matrix.first + matrix.count
            sizes = matrix.count, matrix.inputs, matrix.bits, matrix.group
            made = _native.Matrix(self.kernels, *sizes)
            for row in range(matrix.first, stop, _ROWS):
                rows = slice(row, min(row + _ROWS, stop))
                put_rows(made, self.kernels, weight, rows, row - matrix.first, matrix.bits)
            self._matrices[matrix] = made
        return self._matrices[matrix]

    def constant(self, constant: Constant) -> NDArray[np.float32]:
        """A tensor as plans read it."""
        if constant not in self._constants:
            self._constants[constant] = made_of(constant, self._weights)
        return self._constants[constant]

    def compile(self, function: Callable[..., Any], config: Any, inputs: Any) -> Any:
        """The `Lowered` program and the structure of its result."""
        values = map_tree(_value, inputs)
        program, result = trace_call(function, self._shapes, config, *values)
        return lowered(program, self._weights, self.machine), result


_ENGINES: WeakSet[Native] = WeakSet()


def _after_fork() -> None:
    """Another thread may have held a lock, and is not here to let go of it."""
    for engine in _ENGINES:
        engine._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Compiled:
    """A function for inputs of certain shapes."""

    def __init__(
        self, native: Native, function: Callable[..., Any], config: Any, inputs: Any
    ) -> None:
        self._arena = native.arena
        lowered, self._result = native.compile(function, config, inputs)
        plan, layout = lowered.plan, lowered.layout
        self.bytes = lowered.arena_bytes
        place = {buffer: i for i, buffer in enumerate(plan.arguments)}
        self._outputs = [place[buffer] for buffer in plan.results]
        count = len(lowered.program.inputs)
        self._room = {
            i: _room(value, layout.argument_bytes[i])
            for i, value in zip(self._outputs, leaves(self._result), strict=True)
            if i >= count
        }
        self._steps = [operation.step for operation in plan.operations]
        matrices = {name: matrix for matrix, name in plan.matrices.items()}
        self._program = _native.Program(
            layout,
            [native.constant(plan.constants[name]) for name in layout.constant_names],
            [native.matrix(matrices[name]) for name in layout.matrix_names],
        )

    def run(self, arrays: list[NDArray[Any]], seconds: dict[int, float] | None = None) -> Any:
        """The result for inputs of the right shapes and types; ``seconds``: see `timings`."""
        made = {i: np.empty(shape, dtype) for i, (shape, dtype) in self._room.items()}
        everything = [*arrays, *(made[i] for i in sorted(made))]
        spent = self._program.run(self._arena, everything, seconds is not None)
        if seconds is not None:
            for step, time in zip(self._steps, spent, strict=True):
                seconds[step] = seconds.get(step, 0.0) + time
        outputs = iter(self._outputs)

        def result(value: Value) -> Any:
            array = everything[next(outputs)]
            if value.packed:
                return Packed(value.shape, value.packed, array)
            return array.reshape(value.shape)

        return map_tree(result, self._result)


def made_of(constant: Constant, weights: Mapping[str, Any]) -> NDArray[np.float32]:
    """The array that a plan's constant is."""
    parts = [floats(weights[name]) for name in constant.weights]
    match constant.how:
        case "weight":
            made = parts[0]
        case "taps":
            made = parts[0].reshape(len(parts[0]), -1).T
        case "sum":
            made = parts[0] + parts[1]
        case _:
            weight, bias, mean, variance = parts
            scale = weight / np.sqrt(variance + np.float32(constant.eps))
            made = scale if constant.how == "scale" else bias - mean * scale
    return np.require(made, np.float32, ["C", "A"])


def _value(array: Any) -> Value:
    if isinstance(array, Packed):
        return Value(array.shape, packed=array.packed)
    array = np.asarray(array)
    return Value(array.shape, is_integer=array.dtype.kind in "iu")


def _plain(array: Any) -> NDArray[Any]:
    """Return an array in the form that native code reads."""
    if isinstance(array, Packed):
        return array.data
    array = np.asarray(array)
    kind = np.int64 if array.dtype.kind in "iu" else np.float32
    return np.require(array, kind, ["C", "A"])


def _room(value: Value, size: int) -> tuple[tuple[int, ...], Any]:
    """Shape and type of an array for a result of so many bytes."""
    if value.packed:
        return (value.shape[0], size // max(value.shape[0], 1)), np.uint8
    return value.shape, np.int64 if value.is_integer else np.float32
