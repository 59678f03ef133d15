"""Relative steps for entropy coding: those with which a file has a given size and loses least.

At a fine step c, the squared error of a tensor is in proportion to c ** 2, and its size falls by a
bit for each weight when c is doubled. The sum of losses is then least for a given size if the loss
of each tensor is in proportion to its number of weights (reverse water-filling: Cover and Thomas
2006, "Elements of information theory", section 10.3.3).
"""

from __future__ import annotations

import math
from pathlib import Path

from tynda.errors import TyndaError
from tynda.quantization.calibrate import Calibration
from tynda.quantization.fit import relative_scales
from tynda.quantization.plan import divergences, weight_bytes
from tynda.quantization.run import (
    Overrides,
    Progress,
    override_plan,
    rest_bytes,
    uniform_plan,
)
from tynda.store import library
from tynda.weights.coding import block_count, encode
from tynda.weights.grid import Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.weight import Floats, Weight, by_tap, floats

__all__ = ["StepPlanner"]

# The relative step with which the loss of each tensor is measured.
_MEASURED_STEP = 0.5
_MIN_STEP, _MAX_STEP = 0.02, 2.0
# Bisections of the logarithm of the common factor of all steps.
_SEARCH_STEPS = 9
# Share of a file's codes that GPTQ may need in addition: the errors that it moves to other inputs
# make weights slightly larger.
_MARGIN = 0.01


class StepPlanner:
    """Plans with relative steps for a model; arguments as of `tynda.quantize`.

    With a ``calibration``, the loss of each tensor is measured once; without, all tensors have the
    same relative step.
    """

    def __init__(
        self,
        name: str | Path,
        calibration: Path | None = None,
        *,
        utterances: int = 128,
        overrides: Overrides = (),
        on_progress: Progress | None = None,
    ) -> None:
        self._model = library.load(name)
        self._fixed = override_plan(self._model, 32, overrides)
        names = [name for name in uniform_plan(self._model, 8) if name not in self._fixed]
        weights = {name: floats(weight) for name, weight in self._model.weights.items()}
        self._weights = {name: weights[name] for name in names}
        self.calibration: Calibration | None = None
        """The calibration set, which callers pass to `quantize` so that it is not read again."""
        self._losses = {name: float(weights[name].size) for name in names}
        """The loss of each tensor at a relative step of 1."""
        if calibration is None:
            return
        self.calibration = Calibration(self._model, calibration, utterances)
        measured = divergences(weights, names, self.calibration, self._measured)
        for done, (tensor, divergence) in enumerate(measured, 1):
            self._losses[tensor] = max(divergence / _MEASURED_STEP**2, 1e-12)
            if on_progress:
                on_progress(done, len(names))

    def _measured(self, name: str) -> Floats:
        return _rounded(self._weights[name], _grid(_MEASURED_STEP)).dequantize()

    def for_size(self, size: int) -> dict[str, Grid]:
        """Return the plan with the minimum loss whose file has at most ``size`` bytes.

        Raises `TyndaError` if there is none.
        """
        plan = self._fixed | dict.fromkeys(self._weights, _grid(_MAX_STEP))
        shapes = {name: tuple(self._model.weights[name].shape) for name in self._fixed}
        used = rest_bytes(self._model, plan)
        used += sum(weight_bytes(shapes[name], grid) for name, grid in self._fixed.items())
        left = (size - used) / (1 + _MARGIN)
        if (excess := self._bytes(plan) - left) > 0:
            raise TyndaError(
                f"with the largest steps the file is still {excess / 1e6:.2f} MB too large: ask "
                "for a larger one"
            )
        low, high = math.log2(_MIN_STEP), math.log2(_MAX_STEP)
        for _ in range(_SEARCH_STEPS):
            middle = (low + high) / 2
            tried = self._plan(2**middle)
            if self._bytes(tried) <= left:
                plan, high = self._fixed | tried, middle
            else:
                low = middle
        return plan

    def _plan(self, step: float) -> dict[str, Grid]:
        """Return the plan in which the tensors have about this relative step on average."""
        shares = {n: math.sqrt(w.size / self._losses[n]) for n, w in self._weights.items()}
        count = sum(w.size for w in self._weights.values())
        mean = sum(math.log(shares[n]) * w.size for n, w in self._weights.items()) / count
        return {name: _grid(step * share / math.exp(mean)) for name, share in shares.items()}

    def _bytes(self, plan: dict[str, Grid]) -> int:
        """Return the bytes of the tensors that are not fixed."""
        return sum(_coded_bytes(_rounded(self._weights[n], plan[n])) for n in self._weights)


def _grid(step: float) -> Grid:
    """Return the grid of a relative step, with four digits and within the limits."""
    return Grid(8, relative_step=float(f"{min(max(step, _MIN_STEP), _MAX_STEP):.4g}"))


def _rounded(weight: Floats, grid: Grid) -> Weight:
    return round_to_nearest(weight, grid, relative_scales(by_tap(weight), grid))


def _coded_bytes(weight: Weight) -> int:
    """Return the bytes of a weight's streams, their ends and its scales."""
    rows = weight.shape[0]
    return len(encode(weight.codes).data) + 8 * block_count(rows) + 2 * rows
