"""Lowering of matrix products with weights, and of convolutions as such products.

An activation, a factor or a sum that is the only use of a product becomes its epilogue: the kernel
applies it before it writes the product to memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tynda.compile.plan import FLOAT, Matrix, View
from tynda.compile.trace import Step, Value
from tynda.ops.base import conv_length
from tynda.weights.kernels import is_integer

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["ACTIVATIONS", "RULES", "Epilogue", "matmul"]

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "asinh")
_ROUNDING = 8
"""The bytes of a row's scale and zero point."""
_FOUR = 4
"""The number of codes in a row is a multiple of this, since kernels multiply four at a time."""


@dataclass(frozen=True)
class Epilogue:
    """``activation(product + bias) * factor + residual``, as kernels compute it."""

    bias: View | None = None
    activation: str = "none"
    factor: float = 1.0
    residual: View | None = None

    def columns(self, start: int) -> Epilogue:
        """Return the epilogue of the outputs from ``start`` on."""
        bias, residual = (v and v.columns(start * FLOAT) for v in (self.bias, self.residual))
        return replace(self, bias=bias, residual=residual)


def linear(lower: Lowering, step: Step) -> None:
    """See `Ops.linear`."""
    x, (result, epilogue) = step.tensors["x"], _epilogue(lower, step)
    matrix = lower.matrix(step.tensors["weight"].name)
    matmul(lower, x, lower.view(x), matrix, lower.new_view(result), epilogue)


