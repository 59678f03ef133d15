"""Calibration layer by layer: utterances go through a model and wait where weights are rounded.

The model runs on NumPy, one traced step after the other; a backend that reports its products'
inputs (`NumpyOps.observe`) shows what each weight is multiplied with, so that nothing of a model
or an operation has to know of calibration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

    def __init__(self, utterances: list[UtteranceRun], at: int = 0) -> None:
        """``at``: the step that all of them are before."""
        self._utterances = utterances
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
            if (weight := _multiplied(step)) and weight.name in names:
                groups = step.settings.get("groups", 1)
                size = weight.shape[0] // groups
                each = (Part(weight.name, i * size, (i + 1) * size) for i in range(groups))
                found |= dict.fromkeys(each)
        return list(found)

    def observe(self, weights: Weights, names: Collection[str], tell: Tell) -> None:
        """Run as far as weights of these ``names`` are used, and go back.

        ``tell`` is called for each product with one of them.
        """
        until = max(self._uses(names), default=-1) + 1
        values = self._floats(weights, until)

        def told(name: str, start: int, x: Floats) -> None:
            tell(name, start, x.reshape(-1, x.shape[-1]))

        watched = {name: NumpyOps(observe=partial(told, name)) for name in names}
        for one, last in zip(self._utterances, self._last, strict=True):
            self._play(one, last, values, until, watched, NumpyOps())

    def advance(self, weights: Weights, names: Collection[str]) -> None:
        """Go on to where the first of ``names`` is used, or as near as room allows."""
        until = min(self._uses(names), default=len(self.steps))
        fit = [i for i in range(self._at, until + 1) if self._held[i] <= _MAX_KEPT]
        self.advance_to(weights, max(fit, default=self._at))

    def advance_to(
        self,
        weights: Weights,
        until: int,
        ops: Any = None,
        tensor: Callable[[Any], Any] = np.asarray,
    ) -> None:
        """Go on to the step of this number, by other ``ops`` than NumPy's if that is faster.

        ``tensor`` makes an array one of theirs.
        """
        values = {name: tensor(value) for name, value in self._floats(weights, until).items()}
        for one, last in zip(self._utterances, self._last, strict=True):
            one.known = {value: tensor(x) for value, x in one.known.items()}
            known = self._play(one, last, values, until, {}, ops or NumpyOps())
            one.known = {value: np.asarray(x) for value, x in known.items()}
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
        return LayerwiseRun([UtteranceRun(one.program, dict(one.known)) for one in taken], self._at)

    def _uses(self, names: Collection[str]) -> list[int]:
        """The steps that products with these weights are made in."""
        multiplied = [_multiplied(step) for step in self.steps]
        return [i for i, weight in enumerate(multiplied) if weight and weight.name in names]

    def _floats(self, weights: Weights, until: int) -> dict[str, Floats]:
        """Return the weights that are read before the step ``until``, as float32."""
        needed = {v.name for step in self.steps[self._at : until] for v in step.weights}
        return {name: floats(weights[name]) for name in needed}

    def _play(
        self,
        one: UtteranceRun,
        last: Mapping[Value, int],
        weights: Weights,
        until: int,
        observers: Mapping[str, NumpyOps],
        plain: Any,
    ) -> dict[Value, Any]:
        """The tensors that are known before the step ``until``."""
        known = dict(one.known)
        for i in range(self._at, until):
            step = one.program.steps[i]
            weight = _multiplied(step)
            replay_step(
                step, observers.get(weight.name, plain) if weight else plain, weights, known
            )
            for value in {*step.tensors.values(), step.result}:
                if last.get(value, -1) <= i:
                    known.pop(value, None)
        return known


def _multiplied(step: Step) -> Value | None:
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
