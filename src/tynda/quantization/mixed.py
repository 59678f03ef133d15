"""Bits for each tensor of a model, by a size or by a loss of words that is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.model import load
from tynda.quantization.calibrate import Calibration
from tynda.quantization.plan import allocate, measure, weight_bytes
from tynda.quantization.run import (
    Overrides,
    Progress,
    choose,
    new_header,
    overridden,
    products,
    quantize,
    trainable,
)
from tynda.quantization.settings import Settings
from tynda.score import change
from tynda.sound import audio
from tynda.store import library
from tynda.store.checkpoint import Checkpoint
from tynda.weights.grid import Grid

__all__ = ["Mixer"]

# Halvings of the way from 2 to 8 bits in the search for a loss.
_TRIES = 6


class Mixer:
    """How much a model loses by fewer bits, measured once; arguments as of `tynda.quantize`."""

    def __init__(
        self,
        name: str | Path,
        calibration: Path,
        *,
        group: int = 32,
        utterances: int = 128,
        overrides: Overrides = (),
        on_progress: Progress | None = None,
    ) -> None:
        if find_spec("scipy") is None:
            raise TyndaError("mixed bits need scipy: pip install scipy")
        Settings(group=group, utterances=utterances)
        self._name, self._manifest, self._group = name, calibration, group
        self._model = library.load(name)
        self._fixed = overridden(self._model, group, overrides)
        self.calibration = Calibration(self._model, calibration, utterances)
        """To be given to `quantize`, so that nothing is read twice."""
        names = [name for name in choose(self._model, 8) if name not in self._fixed]
        learnt = trainable(self._model)
        self._found = measure(self._model, names, group, self.calibration, learnt, on_progress)

    def for_size(self, size: int) -> dict[str, Grid]:
        """The plan with which the file has at most ``size`` bytes and loses least.

        Raises `TyndaError` where there is none.
        """
        shapes = {name: tuple(weight.shape) for name, weight in self._model.weights.items()}
        taken = sum(weight_bytes(shapes[name], grid) for name, grid in self._fixed.items())
        others = shapes.keys() - self._fixed.keys() - self._found.keys()
        taken += sum(2 * math.prod(shapes[name]) for name in others)
        left = size - taken - _overhead(self._model)
        return allocate(self._found, self._group, left) | self._fixed

    def for_loss(self, points: float) -> dict[str, Grid]:
        """The smallest plan that loses at most so many points of WER.

        What counts is the rise of the word error rate, in hundredths, on the utterances of the
        calibration, by the model's default decoding and after GPTQ. Raises `TyndaError` where
        8 bits lose more.
        """
        whole = sum(math.prod(s.shape) for s in self._found.values())
        base = self._pairs(self._name, 32)
        best: dict[str, Grid] | None = None
        low, high = 2.0, 8.5  # bits on average; scales and steps are counted
        for _ in range(_TRIES):
            bits = (low + high) / 2
            try:
                plan = allocate(self._found, self._group, round(bits * whole / 8)) | self._fixed
            except TyndaError:  # too few to be had
                low = bits
                continue
            with TemporaryDirectory() as folder:
                path = Path(folder) / "tried.safetensors"
                quantize(self._name, path, plan, calibration=self.calibration, group=self._group)
                rise = change(base, self._pairs(path, None), draws=1).wer
            if 100 * rise <= points:
                best, high = plan, bits
            else:
                low = bits
        if best is None:
            raise TyndaError(
                f"no bits lose as little as {points:g} points of WER on {self._manifest}"
            )
        return best

    def _pairs(self, name: str | Path, bits: int | None) -> list[tuple[str, str]]:
        model = load(name, bits=bits)
        return [
            (
                model.normalize(utterance.text),
                model.normalize(model.transcribe(audio.load(utterance.audio)).text),
            )
            for utterance in self.calibration.utterances
        ]


def _overhead(model: Checkpoint) -> int:
    """Bytes of a file that are no weights: language model, tokenizer, header."""
    header = new_header(model)
    arrays = [v for v in header.tokenizer.values() if isinstance(v, np.ndarray)]
    plain: Mapping[str, Any] = {
        k: v for k, v in header.tokenizer.items() if not isinstance(v, np.ndarray)
    }
    told = json.dumps(asdict(replace(header, tokenizer=dict(plain))))
    # Names, places and grids of the tensors and of their steps.
    names = sum(2 * len(name) + 100 for name in model.weights)
    names += sum(4 * len(name) + 350 for name in products(model))
    return len(told) + names + sum(a.nbytes for a in arrays) + len(model.lm or b"")
