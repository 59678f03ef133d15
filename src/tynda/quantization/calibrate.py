"""The calibration set: utterances on which a model's weights are fitted."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

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

# Maximum seconds of each utterance: another utterance has more information than a longer one.
_MAX_SECONDS = 12.0
# Minimum seconds of the whole set; with less, the user is warned.
_MIN_SECONDS = 30.0
# Maximum tokens that a decoder generates for each second of audio, and in addition. One that
# repeats itself would otherwise continue to the end of its context.
_TOKENS_PER_SECOND = 8
_EXTRA_TOKENS = 8


class Calibration:
    """Utterances of a manifest, at regular intervals, and the model that they calibrate.

    The model runs as in use: its encoder on whole windows if it has windows, its decoder on the
    tokens that it generates itself in full precision, with capitals, punctuation and timestamps, in
    the language that the manifest states or, without one, that it detects. The texts of the
    manifest are not used. Raises `TyndaError` for a manifest without audio.
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
            raise TyndaError(f"{path} has no audio for calibration")
        if streaming := model.family.streaming:
            # Such a model has steps for each chunk, and all utterances need the same steps.
            size = streaming.frames(model.config)
            frames = size * max(1, round(np.mean([len(x) for x in self.inputs]) / size))
            self.inputs = [np.resize(x, (frames, x.shape[1])) for x in self.inputs]
        seconds = sum(self._seconds)
        if seconds < _MIN_SECONDS:
            warnings.warn(
                f"calibrating on {seconds:.0f} s of speech alone: the model may be fitted to these "
                "few sentences",
                stacklevel=2,
            )

    def outputs(self, engine: Engine, index: int) -> Floats:
        """Return the model's outputs for an utterance, float32 ``[n, vocab]``.

        They are log-probabilities of frames, or logits of a decoder that is forced to generate
        `generated`.
        """
        inputs, _ = forced_inputs(self.inputs[index], self.generated[index])
        scores: Floats = engine.array(engine.run(self._head.forced, self._settings, *inputs))[0]
        return scores

    @property
    def _settings(self) -> tuple[Family, Any]:
        return self.model.family, self.model.config

    @cached_property
    def generated(self) -> list[list[list[int]]]:
        """The tokens that the model generates for each utterance: one row; none for CTC."""
        if not self._head.has_decoder:
            return [[] for _ in self.inputs]
        head = Model(self.model, bits=32).head
        return [
            head.generated_tokens(
                features, _EXTRA_TOKENS + round(_TOKENS_PER_SECOND * seconds), utterance.language
            )
            for features, seconds, utterance in zip(
                self.inputs, self._seconds, self.utterances, strict=True
            )
        ]

    def layerwise(self) -> LayerwiseRun:
        """Return all utterances before the first step of the model."""
        shapes = {name: tuple(weight.shape) for name, weight in self.model.weights.items()}
        runs = []
        for features, tokens in zip(self.inputs, self.generated, strict=True):
            inputs, _ = forced_inputs(features, tokens)
            values = [Value(x.shape, is_integer=x.dtype.kind == "i") for x in inputs]
            program, _ = trace_call(self._head.forced, shapes, self._settings, *values)
            runs.append(UtteranceRun(program, dict(zip(values, inputs, strict=True))))
        return LayerwiseRun(runs, self.model.family.trainable(self.model.config))

    def statistics(
        self, weights: Weights, names: Collection[str], *, diagonal: bool = False
    ) -> dict[str, InputStatistics]:
        """Return the statistics of the inputs of the weights ``names``.

        Weights that no product uses are omitted. The groups of a convolution have common
        statistics, over the inputs of all. ``diagonal`` as in `InputStatistics`.
        """
        found: dict[str, InputStatistics] = {}

        def add(name: str, start: int, rows: Floats) -> None:
            found.setdefault(name, InputStatistics(rows.shape[1], diagonal=diagonal)).add(rows)

        self.layerwise().observe(weights, names, add)
        return found
