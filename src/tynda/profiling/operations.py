"""The operations of a model with their times, and the limits of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.count import Row, report
from tynda.compile.native import Native
from tynda.compile.runs import Run, Runs, follow
from tynda.compile.trace import Value
from tynda.ops.tree import map_tree
from tynda.weights.weight import quantize

__all__ = ["Ledger", "Operation", "fastest", "limits", "summed"]

RUNS = 3
"""Timed runs of each function, after a first one that makes its plan; their median counts."""
_WIDTHS = (256, 512, 1024)
_LARGE = 64 << 20
"""A number of floats that is larger than any cache."""


@dataclass(frozen=True)
class Operation:
    """A call in the traced program, and its time."""

    row: Row
    seconds: float | None
    """Seconds of one call; None where the operation is fused into a product, whose time has it."""
    times: float = 1
    """Number of calls in a recording."""


@dataclass
class Ledger:
    """Collects the operations of a recording, by stage, while it runs on the native engine."""

    engine: Native
    operations: dict[str, list[Operation]] = field(default_factory=dict)

    def play(self, runs: Runs, features: tuple[Any, ...]) -> None:
        """Execute and time each run of a recording.

        ``features`` are the inputs of the first run. Inputs that no run has computed (tokens and
        empty caches) are zeros: the time of a step does not depend on their values.
        """
        first = True

        def execute(run: Run) -> Any:
            nonlocal first
            inputs = features if first else map_tree(_zeros, run.inputs)
            first = False
            return self._timed(run, inputs)

        follow(runs, execute)

    def _timed(self, run: Run, inputs: tuple[Any, ...]) -> Any:
        arguments = (run.program, run.settings, *inputs)
        result = self.engine.run(*arguments)
        timings = [self.engine.timings(*arguments)[1] for _ in range(RUNS)]
        lowering, _ = self.engine.compile(run.program, run.settings, inputs)
        found = self.operations.setdefault(run.stage, [])
        for row in report(lowering.program, lowering).rows:
            timed = row.step in timings[0]
            spent = float(np.median([t[row.step] for t in timings])) if timed else None
            found.append(Operation(row, spent, run.times))
        return result


def _zeros(tensor: Any) -> Any:
    if not isinstance(tensor, Value):
        return tensor
    return np.zeros(tensor.shape, np.int64 if tensor.is_integer else np.float32)


def summed(operations: Iterable[Operation], *, layers: bool = False) -> list[dict[str, Any]]:
    """Sum by operation and bits, or by layer as well, for `Row.values`: longest time first.

    ``flops`` counts all operations; ``macs`` counts multiply-adds, two flops each, in ``bits``.
    """
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for operation in operations:
        row = operation.row
        key = {"operation": row.operation, "bits": str(row.bits)}
        key |= {"layer": row.layer} if layers else {}
        total = sums.setdefault(tuple(key.values()), key | {"calls": 0, "seconds": None})
        for name in ("flops", "macs", "weight_bytes", "input_bytes", "output_bytes"):
            total[name] = total.get(name, 0) + operation.times * getattr(row, name)
        total["calls"] += operation.times
        if operation.seconds is not None:
            spent = operation.times * operation.seconds
            total["seconds"] = (total["seconds"] or 0.0) + spent
    return sorted(sums.values(), key=lambda total: -(total["seconds"] or 0.0))


def limits(threads: int) -> dict[str, float]:
    """Return the maximum speed of native products on this machine, for large matrices.

    ``flops_32`` and ``ops_8`` are per second (two for a multiply-add), for 1024 rows and square
    weights of 256, 512 or 1024, whichever is fastest; ``bandwidth`` is bytes per second, for the
    product of one row with 256 MB of 32-bit weights.
    """
    rng = np.random.default_rng(0)
    best = {"flops_32": 0.0, "ops_8": 0.0}
    for wide in _WIDTHS:
        weight, rows = rng.standard_normal((wide, wide), np.float32), _rows(rng, wide)
        for name, held, bits in (("flops_32", weight, 32), ("ops_8", quantize(weight), 8)):
            seconds = _best(Native({"w": held}, threads, bits=bits), rows)
            best[name] = max(best[name], 2.0 * len(rows) * wide**2 / seconds)
    large = np.broadcast_to(np.float32(1), (_LARGE // _WIDTHS[-1], _WIDTHS[-1]))
    seconds = _best(Native({"w": large}, threads), _rows(rng, _WIDTHS[-1])[:1])
    return best | {"bandwidth": 4.0 * _LARGE / seconds}


def _rows(rng: np.random.Generator, wide: int) -> NDArray[np.float32]:
    return rng.standard_normal((1024, wide), np.float32)


def fastest(work: Callable[[], Any], seconds: float = 0.5) -> float:
    """Return the minimum duration of some work, repeated for ``seconds`` after a warm-up run that
    does not count."""
    work()
    best, ending = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < ending:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _best(engine: Native, x: NDArray[np.float32]) -> float:
    return fastest(lambda: engine.run(_product, None, x))


def _product(ops: Any, weights: Any, config: None, x: Any) -> Any:
    return ops.linear(x, weights["w"])
