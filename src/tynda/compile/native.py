"""The native backend: a model's functions, traced once for each shape and run in C++.

What a function means is said by the NumPy backend; how it runs by ``ops.lowering`` and
``ops.plan``. A weight is rearranged for the kernels when it is first used, and held only so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.layout import Buffer, Machine, View
from tynda.compile.lower import Lowering, held
from tynda.compile.trace import Value, trace_call
from tynda.ops.tree import leaves, map_tree
from tynda.weights.kernels import put_rows

try:
    _native: Any = import_module("tynda._native")
except ImportError:  # installed where there was no compiler
    _native = None

__all__ = ["Compiled", "Native", "available", "instruction_sets", "machine"]

# Plans that are kept: recordings come in many lengths.
_PLANS = 64
# Of a weight, that are rearranged at a time.
_ROWS = 2048


def available() -> bool:
    """Whether the kernels were compiled."""
    return _native is not None


def instruction_sets() -> list[str]:
    """Those that there are kernels for and this processor has, best first."""
    return list(_native.instruction_sets())


def machine(threads: int, bits: int = 32, instructions: str | None = None) -> Machine:
    """This processor; ``instructions``: one of `instruction_sets`, the best by default."""
    kernels = _native.kernels(instructions or instruction_sets()[0])
    return Machine(kernels.panel, kernels.tile, threads, bits)


@dataclass(frozen=True)
class Packed:
    """Keys or values in the kernels' form; ``data`` is bytes ``[items, size]``."""

    shape: tuple[int, ...]
    """As if it were an array."""
    remembered: str
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
        self.kernels = _native.kernels(instructions or instruction_sets()[0])
        self.machine = machine(threads, bits, instructions)
        self._arenas: list[Any] = []
        self._free: list[Any] = []
        self._lock = threading.Lock()
        _native.set_threads(threads)
        self._weights = dict(weights)
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self._matrices: dict[tuple[str, str], Any] = {}
        self._plans: dict[Any, Compiled] = {}

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
        """As `run`, and the seconds that each operation took, by its place in the program.

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

    @contextmanager
    def arena(self) -> Iterator[Any]:
        """An arena that no other run has meanwhile; there are as many as ever ran at once."""
        with self._lock:
            if not self._free:
                self._free.append(_native.Arena())
                self._arenas += self._free
            arena = self._free.pop()
        try:
            yield arena
        finally:
            with self._lock:
                self._free.append(arena)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arenas of all runs that were ever made at once."""
        return sum(arena.bytes for arena in self._arenas)

    @property
    def weight_bytes(self) -> int:
        """Of all weights that were used so far, as the kernels hold them."""
        return sum(matrix.bytes for matrix in self._matrices.values())

    def array(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Its tensors are arrays."""
        return tensor

    def matrix(self, name: str, form: str) -> Any:
        """A weight as a product reads it; ``form`` as ``ops.lowering`` names them."""
        if (name, form) not in self._matrices:
            weight = self._weights[name]
            kind, *numbers = form.split()
            first, stop = 0, weight.shape[0]
            if kind == "gate":
                hidden = weight.shape[0] // 4
                first = int(numbers[0]) * hidden
                stop = first + hidden
            elif kind == "conv":
                first = int(numbers[0])
                stop = first + int(numbers[1])
            self._matrices[name, form] = self._pack(weight, first, stop, *held(weight, form))
        return self._matrices[name, form]

    def _pack(self, weight: Any, first: int, stop: int, bits: int, group: int) -> Any:
        """Outputs ``first`` to ``stop``, some at a time: a large weight is never held twice."""
        inputs = int(np.prod(weight.shape[1:]))
        matrix = _native.Matrix(self.kernels, stop - first, inputs, bits, group)
        for row in range(first, stop, _ROWS):
            rows, at = slice(row, min(row + _ROWS, stop)), row - first
            put_rows(matrix, self.kernels, weight, rows, at, bits)
        return matrix

    def compile(self, function: Callable[..., Any], config: Any, inputs: Any) -> Any:
        """The lowered program and the structure of its result."""
        values = map_tree(_value, inputs)
        program, result = trace_call(function, self._shapes, config, *values)
        return Lowering(program, self._weights, self.machine), result


class Compiled:
    """A function for inputs of certain shapes."""

    def __init__(
        self, native: Native, function: Callable[..., Any], config: Any, inputs: Any
    ) -> None:
        self._native = native
        lowering, self._result = native.compile(function, config, inputs)
        self._outputs = [view.buffer.argument for view in lowering.outputs]
        count = sum(1 for _ in leaves(inputs))
        self._room = {
            buffer.argument: _room(value, buffer)
            for buffer, value in zip(
                (view.buffer for view in lowering.outputs), leaves(self._result), strict=True
            )
            if buffer.argument is not None and buffer.argument >= count
        }
        layout = lowering.layout
        self.bytes = layout.bytes
        self._plan = _Plan(native, layout.arena, layout.local)
        self._steps: list[int] = []
        for stage in lowering.stages:
            if stage.rows is not None:
                self._plan.strip(stage.rows, layout.blocks[stage])
            for node in stage.nodes:
                node.emit(self._plan, self._plan.place)
                self._steps.append(node.step)

    def run(self, arrays: list[NDArray[Any]], seconds: dict[int, float] | None = None) -> Any:
        """The result for inputs of the right shapes and types; ``seconds``: see `timings`."""
        made = {i: np.empty(shape, dtype) for i, (shape, dtype) in self._room.items()}
        everything = [*arrays, *(made[i] for i in sorted(made))]
        with self._native.arena() as arena:
            spent = self._plan.native.run(arena, everything, seconds is not None)
        if seconds is not None:
            for step, time in zip(self._steps, spent, strict=True):
                seconds[step] = seconds.get(step, 0.0) + time
        outputs = iter(self._outputs)

        def result(value: Value) -> Any:
            array = everything[next(outputs)]
            if value.remembered:
                return Packed(value.shape, value.remembered, array)
            return array.reshape(value.shape)

        return map_tree(result, self._result)


class _Plan:
    """``_native.Plan`` with its arguments as ``ops.lowering`` has them."""

    def __init__(self, owner: Native, arena: int, local: int) -> None:
        self._owner = owner
        self.native = _native.Plan(owner.kernels, arena, local, owner.machine.threads)
        self._constants: dict[int, int] = {}
        self._kept: list[Any] = []  # what the native plan points to

    def place(self, view: View) -> Any:
        buffer, space, index = view.buffer, _native.Space, 0
        if buffer.argument is not None:
            kind, index = space.ARGUMENT, buffer.argument
        elif buffer.constant is not None:
            kind, index = space.CONSTANT, self._constant(buffer.constant)
        else:
            kind = space.LOCAL if buffer.local else space.ARENA
        return _native.Place(kind, index, buffer.offset + view.offset, view.row)

    def _constant(self, array: NDArray[Any]) -> int:
        if id(array) not in self._constants:
            self._constants[id(array)] = self.native.constant(array)
            self._kept.append(array)
        return self._constants[id(array)]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.native, name)

        def call(*arguments: Any) -> None:
            self._kept += [a for a in arguments if isinstance(a, np.ndarray)]
            method(*arguments)

        return call

    def windows(self, x: Any, y: Any, windows: Mapping[str, int]) -> None:
        self.native.windows(x, y, _native.Windows(**windows))

    def depthwise(self, x: Any, y: Any, windows: Mapping[str, int], taps: Any, bias: Any) -> None:
        self._kept += [taps, bias]
        self.native.depthwise(x, y, _native.Windows(**windows), taps, bias)

    def multiply(
        self,
        x: Any,
        scales: Any,
        y: Any,
        weight: tuple[str, str],
        bias: Any,
        activation: str,
        factor: float,
        residual: Any,
    ) -> None:
        matrix = self._owner.matrix(*weight)
        self._kept += [matrix, bias]
        kind = getattr(_native.Activation, activation.upper())
        self.native.multiply(x, scales, y, matrix, bias, kind, factor, residual)

    def activate(self, x: Any, y: Any, width: int, kind: str) -> None:
        self.native.activate(x, y, width, getattr(_native.Activation, kind.upper()))

    def affine(self, *arguments: Any) -> None:
        *places, kind = arguments
        self.native.affine(*places, getattr(_native.Activation, kind.upper()))

    def lookup(self, ids: Any, y: Any, name: str) -> None:
        matrix = self._owner.matrix(name, "linear")
        self._kept.append(matrix)
        self.native.lookup(ids, y, matrix)

    def attention(self, q: Any, k: Any, v: Any, y: Any, heads: Any, lengths: Any) -> None:
        self.native.attention(q, k, v, y, _native.Heads(**heads), lengths)

    def attention_weights(self, q: Any, k: Any, y: Any, heads: Any, lengths: Any) -> None:
        self.native.attention_weights(q, k, y, _native.Heads(**heads), lengths)

    def remember(self, x: Any, y: Any, heads: Any, values: bool, lengths: Any) -> None:
        self.native.remember(x, y, _native.Heads(**heads), values, lengths)

    def lstm(
        self, gates: Any, y: Any, work: Any, weights: list[tuple[str, str]], *rest: Any
    ) -> None:
        matrices = [self._owner.matrix(*weight) for weight in weights]
        self._kept += matrices
        self.native.lstm(gates, y, work, *matrices, *rest)


def _value(array: Any) -> Value:
    if isinstance(array, Packed):
        return Value(array.shape, remembered=array.remembered)
    array = np.asarray(array)
    return Value(array.shape, is_integer=array.dtype.kind in "iu")


def _plain(array: Any) -> NDArray[Any]:
    """As native code reads it."""
    if isinstance(array, Packed):
        return array.data
    array = np.asarray(array)
    return np.ascontiguousarray(array, np.int64 if array.dtype.kind in "iu" else np.float32)


def _room(value: Value, buffer: Buffer) -> tuple[tuple[int, ...], Any]:
    """Shape and type of an array for a result."""
    if value.remembered:
        return (buffer.rows, buffer.row), np.uint8
    return value.shape, np.int64 if value.is_integer else np.float32
