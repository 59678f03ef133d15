"""Lowering of what works row by row or number by number, and of what only moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tynda.compile.plan import View
from tynda.compile.products import ACTIVATIONS
from tynda.compile.trace import Step

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["RULES"]

_FLOAT, _INTEGER = 4, 8


def layer_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.layer_norm`."""
    weight, bias = (lower.vector(step, name) for name in ("weight", "bias"))
    lower.each_row("layer_norm", step, weight=weight, bias=bias, eps=float(step.settings["eps"]))


def batch_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.batch_norm`: a factor and a shift for each channel."""
    names = [step.tensors[name].name for name in ("weight", "bias", "mean", "variance")]
    eps, width = float(step.settings["eps"]), step.result.shape[-1]
    scale, shift = (lower.constant(how, *names, width=width, eps=eps) for how in ("scale", "shift"))
    affine(lower, step, scale, shift, math.prod(step.result.shape[:-1]))


def group_norm(lower: Lowering, step: Step) -> None:
    """See `Ops.group_norm`."""
    x, lengths = (lower.view(step.tensors[name]) for name in ("x", "lengths"))
    batch, time, channels = step.result.shape
    weight, bias = (lower.vector(step, name) for name in ("weight", "bias"))
    name = step.result.name
    scale, shift = (
        lower.room(f"{name}.{part}", batch, channels * _FLOAT) for part in ("scale", "shift")
    )
    about = {"batch": batch, "time": time, "channels": channels, "groups": step.settings["groups"]}
    eps = float(step.settings["eps"])
    places = {"x": x, "lengths": lengths, "weight": weight, "bias": bias}
    lower.emit("moments", **about, eps=eps, **places, scale=scale, shift=shift)
    affine(lower, step, scale, shift, time)


def affine(lower: Lowering, step: Step, scale: View, shift: View, period: int) -> None:
    """``x * scale + shift``, with the activation that follows, if one does."""
    result, activation = step.result, "none"
    if (user := lower.only_user(result)) is not None:
        after = lower.program.steps[user]
        if after.operation in ACTIVATIONS:
            lower.done.add(user)
            result, activation = after.result, after.operation
    value = step.tensors["x"]
    x, y = lower.view(value), lower.over(value, result)
    about = {"rows": y.rows, "width": result.shape[-1], "period": max(period, 1)}
    lower.emit("affine", **about, x=x, weight=scale, bias=shift, activation=activation, y=y)


def activation(lower: Lowering, step: Step) -> None:
    """See `Ops.relu`, `Ops.gelu`, `Ops.silu`, `Ops.tanh` and `Ops.asinh`."""
    lower.each_row("activate", step, activation=step.operation)


def alike(lower: Lowering, step: Step) -> None:
    """An operation of the same name that has no settings."""
    lower.each_row(step.operation, step)


def scale(lower: Lowering, step: Step) -> None:
    """See `Ops.scale`."""
    lower.each_row("scale", step, factor=float(step.settings["factor"]))


def add(lower: Lowering, step: Step) -> None:
    """See `Ops.add`."""
    x, y = lower.view(step.tensors["x"]), lower.view(step.tensors["y"])
    total = lower.new(step.result)
    period = y.rows if step.tensors["y"].shape != step.tensors["x"].shape else 0
    about = {"rows": total.rows, "width": step.result.shape[-1], "period": period}
    lower.emit("add", **about, x=x, y=y, sum=total)


def concat(lower: Lowering, step: Step) -> None:
    """See `Ops.concat`."""
    y, column = lower.new(step.result), 0
    for name in ("x", "y"):
        x = lower.view(step.tensors[name])
        size = step.tensors[name].shape[-1] * _FLOAT
        rows = max(y.rows, 1)
        about = {"rows": y.rows, "bytes": size, "frames": rows, "time": rows, "start": 0}
        lower.emit("copy", **about, x=x, y=y.columns(column))
        column += size


def mask(lower: Lowering, step: Step) -> None:
    """See `Ops.mask`."""
    x, y = lower.view(step.tensors["x"]), lower.new(step.result)
    lengths = lower.view(step.tensors["lengths"])
    _, time, *bins = step.result.shape
    about = {"rows": y.rows, "width": bins[-1], "frames": time, "frame_rows": math.prod(bins[:-1])}
    lower.emit("mask", **about, x=x, lengths=lengths, y=y)


# ---- rotary positions


def rotary_table(lower: Lowering, step: Step) -> None:
    """See `Ops.rotary_table`."""
    starts, y = lower.view(step.tensors["starts"]), lower.new(step.result, name="angles")
    count, width = step.settings["count"], step.settings["width"]
    about = {"rows": y.rows, "count": count, "width": width, "base": float(step.settings["base"])}
    lower.emit("rotary_table", **about, starts=starts, y=y)


def rotary(lower: Lowering, step: Step) -> None:
    """See `Ops.rotary`."""
    table = step.tensors["table"]
    about = {"heads": step.settings["heads"], "rotary_width": table.shape[-1]}
    lower.each_row("rotary", step, **about, table=lower.view(table))


# ---- shapes and places


def reshape(lower: Lowering, step: Step) -> None:
    """See `Ops.reshape`: the same bytes."""
    value = step.tensors["x"]
    view, shape = lower.view(value), step.result.shape
    size = _INTEGER if value.is_integer else _FLOAT
    lower.see(step.result, View(view.buffer, math.prod(shape[:-1]), shape[-1] * size, view.offset))


def slice_(lower: Lowering, step: Step) -> None:
    """See `Ops.slice`: the same bytes where one item has them side by side."""
    value, start, stop = step.tensors["x"], step.settings["start"], step.settings["stop"]
    x, time = lower.view(value), value.shape[-2]
    size = value.shape[-1] * _FLOAT
    if (start, stop) == (0, time):
        lower.see(step.result, x)
    elif math.prod(value.shape[:-2]) == 1 and step.result not in lower.program.outputs:
        lower.see(step.result, View(x.buffer, stop - start, size, x.offset + start * size))
    else:
        y = lower.new(step.result)
        about = {"rows": y.rows, "bytes": size, "frames": max(stop - start, 1)}
        lower.emit("copy", **about, time=time, start=start, x=x, y=y)


def index_select(lower: Lowering, step: Step) -> None:
    """See `Ops.index_select`."""
    value, index = step.tensors["x"], lower.view(step.tensors["index"])
    x = lower.view(value)
    each = _INTEGER if value.is_integer else _FLOAT
    count = value.shape[0]
    size = None if value.packed else math.prod(value.shape[1:]) * each
    y = lower.new(step.result, each)
    table = View(x.buffer, count, size, x.offset)
    rows = View(y.buffer, step.result.shape[0], size)
    lower.emit("lookup_rows", rows=rows.rows, size=count, ids=index, table=table, y=rows)


def write(lower: Lowering, step: Step) -> None:
    """See `Ops.write`."""
    cache, x, starts = (lower.view(step.tensors[name]) for name in ("cache", "x", "starts"))
    lower.see(step.result, cache)
    batch, time, channels = step.tensors["x"].shape
    about = {"batch": batch, "time": time, "capacity": step.tensors["cache"].shape[1]}
    lower.emit("write", **about, bytes=channels * _FLOAT, x=x, starts=starts, cache=cache)


def positions(lower: Lowering, step: Step) -> None:
    """See `Ops.positions`."""
    starts, y = lower.view(step.tensors["starts"]), lower.new(step.result, _INTEGER, "positions")
    about = {"size": step.tensors["starts"].size, "count": step.settings["count"]}
    lower.emit("positions", **about, starts=starts, y=y)


def conv_lengths(lower: Lowering, step: Step) -> None:
    """See `Ops.conv_lengths`."""
    s = step.settings
    lengths(lower, step, add=2 * s["padding"] - s["kernel"], divide=s["stride"], plus=1, times=1)


def multiply_lengths(lower: Lowering, step: Step) -> None:
    """See `Ops.multiply_lengths`."""
    lengths(lower, step, add=0, divide=1, plus=0, times=step.settings["factor"])


def lengths(lower: Lowering, step: Step, **numbers: int) -> None:
    """``max(0, (x + add) // divide + plus) * times``."""
    x, y = lower.view(step.tensors["lengths"]), lower.new(step.result, _INTEGER, "lengths")
    lower.emit("lengths", size=step.result.size, **numbers, x=x, y=y)


RULES: dict[str, Callable[[Lowering, Step], None]] = {
    **{"layer_norm": layer_norm, "batch_norm": batch_norm, "group_norm": group_norm},
    **dict.fromkeys(ACTIVATIONS, activation),
    **dict.fromkeys(("glu", "swiglu", "log_softmax"), alike),
    **{"rotary_table": rotary_table, "rotary": rotary},
    **{"scale": scale, "add": add, "concat": concat, "mask": mask},
    **{"reshape": reshape, "slice": slice_, "index_select": index_select},
    **{"write": write, "positions": positions},
    **{"conv_lengths": conv_lengths, "multiply_lengths": multiply_lengths},
}
