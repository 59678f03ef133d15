"""Pre-training of a plain network by a stack of restricted Boltzmann machines.

Source: Hinton et al. 2006, "A fast learning algorithm for deep belief nets"; for speech, Hinton et
al. 2012, "Deep neural networks for acoustic modeling in speech recognition", with the settings of
Hinton 2012, "A practical guide to training restricted Boltzmann machines".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Machine", "as_network", "logistic", "pretrain", "spliced"]

Floats = NDArray[np.float32]

_BATCH = 256
_DECAY = 2e-4
_DEVIATION = 0.1
"""Standard deviation of initial weights, relative to the root of the number of inputs."""
_HALF = np.float32(0.5)
_NUMBERS_RATE = 0.1
"""Learning rate of a machine whose inputs are numbers, relative to that of binary ones."""


class Machine:
    """A restricted Boltzmann machine with logistic hidden units.

    Its visible units are logistic too, or with ``numbers`` Gaussian, of variance 1.
    """

    def __init__(
        self, visible: int, hidden: int, *, numbers: bool, rng: np.random.Generator
    ) -> None:
        scale = _DEVIATION if not numbers else _DEVIATION / 2
        self.weights = (rng.standard_normal((visible, hidden)) * scale).astype(np.float32)
        self.visible_bias = np.zeros(visible, np.float32)
        self.hidden_bias = np.zeros(hidden, np.float32)
        self._numbers, self._rng = numbers, rng
        self._speed = [np.zeros_like(p) for p in self._parameters()]

    def _parameters(self) -> list[Floats]:
        return [self.weights, self.visible_bias, self.hidden_bias]

    def hidden(self, visible: Floats) -> Floats:
        """Return the probabilities ``[n, hidden]`` that hidden units are on."""
        return logistic(visible @ self.weights + self.hidden_bias)

    def learn(self, visible: Floats, rate: float, momentum: float) -> float:
        """Update by contrastive divergence with one step; return the mean squared error of the
        reconstruction of ``visible [n, visible]``."""
        on = self.hidden(visible)
        sampled = (self._rng.random(on.shape, np.float32) < on).astype(np.float32)
        again = sampled @ self.weights.T + self.visible_bias
        if not self._numbers:
            again = logistic(again)
        back = self.hidden(again)
        n = np.float32(len(visible))
        gradients = [
            (visible.T @ on - again.T @ back) / n - np.float32(_DECAY) * self.weights,
            (visible - again).mean(0),
            (on - back).mean(0),
        ]
        for parameter, speed, gradient in zip(
            self._parameters(), self._speed, gradients, strict=True
        ):
            speed *= np.float32(momentum)
            speed += np.float32(rate) * gradient
            parameter += speed
        return float(np.square(visible - again).mean())


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), by tanh, which does not overflow."""
    result: Floats = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
    return result


def spliced(features: Floats, count: int, stride: int) -> Floats:
    """Return each ``stride``-th frame with its neighbours, ``[n, count * bins]``; zeros follow the
    ends."""
    padded = np.pad(features, ((count // 2, count // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, count, axis=0)[::stride]
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(len(windows), -1)


def pretrain(
    frames: Floats,
    widths: Sequence[int],
    epochs: int,
    rate: float,
    seed: int,
    report: Callable[[str], None] = print,
) -> list[Machine]:
    """Return machines for layers of these ``widths``, each trained on the one below.

    ``frames [n, inputs]`` have mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    machines: list[Machine] = []
    for width in widths:
        inputs = machines[-1].hidden if machines else None
        machine = Machine(frames.shape[1], width, numbers=inputs is None, rng=rng)
        own = rate * (_NUMBERS_RATE if inputs is None else 1.0)
        errors = [
            machine.learn(batch, own, 0.5 if epoch == 0 else 0.9)
            for epoch in range(epochs)
            for batch in _batches(frames, rng)
        ]
        last = errors[-max(1, len(errors) // epochs) :]
        report(f"Boltzmann machine {len(machines) + 1}: squared error {np.mean(last):.3f}")
        machines.append(machine)
        frames = np.concatenate([machine.hidden(frames[i : i + 8192]) for i in _starts(frames)])
    return machines


def _starts(frames: Floats) -> range:
    return range(0, len(frames), 8192)


def _batches(frames: Floats, rng: np.random.Generator) -> Iterator[Floats]:
    order = rng.permutation(len(frames))
    for i in range(0, len(order) - _BATCH + 1, _BATCH):
        yield frames[order[i : i + _BATCH]]


def as_network(machines: Sequence[Machine], bins: int) -> Mapping[str, Floats]:
    """Return the machines' weights as those of a plain network, whose units are tanh.

    logistic(a) = (1 + tanh(a / 2)) / 2: weights are halved, and those of inputs that were logistic
    halved again, with their mean in the bias.
    """
    weights: dict[str, Floats] = {}
    for i, machine in enumerate(machines):
        matrix, bias = machine.weights.T * _HALF, machine.hidden_bias * _HALF
        if i == 0:
            # The inputs of a spliced frame are ordered by frame, those of a kernel by bin.
            kernel = matrix.reshape(len(matrix), -1, bins).transpose(0, 2, 1)
            weights["splice.weight"], weights["splice.bias"] = kernel, bias
            continue
        matrix = matrix * _HALF
        weights[f"layers.{i - 1}.conv.weight"] = matrix[:, :, None]
        weights[f"layers.{i - 1}.conv.bias"] = bias + matrix.sum(1)
    return {name: np.ascontiguousarray(w, np.float32) for name, w in weights.items()}
