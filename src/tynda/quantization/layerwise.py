"""Calibration layer by layer: utterances go through a model and wait where weights are rounded.

An engine runs the traced steps between two points, and returns the inputs of the steps that are
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

__all__ = ["LayerwiseRun", "Part", "UtteranceRun"]

Weights = Mapping[str, Any]
Tell = Callable[[str, int, Floats], None]
"""Called with a weight's name, the first of its rows that are used, and inputs ``[n, in]``."""

# Bytes of the tensors that waiting utterances may hold, all together.
_MAX_KEPT = 512 << 20
# Products that a part of a model has at least (`LayerwiseRun.blocks`).
_LEAST = 2


class Part(NamedTuple):
    """Rows of a weight that have the same inputs: all of it, or a group of a convolution."""

    name: str
    start: int
    stop: int


@dataclass
class UtteranceRun:
    """One utterance on its way through a model."""

    program: Program
    known: dict[Value, Any]
    """The tensors that later steps read; at first the program's inputs."""


class LayerwiseRun:
    """Utterances on their way through a model, all before the same step."""

    def __init__(
        self, utterances: list[UtteranceRun], trainable: Mapping[str, bool], at: int = 0
    ) -> None:
        """``at``: the step that all of them are before; ``trainable``: as of `open_engine`."""
        self._utterances, self._trainable = utterances, trainable
        self.steps: Sequence[Step] = utterances[0].program.steps
        """The steps of one utterance; those of others differ in shapes only."""
        self._at = at
        self._last = [_last_uses(one.program) for one in utterances]
        held = [_held(one.program, last) for one, last in zip(utterances, self._last, strict=True)]
        self._held = np.sum(held, axis=0)

    @property
    def utterances(self) -> list[UtteranceRun]:
        """In the order of the calibration set."""
        return self._utterances

    def parts(self, names: Collection[str]) -> list[Part]:
        """The weights of these names that products are made with, in the order of their use."""
        found: dict[Part, None] = {}
        for step in self.steps:
            if (weight := _weight_of_product(step)) and weight.name in names:
                groups = step.settings.get("groups", 1)
                size = weight.shape[0] // groups
                each = (Part(weight.name, i * size, (i + 1) * size) for i in range(groups))
                found |= dict.fromkeys(each)
        return list(found)

    def observe(self, weights: Weights, names: Collection[str], tell: Tell) -> None:
        """Run up to the last use of weights of these ``names``, and go back.

        ``tell`` is called for each matrix product with one of them.
        """
        uses = [i for i in self._uses(names) if i >= self._at]
        engine = self._engine(weights, max(uses, default=-1) + 1)
        values = {v.name: floats(weights[v.name]) for i in uses for v in self.steps[i].weights}

        def told(name: str, start: int, x: Floats) -> None:
            tell(name, start, x.reshape(-1, x.shape[-1]))

        observers = {name: NumpyOps(observe=partial(told, name)) for name in names}
        for one in self._utterances:
            steps = [one.program.steps[i] for i in uses]
            known = self._play(engine, one, max(uses, default=-1) + 1, _read(steps))
            for step in steps:
                weight = _weight_of_product(step)
                ops = observers[weight.name] if weight else None
                replay_step(step, ops, values, dict(known))

    def advance(self, weights: Weights, names: Collection[str]) -> None:
        """Go on to the first use of ``names``, or as near as memory allows."""
        until = min(self._uses(names), default=len(self.steps))
        fit = [i for i in range(self._at, until + 1) if self._held[i] <= _MAX_KEPT]
        self.advance_to(weights, max(fit, default=self._at))

    def advance_to(self, weights: Weights, until: int, bits: int = 32) -> None:
        """Go on to the step of this number; ``bits``: the precision of matrix products."""
        engine = self._engine(weights, until, bits)
        for one, last in zip(self._utterances, self._last, strict=True):
            alive = {value for value in one.known if last.get(value, -1) >= until}
            made = [step.result for step in one.program.steps[self._at : until]]
            alive |= {value for value in made if last.get(value, -1) >= until}
            one.known = self._play(engine, one, until, alive)
        self._at = until

    def blocks(self, names: Collection[str], rows: int) -> list[tuple[int, int]]:
        """The steps, in parts ``[start, stop)`` that hand a single tensor on, or are the last.

        That tensor has at least so many ``rows``: what works on fewer is cheap, and one part. A
        part has at least two products with weights of these ``names``: of a transformer, each is
        an attention or a feed-forward layer with what is added to it. What several tensors lead
        into, such as a decoder and the keys that it attends to, is one part as well.
        """
        uses = self._uses(names)
        found, start = [], 0
        for place in _narrow(self._utterances[0].program, self._last[0], rows):
            if sum(start <= use < place for use in uses) >= _LEAST and max(uses) >= place:
                found.append((start, place))
                start = place
        return [*found, (start, len(self.steps))]

    def room(self, places: Collection[int]) -> int:
        """How many of the utterances, at least one, may wait at all of these steps."""
        held = max(self._held[place] for place in places) / len(self._utterances)
        return max(1, min(len(self._utterances), int(_MAX_KEPT / max(held, 1))))

    def some(self, count: int) -> LayerwiseRun:
        """A run of its own, from here, of so many utterances, evenly taken."""
        every = len(self._utterances) / min(count, len(self._utterances))
        taken = [self._utterances[int(i * every)] for i in range(min(count, len(self._utterances)))]
        copies = [UtteranceRun(one.program, dict(one.known)) for one in taken]
        return LayerwiseRun(copies, self._trainable, self._at)

    def _uses(self, names: Collection[str]) -> list[int]:
        """The steps that products with these weights are made in."""
        multiplied = [_weight_of_product(step) for step in self.steps]
        return [i for i, weight in enumerate(multiplied) if weight and weight.name in names]

    def _engine(self, weights: Weights, until: int, bits: int = 32) -> Engine:
        """Open an engine for the steps before ``until``, with the weights that these read."""
        needed = {v.name for step in self.steps[self._at : until] for v in step.weights}
        used = {name: weights[name] for name in needed}
        return open_engine(used, self._trainable, bits=bits)

    def _play(
        self, engine: Engine, one: UtteranceRun, until: int, wanted: Collection[Value]
    ) -> dict[Value, Any]:
        """Return the ``wanted`` tensors, which are known or made before the step ``until``."""
        found = {value: one.known[value] for value in wanted if value in one.known}
        made = [value for value in wanted if value not in one.known]
        if made:
            steps = one.program.steps[self._at : until]
            inputs = [value for value in one.known if value in _read(steps)]
            segment = _Segment(steps, tuple(inputs), tuple(made))
            results = engine.run(_replay, segment, *(one.known[value] for value in inputs))
            found |= dict(zip(made, results, strict=True))
        return found


