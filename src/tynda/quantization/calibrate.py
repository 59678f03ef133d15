"""The calibration set: utterances that a model's weights are fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tynda import manifest
from tynda.compile.engine import Engine
from tynda.compile.trace import Value, trace_call
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.heads.base import forced_inputs
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.models.base import Family
from tynda.quantization.layerwise import LayerwiseRun, UtteranceRun
from tynda.quantization.statistics import InputStatistics
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.weights.weight import Floats

__all__ = ["Calibration"]

Weights = Mapping[str, Any]

# Seconds of each utterance that are used: more of one tells less than another utterance.
_MAX_SECONDS = 12.0
# Seconds of speech below which the user is warned.
_MIN_SECONDS = 30.0
# Tokens that a decoder may write for each second of sound, and beyond; one that repeats itself
# would write on to the end of its context.
_TOKENS_PER_SECOND = 8
_BEYOND = 8


class Calibration:
    """Utterances of a manifest, evenly taken, and the model that they calibrate.

    All runs as it does when the model is used: an encoder over whole windows where it has any, a
    decoder over what it writes itself in full precision, with its capitals, stops and time
    stamps. The texts of the manifest play no part. Raises `TyndaError` for a manifest without a
    recording that can be read.
    """

    def __init__(self, model: Checkpoint, path: Path, utterances: int = 128) -> None:
        self.model = model
        self._head = head_of(model.family)
        listed = manifest.read(path)
        step = max(1, len(listed) // utterances)
        self.inputs: list[Floats] = []
        """Features, float32 ``[frames, bins]``, of each utterance."""
        self.utterances: list[Utterance] = []
        self._seconds: list[float] = []
        for utterance in listed[::step][:utterances]:
            samples = audio.load(utterance.audio)[: int(_MAX_SECONDS * SAMPLE_RATE)]
            if len(samples):
                self.inputs.append(self._head.window_features(model, samples))
                self.utterances.append(utterance)
                self._seconds.append(len(samples) / SAMPLE_RATE)
        if not self.inputs:
            raise TyndaError(f"{path} has no sound in it to calibrate with")
        seconds = sum(self._seconds)
        if seconds < _MIN_SECONDS:
            warnings.warn(
                f"calibrating on {seconds:.0f} s of speech alone: the model may be fitted to these "
                "few sentences",
                stacklevel=2,
            )

    def outputs(self, engine: Engine, index: int) -> Floats:
        """Run the model on an utterance: log-probabilities or logits, float32 ``[n, vocab]``.

        Those of a decoder are behind what the model itself writes.
        """
        inputs, _ = forced_inputs(self.inputs[index], self.texts[index])
        scores: Floats = engine.array(engine.run(self._head.forced, self._settings, *inputs))[0]
        return scores

    @property
    def _settings(self) -> tuple[Family, Any]:
        return self.model.family, self.model.config

    @cached_property
    def texts(self) -> list[list[list[int]]]:
        """The tokens that the model itself writes of each utterance: a row, or none by CTC."""
        if not self._head.has_decoder:
            return [[] for _ in self.inputs]
        writer = Model(self.model, bits=32).head
        most = [_BEYOND + round(_TOKENS_PER_SECOND * seconds) for seconds in self._seconds]
        return [writer.generated_tokens(x, n) for x, n in zip(self.inputs, most, strict=True)]

    def layerwise(self) -> LayerwiseRun:
        """All utterances on their way through the model, before the first step."""
        shapes = {name: tuple(weight.shape) for name, weight in self.model.weights.items()}
        runs = []
        for features, texts in zip(self.inputs, self.texts, strict=True):
            inputs, _ = forced_inputs(features, texts)
            values = [Value(x.shape, is_integer=x.dtype.kind == "i") for x in inputs]
            program, _ = trace_call(self._head.forced, shapes, self._settings, *values)
            runs.append(UtteranceRun(program, dict(zip(values, inputs, strict=True))))
        return LayerwiseRun(runs, self.model.family.trainable(self.model.config))

    def statistics(
        self, weights: Weights, names: Collection[str], *, diagonal: bool = False
    ) -> dict[str, InputStatistics]:
        """Observe what the weights of these ``names`` are multiplied with.

        Names of weights that no product uses are left out.
        The groups of a convolution count as one: its statistics are over the inputs of all.
        ``diagonal``: as of `InputStatistics`.
        """
        found: dict[str, InputStatistics] = {}

        def add(name: str, start: int, rows: Floats) -> None:
            found.setdefault(name, InputStatistics(rows.shape[1], diagonal=diagonal)).add(rows)

        self.layerwise().observe(weights, names, add)
        return found
