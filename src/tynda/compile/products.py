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

__all__ = ["ACTIVATIONS", "RULES", "Epilogue", "matmul"]

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "asinh")
_FLOAT = 4
_FOUR = 4
"""A row of codes has a multiple of so many."""


@dataclass(frozen=True)
class Epilogue:
    """The last steps of a product, before it is written."""

    bias: View | None = None
    activation: str = "none"
    factor: float = 1.0
    residual: View | None = None

    def part(self, start: int) -> Epilogue:
        """Return the same for the outputs from ``start`` on."""
        bias, residual = (v and v.columns(start * _FLOAT) for v in (self.bias, self.residual))
        return replace(self, bias=bias, residual=residual)


def linear(lower: Lowering, step: Step) -> None:
    """See `Ops.linear`."""
    x, (result, epilogue) = step.tensors["x"], _epilogue(lower, step)
    matrix = lower.matrix(step.tensors["weight"].name)
    matmul(lower, x, lower.view(x), matrix, lower.new(result), epilogue)


def matmul(
    lower: Lowering,
    value: Value | None,
    x: View,
    matrix: Matrix,
    y: View,
    epilogue: Epilogue,
    overlapping: bool = False,
) -> None:
    """Rows times a weight.

    ``value``: whose rows, where several products may share codes. ``overlapping``: a row goes
    on in the next ones.
    """
    end = {
        **{"weight": matrix, "bias": epilogue.bias, "activation": epilogue.activation},
        **{"factor": float(epilogue.factor), "residual": epilogue.residual, "y": y},
    }
    if not is_integer(lower.weights[matrix.weight]):
        lower.emit("matmul", rows=y.rows, overlapping=overlapping, x=x, **end)
        return
    if value is None or value not in lower.codes:
        depth = -(-matrix.inputs // _FOUR) * _FOUR
        name = x.buffer.name
        codes = lower.room(f"{name}.codes", x.rows, depth)
        scales = lower.room(f"{name}.scales", x.rows, _FLOAT)
        about = {"rows": x.rows, "width": matrix.inputs, "depth": depth, "overlapping": overlapping}
        lower.emit("quantize", **about, x=x, codes=codes, scales=scales)
        if value is not None:
            lower.codes[value] = codes, scales
    else:
        codes, scales = lower.codes[value]
    lower.emit("matmul_8", rows=y.rows, x=codes, scales=scales, **end)


def _epilogue(lower: Lowering, step: Step) -> tuple[Value, Epilogue]:
    """Return what a product can do as it is written, and the value that is then its result."""
    epilogue, result = Epilogue(lower.vector(step, "bias")), step.result
    while (user := lower.only_user(result)) is not None:
        after = lower.program.steps[user]
        plain = epilogue.factor == 1 and epilogue.residual is None
        if after.operation in ACTIVATIONS and plain and epilogue.activation == "none":
            epilogue = replace(epilogue, activation=after.operation)
        elif after.operation == "scale" and epilogue.residual is None:
            epilogue = replace(epilogue, factor=epilogue.factor * after.settings["factor"])
        elif after.operation == "add" and epilogue.residual is None:
            x, y = after.tensors["x"], after.tensors["y"]
            other = y if x is result else x
            if other is result or other.shape != result.shape or not lower.is_known(other):
                break
            epilogue = replace(epilogue, residual=lower.view(other))
        else:
            break
        lower.done.add(user)
        result = after.result
    return result, epilogue


# ---- convolutions


def conv1d(lower: Lowering, step: Step) -> None:
    """See `Ops.conv1d`."""
    s = step.settings
    _, time, channels = step.tensors["x"].shape
    *_, taps = step.tensors["weight"].shape
    windows = {
        **{"time": time, "bins": 1, "channels": channels},
        **{"frames": conv_length(time, taps, s["stride"], s["padding"]), "frame_bins": 1},
        **{"taps": taps, "taps_bins": 1, "stride": s["stride"], "stride_bins": 1},
        **{"padding": s["padding"], "padding_bins": 0},
    }
    _convolution(lower, step, windows)


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
    _convolution(lower, step, windows)


def _convolution(lower: Lowering, step: Step, windows: dict[str, int]) -> None:
    groups, (out, inputs, *_) = step.settings["groups"], step.tensors["weight"].shape
    if inputs == 1 and 1 < groups == out == windows["channels"]:
        _depthwise(lower, step, windows)
    else:
        _grouped(lower, step, windows, groups)


def _grouped(lower: Lowering, step: Step, windows: dict[str, int], groups: int) -> None:
    value, (result, epilogue) = step.tensors["x"], _epilogue(lower, step)
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
            rows = _im2col(lower, step, x, y.rows, part)
        matrix = lower.matrix(step.tensors["weight"].name, g * out, out)
        columns = y.columns(g * out * _FLOAT)
        matmul(lower, None, rows, matrix, columns, epilogue.part(g * out), overlapping)


def _im2col(lower: Lowering, step: Step, x: View, rows: int, windows: dict[str, int]) -> View:
    """A copy of what each row of a convolution's result is made of."""
    x = _frames(x, windows)
    taps = windows["taps"] * windows["taps_bins"]
    y = lower.room(f"{step.result.name}.im2col", rows, taps * windows["used_channels"] * _FLOAT)
    lower.emit("im2col", rows=rows, **windows, x=x, y=y)
    return y


def _frames(x: View, windows: dict[str, int]) -> View:
    """The input of a convolution, a row for each frame with all its bins."""
    return View(x.buffer, x.rows, windows["bins"] * windows["channels"] * _FLOAT, x.offset)


def _padded(lower: Lowering, step: Step, x: View, windows: dict[str, int]) -> View:
    """The frames that windows look at, with zeros around them and of their group alone."""
    time, padding = windows["time"], windows["padding"]
    if not padding and windows["used_channels"] == windows["channels"]:
        return x
    frames = time + 2 * padding
    alone = windows | {"taps": 1, "stride": 1, "frames": frames}
    return _im2col(lower, step, x, frames, alone)


def _depthwise(lower: Lowering, step: Step, windows: dict[str, int]) -> None:
    x, y = _frames(lower.view(step.tensors["x"]), windows), lower.new(step.result)
    channels, taps = windows["channels"], windows["taps"] * windows["taps_bins"]
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
    matmul(lower, value, lower.view(value), matrix, gates, Epilogue(bias))
    name = step.tensors["weight_hh"].name
    weights = {gate: lower.matrix(name, g * hidden, hidden, 32) for g, gate in enumerate("ifgo")}
    about = {"batch": batch, "time": time, "hidden": hidden, "reverse": step.settings["reverse"]}
    y = lower.new(step.result)
    lower.emit("lstm", **about, gates=gates, lengths=lengths, **weights, y=y)


RULES = {
    **{"linear": linear, "conv1d": conv1d, "conv2d": conv2d},
    **{"embedding": embedding, "lstm": lstm},
}
