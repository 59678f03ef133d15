"""From weights to few bits: the ways of ``tynda quantize``.

Those that need calibration go through a model in the order in which it runs, so that each weight
is fitted to what the rounded ones before it give.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.quantization import fit, fold, zeros
from tynda.quantization.calibrate import Calibration
from tynda.quantization.gptq import gptq
from tynda.quantization.layerwise import LayerwiseRun, Part
from tynda.quantization.settings import CALIBRATED, Method
from tynda.quantization.statistics import InputStatistics, inputs_bytes
from tynda.store.checkpoint import Checkpoint
from tynda.weights.grid import NF4, Grid
from tynda.weights.rounding import to_grid
from tynda.weights.tensors import release_memory
from tynda.weights.weight import Floats, Weight, by_tap, concatenate, floats, stored_bits

__all__ = ["quantize"]

# Bytes of input statistics at a time; the model runs again for the next weights.
_MAX_STATISTICS = 256 << 20


def quantize(
    model: Checkpoint,
    plan: Mapping[str, Grid],
    method: Method,
    calibration: Calibration | None = None,
    done: Mapping[str, Any] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The tensors of ``plan`` in few bits, and those that had to change with them.

    ``done``: tensors that an earlier run has finished. ``on_progress`` is given all that are
    finished, whenever there are more. Raises `TyndaError` for a method that lacks its
    calibration or has no such grid.
    """
    if method == "nf4" and any(grid.bits != 4 for grid in plan.values()):
        raise TyndaError("nf4 is a table of 4 bits: --bits 4")
    weights = {name: floats(value) for name, value in model.weights.items()}
    finished = dict(done or {})
    if method not in CALIBRATED:
        rounds: Iterator[dict[str, Any]] = (
            {name: _round(weights[name], grid, method)}
            for name, grid in plan.items()
            if name not in finished
        )
    elif calibration is None:
        raise TyndaError(f"{method} needs speech for calibration: --calibration MANIFEST")
    else:
        rounds = _calibrated(weights, plan, method, calibration, finished)
    for some in rounds:
        finished |= some
        for name in some:
            release_memory(weights[name])
        if on_progress:
            on_progress(finished)
    return finished


def _calibrated(
    weights: dict[str, Floats],
    plan: Mapping[str, Grid],
    method: Method,
    calibration: Calibration,
    done: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Tensors as they are finished, in the order in which the model uses them."""
    if method in ("awq", "smooth") and not done:
        yield fold.moved(weights, plan, method, calibration)

    def unrounded() -> set[str]:
        return {name for name in plan if name not in done or stored_bits(done[name]) > 8}

    if method == "learnt":
        yield from _learnt(weights, plan, calibration, done)
    else:
        run = calibration.layerwise()
        yield from in_order(weights, plan, method, run, unrounded(), done)
    # No utterance comes to these.
    yield {name: _round(floats((weights | done)[name]), plan[name], "clip") for name in unrounded()}


def _learnt(
    weights: dict[str, Floats],
    plan: Mapping[str, Grid],
    calibration: Calibration,
    done: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    try:
        from tynda.quantization.rebuild import rebuild
    except ImportError:
        raise TyndaError("learnt needs torch: pip install 'tynda[train]'") from None

    def begin(
        run: LayerwiseRun, names: set[str], known: dict[str, Any]
    ) -> Iterator[dict[str, Weight]]:
        return in_order(weights, plan, "gptq", run, names, known)

    model = calibration.model
    learns = model.family.trainable(model.config)
    yield from rebuild(weights, plan, calibration.layerwise(), learns, done, begin)


def in_order(
    weights: Mapping[str, Floats],
    plan: Mapping[str, Grid],
    method: Method,
    run: LayerwiseRun,
    names: Collection[str],
    done: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """The weights of these ``names`` that are multiplied with anything, in the order of that.

    Each is fitted to what those before it give once they are ``done``: the caller adds to these
    what it is given, before it asks for more.
    """
    parts = run.parts(names)
    pieces: dict[str, list[Weight]] = {}
    while parts:
        count = next((i for i in range(1, len(parts)) if not _fits(parts[: i + 1], weights)), None)
        now, parts = parts[:count], parts[count:] if count else []
        run.advance({**weights, **done}, {part.name for part in now})
        seen = _observed(run, {**weights, **done}, now)
        for part in now:
            weight = floats({**weights, **done}[part.name])[part.start : part.stop]
            found = _round(weight, plan[part.name], method, seen.pop(part, None))
            pieces.setdefault(part.name, []).append(found)
        whole = {part.name for part in now} - {part.name for part in parts}
        yield {name: concatenate(pieces.pop(name)) for name in whole}


def _fits(parts: Sequence[Part], weights: Mapping[str, Floats]) -> bool:
    inputs = (int(np.prod(weights[part.name].shape[1:])) for part in parts)
    return sum(map(inputs_bytes, inputs)) <= _MAX_STATISTICS


def _observed(
    run: LayerwiseRun, weights: Mapping[str, Any], parts: Sequence[Part]
) -> dict[Part, InputStatistics]:
    """Collect what these parts are multiplied with."""
    seen: dict[Part, InputStatistics] = {}
    wanted = {(part.name, part.start): part for part in parts}

    def tell(name: str, start: int, rows: Floats) -> None:
        if part := wanted.get((name, start)):
            seen.setdefault(part, InputStatistics(rows.shape[1])).add(rows)

    run.observe(weights, {part.name for part in parts}, tell)
    return seen


def _round(
    weight: Floats, grid: Grid, method: Method, inputs: InputStatistics | None = None
) -> Weight:
    rows = by_tap(weight)
    counts = None if inputs is None else inputs.mean_squares
    if method == "nf4":
        grid = Grid(4, table=NF4)
    elif method == "kmeans":
        grid = fit.kmeans(rows, grid.bits)
    if method == "rtn":
        steps = fit.absmax(rows, grid)
    elif method == "hqq":
        steps = fit.half_quadratic(rows, grid)
    elif method == "absmean":
        steps = fit.absmean(rows, grid)
    else:
        steps = zeros.fitted(rows, grid, counts)
    if method == "gptq" and inputs is not None:
        return gptq(weight, grid, steps, inputs.hessians)
    return to_grid(weight, grid, steps)
