"""Lowering of operations on rows or elements, and of those that only move data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tynda.compile.plan import FLOAT, INTEGER, View
from tynda.compile.products import ACTIVATIONS
from tynda.compile.trace import Step

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["RULES"]


def layer_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.layer_norm`."""
    weight, bias = (lower.optional_view(step, name) for name in ("weight", "bias"))
    lower.emit_rowwise(
        "layer_norm", step, weight=weight, bias=bias, eps=float(step.settings["eps"])
    )


def batch_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.batch_norm`. The running statistics become a scale and a shift for each channel."""
    names = [step.tensors[name].name for name in ("weight", "bias", "mean", "variance")]
    eps, width = float(step.settings["eps"]), step.result.shape[-1]
    scale, shift = (
        lower.constant(kind, *names, width=width, eps=eps) for kind in ("scale", "shift")
    )
    affine(lower, step, scale, shift, math.prod(step.result.shape[:-1]))


def group_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.group_norm`."""
    views = lower.views(step, "x", "lengths", "weight", "bias")
    batch, time, channels = step.result.shape
    name = step.result.name
    scale, shift = (
        lower.buffer(f"{name}.{part}", batch, channels * FLOAT) for part in ("scale", "shift")
    )
    sizes = {"batch": batch, "time": time, "channels": channels, "groups": step.settings["groups"]}
    eps = float(step.settings["eps"])
    lower.emit("moments", **sizes, eps=eps, **views, scale=scale, shift=shift)
    affine(lower, step, scale, shift, time)


def statistics(lower: Lowering, step: Step) -> None:
    """See `Ops.statistics`."""
    batch, time, channels = step.tensors["x"].shape
    sizes = {"batch": batch, "time": time, "channels": channels}
    views, y = lower.views(step, "x", "lengths"), lower.new_view(step.result)
    lower.emit("statistics", **sizes, eps=float(step.settings["eps"]), **views, y=y)


def affine(lower: Lowering, step: Step, scale: View, shift: View, period: int) -> None:
    """Emit ``activation(x * scale + shift)``, with the activation that follows the step, if any.

    ``scale`` and ``shift`` have a row for each ``period`` rows of ``x``.
    """
    result, activation = step.result, "none"
    if (user := lower.only_user(result)) is not None:
        after = lower.program.steps[user]
        if after.operation in ACTIVATIONS:
            lower.fused.add(user)
            result, activation = after.result, after.operation
    value = step.tensors["x"]
    x, y = lower.view(value), lower.reuse_or_new(value, result)
    sizes = {"rows": y.rows, "width": result.shape[-1], "period": max(period, 1)}
    lower.emit("affine", **sizes, x=x, weight=scale, bias=shift, activation=activation, y=y)


def activation(lower: Lowering, step: Step) -> None:
    """See `Ops.relu`, `Ops.gelu`, `Ops.silu`, `Ops.tanh` and `Ops.asinh`."""
    lower.emit_rowwise("activate", step, activation=step.operation)


def rowwise(lower: Lowering, step: Step) -> None:
    """Emit the native operation of the same name, which has no settings."""
    lower.emit_rowwise(step.operation, step)


def scale(lower: Lowering, step: Step) -> None:
    """See `Ops.scale`."""
    lower.emit_rowwise("scale", step, factor=float(step.settings["factor"]))


def add(lower: Lowering, step: Step) -> None:
    """See `Ops.add`."""
    x, y = lower.view(step.tensors["x"]), lower.view(step.tensors["y"])
    total = lower.new_view(step.result)
    period = y.rows if step.tensors["y"].shape != step.tensors["x"].shape else 0
    sizes = {"rows": total.rows, "width": step.result.shape[-1], "period": period}
    lower.emit("add", **sizes, x=x, y=y, sum=total)


def concat(lower: Lowering, step: Step) -> None:
    """See `Ops.concat`."""
    y, column = lower.new_view(step.result), 0
    for name in ("x", "y"):
        x = lower.view(step.tensors[name])
        size = step.tensors[name].shape[-1] * FLOAT
        lower.emit_copy(x, y.columns(column), size)
        column += size


def mask(lower: Lowering, step: Step) -> None:
    """See `Ops.mask`."""
    x, y = lower.view(step.tensors["x"]), lower.new_view(step.result)
    lengths = lower.view(step.tensors["lengths"])
    _, time, *bins = step.result.shape
    sizes = {"rows": y.rows, "width": bins[-1], "frames": time, "frame_rows": math.prod(bins[:-1])}
    lower.emit("mask", **sizes, x=x, lengths=lengths, y=y)


# ---- rotary positions


def rotary_table(lower: Lowering, step: Step) -> None:
    """See `Ops.rotary_table`."""
    starts, y = lower.view(step.tensors["starts"]), lower.new_view(step.result, name="angles")
    count, width = step.settings["count"], step.settings["width"]
    sizes = {"rows": y.rows, "count": count, "width": width, "base": float(step.settings["base"])}
    lower.emit("rotary_table", **sizes, starts=starts, y=y)


def rotary(lower: Lowering, step: Step) -> None:
    """See `Ops.rotary`."""
    table = step.tensors["table"]
    sizes = {"heads": step.settings["heads"], "rotary_width": table.shape[-1]}
    lower.emit_rowwise("rotary", step, **sizes, table=lower.view(table))


# ---- shapes, selection and positions


def reshape(lower: Lowering, step: Step) -> None:
    """See `Ops.reshape`. The result is a view of the same bytes."""
    value = step.tensors["x"]
    view, shape = lower.view(value), step.result.shape
    size = INTEGER if value.is_integer else FLOAT
    lower.bind(step.result, View(view.buffer, math.prod(shape[:-1]), shape[-1] * size, view.offset))


def slice_(lower: Lowering, step: Step) -> None:
    """See `Ops.slice`. The result is a view where the frames of all items are contiguous."""
    value, start, stop = step.tensors["x"], step.settings["start"], step.settings["stop"]
    x, time = lower.view(value), value.shape[-2]
    size = value.shape[-1] * FLOAT
    if (start, stop) == (0, time):
        lower.bind(step.result, x)
    elif math.prod(value.shape[:-2]) == 1 and step.result not in lower.program.outputs:
        lower.bind(step.result, View(x.buffer, stop - start, size, x.offset + start * size))
    else:
        y = lower.new_view(step.result)
        sizes = {"rows": y.rows, "bytes": size, "frames": max(stop - start, 1)}
        lower.emit("copy", **sizes, time=time, start=start, x=x, y=y)


def index_select(lower: Lowering, step: Step) -> None:
    """See `Ops.index_select`."""
    value, index = step.tensors["x"], lower.view(step.tensors["index"])
    x = lower.view(value)
    element, count = INTEGER if value.is_integer else FLOAT, value.shape[0]
    size = None if value.packed else math.prod(value.shape[1:]) * element
    y = lower.new_view(step.result, element)
    table = View(x.buffer, count, size, x.offset)
    rows = View(y.buffer, step.result.shape[0], size)
    lower.emit("lookup_rows", rows=rows.rows, size=count, ids=index, table=table, y=rows)


def write(lower: Lowering, step: Step) -> None:
    """See `Ops.write`."""
    cache, x, starts = (lower.view(step.tensors[name]) for name in ("cache", "x", "starts"))
    lower.bind(step.result, cache)
    batch, time, channels = step.tensors["x"].shape
    sizes = {"batch": batch, "time": time, "capacity": step.tensors["cache"].shape[1]}
    lower.emit("write", **sizes, bytes=channels * FLOAT, x=x, starts=starts, cache=cache)


def positions(lower: Lowering, step: Step) -> None:
    """See `Ops.positions`."""
    starts, y = (
        lower.view(step.tensors["starts"]),
        lower.new_view(step.result, INTEGER, "positions"),
    )
    sizes = {"size": step.tensors["starts"].size, "count": step.settings["count"]}
    lower.emit("positions", **sizes, starts=starts, y=y)


def conv_lengths(lower: Lowering, step: Step) -> None:
    """See `Ops.conv_lengths`."""
    s = step.settings
    lengths(lower, step, add=2 * s["padding"] - s["kernel"], divide=s["stride"], plus=1, times=1)


def multiply_lengths(lower: Lowering, step: Step) -> None:
    """See `Ops.multiply_lengths`."""
    lengths(lower, step, add=0, divide=1, plus=0, times=step.settings["factor"])


def lengths(lower: Lowering, step: Step, **numbers: int) -> None:
    """``max(0, (x + add) // divide + plus) * times``."""
    x, y = lower.view(step.tensors["lengths"]), lower.new_view(step.result, INTEGER, "lengths")
    lower.emit("lengths", size=step.result.size, **numbers, x=x, y=y)


RULES: dict[str, Callable[[Lowering, Step], None]] = {
    **{"layer_norm": layer_norm, "batch_norm": batch_norm, "group_norm": group_norm},
    "statistics": statistics,
    **dict.fromkeys(ACTIVATIONS, activation),
    **dict.fromkeys(("glu", "swiglu", "log_softmax"), rowwise),
    **{"rotary_table": rotary_table, "rotary": rotary},
    **{"scale": scale, "add": add, "concat": concat, "mask": mask},
    **{"reshape": reshape, "slice": slice_, "index_select": index_select},
    **{"write": write, "positions": positions},
    **{"conv_lengths": conv_lengths, "multiply_lengths": multiply_lengths},
}