def matmul(
    lower: Lowering,
    value: Value | None,
    x: View,
    matrix: Matrix,
    y: View,
    epilogue: Epilogue,
    overlapping: bool = False,
) -> None:
    """Emit the product of the rows of ``x`` with a weight.

    ``value``: the value that ``x`` is a view of, so that products of the same value round it to 8
    bits only once; None where ``x`` is a copy. ``overlapping``: rows are longer than their distance
    in memory, as windows of a convolution are.
    """
    fields = {
        **{"weight": matrix, "bias": epilogue.bias, "activation": epilogue.activation},
        **{"factor": float(epilogue.factor), "residual": epilogue.residual, "y": y},
    }
    if not is_integer(lower.weights[matrix.weight]):
        lower.emit("matmul", rows=y.rows, overlapping=overlapping, x=x, **fields)
        return
    if value is None or value not in lower.codes:
        depth = -(-matrix.inputs // _FOUR) * _FOUR
        name = x.buffer.name
        codes = lower.buffer(f"{name}.codes", x.rows, depth)
        roundings = lower.buffer(f"{name}.roundings", x.rows, _ROUNDING)
        sizes = {"rows": x.rows, "width": matrix.inputs, "depth": depth, "overlapping": overlapping}
        lower.emit("quantize", **sizes, x=x, codes=codes, roundings=roundings)
        if value is not None:
            lower.codes[value] = codes, roundings
    else:
        codes, roundings = lower.codes[value]
    lower.emit("matmul_8", rows=y.rows, x=codes, roundings=roundings, **fields)


def _epilogue(lower: Lowering, step: Step) -> tuple[Value, Epilogue]:
    """Return the value that a product and its epilogue compute, and that epilogue."""
    epilogue, result = Epilogue(lower.optional_view(step, "bias")), step.result
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
            if other is result or other.shape != result.shape or not lower.is_available(other):
                break
            epilogue = replace(epilogue, residual=lower.view(other))
        else:
            break
        lower.fused.add(user)
        result = after.result
    return result, epilogue


# ---- convolutions


def conv1d(lower: Lowering, step: Step) -> None:
    """See `Ops.conv1d`. It is a convolution over frames with one bin each."""
    s = step.settings
    _, time, channels = step.tensors["x"].shape
    *_, taps = step.tensors["weight"].shape
    shape = {
        **{"time": time, "bins": 1, "channels": channels},
        **{"frames": conv_length(time, taps, s["stride"], s["padding"]), "frame_bins": 1},
        **{"taps": taps, "taps_bins": 1, "stride": s["stride"], "stride_bins": 1},
        **{"padding": s["padding"], "padding_bins": 0},
    }
    _convolution(lower, step, shape)


def conv2d(lower: Lowering, step: Step) -> None:
    """See `Ops.conv2d`."""
    (stride, stride_bins), (padding, padding_bins) = (
        step.settings[name] for name in ("stride", "padding")
    )
    _, time, bins, channels = step.tensors["x"].shape
    *_, taps, taps_bins = step.tensors["weight"].shape
    shape = {
        **{"time": time, "bins": bins, "channels": channels},
        "frames": conv_length(time, taps, stride, padding),
        "frame_bins": conv_length(bins, taps_bins, stride_bins, padding_bins),
        **{"taps": taps, "taps_bins": taps_bins, "stride": stride, "stride_bins": stride_bins},
        **{"padding": padding, "padding_bins": padding_bins},
    }
    _convolution(lower, step, shape)


def _convolution(lower: Lowering, step: Step, shape: dict[str, int]) -> None:
    groups, (out, inputs, *_) = step.settings["groups"], step.tensors["weight"].shape
    if inputs == 1 and 1 < groups == out == shape["channels"]:
        _depthwise(lower, step, shape)
    else:
        _grouped(lower, step, shape, groups)


def _grouped(lower: Lowering, step: Step, shape: dict[str, int], groups: int) -> None:
    value, (result, epilogue) = step.tensors["x"], _epilogue(lower, step)
    x, y = lower.view(value), lower.new_view(result)
    used, out = shape["channels"] // groups, step.result.shape[-1] // groups
    parts = [shape | {"first_channel": g * used, "used_channels": used} for g in range(groups)]
    # Windows of a single item along one axis need no copy: they are rows that overlap in memory.
    one_axis = shape["bins"] == shape["taps_bins"] == 1 and not shape["padding_bins"]
    overlapping = value.shape[0] == 1 and one_axis
    padded = [_padded(lower, step, x, part) for part in parts] if overlapping else []
    for g, part in enumerate(parts):
        if overlapping:
            row = shape["stride"] * used * FLOAT
            rows = View(padded[g].buffer, y.rows, row, padded[g].offset)
        else:
            rows = _im2col(lower, step, x, y.rows, part)
        matrix = lower.matrix(step.tensors["weight"].name, g * out, out)
        columns = y.columns(g * out * FLOAT)
        matmul(lower, None, rows, matrix, columns, epilogue.columns(g * out), overlapping)


def _im2col(lower: Lowering, step: Step, x: View, rows: int, shape: dict[str, int]) -> View:
    """Emit a copy of the window of each row of a convolution's result, and return its view."""
    x = _frames(x, shape)
    taps = shape["taps"] * shape["taps_bins"]
    y = lower.buffer(f"{step.result.name}.im2col", rows, taps * shape["used_channels"] * FLOAT)
    lower.emit("im2col", rows=rows, **shape, x=x, y=y)
    return y


def _frames(x: View, shape: dict[str, int]) -> View:
    """Return the input of a convolution as one row for each frame, with all its bins."""
    return View(x.buffer, x.rows, shape["bins"] * shape["channels"] * FLOAT, x.offset)


def _padded(lower: Lowering, step: Step, x: View, shape: dict[str, int]) -> View:
    """Return the input of one group of channels, with the zeros of its padding around it."""
    time, padding = shape["time"], shape["padding"]
    if not padding and shape["used_channels"] == shape["channels"]:
        return x
    frames = time + 2 * padding
    copy = shape | {"taps": 1, "stride": 1, "frames": frames}
    return _im2col(lower, step, x, frames, copy)


def _depthwise(lower: Lowering, step: Step, shape: dict[str, int]) -> None:
    x, y = _frames(lower.view(step.tensors["x"]), shape), lower.new_view(step.result)
    channels, taps = shape["channels"], shape["taps"] * shape["taps_bins"]
    weight = lower.constant("taps", step.tensors["weight"].name, rows=taps, width=channels)
    shape |= {"first_channel": 0, "used_channels": channels}
    bias = lower.optional_view(step, "bias")
    lower.emit("depthwise", rows=y.rows, **shape, x=x, weight=weight, bias=bias, y=y)


def embedding(lower: Lowering, step: Step) -> None:
    """See `Ops.embedding`."""
    ids, y = lower.view(step.tensors["ids"]), lower.new_view(step.result)
    table = lower.matrix(step.tensors["weight"].name)
    lower.emit("lookup", rows=y.rows, ids=ids, table=table, y=y)


def lstm(lower: Lowering, step: Step) -> None:
    """See `Ops.lstm`.

    One product computes what the inputs contribute to all gates; the recurrent operation then goes
    frame by frame.
    """
    value, lengths = step.tensors["x"], lower.view(step.tensors["lengths"])
    batch, time, hidden = step.result.shape
    names = [step.tensors[name].name for name in ("bias_ih", "bias_hh")]
    bias = lower.constant("sum", *names, width=4 * hidden)
    gates = lower.buffer(f"{step.result.name}.gates", batch * time, 4 * hidden * FLOAT)
    matrix = lower.matrix(step.tensors["weight_ih"].name)
    matmul(lower, value, lower.view(value), matrix, gates, Epilogue(bias))
    name = step.tensors["weight_hh"].name
    weights = {gate: lower.matrix(name, g * hidden, hidden, 32) for g, gate in enumerate("ifgo")}
    sizes = {"batch": batch, "time": time, "hidden": hidden, "reverse": step.settings["reverse"]}
    y = lower.new_view(step.result)
    lower.emit("lstm", **sizes, gates=gates, lengths=lengths, **weights, y=y)


RULES = {
    **{"linear": linear, "conv1d": conv1d, "conv2d": conv2d},
    **{"embedding": embedding, "lstm": lstm},
}
