"""Calibration layer by layer: utterances go through a model and wait where weights are rounded.

The model runs on NumPy, one traced step after the other; a backend that reports its products'
inputs (`NumpyOps.observe`) shows what each weight is multiplied with, so that nothing of a model
or an operation has to know of calibration.
"""

from __future__ import annotations

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

    def __init__(self, utterances: list[UtteranceRun]) -> None:
        self._utterances = utterances
        self.steps: Sequence[Step] = utterances[0].program.steps
        """The steps of one utterance; those of others differ in shapes only."""
        self._at = 0
        self._last = [_last_uses(one.program) for one in utterances]
        held = [_held(one.program, last) for one, last in zip(utterances, self._last, strict=True)]
        self._held = np.sum(held, axis=0)

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
            self._play(one, last, values, until, watched)

    def advance(self, weights: Weights, names: Collection[str]) -> None:
        """Go on to where the first of ``names`` is used, or as near as room allows."""
        until = min(self._uses(names), default=len(self.steps))
        fit = [i for i in range(self._at, until + 1) if self._held[i] <= _MAX_KEPT]
        until = max(fit, default=self._at)
        values = self._floats(weights, until)
        for one, last in zip(self._utterances, self._last, strict=True):
            one.known = self._play(one, last, values, until, {})
        self._at = until

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
    ) -> dict[Value, Any]:
        """The tensors that are known before the step ``until``."""
        known, plain = dict(one.known), NumpyOps()
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
