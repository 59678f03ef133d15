"""Lowering of products with weights.

Where an activation, a factor or a sum is all that becomes of a product, they are done on its way
out. Convolutions are products over windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tynda.compile.plan import Matrix, View
from tynda.compile.trace import Step, Value
from tynda.ops.base import conv_length
from tynda.weights.kernels import is_integer

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["ACTIVATIONS", "RULES", "Ending", "multiply"]

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "asinh")
_FLOAT = 4
_FOUR = 4
"""A row of codes has a multiple of so many."""


@dataclass(frozen=True)
class Ending:
    """What becomes of a product before it is written."""

    bias: View | None = None
    activation: str = "none"
    factor: float = 1.0
    residual: View | None = None

    def part(self, start: int) -> Ending:
        """Of the outputs from ``start`` on."""
        bias, residual = (v and v.columns(start * _FLOAT) for v in (self.bias, self.residual))
        return replace(self, bias=bias, residual=residual)


def linear(lower: Lowering, step: Step) -> None:
    """See `Ops.linear`."""
    x, (result, ending) = step.tensors["x"], _ending(lower, step)
    matrix = lower.matrix(step.tensors["weight"].name)
    multiply(lower, x, lower.view(x), matrix, lower.new(result), ending)


def multiply(
    lower: Lowering,
    value: Value | None,
    x: View,
    matrix: Matrix,
    y: View,
    ending: Ending,
    overlapping: bool = False,
) -> None:
    """Rows times a weight.

    ``value``: whose rows, where several products may share codes. ``overlapping``: a row goes
    on in the next ones.
    """
    end = {
        **{"weight": matrix, "bias": ending.bias, "activation": ending.activation},
        **{"factor": float(ending.factor), "residual": ending.residual, "y": y},
    }
    if not is_integer(lower.weights[matrix.weight]):
        lower.emit("multiply", rows=y.rows, whole=overlapping, x=x, **end)
        return
    if value is None or value not in lower.codes:
        depth = -(-matrix.inputs // _FOUR) * _FOUR
        name = x.buffer.name
        codes = lower.room(f"{name}.codes", x.rows, depth)
        scales = lower.room(f"{name}.scales", x.rows, _FLOAT)
        about = {"rows": x.rows, "width": matrix.inputs, "depth": depth, "whole": overlapping}
        lower.emit("quantize", **about, x=x, codes=codes, scales=scales)
        if value is not None:
            lower.codes[value] = codes, scales
    else:
        codes, scales = lower.codes[value]
    lower.emit("multiply_8", rows=y.rows, x=codes, scales=scales, **end)


def _ending(lower: Lowering, step: Step) -> tuple[Value, Ending]:
    """What a product can do on its way out, and the value that is then its result."""
    ending, result = Ending(lower.vector(step, "bias")), step.result
    while (user := lower.only_user(result)) is not None:
        after = lower.program.steps[user]
        plain = ending.factor == 1 and ending.residual is None
        if after.operation in ACTIVATIONS and plain and ending.activation == "none":
            ending = replace(ending, activation=after.operation)
        elif after.operation == "scale" and ending.residual is None:
            ending = replace(ending, factor=ending.factor * after.settings["factor"])
        elif after.operation == "add" and ending.residual is None:
            x, y = after.tensors["x"], after.tensors["y"]
            other = y if x is result else x
            if other is result or other.shape != result.shape or not lower.is_known(other):
                break
            ending = replace(ending, residual=lower.view(other))
        else:
            break
        lower.done.add(user)
        result = after.result
    return result, ending


# ---- convolutions


def conv1d(lower: Lowering, step: Step) -> None:
    """See `Ops.conv1d`."""
    s = step.settings
    _, time, channels = step.tensors["x"].shape
    out, _, taps = step.tensors["weight"].shape
    windows = {
        **{"time": time, "bins": 1, "channels": channels},
        **{"frames": conv_length(time, taps, s["stride"], s["padding"]), "frame_bins": 1},
        **{"taps": taps, "taps_bins": 1, "stride": s["stride"], "stride_bins": 1},
        **{"padding": s["padding"], "padding_bins": 0},
    }
    if step.tensors["weight"].shape[1] == 1 and s["groups"] == out == channels:
        _depthwise(lower, step, windows)
    else:
        _convolution(lower, step, windows, s["groups"])


def conv2d(lower: Lowering, step: Step) -> None:
    """See `Ops.conv2d`."""
    (stride, stride_bins), (padding, padding_bins) = (
        step.settings[name] for name in ("stride", "padding")
    )
    _, time, bins, channels = step.tensors["x"].shape
    *_, taps, taps_bins = step.tensors["weight"].shape
    windows = {
        **{"time": time, "bins": bins, "channels": channels},
        "frames": conv_length(time, taps, stride, padding),
        "frame_bins": conv_length(bins, taps_bins, stride_bins, padding_bins),
        **{"taps": taps, "taps_bins": taps_bins, "stride": stride, "stride_bins": stride_bins},
        **{"padding": padding, "padding_bins": padding_bins},
    }
    _convolution(lower, step, windows, 1)


def _convolution(lower: Lowering, step: Step, windows: dict[str, int], groups: int) -> None:
    value, (result, ending) = step.tensors["x"], _ending(lower, step)
    x, y = lower.view(value), lower.new(result)
    used, out = windows["channels"] // groups, step.result.shape[-1] // groups
    parts = [windows | {"first_channel": g * used, "used_channels": used} for g in range(groups)]
    # Along one axis, the frames of one item are windows as they lie there.
    one_axis = windows["bins"] == windows["taps_bins"] == 1 and not windows["padding_bins"]
    overlapping = value.shape[0] == 1 and one_axis
    patches = [_padded(lower, step, x, part) for part in parts] if overlapping else []
    for g, part in enumerate(parts):
        if overlapping:
            row = windows["stride"] * used * _FLOAT
            rows = View(patches[g].buffer, y.rows, row, patches[g].offset)
        else:
            rows = _windows(lower, step, x, y.rows, part)
        matrix = lower.matrix(step.tensors["weight"].name, g * out, out)
        columns = y.columns(g * out * _FLOAT)
        multiply(lower, None, rows, matrix, columns, ending.part(g * out), overlapping)


def _windows(lower: Lowering, step: Step, x: View, rows: int, windows: dict[str, int]) -> View:
    """A copy of what each row of a convolution's result is made of."""
    x = View(x.buffer, x.rows, windows["bins"] * windows["channels"] * _FLOAT, x.offset)
    taps = windows["taps"] * windows["taps_bins"]
    y = lower.room(f"{step.result.name}.windows", rows, taps * windows["used_channels"] * _FLOAT)
    lower.emit("windows", rows=rows, **windows, x=x, y=y)
    return y


