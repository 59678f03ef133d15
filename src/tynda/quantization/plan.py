"""Mixed precision: the bits of each tensor are chosen by its sensitivity to rounding."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.heads.seq2seq.rules import log_softmax
from tynda.quantization.asymmetric import fit_scales
from tynda.quantization.calibrate import Calibration
from tynda.store.checkpoint import Checkpoint
from tynda.weights.grid import BITS, Grid
from tynda.weights.pack import row_bytes
from tynda.weights.rounding import round_to_nearest
from tynda.weights.weight import Floats, by_tap, floats

__all__ = [
    "Divergence",
    "Sensitivity",
    "allocate",
    "measure",
    "read_plan",
    "save_plan",
    "weight_bytes",
]

Plan = Mapping[str, Grid]

# The width at which the loss of a tensor is measured; those of other widths are estimated.
_MEASURED_BITS = 3
# Number of utterances on which the model runs for each tensor.
_UTTERANCES = 6


@dataclass(frozen=True)
class Sensitivity:
    """The loss of a model when one of its tensors is stored in few bits."""

    shape: tuple[int, ...]
    loss: Mapping[float, float]
    """The mean Kullback-Leibler divergence of an output, in nats, by bits."""


class Divergence:
    """How far a model's outputs move when one of its tensors is replaced."""

    def __init__(
        self, weights: Mapping[str, Floats], trainable: Mapping[str, bool], calibration: Calibration
    ) -> None:
        self._weights, self._trainable, self._calibration = weights, trainable, calibration
        self._expected = self._outputs({})

    def of(self, name: str, changed: Floats) -> float:
        """Return the mean Kullback-Leibler divergence of an output, in nats."""
        pairs = zip(self._expected, self._outputs({name: changed}), strict=True)
        return float(np.mean([(np.exp(a) * (a - b)).sum(-1).mean() for a, b in pairs]))

    def _outputs(self, other: Mapping[str, Floats]) -> list[Floats]:
        engine = open_engine({**self._weights, **other}, self._trainable, bits=32)
        indices = range(len(self._calibration.inputs))[:_UTTERANCES]
        return [log_softmax(self._calibration.outputs(engine, i)) for i in indices]


def measure(
    model: Checkpoint,
    names: list[str],
    group: int,
    calibration: Calibration,
    trainable: Mapping[str, bool],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """Return the sensitivity of a model to the rounding of each of its tensors ``names``.

    One tensor at a time is rounded to 3 bits, and the outputs are compared with those of the
    original model (Kullback-Leibler divergence). For other widths, the loss is assumed to be in
    proportion to the tensor's squared error, inputs weighted by their mean squares over the
    calibration set.
    """
    weights = {name: floats(value) for name, value in model.weights.items()}
    statistics = calibration.statistics(weights, names, diagonal=True)
    divergence = Divergence(weights, trainable, calibration)
    found = {}
    for done, name in enumerate(names):
        rows = by_tap(weights[name])
        ones = np.ones(rows.shape[1], np.float32)
        importance = statistics[name].mean_squares if name in statistics else ones
        errors = {}
        for bits in BITS:
            grid = Grid(bits, group if bits < 8 else 0)
            scales = fit_scales(rows, grid, importance)
            rounded = round_to_nearest(weights[name], grid, scales).dequantize()
            errors[bits] = float(np.sum(np.square(by_tap(rounded) - rows) * importance))
            if bits == _MEASURED_BITS:
                measured = divergence.of(name, rounded)
        ratio = measured / max(errors[_MEASURED_BITS], 1e-30)
        loss = {bits: error * ratio for bits, error in errors.items()}
        found[name] = Sensitivity(weights[name].shape, loss)
        if on_progress:
            on_progress(done + 1, len(names))
    return found


def allocate(
    sensitivities: Mapping[str, Sensitivity], group: int, max_bytes: int, *, min_bits: float = 2
) -> dict[str, Grid]:
    """Return the grids with the minimum sum of losses in at most ``max_bytes``.

    No grid has fewer than ``min_bits``. The integer program is solved by ``scipy.optimize.milp``.
    Raises `TyndaError` if ``max_bytes`` are too few.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    widths = [bits for bits in BITS if bits >= min_bits]
    grids = [Grid(bits, group if bits < 8 else 0) for bits in widths]
    names = list(sensitivities)
    loss = np.array([[sensitivities[name].loss[b] for b in widths] for name in names])
    size = np.array([[weight_bytes(sensitivities[n].shape, g) for g in grids] for n in names])
    smallest = int(size.min(1).sum())
    if smallest > max_bytes:
        raise TyndaError(
            f"with the fewest bits the file is still {(smallest - max_bytes) / 1e6:.2f} MB too "
            "large: ask for a larger one"
        )
    count, choices = loss.shape
    once = np.kron(np.eye(count), np.ones(choices))
    solved = milp(
        loss.ravel() / max(loss.max(), 1e-30),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(size.reshape(1, -1) / size.sum(), -np.inf, max_bytes / size.sum()),
        ],
        bounds=Bounds(0, 1),
        integrality=np.ones(loss.size),
        options={"mip_rel_gap": 1e-4, "time_limit": 60},
    )
    chosen = solved.x.reshape(count, choices).argmax(1)
    return {name: grids[i] for name, i in zip(names, chosen, strict=True)}


def weight_bytes(shape: tuple[int, ...], grid: Grid) -> int:
    """Return the maximum bytes of a tensor in a file: those with an offset for each group."""
    inputs = int(np.prod(shape[1:]))
    if grid.bits == 8:
        return shape[0] * (inputs + 4)
    return shape[0] * (row_bytes(grid.bits, inputs) + 2 + 2 * grid.groups(inputs))


def read_plan(path: Path, names: list[str]) -> dict[str, Grid]:
    """Read a plan from a JSON file, as `save_plan` writes it.

    Raises `TyndaError` for any other content, and for tensors that are not among ``names``.
    """
    try:
        lines = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TyndaError(f"{path}: cannot read the plan ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TyndaError(f"{path} is not JSON: {error}") from None
    if not isinstance(lines, dict) or not lines:
        raise TyndaError(f"{path} should be a JSON object with a line for each tensor")
    plan = {}
    for name, description in lines.items():
        if name not in names:
            raise TyndaError(f"{path}: the model has no weight {name} that can be in few bits")
        try:
            plan[name] = Grid(**description)
        except TyndaError as error:
            raise TyndaError(f"{path}: {name}: {error}") from None
        except TypeError:
            form = json.dumps({"bits": 4, "group": 32})
            raise TyndaError(f"{path}: {name} should be like {form}") from None
    return plan


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON, with a line for each tensor, so that users can edit it."""
    lines = [f" {json.dumps(name)}: {json.dumps(_line(grid))}" for name, grid in plan.items()]
    write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _line(grid: Grid) -> dict[str, float]:
    if grid.relative_step:
        return {"bits": grid.bits, "relative_step": grid.relative_step}
    return {"bits": grid.bits, "group": grid.group}
