"""What the weights of a model are multiplied with, on real speech.

The model runs on NumPy with weights that look at what comes to them: nothing of a model or an
operation has to know.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import audio, manifest, models
from tynda.audio import SAMPLE_RATE
from tynda.checkpoint import Checkpoint
from tynda.decode.options import Options
from tynda.decode.whisper import Network, decode, start_tokens
from tynda.engine import Eager, Engine
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.models import whisper
from tynda.ops.numpy import NumpyOps
from tynda.ops.trace import Program, Value, trace_call
from tynda.quant.weight import Floats, Quantized, by_tap, floats

__all__ = ["Calibration", "Seen"]

Weights = Mapping[str, Any]

# Of an utterance, that are listened to: more of one tells less than another.
_SECONDS = 12.0
_LEAST_SECONDS = 30.0
# Tokens that a decoder goes on with by itself beyond those of the right text.
_BEYOND = 4


class Seen:
    """The inputs of a product.

    ``each``: of their products only those with themselves, which take far less room.
    """

    def __init__(self, inputs: int, *, each: bool = False) -> None:
        self.count = 0
        self.squares = np.zeros(inputs if each else (inputs, inputs))
        """``[in, in]``: sums of the products of any two; or ``[in]``."""
        self.peak = np.zeros(inputs, np.float32)
        """``[in]``: the largest size."""

    def add(self, rows: Floats) -> None:
        """``rows [n, in]``."""
        self.squares += np.square(rows).sum(0) if self.squares.ndim == 1 else rows.T @ rows
        self.peak = np.maximum(self.peak, np.abs(rows).max(0, initial=0))
        self.count += len(rows)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of `squares`."""
        return self.squares / max(self.count, 1)


class Calibration:
    """Some utterances, and a model that hears them.

    Of a Whisper the decoder runs twice over each: on the right text, and on what it writes
    itself. Raises `TyndaError` for a manifest without a recording that can be read.
    """

    def __init__(self, model: Checkpoint, path: Path, utterances: int = 128) -> None:
        self.model = model
        self._family = models.family(model.header.family)
        listed = manifest.read(path)
        step = max(1, len(listed) // utterances)
        self.heard: list[tuple[Floats, str]] = []
        """Features ``[frames, bins]`` and text."""
        self.utterances: list[Utterance] = []
        for utterance in listed[::step][:utterances]:
            samples = audio.load(utterance.audio)[: int(_SECONDS * SAMPLE_RATE)]
            if len(samples):
                self.heard.append((self._features(samples), utterance.text))
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

    def _features(self, samples: Floats) -> Floats:
        features: Floats = self.model.frontend(samples)
        if self.model.header.family != "whisper":
            return features
        features = features[: 2 * self.model.config.frames]
        return np.pad(features, ((0, len(features) % 2), (0, 0)))

    def outputs(self, engine: Engine, index: int, *, free: bool = False) -> Floats:
        """What the model says of an utterance: log-probabilities or logits ``[n, vocab]``.

        A decoder's are those on the right text; ``free``: let it write by itself as well.
        """
        features, text = self.heard[index]
        config, length = self.model.config, np.array([len(features)])
        states, frames = engine.run(self._family.encode, config, features[None], length)
        if self.model.header.family != "whisper":
            log_probs: Floats = engine.array(states)[0]
            return log_probs
        tokenizer = self.model.tokenizer
        network = Network(engine, config, tokenizer, ())
        heard = network.listen(states, frames)
        language = self._language
        tokens = start_tokens(tokenizer, language, "transcribe")
        tokens += [tokenizer.no_timestamps, *tokenizer.encode(" " + text.strip())]
        tokens = tokens[: config.context]
        ids, start = np.array([tokens], np.int64), np.zeros(1, np.int64)
        logits: Floats = engine.array(engine.run(_follow, config, ids, start, heard))[0]
        if free:
            most = min(len(tokens) + _BEYOND, config.context // 2)
            decode(network, heard, Options(max_new_tokens=most), [language])
        return logits

    @property
    def _language(self) -> str | None:
        known = list(self.model.tokenizer.languages)
        return None if not known else "en" if "en" in known else known[0]

    def run(self, weights: Weights, most: int | None = None) -> None:
        """Let the model with these weights hear the utterances, or the first few of them."""
        engine = Eager(NumpyOps(), weights)
        for index in range(len(self.heard))[:most]:
            self.outputs(engine, index, free=True)

    def programs(self) -> list[Program]:
        """What the model does, traced."""
        config = self.model.config
        shapes = {name: tuple(weight.shape) for name, weight in self.model.weights.items()}
        one, count = Value((1,), is_integer=True), Value((1, 2), is_integer=True)
        features = Value((1, len(self.heard[0][0]), config.bins))
        program, result = trace_call(self._family.encode, shapes, config, features, one)
        if self.model.header.family != "whisper":
            return [program]
        listening, heard = trace_call(whisper.listen, shapes, config, *result)
        following, _ = trace_call(_follow, shapes, config, count, one, heard)
        return [program, listening, following]

    def order(self, weights: Weights, names: Collection[str]) -> list[str]:
        """Those of the ``names`` that products are made with, by their first use."""
        found: dict[str, None] = {}

        def looked(name: str, weight: Any) -> Any:
            if name not in names:
                return floats(weight)
            return _Watched(floats(weight), lambda _: found.setdefault(name))

        self.run({name: looked(name, weight) for name, weight in weights.items()}, 1)
        return list(found)

    def watch(
        self, weights: Weights, names: Collection[str], *, each: bool = False
    ) -> dict[str, Seen]:
        """What the weights ``names`` are multiplied with, those that come into use."""
        seen: dict[str, Seen] = {}

        def watched(name: str) -> _Watched:
            def tell(rows: Floats) -> None:
                seen.setdefault(name, Seen(rows.shape[1], each=each)).add(rows)

            return _Watched(floats(weights[name]), tell)

        self.run({k: watched(k) if k in names else floats(v) for k, v in weights.items()})
        return seen


def _follow(ops: Any, weights: Weights, config: Any, tokens: Any, starts: Any, heard: Any) -> Any:
    """Logits behind each of the tokens."""
    states, _ = whisper.decode(ops, weights, config, tokens, starts, heard)
    return whisper.logits(ops, weights, config, states)


class _Watched(Quantized):
    """A weight in float32 that tells what it is multiplied with."""

    weight: Floats
    tell: Callable[[Floats], Any]

    def __init__(self, weight: Floats, tell: Callable[[Floats], Any]) -> None:
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "tell", tell)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.weight.shape
        return shape

    def dequantize(self) -> Floats:
        return self.weight

    def __getitem__(self, index: Any) -> _Watched:
        return _Watched(self.weight[index], self.tell)

    def by_tap(self) -> _Watched:
        return _Watched(by_tap(self.weight), self.tell)

    def product(self, x: Floats) -> Floats:
        self.tell(x.reshape(-1, x.shape[-1]))
        y: Floats = x @ self.weight.T
        return y
