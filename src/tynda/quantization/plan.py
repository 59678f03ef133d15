"""Mixed precision: how many bits each tensor gets, by how much the model loses by fewer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.heads.seq2seq.rules import log_softmax
from tynda.quantization.calibrate import Calibration
from tynda.quantization.zeros import fitted
from tynda.store.checkpoint import Checkpoint
from tynda.weights.grid import BITS, Grid
from tynda.weights.pack import row_bytes
from tynda.weights.rounding import to_grid
from tynda.weights.weight import Floats, by_tap, floats

__all__ = ["Sensitivity", "allocate", "measure", "read_plan", "save_plan", "weight_bytes"]

Plan = Mapping[str, Grid]

# The width at which a tensor's harm is measured; for other widths it is computed from this.
_MEASURED = 3
# Utterances that the model runs on for each tensor.
_UTTERANCES = 6


@dataclass(frozen=True)
class Sensitivity:
    """How much a model loses by storing a tensor in fewer bits."""

    shape: tuple[int, ...]
    harm: Mapping[float, float]
    """Bits -> what the model's outputs lose, in nats for each of them."""


def measure(
    model: Checkpoint,
    names: list[str],
    group: int,
    calibration: Calibration,
    trainable: Mapping[str, bool],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """How much a model loses by each of its tensors in fewer bits.

    One tensor at a time is rounded to 3 bits, and the outputs held against those of the model as
    it is (Kullback-Leibler divergence). For other widths this is scaled by the error of the
    tensor's products, inputs weighted by their mean squares on the calibration data.
    """
    weights = {name: floats(value) for name, value in model.weights.items()}
    seen = calibration.statistics(weights, names, diagonal=True)
    indices = range(len(calibration.inputs))[:_UTTERANCES]

    def outputs(other: Mapping[str, Floats]) -> list[Floats]:
        engine = open_engine(weights | dict(other), trainable, bits=32)
        return [log_softmax(calibration.outputs(engine, i)) for i in indices]

    expected = outputs({})
    found = {}
    for done, name in enumerate(names):
        rows = by_tap(weights[name])
        counts = np.ones(rows.shape[1], np.float32)
        if name in seen:
            counts = seen[name].mean_squares
        errors = {}
        for bits in BITS:
            grid = Grid(bits, group if bits < 8 else 0)
            rounded = to_grid(weights[name], grid, fitted(rows, grid, counts)).dequantize()
            errors[bits] = float(np.sum(np.square(by_tap(rounded) - rows) * counts))
            if bits == _MEASURED:
                changed = outputs({name: rounded})
        lost = float(np.mean([_divergence(a, b) for a, b in zip(expected, changed, strict=True)]))
        share = lost / max(errors[_MEASURED], 1e-30)
        harm = {bits: error * share for bits, error in errors.items()}
        found[name] = Sensitivity(weights[name].shape, harm)
        if on_progress:
            on_progress(done + 1, len(names))
    return found


def allocate(
    sensitivities: Mapping[str, Sensitivity], group: int, max_bytes: int, *, min_bits: float = 2
) -> dict[str, Grid]:
    """The grids that do least harm in at most ``max_bytes``, none below ``min_bits``.

    An integer programme, by ``scipy.optimize.milp``. Raises `TyndaError` where they do not fit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    widths = [bits for bits in BITS if bits >= min_bits]
    grids = [Grid(bits, group if bits < 8 else 0) for bits in widths]
    names = list(sensitivities)
    harm = np.array([[sensitivities[name].harm[b] for b in widths] for name in names])
    size = np.array([[weight_bytes(sensitivities[n].shape, g) for g in grids] for n in names])
    smallest = int(size.min(1).sum())
    if smallest > max_bytes:
        raise TyndaError(
            f"with the fewest bits the file is still {(smallest - max_bytes) / 1e6:.2f} MB too "
            "large: ask for a larger one"
        )
    count, choices = harm.shape
    once = np.kron(np.eye(count), np.ones(choices))
    solved = milp(
        harm.ravel() / max(harm.max(), 1e-30),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(size.reshape(1, -1) / size.sum(), -np.inf, max_bytes / size.sum()),
        ],
        bounds=Bounds(0, 1),
        integrality=np.ones(harm.size),
        options={"mip_rel_gap": 1e-4, "time_limit": 60},
    )
    chosen = solved.x.reshape(count, choices).argmax(1)
    return {name: grids[i] for name, i in zip(names, chosen, strict=True)}


def weight_bytes(shape: tuple[int, ...], grid: Grid) -> int:
    """The most bytes that a tensor takes in a file: with an offset for each group."""
    inputs = int(np.prod(shape[1:]))
    if grid.bits == 8:
        return shape[0] * (inputs + 4)
    return shape[0] * (row_bytes(grid.bits, inputs) + 2 + 2 * grid.groups(inputs))


def read_plan(path: Path, names: list[str]) -> dict[str, Grid]:
    """The plan in a JSON file, as `save_plan` writes it.

    Raises `TyndaError` for any other, or one with tensors that are not among ``names``.
    """
    try:
        lines = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TyndaError(f"{path}: cannot read the plan ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TyndaError(f"{path} is no JSON: {error}") from None
    if not isinstance(lines, dict) or not lines:
        raise TyndaError(f"{path} should be a JSON object with a line for each tensor")
    plan = {}
    for name, about in lines.items():
        if name not in names:
            raise TyndaError(f"{path}: the model has no weight {name} that can be in few bits")
        try:
            plan[name] = Grid(**about)
        except TyndaError as error:
            raise TyndaError(f"{path}: {name}: {error}") from None
        except TypeError:
            form = json.dumps({"bits": 4, "group": 32})
            raise TyndaError(f"{path}: {name} should be like {form}") from None
    return plan


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON, a line for each tensor, to be read and edited."""
    lines = [
        f" {json.dumps(name)}: {json.dumps({'bits': grid.bits, 'group': grid.group})}"
        for name, grid in plan.items()
    ]
    write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _divergence(expected: Floats, found: Any) -> float:
    return float((np.exp(expected) * (expected - found)).sum(-1).mean())
