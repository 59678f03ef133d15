"""Mixed precision: the bits of each tensor are chosen by its sensitivity to rounding."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    "Sensitivity",
    "allocate",
    "divergences",
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


def divergences(
    weights: Mapping[str, Floats],
    names: Collection[str],
    calibration: Calibration,
    changed: Callable[[str], Floats],
) -> Iterator[tuple[str, float]]:
    """Yield the mean Kullback-Leibler divergence of a model's outputs, in nats, for each tensor.

    One tensor at a time is replaced by ``changed(name)``. Tensors come in the order in which the
    model first uses them, since nothing before that is computed again.
    """
    run = calibration.layerwise().subset(_UTTERANCES)
    expected = [log_softmax(x) for x in run.outputs(weights)]
    for name in sorted(names, key=run.first_use):
        run.advance_to(weights, run.first_use(name))
        found = [log_softmax(x) for x in run.outputs({**weights, name: changed(name)})]
        pairs = zip(expected, found, strict=True)
        yield name, float(np.mean([(np.exp(a) * (a - b)).sum(-1).mean() for a, b in pairs]))


def measure(
    model: Checkpoint,
    names: Collection[str],
    group: int,
    calibration: Calibration,
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
    importance = {
        name: statistics[name].mean_squares
        if name in statistics
        else np.ones(by_tap(weights[name]).shape[1], np.float32)
        for name in names
    }

    def rounded(name: str, bits: float) -> Floats:
        grid = Grid(bits, group if bits < 8 else 0)
        scales = fit_scales(by_tap(weights[name]), grid, importance[name])
        return round_to_nearest(weights[name], grid, scales).dequantize()

    def error(name: str, bits: float) -> float:
        difference = by_tap(rounded(name, bits)) - by_tap(weights[name])
        return float(np.sum(np.square(difference) * importance[name]))

    measured = divergences(weights, names, calibration, lambda name: rounded(name, _MEASURED_BITS))
    found = {}
    for done, (name, divergence) in enumerate(measured, 1):
        errors = {bits: error(name, bits) for bits in BITS}
        ratio = divergence / max(errors[_MEASURED_BITS], 1e-30)
        loss = {bits: error * ratio for bits, error in errors.items()}
        found[name] = Sensitivity(weights[name].shape, loss)
        if on_progress:
            on_progress(done, len(names))
    return {name: found[name] for name in names}


def allocate(
    sensitivities: Mapping[str, Sensitivity], group: int, max_bytes: int, *, min_bits: float = 2
) -> dict[str, Grid]:
    """Return the grids with the minimum sum of losses in at most ``max_bytes``.

    No grid has fewer than ``min_bits``. The integer program is solved by ``scipy.optimize.milp``.
    Raises `TyndaError` if ``max_bytes`` are too few.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    grids, names = _grids(group, min_bits), list(sensitivities)
    check_fits([sensitivities[name].shape for name in names], group, max_bytes, min_bits=min_bits)
    loss = np.array([[sensitivities[name].loss[g.bits] for g in grids] for name in names])
    size = np.array([[weight_bytes(sensitivities[n].shape, g) for g in grids] for n in names])
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


def check_fits(
    shapes: Iterable[tuple[int, ...]], group: int, max_bytes: int, *, min_bits: float = 2
) -> None:
    """Raise `TyndaError` if tensors of these shapes do not fit into ``max_bytes``."""
    grids = _grids(group, min_bits)
    smallest = sum(min(weight_bytes(shape, grid) for grid in grids) for shape in shapes)
    if smallest > max_bytes:
        raise TyndaError(
            f"with the fewest bits the file is still {(smallest - max_bytes) / 1e6:.2f} MB too "
            "large: ask for a larger one"
        )


def _grids(group: int, min_bits: float) -> list[Grid]:
    """Return the grids of at least ``min_bits`` to choose from."""
    return [Grid(bits, group if bits < 8 else 0) for bits in BITS if bits >= min_bits]


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
