"""The native backend: a model's functions are traced once for each shape, and run in C++.

The NumPy backend is the reference of its results, ``compile.lower`` defines the plan of a function,
and ``native/src`` runs the plan. A weight is packed into the kernels' layout when it is first used,
and is held only in that layout.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from tynda.compile.limits import check_memory
from tynda.compile.lower import Lowering
from tynda.compile.plan import Constant, Matrix, Plan
from tynda.compile.trace import Program, Value, trace_call
from tynda.errors import TyndaError
from tynda.interrupts import import_whole
from tynda.ops.tree import leaves, map_tree
from tynda.weights.kernels import copy_rows
from tynda.weights.tensors import unmapped
from tynda.weights.weight import floats

try:
    _native: Any = import_whole("tynda._native")
except ImportError:  # installed where there was no compiler
    _native = None

__all__ = [
    "INSTRUCTIONS",
    "Compiled",
    "Lowered",
    "Machine",
    "Native",
    "available",
    "instruction_sets",
    "lowered",
    "machine",
]

# The maximum number of cached plans: recordings come in many lengths, each of which has its own.
_MAX_PLANS = 64
# The number of a weight's rows that are packed at a time, so that no whole copy is needed.
_ROWS_AT_ONCE = 2048
# The maximum number of threads that read them: each holds a copy of its rows.
_MAX_READERS = 4


INSTRUCTIONS = "TYNDA_INSTRUCTIONS"
"""The environment variable that sets the instruction set, to compare them on one processor."""


def available() -> bool:
    """Whether tynda was installed with its kernels."""
    return _native is not None


def instruction_sets() -> list[str]:
    """Return the sets that have kernels and that this processor supports, best first."""
    return list(_native.instruction_sets())


@dataclass(frozen=True)
class Machine:
    """The properties of a processor and a run on which the layout of a plan depends."""

    instructions: str
    """One of `instruction_sets`."""
    threads: int
    bits: int = 32
    """The matmul precision of attention; other products follow the formats of their weights."""

    @property
    def kernels(self) -> Any:
        """The kernels of its instruction set."""
        return _native.kernels(self.instructions)


def machine(threads: int, bits: int = 32, instructions: str | None = None) -> Machine:
    """Return the `Machine` of this processor.

    ``instructions``: one of `instruction_sets`; by default that of the environment variable
    `INSTRUCTIONS`, or else the best. Raises `TyndaError` where the variable names another one, and
    where tynda was installed without its kernels, since only they define the sizes of packed
    tensors.
    """
    if not available():
        raise TyndaError(
            "the native engine's memory is known where its kernels are: install tynda again with a "
            "C++ compiler"
        )
    known = instruction_sets()
    chosen = instructions or os.environ.get(INSTRUCTIONS) or known[0]
    if chosen not in known:
        raise TyndaError(
            f"{INSTRUCTIONS} is {chosen!r}: this processor has kernels for {', '.join(known)}"
        )
    return Machine(chosen, threads, bits)


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program, its plan, and the layout of the plan's memory on a machine."""

    program: Program
    plan: Plan
    layout: Any
    """``_native.Layout``."""

    @property
    def arena_bytes(self) -> int:
        """Bytes of memory of one run, without weights, inputs and outputs."""
        bytes_: int = self.layout.bytes
        return bytes_

    @cached_property
    def matrices(self) -> dict[Matrix, int]:
        """Packed weight -> its bytes."""
        sizes = dict(zip(self.layout.matrix_names, self.layout.matrix_bytes, strict=True))
        return {matrix: sizes[name] for matrix, name in self.plan.matrices.items()}

    @property
    def output_bytes(self) -> int:
        """Bytes of the results that are not inputs."""
        return sum(self.layout.argument_bytes[len(self.program.inputs) :])


def lowered(program: Program, weights: Mapping[str, Any], machine: Machine) -> Lowered:
    """Lower a program for a machine. Only shapes and formats of the ``weights`` are read."""
    plan = Lowering(program, weights, machine.bits).plan
    return Lowered(program, plan, _native.Layout(plan.text(), machine.kernels, machine.threads))


@dataclass(frozen=True)
class Packed:
    """Keys or values in the layout of the attention kernels."""

    shape: tuple[int, ...]
    """The shape of the tensor before it was packed."""
    packed: str
    """See `Value.packed`."""
    data: NDArray[np.uint8]
    """Bytes ``[items, size]``."""


