"""The methods of ``tynda quantize``, which round weights to few bits.

Calibrated methods round the weights of a model in the order in which it uses them, so that each is
fitted to inputs that were computed with the rounded weights before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.quantization import asymmetric, fit, fold
from tynda.quantization.calibrate import Calibration
from tynda.quantization.gptq import gptq
from tynda.quantization.layerwise import LayerwiseRun, WeightSlice
from tynda.quantization.settings import CALIBRATED, Method
from tynda.quantization.statistics import InputStatistics, hessian_bytes
from tynda.store.checkpoint import Checkpoint
from tynda.weights.grid import NF4, Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.tensors import release_memory
from tynda.weights.weight import Floats, Weight, by_tap, concatenate, floats, stored_bits

__all__ = ["input_statistics", "quantize", "round_weight"]

# Maximum bytes of input statistics at a time; the model runs again for the next weights.
_MAX_STATISTICS = 256 << 20


def quantize(
    model: Checkpoint,
    plan: Mapping[str, Grid],
    method: Method,
    calibration: Calibration | None = None,
    done: Mapping[str, Any] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return the tensors of ``plan`` in few bits, and other tensors that had to change with them.

    ``done`` are the tensors that an earlier run finished. ``on_progress`` is called with all
    finished tensors whenever there are more. Raises `TyndaError` for a method without its
    calibration set, or one that does not support a grid of the plan.
    """
    if method == "nf4" and any(grid.bits != 4 for grid in plan.values()):
        raise TyndaError("nf4 is a table of 4 bits: --bits 4")
    weights = {name: floats(value) for name, value in model.weights.items()}
    finished = dict(done or {})
    if method not in CALIBRATED:
        batches: Iterator[dict[str, Any]] = (
            {name: round_weight(weights[name], grid, method)}
            for name, grid in plan.items()
            if name not in finished
        )
    elif calibration is None:
        raise TyndaError(f"{method} needs speech for calibration: --calibration MANIFEST")
    else:
        batches = _calibrated(weights, plan, method, calibration, finished)
    for tensors in batches:
        finished |= tensors
        for name in tensors:
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
    """Yield tensors when they are finished, in the order in which the model uses them.

    The caller adds them to ``done`` before it asks for more.
    """
    if method in ("awq", "smooth") and not done:
        yield fold.fold_factors(weights, plan, method, calibration)

    def unrounded() -> set[str]:
        return {name for name in plan if name not in done or stored_bits(done[name]) > 8}

    if method == "learnt":
        yield from _reconstructed(weights, plan, calibration, done)
    else:
        run = calibration.layerwise()
        yield from round_in_order(weights, plan, method, run, unrounded(), done)
    # The calibration set does not reach these weights.
    current = {**weights, **done}
    yield {name: round_weight(floats(current[name]), plan[name], "clip") for name in unrounded()}


def _reconstructed(
    weights: dict[str, Floats],
    plan: Mapping[str, Grid],
    calibration: Calibration,
    done: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    try:
        from tynda.quantization.reconstruct import reconstruct
    except ImportError:
        raise TyndaError(f"learnt needs torch: {install('train')}") from None

    def initialise(
        run: LayerwiseRun, names: set[str], known: dict[str, Any]
    ) -> Iterator[dict[str, Weight]]:
        return round_in_order(weights, plan, "gptq", run, names, known)

    model = calibration.model
    trainable = model.family.trainable(model.config)
    yield from reconstruct(weights, plan, calibration.layerwise(), trainable, done, initialise)


def round_in_order(
    weights: Mapping[str, Floats],
    plan: Mapping[str, Grid],
    method: Method,
    run: LayerwiseRun,
    names: Collection[str],
    done: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Round those of the weights ``names`` that products use, in the order of their use.

    Each is fitted to inputs that are computed with the weights in ``done``: the caller adds the
    yielded weights to it before it asks for more.
    """
    left = run.weight_slices(names)
    rounded: dict[str, list[Weight]] = {}
    while left:
        count = next((i for i in range(1, len(left)) if not _fits(left[: i + 1], weights)), None)
        batch, left = left[:count], left[count:] if count else []
        current = {**weights, **done}
        run.advance(current, {part.name for part in batch})
        statistics = input_statistics(run, current, batch)
        for part in batch:
            weight = floats(current[part.name])[part.start : part.stop]
            found = round_weight(weight, plan[part.name], method, statistics.pop(part, None))
            rounded.setdefault(part.name, []).append(found)
        complete = {part.name for part in batch} - {part.name for part in left}
        yield {name: concatenate(rounded.pop(name)) for name in complete}


def _fits(slices: Sequence[WeightSlice], weights: Mapping[str, Floats]) -> bool:
    inputs = (int(np.prod(weights[part.name].shape[1:])) for part in slices)
    return sum(map(hessian_bytes, inputs)) <= _MAX_STATISTICS


def input_statistics(
    run: LayerwiseRun, weights: Mapping[str, Any], slices: Sequence[WeightSlice]
) -> dict[WeightSlice, InputStatistics]:
    """Return the statistics of the inputs of these slices over all utterances of a run."""
    found: dict[WeightSlice, InputStatistics] = {}
    wanted = {(part.name, part.start): part for part in slices}

    def report(name: str, start: int, rows: Floats) -> None:
        if part := wanted.get((name, start)):
            found.setdefault(part, InputStatistics(rows.shape[1])).add(rows)

    run.observe(weights, {part.name for part in slices}, report)
    return found


def round_weight(
    weight: Floats, grid: Grid, method: Method, inputs: InputStatistics | None = None
) -> Weight:
    """Round ``weight [out, ...]`` to ``grid``, or to a table of as many bits."""
    rows = by_tap(weight)
    if method == "nf4":
        grid = Grid(4, table=NF4)
    elif method == "kmeans":
        grid = fit.kmeans_table(rows, grid.bits)
    if grid.relative_step:
        scales = fit.relative_scales(rows, grid)
    elif method == "rtn":
        scales = fit.max_scales(rows, grid)
    elif method == "hqq":
        scales = fit.hqq_scales(rows, grid)
    elif method == "absmean":
        scales = fit.mean_scales(rows, grid)
    else:
        importance = None if inputs is None else inputs.mean_squares
        scales = asymmetric.fit_scales(rows, grid, importance)
    if method == "gptq" and inputs is not None:
        return gptq(weight, grid, scales, inputs.hessians)
    return round_to_nearest(weight, grid, scales)
