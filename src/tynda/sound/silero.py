"""Silero VAD v6.2: the probability of speech in each 32 ms of a recording.

The network of Silero Team 2021 ("Silero VAD", github.com/snakers4/silero-vad, MIT licence) is
computed by tynda's own operations. Magnitudes of four spectra go through four convolutions, all
chunks of a block together; an LSTM then goes from chunk to chunk. The weights stand in
``silero.safetensors``; ``bench/silero.py`` makes that file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tynda.compile import native
from tynda.compile.engine import Backend, Engine, open_engine
from tynda.ops.base import Ops, Weights
from tynda.sound.spectra import Spectra

__all__ = ["CHUNK", "HYSTERESIS", "MIN_SPEECH", "WEIGHTS", "Detector", "logits", "probabilities"]

T = TypeVar("T")
Floats = NDArray[np.float32]

CHUNK = 512
"""Samples for which there is one probability: 32 ms at 16 kHz."""
HYSTERESIS = 0.15
"""Speech goes on until the probability is this much below the threshold (Silero's own value)."""
MIN_SPEECH = 4
"""Chunks at or above the threshold without which a noise may have reached it."""
WEIGHTS = Path(__file__).with_name("silero.safetensors")

_CONTEXT = 64
"""Samples before a chunk that its first spectrum sees too."""
_WINDOW, _HOP = 256, 128
_SPECTRA = 4
"""Spectra of a chunk."""
_STRIDES = (1, 2, 2, 1)
"""Strides of the convolutions; the last one leaves a single frame of a chunk."""
_HIDDEN = 128
_CHUNKS = 16
"""Chunks of one run of the network. The number is fixed, so that a backend compiles one program;
a last block with fewer is filled with zeros."""


def logits(
    ops: Ops[T], weights: Weights[T], config: None, magnitudes: T, hidden: T, cell: T
) -> list[tuple[T, T, T]]:
    """Return the logit ``[1, 1]`` and the LSTM's next state for each of several chunks in a row.

    ``magnitudes [chunks, 4, 129]`` are those of a chunk's spectra; ``hidden`` and ``cell``, the
    state before the first chunk and after each, are ``[1, 128]``.
    """
    x = magnitudes
    for i, stride in enumerate(_STRIDES):
        weight, bias = weights[f"encoder.{i}.weight"], weights[f"encoder.{i}.bias"]
        x = ops.relu(ops.conv1d(x, weight, bias, stride=stride, padding=1))
    chunks, width = ops.shape(x)[0], ops.shape(hidden)[-1]
    x = ops.reshape(x, chunks, width)
    inputs = ops.linear(x, weights["lstm.weight_ih"], weights["lstm.bias_ih"])
    results = list[tuple[T, T, T]]()
    for i in range(chunks):
        # `Ops.lstm` begins with a state of zeros; this one goes on from the block before.
        states = ops.linear(hidden, weights["lstm.weight_hh"], weights["lstm.bias_hh"])
        gates = ops.reshape(ops.add(ops.slice(inputs, i, i + 1), states), 4, width)
        write, forget, new, read = (ops.slice(gates, gate, gate + 1) for gate in range(4))
        kept = ops.glu(ops.concat(cell, forget))
        cell = ops.add(kept, ops.glu(ops.concat(ops.tanh(new), write)))
        hidden = ops.glu(ops.concat(ops.tanh(cell), read))
        logit = ops.linear(ops.relu(hidden), weights["output.weight"], weights["output.bias"])
        results.append((logit, hidden, cell))
    return results


class Detector:
    """Gives the probabilities of one recording, which comes block by block.

    It holds the samples of less than one chunk, and the state of the network.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        """Start a recording; ``engine`` has the weights, by default that of the whole process."""
        self._engine = engine or _engine()
        self._spectra = _spectra()
        self._context = np.zeros(_CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._hidden = self._cell = np.zeros((1, _HIDDEN), np.float32)

    def add(self, samples: Floats) -> Floats:
        """Return the probability of each chunk that ``samples [n]`` at 16 kHz complete."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // CHUNK
        # A copy, so that the rest does not keep the memory of the block.
        self._rest = samples[whole * CHUNK :].copy()
        found = np.empty(whole, np.float32)
        for i in range(0, whole, _CHUNKS):
            count = min(_CHUNKS, whole - i)
            found[i : i + count] = self._run(samples[i * CHUNK : (i + count) * CHUNK])
        return found

    def finish(self) -> Floats:
        """Return the probability of the last chunk, filled with zeros, if it has any samples."""
        return self.add(np.zeros(-len(self._rest) % CHUNK, np.float32))

    def _run(self, samples: Floats) -> Floats:
        """Return the probabilities of at most `_CHUNKS` whole chunks."""
        count = len(samples) // CHUNK
        chunks = np.clip(samples, -1, 1).reshape(count, CHUNK)
        before = np.concatenate([self._context[None], chunks[:-1, -_CONTEXT:]])
        self._context = chunks[-1, -_CONTEXT:].copy()
        outputs = self._engine.run(
            logits, None, self._magnitudes(before, chunks), self._hidden, self._cell
        )[:count]
        _, self._hidden, self._cell = (self._engine.array(x) for x in outputs[-1])
        x = np.concatenate([self._engine.array(logit) for logit, _, _ in outputs])[:, 0]
        probabilities: Floats = 1 / (1 + np.exp(-x))
        return probabilities

    def _magnitudes(self, before: Floats, chunks: Floats) -> Floats:
        """Return the magnitudes ``[_CHUNKS, 4, 129]`` of chunks, each with the samples before it.

        The last spectrum ends beyond the chunk, in its reflection.
        """
        rows = np.concatenate([before, chunks, chunks[:, -2 : -2 - _CONTEXT : -1]], axis=1)
        # Frames of all rows are computed as those of one recording; each row ends with one that
        # reaches into the next row and is left out.
        frames = rows.shape[1] // _HOP
        padded = np.pad(rows.ravel(), (0, _WINDOW))
        power = self._spectra(padded, _HOP, len(rows) * frames)
        found = np.zeros((_CHUNKS, _SPECTRA, power.shape[1]), np.float32)
        found[: len(rows)] = np.sqrt(power).reshape(len(rows), frames, -1)[:, :_SPECTRA]
        return found


def probabilities(blocks: Iterable[Floats]) -> Iterator[Floats]:
    """Yield the probabilities of a recording, given as blocks of samples at 16 kHz.

    The n-th of all is that of the n-th 512 samples. The last samples are filled up with zeros.
    """
    detector = Detector()
    for block in blocks:
        yield detector.add(block)
    yield detector.finish()


@cache
def _engine() -> Engine:
    """Return the weights in the hands of a backend; a thread of its own computes fastest."""
    tensors = load_file(WEIGHTS)
    weights = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    backend: Backend = "native" if native.available() else "numpy"
    return open_engine(weights, dict.fromkeys(weights, True), backend, bits=32, threads=1)


@cache
def _spectra() -> Spectra:
    """Return the transform behind a periodic Hann window."""
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    return Spectra(window, _WINDOW)
