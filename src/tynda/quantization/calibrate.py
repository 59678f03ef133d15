"""What the weights of a model are multiplied with, on real speech.

The model runs on NumPy with weights that look at what comes to them: nothing of a model or an
operation has to know. It runs in pieces, by its trace: all utterances wait where weights are
still to be rounded, and go on from there with the rounded ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.compile import native
from tynda.compile.engine import Engine
from tynda.compile.trace import Program, Step, Value, replay_step, trace_call
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.models.base import Family
from tynda.ops.numpy import NumpyOps
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.weights.weight import Floats, Quantized, by_tap, floats

__all__ = ["Calibration", "Journey", "Part", "Seen", "inputs_bytes"]

Weights = Mapping[str, Any]

# Of an utterance, that are listened to: more of one tells less than another.
_SECONDS = 12.0
_LEAST_SECONDS = 30.0
# Tokens that a decoder goes on with by itself beyond those of the right text.
_BEYOND = 4


# The most inputs whose products with each other are all kept; of more, those within blocks.
_WIDEST = 4096
# Bytes of what utterances that wait in the midst of a model may hold.
_KEPT = 512 << 20


def _blocks(inputs: int) -> list[slice]:
    """Inputs in as few pieces as have `_WIDEST` at most."""
    edges = np.linspace(0, inputs, -(-inputs // _WIDEST) + 1).astype(int)
    return [slice(*pair) for pair in pairwise(edges.tolist())]


def inputs_bytes(inputs: int) -> int:
    """What `Seen` takes."""
    return sum(8 * (block.stop - block.start) ** 2 for block in _blocks(inputs))


class Seen:
    """The inputs of a product.

    ``each``: of their products only those with themselves, which take far less room.
    """

    def __init__(self, inputs: int, *, each: bool = False) -> None:
        self.count = 0
        self.peak = np.zeros(inputs, np.float32)
        """``[in]``: the largest size."""
        self._own = np.zeros(inputs)
        self._squares: list[NDArray[np.float64]] = []
        if not each:
            self._squares = [np.zeros((b.stop - b.start,) * 2) for b in _blocks(inputs)]

    def add(self, rows: Floats) -> None:
        """``rows [n, in]``."""
        self._own += np.square(rows).sum(0)
        for block, squares in zip(_blocks(rows.shape[1]), self._squares, strict=False):
            squares += rows[:, block].T @ rows[:, block]
        self.peak = np.maximum(self.peak, np.abs(rows).max(0, initial=0))
        self.count += len(rows)

    @property
    def own(self) -> Floats:
        """``[in]``: the mean square of each."""
        return (self._own / max(self.count, 1)).astype(np.float32)

    @property
    def blocks(self) -> list[NDArray[np.float64]]:
        """The means of the products of any two inputs, ``[in, in]``.

        Where there are very many inputs, such squares along the diagonal: of products between
        one block of inputs and another nothing is known.
        """
        return [squares / max(self.count, 1) for squares in self._squares]


class Part(NamedTuple):
    """Rows of a weight that see the same inputs: all of it, or a group of a convolution."""

    name: str
    start: int
    stop: int


class Calibration:
    """Some utterances, and a model that hears them.

    A decoder runs twice over each: on the right text, and on what it writes itself. Raises
    `TyndaError` for a manifest without a recording that can be read.
    """

    def __init__(self, model: Checkpoint, path: Path, utterances: int = 128) -> None:
        self.model = model
        self._head = head_of(model.family)
        listed = manifest.read(path)
        step = max(1, len(listed) // utterances)
        self.heard: list[tuple[Floats, str]] = []
        """Features ``[frames, bins]`` and text."""
        self.utterances: list[Utterance] = []
        for utterance in listed[::step][:utterances]:
            samples = audio.load(utterance.audio)[: int(_SECONDS * SAMPLE_RATE)]
            if len(samples):
                self.heard.append((self._head.features(model, samples), utterance.text))
                self.utterances.append(utterance)
        if not self.heard:
            raise TyndaError(f"{path} has no sound in it to calibrate with")
        seconds = (
            sum(len(features) for features, _ in self.heard) * model.frontend.hop / SAMPLE_RATE
        )
        if seconds < _LEAST_SECONDS:
            warnings.warn(
                f"calibrating on {seconds:.0f} s of speech alone: the model may be fitted to these "
                "few sentences",
                stacklevel=2,
            )

    def outputs(self, engine: Engine, index: int) -> Floats:
        """What the model gives for an utterance: log-probabilities or logits ``[n, vocab]``.

        Those of a decoder are for the right text.
        """
        features, text = self.heard[index]
        inputs, _ = self._inputs(features, self._head.given(self.model, text))
        scores: Floats = engine.array(engine.run(self._head.forced, self._settings, *inputs))[0]
        return scores

    @property
    def _settings(self) -> tuple[Family, Any]:
        return self.model.family, self.model.config

    @cached_property
    def _own(self) -> list[list[list[int]]]:
        """The tokens that the model itself writes of each utterance."""
        writer = Model(self.model, bits=8 if native.available() else 32).head
        written = []
        for features, text in self.heard:
            right = sum(len(row) for row in self._head.given(self.model, text))
            written.append(writer.written(features, right + _BEYOND))
        return written

    @staticmethod
    def _inputs(features: Floats, texts: list[list[int]]) -> tuple[list[NDArray[Any]], list[int]]:
        """The inputs of `Head.forced`, and how many tokens of each text count."""
        inputs: list[NDArray[Any]] = [features[None], np.array([len(features)])]
        if texts:
            longest = max(map(len, texts))
            ids = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in texts]
            inputs += [np.array(ids, np.int64), np.zeros(len(ids), np.int64)]
        return inputs, [*map(len, texts)]

    def journey(self) -> Journey:
        """All utterances, before the first step."""
        shapes = {name: tuple(weight.shape) for name, weight in self.model.weights.items()}
        runs = []
        for index, (features, text) in enumerate(self.heard):
            texts = self._head.given(self.model, text)
            if self._head.decodes:
                texts = texts + self._own[index]
            inputs, counts = self._inputs(features, texts)
            values = [Value(x.shape, is_integer=x.dtype.kind == "i") for x in inputs]
            program, _ = trace_call(self._head.forced, shapes, self._settings, *values)
            runs.append(_Run(program, dict(zip(values, inputs, strict=True)), counts))
        return Journey(runs)

    def watch(
        self, weights: Weights, names: Collection[str], *, each: bool = False
    ) -> dict[str, Seen]:
        """What the weights ``names`` are multiplied with, those that come into use.

        Inputs of a convolution's groups are seen as if they were one group's.
        """
        seen: dict[str, Seen] = {}

        def tell(name: str, start: int, rows: Floats) -> None:
            seen.setdefault(name, Seen(rows.shape[1], each=each)).add(rows)

        self.journey().hear(weights, names, tell)
        return seen


@dataclass
class _Run:
    """One utterance on its way."""

    program: Program
    known: dict[Value, Any]
    """The tensors that steps to come will read."""
    texts: list[int]
    """How many tokens count of each text, where there are several."""


class Journey:
    """Utterances on their way through a model, all before the same step."""

    def __init__(self, runs: list[_Run]) -> None:
        self._runs = runs
        self.steps: Sequence[Step] = runs[0].program.steps
        """Those of one utterance: of others only shapes differ."""
        self._at = 0
        self._last = [_last_uses(run.program) for run in runs]
        held = [_held(run.program, last) for run, last in zip(runs, self._last, strict=True)]
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

    def hear(
        self, weights: Weights, names: Collection[str], tell: Callable[[str, int, Floats], None]
    ) -> None:
        """Go on as far as weights of these ``names`` are used, and back again.

        ``tell`` is given a name, the first of the rows that are used, and inputs ``[n, in]``.
        """
        until = max(self._uses(names), default=-1) + 1
        plain = self._floats(weights, until)
        for run, last in zip(self._runs, self._last, strict=True):

            def told(name: str, start: int, x: Floats, texts: list[int] = run.texts) -> None:
                if texts and len(x) == len(texts):
                    x = np.concatenate([part[:n] for part, n in zip(x, texts, strict=True)])
                tell(name, start, x.reshape(-1, x.shape[-1]))

            watched = {k: _Watched(plain[k], partial(told, k)) for k in names if k in plain}
            self._play(run, last, plain | watched, until)

    def advance(self, weights: Weights, names: Collection[str]) -> None:
        """Go on to where the first of ``names`` is used, or as near as room allows."""
        until = min(self._uses(names), default=len(self.steps))
        fit = [i for i in range(self._at, until + 1) if self._held[i] <= _KEPT]
        until = max(fit, default=self._at)
        plain = self._floats(weights, until)
        for run, last in zip(self._runs, self._last, strict=True):
            run.known = self._play(run, last, plain, until)
        self._at = until

    def _uses(self, names: Collection[str]) -> list[int]:
        """The steps that products with these weights are made in."""
        multiplied = [_multiplied(step) for step in self.steps]
        return [i for i, weight in enumerate(multiplied) if weight and weight.name in names]

    def _floats(self, weights: Weights, until: int) -> dict[str, Floats]:
        """Those that are needed on the way."""
        needed = {v.name for step in self.steps[self._at : until] for v in step.weights}
        return {name: floats(weights[name]) for name in needed}

    def _play(
        self, run: _Run, last: Mapping[Value, int], weights: Weights, until: int
    ) -> dict[Value, Any]:
        known, ops = dict(run.known), NumpyOps()
        for i in range(self._at, until):
            step = run.program.steps[i]
            replay_step(step, ops, weights, known)
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


class _Watched(Quantized):
    """A weight in float32 that tells what it is multiplied with, and with which of its rows."""

    weight: Floats
    tell: Callable[[int, Floats], Any]
    start: int

    def __init__(self, weight: Floats, tell: Callable[[int, Floats], Any], start: int = 0) -> None:
        for name, value in {"weight": weight, "tell": tell, "start": start}.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.weight.shape
        return shape

    def dequantize(self) -> Floats:
        return self.weight

    def __getitem__(self, index: Any) -> _Watched:
        first = index.start if isinstance(index, slice) else None
        return _Watched(self.weight[index], self.tell, self.start + (first or 0))

    def by_tap(self) -> _Watched:
        return _Watched(by_tap(self.weight), self.tell, self.start)

    def product(self, x: Floats) -> Floats:
        self.tell(self.start, x)
        y: Floats = x @ self.weight.T
        return y
