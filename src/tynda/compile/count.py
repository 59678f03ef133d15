"""The cost of a model, per operation and per layer, counted on its traced program.

Conventions
-----------
- A multiply-add is one MAC and two FLOPs. Multiplications with padding zeros count, because a
  dense kernel computes them, and so do padded frames. A bias costs nothing: it is the initial value
  of a sum.
- Other work counts per element: an addition, a multiplication, a division, a comparison, an
  ``exp``, ``erf``, ``log``, ``tanh``, ``asinh``, ``cos`` or ``sin`` is one FLOP each. Hence relu,
  add, scale, tanh, asinh 1; sigmoid 4; gelu (scale, erf, sum, two products), silu and glu (per
  output) 5; swiglu (per output) 6; softmax and log-softmax 5 (maximum, difference, exp, sum,
  division or difference); layer and group norm 7 (mean, difference, square, sum, product, scale,
  shift), 6 without a shift; batch norm 3; statistics 4 for each element of the input (two sums, a
  difference, a square); rotary 3 for each rotated channel (two products,
  a sum), its table 3 for each pair (a product, cos, sin); LSTM 22 for each hidden unit and frame
  in addition to its products. Moving data (concat, embedding, mask, reshape, slice, index_select,
  write) and work done once per row or channel cost nothing.
- Attention is counted in full, as if no kernel skipped masked keys. A step of a decoder attends to
  the earlier tokens and its own, whatever the capacity of its cache. In window attention, every
  query attends to a whole window.
- Weights and activations are float32, except for the native engine, whose memory is that of its
  plan, whose weights have the size of their packed layout, and whose matmul precision is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tynda.compile.native import Lowered, Machine, lowered
from tynda.compile.runs import Run, Runs, follow
from tynda.compile.trace import INTEGERS, VIEWS, Program, Step, Value, trace_call
from tynda.models.base import Family
from tynda.weights.weight import quantize_all

__all__ = [
    "Report",
    "Row",
    "count",
    "count_call",
    "count_runs",
    "peak_bytes",
    "report",
]

_BYTES = 4
_SOFTMAX, _LSTM = 5, 22
_FLOPS_PER_ELEMENT = {
    **{"relu": 1, "add": 1, "scale": 1, "gelu": 5, "silu": 5, "glu": 5, "log_softmax": 5},
    **{"tanh": 1, "asinh": 1, "swiglu": 6},
    **{"layer_norm": 7, "group_norm": 7, "batch_norm": 3, "lstm": _LSTM},
    **dict.fromkeys(("linear", "conv1d", "conv2d", *VIEWS, *INTEGERS), 0),
    **dict.fromkeys(("embedding", "index_select", "write", "concat", "mask"), 0),
    **dict.fromkeys(("pack_keys", "pack_values", "relative_encoding"), 0),
}
"""FLOPs for each element of the result, in addition to those of products."""


@dataclass(frozen=True)
class Row:
    """One call of an operation, or the sum of several."""

    operation: str
    layer: str
    """The name of its weights without the last component (``blocks.0.ff1.in``). An operation
    without weights belongs to the layer that computed its last input."""
    macs: int
    flops: int
    """``2 * macs`` plus the elementwise work."""
    weight_bytes: int
    input_bytes: int
    """Bytes of activations read."""
    output_bytes: int
    """Bytes of activations written."""
    bits: int = 32
    """The matmul precision; 32 for an LSTM, whose recurrent products are always in float32."""
    step: int = 0
    """Its index in the traced program."""


@dataclass(frozen=True)
class Report:
    """The cost of one run of a model."""

    rows: tuple[Row, ...]
    """The operations in the order of the calls, including those that only move data."""
    weight_bytes: int
    """Bytes of all tensors read, each counted once."""
    peak_activation_bytes: int
    """See `peak_bytes`."""
    arena_bytes: int | None = None
    """Bytes of a native run without weights, inputs and outputs; None: not counted."""

    @property
    def total_macs(self) -> int:
        """Multiply-adds of all rows."""
        return sum(row.macs for row in self.rows)

    @property
    def total_flops(self) -> int:
        """FLOPs of all rows."""
        return sum(row.flops for row in self.rows)

    def by_operation(self) -> dict[str, Row]:
        """Return operation -> sum of its rows (without ``layer``), in order of decreasing FLOPs."""
        sums: dict[str, Row] = {}
        for row in self.rows:
            total = sums.get(row.operation, Row(row.operation, "", 0, 0, 0, 0, 0))
            sums[row.operation] = replace(
                total,
                macs=total.macs + row.macs,
                flops=total.flops + row.flops,
                weight_bytes=total.weight_bytes + row.weight_bytes,
                input_bytes=total.input_bytes + row.input_bytes,
                output_bytes=total.output_bytes + row.output_bytes,
            )
        return dict(sorted(sums.items(), key=lambda item: -item[1].flops))


def count(
    family: Family, config: Any, frames: int, batch: int = 1, machine: Machine | None = None
) -> Report:
    """Count one run of a family's encoder on features ``[batch, frames, config.bins]``.

    ``machine``: if given, the native engine is counted on this machine, with weights in
    ``machine.bits``; `native.machine` returns that of this processor. Raises ValueError where
    shapes do not fit.
    """
    features, lengths = Value((batch, frames, config.bins)), Value((batch,), is_integer=True)
    encode = family.programs["encode"]
    return count_call(encode, family, config, config, features, lengths, machine=machine)[0]


def count_runs(
    family: Family, config: Any, runs: Runs, machine: Machine | None = None
) -> list[tuple[Run, Report]]:
    """Count the runs of a recording, in order; see ``heads.base.Head.runs``."""
    found: list[tuple[Run, Report]] = []

    def execute(run: Run) -> Any:
        counted, result = count_call(
            run.program, family, config, run.settings, *run.inputs, machine=machine
        )
        found.append((run, counted))
        return result

    follow(runs, execute)
    return found


def count_call(
    function: Callable[..., Any],
    family: Family,
    config: Any,
    settings: Any,
    *inputs: Any,
    machine: Machine | None = None,
) -> tuple[Report, Any]:
    """Count ``function(ops, weights, settings, *inputs)``, and return the function's result too.

    ``inputs`` and the result are `Value` objects or structures of them.
    """
    shapes = family.shapes(config)
    program, result = trace_call(function, shapes, settings, *inputs)
    if machine is None:
        return report(program), result
    weights: Mapping[str, Any] = {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()
    }
    if machine.bits == 8:
        weights = quantize_all(weights, family.trainable(config), lazy=True)
    return report(program, lowered(program, weights, machine)), result


def report(program: Program, lowered: Lowered | None = None) -> Report:
    """Return the cost of a program; with ``lowered``, that in the native engine."""
    matrix_bytes: dict[int, dict[str, int]] = {}
    integer = set()
    if lowered is not None:
        for operation in lowered.plan.operations:
            sizes = matrix_bytes.setdefault(operation.step, {})
            for matrix in operation.matrices:
                sizes[matrix.weight] = sizes.get(matrix.weight, 0) + lowered.matrices[matrix]
            if operation.is_integer_matmul:
                integer.add(operation.step)
    rows: list[Row] = []
    read: dict[str, int] = {}
    for i, step in enumerate(program.steps):
        if step.operation in VIEWS or step.operation in INTEGERS:
            continue
        weights = _weights_read(step, matrix_bytes.get(i, {}))
        bits = 8 if i in integer and step.operation != "lstm" else 32
        rows.append(_row(i, step, bits, sum(weights.values())))
        # An embedding or a slice reads a few rows of a weight that other steps may read in full.
        for name, size in weights.items():
            read[name] = max(size, read.get(name, 0))
    arena = lowered.arena_bytes if lowered else None
    return Report(tuple(rows), sum(read.values()), peak_bytes(program), arena)


def peak_bytes(program: Program) -> int:
    """Return the maximum over time of the bytes of all live inputs and results.

    A tensor is live from the operation that computes it to the last one that reads it or a view of
    it. The memory that a backend needs within an operation (attention's scores, a convolution's
    windows) is not included, nor are lengths and positions.
    """
    owner: dict[Value, Value] = {}
    last: dict[Value, int] = {}
    for i, step in enumerate(program.steps):
        base = step.activations[:1] if step.operation in (*VIEWS, "write") else []
        owner[step.result] = owner.get(base[0], base[0]) if base else step.result
        for value in (*step.activations, step.result):
            last[owner.setdefault(value, value)] = i
    for value in program.outputs:
        last[owner.get(value, value)] = len(program.steps)
    ends: dict[int, int] = {}
    for value, i in last.items():
        ends[i] = ends.get(i, 0) + value.size
    known = [owner.get(value, value) for value in program.inputs if value in last]
    live = peak = sum(value.size for value in known)
    for i, step in enumerate(program.steps):
        if step.operation in INTEGERS:
            continue
        if owner[step.result] is step.result and not step.result.is_weight:
            live += step.result.size
        peak = max(peak, live)
        live -= ends.get(i, 0)
    return _BYTES * peak


def _row(index: int, step: Step, bits: int, weight_bytes: int) -> Row:
    written = step.tensors["x"] if step.operation == "write" else step.result
    macs = _macs(step)
    activations = step.activations
    if step.operation == "embedding":
        activations = [step.tensors["ids"]]
    elif step.operation == "write":
        activations = [written]
    return Row(
        operation=step.operation,
        layer=step.result.name,
        macs=macs,
        flops=2 * macs + _elementwise_flops(step),
        weight_bytes=weight_bytes,
        input_bytes=_BYTES * sum(x.size for x in activations),
        output_bytes=_BYTES * written.size,
        bits=bits,
        step=index,
    )


def _weights_read(step: Step, packed: Mapping[str, int]) -> dict[str, int]:
    """Return name -> bytes read of a step's weights; ``packed``: the same of packed weights."""
    sizes = {w.name: packed.get(w.name, _BYTES * w.size) for w in step.weights}
    if step.operation == "embedding":
        table = step.tensors["weight"]
        rows = step.result.size // table.shape[1]
        return {table.name: sizes[table.name] * rows // table.shape[0]}
    return sizes


def _macs(step: Step) -> int:
    t, size = step.tensors, step.result.size
    match step.operation:
        case "linear" | "conv1d" | "conv2d":
            return size * math.prod(t["weight"].shape[1:])
        case "attention" | "causal_attention" | "window_attention":
            return math.prod(t["q"].shape[:2]) * _keys(step) * (t["q"].shape[2] + t["v"].shape[2])
        case "relative_attention":
            products = t["k"].size + t["v"].size + t["q"].shape[0] * t["encoding"].size
            return t["q"].shape[1] * products
        case "attention_weights":
            return size * t["q"].shape[-1] // int(step.settings["heads"])
        case "lstm":
            gates, width = t["weight_ih"].shape
            return t["x"].size // width * gates * (width + t["weight_hh"].shape[1])
    return 0


def _elementwise_flops(step: Step) -> int:
    """Return the FLOPs of a step in addition to those of its products."""
    t = step.tensors
    if "q" in t:  # queries are scaled, and scores go through a softmax
        scores = math.prod(t["q"].shape[:2]) * int(step.settings["heads"]) * _keys(step)
        if step.operation == "relative_attention":  # two queries are scaled, and two scores added
            return 4 * t["q"].size + (_SOFTMAX + 1) * scores
        return t["q"].size + _SOFTMAX * scores
    if step.operation in ("rotary", "rotary_table"):
        table = t.get("table", step.result)
        rotated = step.settings["heads"] * table.size if "x" in t else table.size // 2
        return 3 * int(rotated)
    if step.operation == "statistics":
        return 4 * t["x"].size
    flops = _FLOPS_PER_ELEMENT[step.operation]
    if step.operation == "layer_norm" and "bias" not in t:
        flops -= 1
    return flops * step.result.size


def _keys(step: Step) -> int:
    """Return the number of keys that each query attends to."""
    keys: int = step.tensors["k"].shape[1]
    if step.operation == "window_attention":
        keys = min(keys, step.settings["before"] + 1 + step.settings["after"])
    return keys
