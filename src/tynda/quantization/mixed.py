"""Bits for each tensor of a model, for a given file size or a given rise of the word error rate."""

from __future__ import annotations

import math
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.files import temporary_folder
from tynda.model import load
from tynda.quantization.calibrate import Calibration
from tynda.quantization.plan import (
    Sensitivity,
    allocate,
    check_fits,
    measure,
    weight_bytes,
)
from tynda.quantization.run import (
    Overrides,
    Progress,
    override_plan,
    quantize,
    rest_bytes,
    uniform_plan,
)
from tynda.quantization.settings import Settings
from tynda.score import change
from tynda.sound import audio
from tynda.store import library
from tynda.weights.grid import Grid

__all__ = ["Mixer"]

# Number of bisection steps between 2 and 8 bits in the search for a loss.
_SEARCH_STEPS = 6


class Mixer:
    """Plans for a model, whose sensitivity is measured when it is first needed, and once; arguments
    as of `tynda.quantize`."""

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
            raise TyndaError(f"mixed bits need scipy: {install('quantize')}")
        Settings(group=group, utterances=utterances)
        self._name, self._manifest, self._group = name, calibration, group
        self._model = library.load(name)
        self._fixed = override_plan(self._model, group, overrides)
        self.calibration = Calibration(self._model, calibration, utterances)
        """The calibration set, which callers pass to `quantize` so that it is not read again."""
        self._names = [name for name in uniform_plan(self._model, 8) if name not in self._fixed]
        self._on_progress = on_progress

    @cached_property
    def _sensitivities(self) -> dict[str, Sensitivity]:
        return measure(self._model, self._names, self._group, self.calibration, self._on_progress)

    def for_size(self, size: int) -> dict[str, Grid]:
        """Return the plan with the minimum loss whose file has at most ``size`` bytes.

        Raises `TyndaError` if there is none.
        """
        plan = self._fixed | {name: Grid(2) for name in self._names}
        shapes = {name: tuple(weight.shape) for name, weight in self._model.weights.items()}
        used = sum(weight_bytes(shapes[name], grid) for name, grid in self._fixed.items())
        left = size - used - rest_bytes(self._model, plan)
        check_fits([shapes[name] for name in self._names], self._group, left)
        return allocate(self._sensitivities, self._group, left) | self._fixed

    def for_loss(self, points: float) -> dict[str, Grid]:
        """Return the smallest plan that raises the word error rate by at most ``points``.

        Points are hundredths of the word error rate on the utterances of the calibration set, with
        the model's default decoding and rounding by GPTQ. Raises `TyndaError` if 8 bits lose more.
        """
        count = sum(math.prod(s.shape) for s in self._sensitivities.values())
        base = self._pairs(self._name, 32)
        best: dict[str, Grid] | None = None
        low, high = 2.0, 8.5  # Average bits, including those of scales.
        for _ in range(_SEARCH_STEPS):
            bits = (low + high) / 2
            try:
                plan = allocate(self._sensitivities, self._group, round(bits * count / 8))
                plan |= self._fixed
            except TyndaError:  # These bytes are too few for any plan.
                low = bits
                continue
            with temporary_folder() as folder:
                path = folder / "model.safetensors"
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