class Native:
    """The engine that runs a model's functions with the native kernels.

    ``weights``: name -> float32 array or `Weight`. ``instructions``: one of `instruction_sets`; the
    best by default. ``bits``: see `Machine`. Several threads may call it at once: plans and packed
    weights never change after they are created, and each run has its own piece of the arena.
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
        self._lock = threading.Lock()  # held while plans or packed weights are created
        self._weights = dict(weights)
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self.parameters = sum(map(math.prod, self._shapes.values()))
        """Number of all weights."""
        self._matrices: dict[Matrix, Any] = {}
        self._constants: dict[Constant, NDArray[np.float32]] = {}
        self._plans: dict[Any, Compiled] = {}
        _ENGINES.add(self)

    def run(self, function: Callable[..., Any], config: Any, *inputs: Any) -> Any:
        """Return ``function(ops, weights, config, *inputs)``, computed on NumPy arrays.

        ``inputs`` and the result are arrays or structures of them (``ops.tree``). A cache that the
        function writes to is changed in place.
        """
        compiled, arrays = self._prepared(function, config, inputs)
        return compiled.run(arrays)

    def repeated(
        self,
        function: Callable[..., Any],
        config: Any,
        first: Sequence[NDArray[Any]],
        *rest: Any,
    ) -> Callable[..., Any]:
        """See `Engine.repeated`."""
        compiled, arrays = self._prepared(function, config, (*first, *rest))
        return compiled.repeated(arrays, len(first))

    def timings(
        self, function: Callable[..., Any], config: Any, *inputs: Any
    ) -> tuple[Any, dict[int, float]]:
        """Run as `run` does, and also return the seconds of each step, by its index in the program.

        The program is that of ``compile(function, config, inputs)``. The time of a product includes
        its epilogue (an activation, a factor, a sum), whose own steps have no time, the copies of a
        convolution's windows and the rounding of its inputs to 8 bits. Where each thread runs
        several operations on a block of rows, the time of an operation is the mean over the
        threads, so that the sum of all times lacks what threads wait for each other.
        """
        compiled, arrays = self._prepared(function, config, inputs)
        seconds: dict[int, float] = {}
        result = compiled.run(arrays, seconds)
        return result, seconds

    def _prepared(
        self, function: Callable[..., Any], config: Any, inputs: Any
    ) -> tuple[Compiled, list[NDArray[Any]]]:
        """Return the compiled function for the shapes of ``inputs``, and its arguments."""
        tensors = list(leaves(inputs))
        arrays = [_plain(tensor) for tensor in tensors]
        shapes = tuple((t.shape, a.dtype.char) for t, a in zip(tensors, arrays, strict=True))
        key = (function, config, shapes)
        with self._lock:
            if (compiled := self._plans.get(key)) is None:
                if len(self._plans) >= _MAX_PLANS:
                    self._plans.pop(next(iter(self._plans)))
                compiled = self._plans[key] = Compiled(self, function, config, inputs)
        return compiled, arrays

    @property
    def arena_bytes(self) -> int:
        """Bytes of the memory of runs: that of as many as ever ran at the same time."""
        bytes_: int = self.arena.bytes
        return bytes_

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights packed so far."""
        return sum(matrix.bytes for matrix in self._matrices.values())

    def array(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See `Engine.array`: the tensors of this engine are arrays already."""
        return tensor

    def matrices(self, wanted: Sequence[Matrix]) -> list[Any]:
        """Return weights in the layout of matrix products; they are packed when first asked for.

        Entropy-coded weights take a while to decode, so that threads share the rows of all.
        """
        new = {
            matrix: _native.Matrix(
                self.kernels, matrix.count, matrix.inputs, matrix.bits, matrix.group
            )
            for matrix in wanted
            if matrix not in self._matrices
        }
        parts = [
            (matrix, slice(row, min(row + _ROWS_AT_ONCE, matrix.first + matrix.count)))
            for matrix in new
            for row in range(matrix.first, matrix.first + matrix.count, _ROWS_AT_ONCE)
        ]
        # Each thread takes the next part when it is ready.
        waiting = iter(parts)

        def pack() -> None:
            for matrix, rows in waiting:
                weight, at = self._weights[matrix.weight], rows.start - matrix.first
                copy_rows(new[matrix], self.kernels, weight, rows, at, matrix.bits)

        helpers = min(self.machine.threads, _MAX_READERS, len(parts)) - 1
        with ThreadPoolExecutor(max(1, helpers)) as pool:
            packing = list[Future[None]]()
            # A system that refuses a thread leaves the work to those that there are.
            with suppress(RuntimeError):
                packing.extend(pool.submit(pack) for _ in range(helpers))
            pack()
        for done in packing:
            done.result()
        self._matrices |= new
        return [self._matrices[matrix] for matrix in wanted]

    def constant(self, constant: Constant) -> NDArray[np.float32]:
        """Return the array of a plan's constant; it is computed when first asked for."""
        if constant not in self._constants:
            self._constants[constant] = build_constant(constant, self._weights)
        return self._constants[constant]

    def compile(self, function: Callable[..., Any], config: Any, inputs: Any) -> Any:
        """Return the `Lowered` program of a function, and the structure of its result."""
        values = map_tree(_value, inputs)
        program, result = trace_call(function, self._shapes, config, *values)
        return lowered(program, self._weights, self.machine), result


_ENGINES: WeakSet[Native] = WeakSet()


def _after_fork() -> None:
    """Replace the locks: a thread that held one does not exist in the child process."""
    for engine in _ENGINES:
        engine._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Compiled:
    """A function compiled for inputs of certain shapes and types."""

    def __init__(
        self, native: Native, function: Callable[..., Any], config: Any, inputs: Any
    ) -> None:
        self._arena = native.arena
        lowered, self._result = native.compile(function, config, inputs)
        plan, layout = lowered.plan, lowered.layout
        self.bytes = lowered.arena_bytes
        check_memory(function.__name__, self.bytes + lowered.output_bytes, native.parameters)
        index = {buffer: i for i, buffer in enumerate(plan.arguments)}
        self._outputs = [index[buffer] for buffer in plan.results]
        count = len(lowered.program.inputs)
        self._new_arrays = {
            i: _array_type(value, layout.argument_bytes[i])
            for i, value in zip(self._outputs, leaves(self._result), strict=True)
            if i >= count
        }
        self._steps = [operation.step for operation in plan.operations]
        matrices = {name: matrix for matrix, name in plan.matrices.items()}
        self._program = _native.Program(
            layout,
            [native.constant(plan.constants[name]) for name in layout.constant_names],
            native.matrices([matrices[name] for name in layout.matrix_names]),
        )

    def run(self, arrays: list[NDArray[Any]], seconds: dict[int, float] | None = None) -> Any:
        """Return the result for arrays of these shapes and types.

        ``seconds``: if given, the time of each step is added to it; see `Native.timings`.
        """
        arguments = self._arguments(arrays)
        times = self._program.run(self._arena, arguments, seconds is not None)
        if seconds is not None:
            for step, time in zip(self._steps, times, strict=True):
                seconds[step] = seconds.get(step, 0.0) + time
        return self._structure(arguments)

    def repeated(self, arrays: list[NDArray[Any]], changing: int) -> Callable[..., Any]:
        """Return a function of new values for the first arrays, so many as are ``changing``; see
        `Native.repeated`."""
        own = [array.copy() for array in arrays[:changing]]
        arguments = self._arguments([*own, *arrays[changing:]])
        result = self._structure(arguments)

        def run(*values: NDArray[Any]) -> Any:
            for array, value in zip(own, values, strict=True):
                np.copyto(array, value)
            self._program.run(self._arena, arguments, False)
            return result

        return run

    def _arguments(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the arguments of a run: the inputs, and new arrays for the results."""
        new = {i: np.empty(shape, dtype) for i, (shape, dtype) in self._new_arrays.items()}
        return [*arrays, *(new[i] for i in sorted(new))]

    def _structure(self, arguments: list[NDArray[Any]]) -> Any:
        """Return the function's result, made of the arguments that are results."""
        outputs = iter(self._outputs)

        def result(value: Value) -> Any:
            array = arguments[next(outputs)]
            if value.packed:
                return Packed(value.shape, value.packed, array)
            return array.reshape(value.shape)

        return map_tree(result, self._result)


def build_constant(constant: Constant, weights: Mapping[str, Any]) -> NDArray[np.float32]:
    """Compute the array of a plan's constant from the weights, without a map of their file."""
    arrays = [unmapped(floats(weights[name])) for name in constant.weights]
    match constant.kind:
        case "weight":
            result = arrays[0]
        case "taps":
            result = arrays[0].reshape(len(arrays[0]), -1).T
        case "sum":
            result = arrays[0] + arrays[1]
        case _:
            weight, bias, mean, variance = arrays
            scale = weight / np.sqrt(variance + np.float32(constant.eps))
            result = scale if constant.kind == "scale" else bias - mean * scale
    return np.require(result, np.float32, ["C", "A"])


def _value(array: Any) -> Value:
    """Return the value that stands for an array when a function is traced."""
    if isinstance(array, Packed):
        return Value(array.shape, packed=array.packed)
    array = np.asarray(array)
    return Value(array.shape, is_integer=array.dtype.kind in "iu")


def _plain(array: Any) -> NDArray[Any]:
    """Return an array with the type and memory layout that native code reads."""
    if isinstance(array, Packed):
        return array.data
    array = np.asarray(array)
    kind = np.int64 if array.dtype.kind in "iu" else np.float32
    return np.require(array, kind, ["C", "A"])


def _array_type(value: Value, size: int) -> tuple[tuple[int, ...], Any]:
    """Return shape and type of the array for a result of ``size`` bytes."""
    if value.packed:
        return (value.shape[0], size // max(value.shape[0], 1)), np.uint8
    return value.shape, np.int64 if value.is_integer else np.float32
