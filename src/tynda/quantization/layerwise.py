"""Calibration layer by layer: all utterances run up to the next weights, which are then rounded.

An engine runs the traced steps between two positions, and returns the inputs of the steps that are
observed. NumPy repeats only those steps, with a backend that reports the inputs of its matrix
products (`NumpyOps.observe`): no model and no operation needs code for calibration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine, open_engine
from tynda.compile.trace import Program, Step, Value, replay_step
from tynda.ops.numpy import NumpyOps
from tynda.weights.weight import Floats, floats

__all__ = ["LayerwiseRun", "UtteranceRun", "WeightSlice"]

Weights = Mapping[str, Any]
Report = Callable[[str, int, Floats], None]
"""Called with a weight's name, the first of its rows that are used, and inputs ``[n, in]``."""

# Maximum bytes of the tensors that all utterances together hold between two calls.
_MAX_LIVE_BYTES = 512 << 20
# Minimum number of products in a block (`LayerwiseRun.blocks`).
_MIN_PRODUCTS = 2


class WeightSlice(NamedTuple):
    """Rows of a weight that have the same inputs: all of it, or a group of a convolution."""

    name: str
    start: int
    stop: int


@dataclass
class UtteranceRun:
    """One utterance at some step of a model."""

    program: Program
    tensors: dict[Value, Any]
    """The tensors that later steps read; at first the program's inputs."""


class LayerwiseRun:
    """Utterances that run through a model together, so that all are before the same step."""

    def __init__(
        self, utterances: list[UtteranceRun], trainable: Mapping[str, bool], position: int = 0
    ) -> None:
        """``position`` is the index of the next step; ``trainable`` as in `open_engine`."""
        self.utterances = utterances
        """The utterances in the order of the calibration set."""
        self.steps: Sequence[Step] = utterances[0].program.steps
        """The steps of one utterance; those of others differ in shapes only."""
        self._trainable, self._position = trainable, position
        self._last_uses = [_last_uses(utterance.program) for utterance in utterances]
        pairs = zip(utterances, self._last_uses, strict=True)
        self._live_bytes = np.sum([_live_bytes(u.program, last) for u, last in pairs], axis=0)

    def weight_slices(self, names: Collection[str]) -> list[WeightSlice]:
        """Return the slices of these weights that matrix products use, in the order of use."""
        found: dict[WeightSlice, None] = {}
        for step in self.steps:
            if (weight := _weight_of_product(step)) and weight.name in names:
                groups = step.settings.get("groups", 1)
                size = weight.shape[0] // groups
                each = (WeightSlice(weight.name, i * size, (i + 1) * size) for i in range(groups))
                found |= dict.fromkeys(each)
        return list(found)

    def observe(self, weights: Weights, names: Collection[str], report: Report) -> None:
        """Run up to the last use of the weights ``names``, without a change of the position.

        ``report`` is called for each matrix product with one of these weights.
        """
        uses = [i for i in self._steps_using(names) if i >= self._position]
        stop = max(uses, default=-1) + 1
        engine = self._engine(weights, stop)
        values = {v.name: floats(weights[v.name]) for i in uses for v in self.steps[i].weights}

        def report_rows(name: str, start: int, x: Floats) -> None:
            report(name, start, x.reshape(-1, x.shape[-1]))

        observers = {name: NumpyOps(observe=partial(report_rows, name)) for name in names}
        for utterance in self.utterances:
            steps = [utterance.program.steps[i] for i in uses]
            tensors = self._compute(engine, utterance, stop, _inputs(steps))
            for step in steps:
                weight = _weight_of_product(step)
                ops = observers[weight.name] if weight else None
                replay_step(step, ops, values, dict(tensors))

    def advance(self, weights: Weights, names: Collection[str]) -> None:
        """Advance to the first use of ``names``, or as near to it as memory allows."""
        stop = min(self._steps_using(names), default=len(self.steps))
        steps = range(self._position, stop + 1)
        fitting = [i for i in steps if self._live_bytes[i] <= _MAX_LIVE_BYTES]
        self.advance_to(weights, max(fitting, default=self._position))

    def advance_to(self, weights: Weights, stop: int, bits: int = 32) -> None:
        """Advance to the step of this index; ``bits`` is the precision of matrix products."""
        engine = self._engine(weights, stop, bits)
        for utterance, last in zip(self.utterances, self._last_uses, strict=True):
            steps = utterance.program.steps[self._position : stop]
            values = {*utterance.tensors, *(step.result for step in steps)}
            live = {value for value in values if last.get(value, -1) >= stop}
            utterance.tensors = self._compute(engine, utterance, stop, live)
        self._position = stop

    def first_use(self, name: str) -> int:
        """Return the first step that reads a weight, or the number of steps if none does."""
        uses = (i for i, step in enumerate(self.steps) if any(v.name == name for v in step.weights))
        return next(uses, len(self.steps))

    def outputs(self, weights: Weights) -> list[Floats]:
        """Return the result of the last step for each utterance, without a change of the position.

        ``weights`` may differ from those of earlier steps.
        """
        stop = len(self.steps)
        engine = self._engine(weights, stop)
        found = []
        for utterance in self.utterances:
            result = utterance.program.steps[-1].result
            found.append(self._compute(engine, utterance, stop, {result})[result])
        return found

    def blocks(self, names: Collection[str], min_rows: int) -> list[tuple[int, int]]:
        """Divide the steps into blocks ``[start, stop)`` for block reconstruction.

        A block has at least two products with weights of these ``names``: in a transformer, it is
        an attention or a feed-forward layer with its residual connection. All but the last have a
        single result that later steps read, of at least ``min_rows`` rows: what follows on fewer
        rows is cheap, and belongs to one block. Steps that read several tensors of earlier ones,
        such as a decoder and its cross-attention, are one block too.
        """
        uses = self._steps_using(names)
        found, start = [], 0
        for cut in _cut_points(self.utterances[0].program, self._last_uses[0], min_rows):
            if sum(start <= use < cut for use in uses) >= _MIN_PRODUCTS and max(uses) >= cut:
                found.append((start, cut))
                start = cut
        return [*found, (start, len(self.steps))]

    def max_waiting(self, steps: Collection[int]) -> int:
        """Return how many utterances, at least one, memory allows before any of these steps."""
        live_bytes = max(self._live_bytes[step] for step in steps) / len(self.utterances)
        return max(1, min(len(self.utterances), int(_MAX_LIVE_BYTES / max(live_bytes, 1))))

    def subset(self, count: int) -> LayerwiseRun:
        """Return a copy with at most ``count`` utterances at regular intervals, at this step."""
        count = min(count, len(self.utterances))
        interval = len(self.utterances) / count
        selected = [self.utterances[int(i * interval)] for i in range(count)]
        copies = [UtteranceRun(u.program, dict(u.tensors)) for u in selected]
        return LayerwiseRun(copies, self._trainable, self._position)

    def _steps_using(self, names: Collection[str]) -> list[int]:
        """Return the steps that compute products with these weights."""
        multiplied = [_weight_of_product(step) for step in self.steps]
        return [i for i, weight in enumerate(multiplied) if weight and weight.name in names]

    def _engine(self, weights: Weights, stop: int, bits: int = 32) -> Engine:
        """Open an engine for the steps before ``stop``, with the weights that these read."""
        needed = {v.name for step in self.steps[self._position : stop] for v in step.weights}
        used = {name: weights[name] for name in needed}
        return open_engine(used, self._trainable, bits=bits)

    def _compute(
        self, engine: Engine, utterance: UtteranceRun, stop: int, wanted: Collection[Value]
    ) -> dict[Value, Any]:
        """Return the ``wanted`` tensors, which are known or are computed before step ``stop``."""
        known = utterance.tensors
        found = {value: known[value] for value in wanted if value in known}
        outputs = [value for value in wanted if value not in known]
        if outputs:
            steps = utterance.program.steps[self._position : stop]
            inputs = [value for value in known if value in _inputs(steps)]
            segment = _Segment(steps, tuple(inputs), tuple(outputs))
            results = engine.run(_replay, segment, *(known[value] for value in inputs))
            found |= dict(zip(outputs, results, strict=True))
        return found