def _padded(lower: Lowering, step: Step, x: View, windows: dict[str, int]) -> View:
    """The frames that windows look at, with zeros around them and of their group alone."""
    time, padding = windows["time"], windows["padding"]
    if not padding and windows["used_channels"] == windows["channels"]:
        return x
    frames = time + 2 * padding
    alone = windows | {"taps": 1, "stride": 1, "frames": frames}
    return _windows(lower, step, x, frames, alone)


def _depthwise(lower: Lowering, step: Step, windows: dict[str, int]) -> None:
    x, y = lower.view(step.tensors["x"]), lower.new(step.result)
    channels, _, taps = step.tensors["weight"].shape
    weight = lower.constant("taps", step.tensors["weight"].name, rows=taps, width=channels)
    windows |= {"first_channel": 0, "used_channels": channels}
    bias = lower.vector(step, "bias")
    lower.emit("depthwise", rows=y.rows, **windows, x=x, weight=weight, bias=bias, y=y)


def embedding(lower: Lowering, step: Step) -> None:
    """See `Ops.embedding`."""
    ids, y = lower.view(step.tensors["ids"]), lower.new(step.result)
    table = lower.matrix(step.tensors["weight"].name)
    lower.emit("lookup", rows=y.rows, ids=ids, table=table, y=y)


def lstm(lower: Lowering, step: Step) -> None:
    """See `Ops.lstm`: the inputs' share of all gates at once, then frame by frame."""
    value, lengths = step.tensors["x"], lower.view(step.tensors["lengths"])
    batch, time, hidden = step.result.shape
    names = [step.tensors[name].name for name in ("bias_ih", "bias_hh")]
    bias = lower.constant("sum", *names, width=4 * hidden)
    gates = lower.room(f"{step.result.name}.gates", batch * time, 4 * hidden * _FLOAT)
    matrix = lower.matrix(step.tensors["weight_ih"].name)
    multiply(lower, value, lower.view(value), matrix, gates, Ending(bias))
    name = step.tensors["weight_hh"].name
    weights = {gate: lower.matrix(name, g * hidden, hidden, 32) for g, gate in enumerate("ifgo")}
    about = {"batch": batch, "time": time, "hidden": hidden, "reverse": step.settings["reverse"]}
    y = lower.new(step.result)
    lower.emit("lstm", **about, gates=gates, lengths=lengths, **weights, y=y)


RULES = {
    **{"linear": linear, "conv1d": conv1d, "conv2d": conv2d},
    **{"embedding": embedding, "lstm": lstm},
}
