"""Reconstruction: a rounded model is taught, part by part, to give what it gave before.

The parts follow each other as in BRECQ (Li et al. 2021): what is fed to one comes from the
rounded parts before it, and what it should give from the model in full precision. The last part,
to the outputs, learns by the Kullback-Leibler divergence, all others by squared error. Weights
begin with GPTQ; codes, steps, zero points, norms and biases learn together. Activations are
rounded to 8 bits on the way, as they will be when the model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tynda.compile.trace import Step, Value, replay_step
from tynda.ops.torch import TorchOps, retain_freed_memory
from tynda.quantization.layerwise import LayerwiseRun, UtteranceRun
from tynda.quantization.learnt import LearntWeight
from tynda.weights.grid import Grid
from tynda.weights.weight import Floats, Weight, floats

__all__ = ["rebuild"]

InOrder = Callable[[LayerwiseRun, set[str], dict[str, Any]], Iterator[dict[str, Weight]]]

# Steps of learning for each part; the last has more, since all words go through it.
_STEPS = 80
_LAST_STEPS = 240
# Utterances that the weights of a part are first rounded by.
_BEGIN = 24
# Weights with more rows stay as GPTQ rounded them. A vocabulary has more tokens than a calibration
# set has words, so that most of its rows would learn from nothing, for most of the time.
_MAX_LEARNT_ROWS = 16384
# Rows of a part's result that a step sees at least: of several utterances where they are short.
_ROWS = 128
# Bytes of what a part should give that are kept from one step to another; more is computed anew.
_MAX_WANTED = 256 << 20
# The rate of norms and biases, as a share of their size.
_REST_RATE = 5e-4


def rebuild(
    weights: Mapping[str, Floats],
    plan: Mapping[str, Grid],
    run: LayerwiseRun,
    trainable: Mapping[str, bool],
    done: dict[str, Any],
    in_order: InOrder,
) -> Iterator[dict[str, Any]]:
    """The tensors of each part of a model as it is finished: rounded weights, norms and biases.

    ``in_order`` rounds the weights of these names to begin with, going through a run that stands
    before them. What is ``done`` is kept; the caller adds to it what it is given.
    """
    retain_freed_memory()
    blocks = run.blocks(set(plan), _ROWS)
    run = run.some(run.room([start for start, _ in blocks]) // 2)  # they wait twice
    plain = run.some(len(run.utterances))
    for start, stop in blocks:
        names = {v.name for step in run.steps[start:stop] for v in step.weights}
        mine = {part.name for part in run.parts(names & plan.keys())} - done.keys()
        if not mine:
            continue
        run.advance_to({**weights, **done}, start, bits=8)
        plain.advance_to(weights, start)
        begun: dict[str, Any] = {}
        known = dict(done)
        for some in in_order(run.some(_BEGIN), mine, known):
            known |= some
            begun |= some
        large = {name: x for name, x in begun.items() if x.shape[0] > _MAX_LEARNT_ROWS}
        learnt = {
            name: LearntWeight(weights[name], begun[name], plan[name])
            for name in begun.keys() - large.keys()
        }
        rest = {n for n in names - plan.keys() - done.keys() if trainable[n]}
        fixed = {**weights, **done, **large}
        used = {name: floats(fixed[name]) for name in names - learnt.keys()}
        part = _Part(start, stop, learnt, used, {n for n in rest if weights[n].ndim == 1})
        part.learn(plain.utterances, run.utterances, weights, last=stop == len(run.steps))
        yield part.result() | large


class _Part:
    """The steps ``[start, stop)`` of a model while they learn."""

    def __init__(
        self,
        start: int,
        stop: int,
        learnt: Mapping[str, LearntWeight],
        others: Mapping[str, Floats],
        rest: set[str],
    ) -> None:
        self._steps, self._learnt = slice(start, stop), learnt
        self._others = {name: torch.tensor(value) for name, value in others.items()}
        self._rest = {name: self._others[name].requires_grad_() for name in sorted(rest)}

    def learn(
        self,
        plain: list[UtteranceRun],
        rounded: list[UtteranceRun],
        weights: Mapping[str, Floats],
        *,
        last: bool,
    ) -> None:
        """Learn to give for the ``rounded`` inputs what the ``weights`` give for ``plain`` ones."""
        exact = {name: torch.from_numpy(weights[name]) for name in (*self._others, *self._learnt)}
        groups = [group for weight in self._learnt.values() for group in weight.learners()]
        for tensor in self._rest.values():
            size = max(float(tensor.detach().square().mean().sqrt()), 1e-3)
            groups.append({"params": [tensor], "lr": _REST_RATE * size})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        count = _LAST_STEPS if last else _STEPS
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / count)
        targets = _Targets(plain, lambda one: self._play(one, exact, TorchOps()), last=last)
        order, queue = np.random.default_rng(0), list[int]()
        for _ in range(count):
            values = {name: weight.values() for name, weight in self._learnt.items()}
            leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
            seen = 0
            while seen < _ROWS:
                queue = queue or order.permutation(len(plain)).tolist()
                index = queue.pop()
                wanted = targets(index)
                found = self._play(rounded[index], {**self._others, **leaves}, _Rounding())
                loss = _divergence(wanted, found) if last else _error(wanted, found)
                loss.backward()  # type: ignore[no-untyped-call]
                seen += wanted.shape[:-1].numel()
            torch.autograd.backward(list(values.values()), [x.grad for x in leaves.values()])
            optimizer.step()
            optimizer.zero_grad()
            rates.step()

    def result(self) -> dict[str, Any]:
        """The tensors that learnt, as they are stored."""
        found: dict[str, Any] = {name: weight.weight() for name, weight in self._learnt.items()}
        return found | {name: x.detach().numpy() for name, x in self._rest.items()}

    def _play(self, one: UtteranceRun, weights: Mapping[str, Tensor], ops: Any) -> Tensor:
        known: dict[Value, Any] = {}
        for value, array in one.known.items():
            known[value] = torch.from_numpy(np.ascontiguousarray(array))
        steps: tuple[Step, ...] = one.program.steps[self._steps]
        for step in steps:
            replay_step(step, ops, weights, known)
        result: Tensor = known[steps[-1].result]
        return result


class _Targets:
    """The outputs of the exact block for each utterance; of the last, log-probabilities in f16.

    They are cached up to a number of bytes, and beyond it computed again at each call.
    """

    def __init__(
        self, utterances: list[UtteranceRun], play: Callable[[UtteranceRun], Tensor], *, last: bool
    ) -> None:
        self._utterances, self._play, self._last = utterances, play, last
        self._kept: dict[int, Tensor] = {}
        self._room = _MAX_WANTED

    @torch.no_grad()
    def __call__(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        wanted = self._play(self._utterances[index])
        if self._last:
            wanted = wanted.log_softmax(-1).half()
        if wanted.nbytes <= self._room:
            self._room -= wanted.nbytes
            self._kept[index] = wanted
        return wanted


class _Rounding(TorchOps):
    """Products whose inputs are rounded to 8 bits, row by row, as the engine does it."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
            off = (x / scale).round() * scale - x
        return super().linear(x + off, weight, bias)


def _error(wanted: Tensor, found: Tensor) -> Tensor:
    return (found - wanted).square().mean()


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of scores ``found``, in nats, summed over rows.

    ``wanted`` holds log-probabilities.
    """
    expected = wanted.float()
    return (expected.exp() * (expected - found.log_softmax(-1))).sum()