@dataclass(frozen=True, eq=False)
class _Segment:
    """Steps of a program that run together."""

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def _replay(ops: Any, weights: Weights, segment: _Segment, *inputs: Any) -> tuple[Any, ...]:
    tensors = dict(zip(segment.inputs, inputs, strict=True))
    for step in segment.steps:
        replay_step(step, ops, weights, tensors)
    return tuple(tensors[value] for value in segment.outputs)


def _inputs(steps: Sequence[Step]) -> set[Value]:
    """Return the tensors, other than weights, that these steps read."""
    return {v for step in steps for v in step.tensors.values() if not v.is_weight}


def _weight_of_product(step: Step) -> Value | None:
    """Return the weight that a step multiplies; a depthwise convolution is no matrix product."""
    if step.operation == "lstm":
        return step.tensors["weight_ih"]
    weight = step.tensors.get("weight")
    if weight is None or step.operation not in ("linear", "conv1d", "conv2d"):
        return None
    return None if weight.shape[:2] == (step.settings.get("groups"), 1) else weight


def _last_uses(program: Program) -> dict[Value, int]:
    """Return the last step that reads each tensor."""
    return {v: i for i, step in enumerate(program.steps) for v in step.tensors.values()}


def _cut_points(program: Program, last: Mapping[Value, int], min_rows: int) -> list[int]:
    """Return the steps from which on a single earlier tensor of ``min_rows`` rows is read.

    Tensors of integers, such as lengths, do not count.
    """
    found, live = [], {value for value in program.inputs if not value.is_integer}
    for i, step in enumerate(program.steps):
        if not step.result.is_integer:
            live.add(step.result)
        live = {value for value in live if last.get(value, -1) > i}
        if len(live) == 1 and math.prod(next(iter(live)).shape[:-1]) >= min_rows:
            found.append(i + 1)
    return found


def _live_bytes(program: Program, last: Mapping[Value, int]) -> NDArray[np.float64]:
    """Return the bytes of the tensors that are still needed before each step, and at the end."""
    change = np.zeros(len(program.steps) + 2)
    computed = [(0, value) for value in program.inputs]
    computed += [(i + 1, step.result) for i, step in enumerate(program.steps)]
    for first, value in computed:
        if not value.is_weight and value in last:
            change[first] += value.size * 4
            change[last[value] + 1] -= value.size * 4
    return np.cumsum(change)[:-1]
