"""What is computed, operation by operation, how long it takes, and what this machine could do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.count import Row, report
from tynda.compile.native import Native
from tynda.weights.weight import quantize

__all__ = ["Ledger", "Operation", "least", "limits", "summed"]

RUNS = 3
"""Of each function, after a first one that makes its plan; their median counts."""
_WIDTHS = (256, 512, 1024)
_LARGE = 64 << 20
"""Numbers: more than any cache holds."""


@dataclass(frozen=True)
class Operation:
    """A call in the traced program, and its time."""

    row: Row
    seconds: float | None
    """None where it is done on the way out of a product, and so is in its time."""


@dataclass
class Ledger:
    """The operations of a part of a model, while it runs on the native engine."""

    engine: Native
    operations: list[Operation] = field(default_factory=list)

    def run(
        self, function: Callable[..., Any], config: Any, *inputs: Any, counted: Any = None
    ) -> Any:
        """As `Native.run`, with a clock. ``counted``: inputs of the shapes to count, where those
        have more room than is used; a function that writes to them must do so at the same place
        however often it is run."""
        result = self.engine.run(function, config, *inputs)
        runs = [self.engine.timings(function, config, *inputs)[1] for _ in range(RUNS)]
        lowering, _ = self.engine.compile(function, config, counted or inputs)
        for row in report(lowering.program, lowering).rows:
            timed = row.step in runs[0]
            spent = float(np.median([run[row.step] for run in runs])) if timed else None
            self.operations.append(Operation(row, spent))
        return result


def summed(operations: Iterable[Operation], *, layers: bool = False) -> list[dict[str, Any]]:
    """Sums by operation and width, or by layer as well, as `Row.values` has them: most time first.

    ``flops`` are all, ``macs`` those multiply-adds of them (two each) that are in ``bits``.
    """
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for operation in operations:
        row = operation.row
        key = {"operation": row.operation, "bits": str(row.bits)}
        key |= {"layer": row.layer} if layers else {}
        total = sums.setdefault(tuple(key.values()), key | {"calls": 0, "seconds": None})
        for name in ("flops", "macs", "weight_bytes", "input_bytes", "output_bytes"):
            total[name] = total.get(name, 0) + getattr(row, name)
        total["calls"] += 1
        if operation.seconds is not None:
            total["seconds"] = (total["seconds"] or 0.0) + operation.seconds
    return sorted(sums.values(), key=lambda total: -(total["seconds"] or 0.0))


def limits(threads: int) -> dict[str, float]:
    """The best of the native products on this machine, of matrices large enough.

    ``flops_32`` and ``ops_8`` a second (two for a multiply-add), of 1024 rows and square weights
    of 256, 512 or 1024, whichever is quickest; ``bandwidth``: bytes a second, of 256 MB of weights
    in 32 bits that one row is multiplied with.
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


def least(work: Callable[[], Any], seconds: float = 0.5) -> float:
    """The least seconds that some work takes, done again and again for so many ``seconds`` after
    a first time that does not count."""
    work()
    best, ending = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < ending:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _best(engine: Native, x: NDArray[np.float32]) -> float:
    return least(lambda: engine.run(_product, None, x))


def _product(ops: Any, weights: Any, config: None, x: Any) -> Any:
    return ops.linear(x, weights["w"])