@dataclass(frozen=True, eq=False)
class _Segment:
    """Steps of a program that run together."""

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def _replay(ops: Any, weights: Weights, segment: _Segment, *inputs: Any) -> tuple[Any, ...]:
    known = dict(zip(segment.inputs, inputs, strict=True))
    for step in segment.steps:
        replay_step(step, ops, weights, known)
    return tuple(known[value] for value in segment.outputs)


def _read(steps: Sequence[Step]) -> set[Value]:
    """The tensors, other than weights, that these steps read."""
    return {v for step in steps for v in step.tensors.values() if not v.is_weight}


def _weight_of_product(step: Step) -> Value | None:
    """The weight that a step makes products with; a channel's own filter is none."""
    if step.operation == "lstm":
        return step.tensors["weight_ih"]
    weight = step.tensors.get("weight")
    if weight is None or step.operation not in ("linear", "conv1d", "conv2d"):
        return None
    return None if weight.shape[:2] == (step.settings.get("groups"), 1) else weight


def _last_uses(program: Program) -> dict[Value, int]:
    """The last step that reads each tensor."""
    return {v: i for i, step in enumerate(program.steps) for v in step.tensors.values()}


def _narrow(program: Program, last: Mapping[Value, int], rows: int) -> list[int]:
    """The steps before which later ones read a single tensor, lengths apart, of so many rows."""
    found, alive = [], {value for value in program.inputs if not value.is_integer}
    for i, step in enumerate(program.steps):
        if not step.result.is_integer:
            alive.add(step.result)
        alive = {value for value in alive if last.get(value, -1) > i}
        if len(alive) == 1 and math.prod(next(iter(alive)).shape[:-1]) >= rows:
            found.append(i + 1)
    return found


def _held(program: Program, last: Mapping[Value, int]) -> NDArray[np.float64]:
    """Bytes of the tensors that are still needed before each step, and after the last."""
    change = np.zeros(len(program.steps) + 2)
    made = [(0, value) for value in program.inputs]
    made += [(i + 1, step.result) for i, step in enumerate(program.steps)]
    for first, value in made:
        if not value.is_weight and value in last:
            change[first] += value.size * 4
            change[last[value] + 1] -= value.size * 4
    return np.cumsum(change)[:-1]
