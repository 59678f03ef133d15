"""Block reconstruction: each block of a rounded model learns to give its original outputs.

As in BRECQ (Li et al. 2021), a block's inputs come from the rounded blocks before it, and its
targets from the model in full precision. The last block learns by the Kullback-Leibler divergence
of the model's outputs, all others by the squared error of theirs. Weights are initialised by GPTQ;
codes, scales, zero points, norms and biases learn together. Activations are rounded to 8 bits, as
they are in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tynda.compile.trace import Step, Value, replay_step
from tynda.ops.torch import TorchOps, retain_freed_memory
from tynda.ops.torch_rounded import RoundActivations
from tynda.quantization.layerwise import LayerwiseRun, UtteranceRun
from tynda.quantization.learnt_rounding import LearntWeight
from tynda.weights.grid import Grid
from tynda.weights.weight import Floats, Weight, floats

__all__ = ["reconstruct"]

Initialise = Callable[[LayerwiseRun, set[str], dict[str, Any]], Iterator[dict[str, Weight]]]

# Number of updates for each block; the last has more, since it computes the model's outputs.
_UPDATES = 80
_LAST_UPDATES = 240
# Number of utterances for GPTQ.
_GPTQ_UTTERANCES = 24
# Weights with more rows stay as GPTQ rounded them. A vocabulary has more tokens than a calibration
# set has words: tiny.en with its embedding in 3 bits lost three times as many words when it learnt.
_MAX_LEARNT_ROWS = 16384
# Minimum number of rows of a block's result for an update: several utterances if they are short.
_MIN_ROWS = 128
# Maximum bytes of cached targets of a block; others are computed again for each update.
_MAX_TARGET_BYTES = 256 << 20
# Learning rate of norms and biases, relative to their root mean square.
_VECTOR_RATE = 5e-4


def reconstruct(
    weights: Mapping[str, Floats],
    plan: Mapping[str, Grid],
    run: LayerwiseRun,
    trainable: Mapping[str, bool],
    done: dict[str, Any],
    initialise: Initialise,
) -> Iterator[dict[str, Any]]:
    """Yield the tensors of each block when it is finished: rounded weights, norms and biases.

    ``initialise(run, names, done)`` yields the initial rounding of weights, for a run that is
    before them. The caller adds the yielded tensors to ``done``; those that are there at the
    beginning are not changed.
    """
    retain_freed_memory()
    blocks = run.blocks(set(plan), _MIN_ROWS)
    # Half of the memory is for the rounded run, half for the exact one.
    run = run.subset(run.max_waiting([start for start, _ in blocks]) // 2)
    exact_run = run.subset(len(run.utterances))
    for start, stop in blocks:
        names = {v.name for step in run.steps[start:stop] for v in step.weights}
        left = {part.name for part in run.weight_slices(names & plan.keys())} - done.keys()
        if not left:
            continue
        run.advance_to({**weights, **done}, start, bits=8)
        exact_run.advance_to(weights, start)
        initial: dict[str, Any] = {}
        known = dict(done)
        for tensors in initialise(run.subset(_GPTQ_UTTERANCES), left, known):
            known |= tensors
            initial |= tensors
        large = {name: x for name, x in initial.items() if x.shape[0] > _MAX_LEARNT_ROWS}
        learnt = {
            name: LearntWeight(weights[name], initial[name], plan[name])
            for name in initial.keys() - large.keys()
        }
        fixed = {**weights, **done, **large}
        others = {name: floats(fixed[name]) for name in names - learnt.keys()}
        vectors = {
            name
            for name in names - plan.keys() - done.keys()
            if trainable[name] and weights[name].ndim == 1
        }
        block = _Block(start, stop, learnt, others, vectors)
        last = stop == len(run.steps)
        block.learn(exact_run.utterances, run.utterances, weights, last=last)
        yield block.result() | large


class _Block:
    """The steps ``[start, stop)`` of a model, which learn together."""

    def __init__(
        self,
        start: int,
        stop: int,
        learnt: Mapping[str, LearntWeight],
        others: Mapping[str, Floats],
        vectors: set[str],
    ) -> None:
        """``vectors`` are the names of norms and biases in ``others`` that learn too."""
        self._steps, self._learnt = slice(start, stop), learnt
        self._others = {name: torch.tensor(value) for name, value in others.items()}
        self._vectors = {name: self._others[name].requires_grad_() for name in sorted(vectors)}

    def learn(
        self,
        exact: list[UtteranceRun],
        rounded: list[UtteranceRun],
        weights: Mapping[str, Floats],
        *,
        last: bool,
    ) -> None:
        """Learn to give for ``rounded`` inputs what the ``weights`` give for ``exact`` inputs."""
        originals = {n: torch.from_numpy(weights[n]) for n in (*self._others, *self._learnt)}
        groups = [g for weight in self._learnt.values() for g in weight.parameter_groups()]
        for tensor in self._vectors.values():
            size = max(float(tensor.detach().square().mean().sqrt()), 1e-3)
            groups.append({"params": [tensor], "lr": _VECTOR_RATE * size})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        count = _LAST_UPDATES if last else _UPDATES
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / count)
        targets = _Targets(exact, lambda u: self._run(u, originals, TorchOps()), last=last)
        order, queue = np.random.default_rng(0), list[int]()
        for _ in range(count):
            values = {name: weight.values() for name, weight in self._learnt.items()}
            # The gradients of several utterances are summed before they reach the parameters.
            leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
            rows = 0
            while rows < _MIN_ROWS:
                queue = queue or order.permutation(len(exact)).tolist()
                index = queue.pop()
                target = targets(index)
                found = self._run(rounded[index], {**self._others, **leaves}, RoundActivations())
                loss = _divergence(target, found) if last else _squared_error(target, found)
                loss.backward()  # type: ignore[no-untyped-call]
                rows += target.shape[:-1].numel()
            torch.autograd.backward(list(values.values()), [x.grad for x in leaves.values()])
            optimizer.step()
            optimizer.zero_grad()
            rates.step()

    def result(self) -> dict[str, Any]:
        """Return the tensors that learnt, as they are stored."""
        found: dict[str, Any] = {name: weight.rounded() for name, weight in self._learnt.items()}
        return found | {name: x.detach().numpy() for name, x in self._vectors.items()}

    def _run(self, utterance: UtteranceRun, weights: Mapping[str, Tensor], ops: Any) -> Tensor:
        tensors: dict[Value, Any] = {
            value: torch.from_numpy(np.ascontiguousarray(array))
            for value, array in utterance.tensors.items()
        }
        steps: tuple[Step, ...] = utterance.program.steps[self._steps]
        for step in steps:
            replay_step(step, ops, weights, tensors)
        result: Tensor = tensors[steps[-1].result]
        return result


class _Targets:
    """The outputs of the exact block for each utterance; of the last, log-probabilities in f16.

    They are cached up to a number of bytes; others are computed again at each call.
    """

    def __init__(
        self, utterances: list[UtteranceRun], run: Callable[[UtteranceRun], Tensor], *, last: bool
    ) -> None:
        self._utterances, self._run, self._last = utterances, run, last
        self._cached: dict[int, Tensor] = {}
        self._bytes_left = _MAX_TARGET_BYTES

    @torch.no_grad()
    def __call__(self, index: int) -> Tensor:
        if index in self._cached:
            return self._cached[index]
        target = self._run(self._utterances[index])
        if self._last:
            target = target.log_softmax(-1).half()
        if target.nbytes <= self._bytes_left:
            self._bytes_left -= target.nbytes
            self._cached[index] = target
        return target


def _squared_error(target: Tensor, found: Tensor) -> Tensor:
    return (found - target).square().mean()


def _divergence(target: Tensor, found: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of scores ``found``, in nats, summed over rows.

    ``target`` holds log-probabilities.
    """
    expected = target.float()
    return (expected.exp() * (expected - found.log_softmax(-1))).sum()
