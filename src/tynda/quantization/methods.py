"""From weights to few bits: the ways of ``tynda quantize``.

Those that need calibration go through a model in the order in which it runs, so that each weight
is fitted to what the rounded ones before it give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tynda.checkpoint import Checkpoint
from tynda.errors import TyndaError
from tynda.quant.coded import to_grid
from tynda.quant.grid import NF4, Grid
from tynda.quant.weight import Floats, Quantized, by_tap, floats
from tynda.quantization import fit, fold
from tynda.quantization.calibrate import Calibration, Seen
from tynda.quantization.gptq import gptq

__all__ = ["CALIBRATED", "METHODS", "quantize"]

CALIBRATED = ("gptq", "awq", "smooth")
METHODS = ("rtn", "clip", "hqq", "absmean", "nf4", "kmeans", *CALIBRATED)
"""``rtn``: nearest values; ``clip``: the same on the grid that errs least; ``hqq``, ``absmean``,
``gptq`` and ``awq`` by their papers; ``nf4`` and ``kmeans``: a table; ``smooth``: SmoothQuant,
then ``clip``."""

# Bytes of what is known of the inputs at a time; the model runs again for the next weights.
_ROOM = 256 << 20


def quantize(
    model: Checkpoint,
    plan: Mapping[str, Grid],
    method: str,
    calibration: Calibration | None = None,
    done: Mapping[str, Any] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The tensors of ``plan`` in few bits, and those that had to change with them.

    ``done``: tensors that an earlier run has finished. ``on_progress`` is given all that are
    finished, whenever there are more. Raises `TyndaError` for a method that is unknown, lacks
    its calibration or has no such grid.
    """
    if method not in METHODS:
        raise TyndaError(f"no method {method!r}: take one of {', '.join(METHODS)}")
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
        raise TyndaError(f"{method} needs speech to listen to")
    else:
        rounds = _listening(weights, plan, method, calibration, finished)
    for some in rounds:
        finished |= some
        if on_progress:
            on_progress(finished)
    return finished


def _listening(
    weights: dict[str, Floats],
    plan: Mapping[str, Grid],
    method: str,
    calibration: Calibration,
    done: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    if method in ("awq", "smooth") and not done:
        yield fold.moved(weights, plan, method, calibration)
    order = calibration.order(weights | done, plan)
    left = [name for name in order if not isinstance(done.get(name), Quantized)]
    while left:
        part = [name for i, name in enumerate(left) if _fits(left[: i + 1], weights) or i == 0]
        seen = calibration.watch(weights | done, part)
        yield {
            name: _round(floats((weights | done)[name]), plan[name], method, seen[name])
            for name in part
        }
        left = left[len(part) :]
    # What no utterance came to.
    yield {name: _round(weights[name], plan[name], "clip") for name in plan.keys() - set(order)}


def _fits(names: list[str], weights: Mapping[str, Floats]) -> bool:
    return sum(int(np.prod(weights[name].shape[1:])) ** 2 * 8 for name in names) <= _ROOM


def _round(weight: Floats, grid: Grid, method: str, seen: Seen | None = None) -> Quantized:
    rows = by_tap(weight)
    counts = None if seen is None else np.diag(seen.mean).astype(np.float32)
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
        steps = fit.clipped(rows, grid, counts)
    if method == "gptq" and seen is not None:
        return gptq(weight, grid, steps, seen.mean)
    return to_grid(weight, grid, steps)
