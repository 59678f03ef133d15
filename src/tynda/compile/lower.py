"""A traced program in the operations of the native engine (``native/src/plan.h``).

`Lowering` has a method for each operation of ``tynda.ops.base``, which says what native code
does for it. Where an activation, a factor or a sum is all that becomes of a product, they are
done on its way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.layout import ALIGN, Buffer, Layout, Machine, Node, Stage, View, group, up
from tynda.compile.trace import VIEWS, Program, Step, Value
from tynda.ops.base import conv_length
from tynda.weights.attention import KEYS, LEAST_QUERIES
from tynda.weights.kernels import is_integer, kernel_format
from tynda.weights.weight import floats

__all__ = ["Lowering", "attention_scratch", "held", "matrix_bytes", "remembered_bytes"]

_FLOAT = 4
_INTEGER = 8
_ACTIVATIONS = ("relu", "gelu", "silu")
# As in plan.cpp and kernels.inl.
_MOMENT_ROWS = 256
_FEW_QUERIES = 4
# As in matrix.h.
_BLOCK_INPUTS = 32


class Lowering:
    """A program's operations as native ones, and where its tensors lie."""

    stages: list[Stage]
    layout: Layout
    arguments: list[Buffer]
    """Inputs, then those outputs that are none of them."""
    outputs: list[View]
    matrices: dict[tuple[str, str], int]
    """Weights as products read them, by name and form: the bytes that each takes."""

    def __init__(self, program: Program, weights: Mapping[str, Any], machine: Machine) -> None:
        self.program, self._weights, self._machine = program, weights, machine
        self._nodes: list[Node] = []
        self._step = 0
        self.matrices = {}
        self._views: dict[Value, View] = {}
        self._codes: dict[Value, tuple[View, View]] = {}
        self._done: set[int] = set()
        self._made = {step.result: i for i, step in enumerate(program.steps)}
        self._users: dict[Value, list[int]] = {}
        for i, step in enumerate(program.steps):
            for value in step.tensors.values():
                self._users.setdefault(value, []).append(i)
        self.arguments = []
        for value in program.inputs:
            size = _INTEGER if value.is_integer else _FLOAT
            self._argument(self._new(value, size))
        for i, step in enumerate(program.steps):
            if i not in self._done:
                self._step = i
                getattr(self, f"_{step.operation}")(i, step)
        self.outputs = [self._output(value) for value in program.outputs]
        self.stages = group(self._nodes)
        self.layout = Layout(self.stages, machine)

    # ---- places

    def _new(self, value: Value, size: int = _FLOAT) -> View:
        """Room for a value that an operation makes."""
        if value.remembered:
            view = _room(value.shape[0], remembered_bytes(value, self._machine))
        else:
            width = value.shape[-1] if value.shape else 1
            view = _room(math.prod(value.shape[:-1]), width * size)
        self._views[value] = view
        return view

    def _over(self, value: Value, result: Value) -> View:
        """Room for a result made row by row: that of ``value``, if nobody reads it again."""
        maker = self._made.get(value)
        if (
            maker is None
            or self.program.steps[maker].operation in (*VIEWS, "write")
            or self._only_user(value) is None
            or value.shape != result.shape
        ):
            return self._new(result)
        self._views[result] = self._view(value)
        return self._views[result]

    def _view(self, value: Value) -> View:
        if value not in self._views:  # a weight
            array = np.ascontiguousarray(floats(self._weights[value.name]))
            buffer = Buffer(math.prod(array.shape[:-1]), array.shape[-1] * _FLOAT, constant=array)
            self._views[value] = View(buffer, buffer.rows, buffer.row)
        return self._views[value]

    def _argument(self, view: View) -> None:
        view.buffer.argument = len(self.arguments)
        self.arguments.append(view.buffer)

    def _output(self, value: Value) -> View:
        view = self._view(value)
        if view.buffer.constant is not None or view.offset:
            raise ValueError(f"{value.name} is a part of something: it cannot be a result")
        if view.buffer.argument is None:
            self._argument(view)
        return view

    def _vector(self, value: Value) -> NDArray[np.float32]:
        """A weight of one axis."""
        return np.ascontiguousarray(floats(self._weights[value.name]), np.float32)

    def _bias(self, step: Step) -> NDArray[np.float32] | None:
        return self._vector(step.tensors["bias"]) if "bias" in step.tensors else None

    def _node(self, emit: Callable[[Any, Any], None], **about: Any) -> None:
        self._nodes.append(Node(emit, step=self._step, **about))

    def _matrix(self, name: str, form: str) -> tuple[str, str]:
        """Note that a weight is read in a form."""
        self.matrices[name, form] = matrix_bytes(self._weights[name], form, self._machine)
        return name, form

    def _rows(self, step: Step, emit: Callable[[Any, Any, Any, Any], None]) -> None:
        """A node that works row by row: ``emit(plan, x, y, width)``."""
        value = step.tensors["x"]
        x, y = self._view(value), self._over(value, step.result)
        self._node(
            lambda plan, at: emit(plan, at(x), at(y), y.row // _FLOAT),
            rows=y.rows,
            reads=[x],
            writes=[y],
        )

    # ---- products

    def _linear(self, i: int, step: Step) -> None:
        x, result, ending = step.tensors["x"], *self._ending(i, step)
        weight = step.tensors["weight"].name
        self._product(x, self._view(x), weight, "linear", self._new(result), ending)

    def _conv1d(self, i: int, step: Step) -> None:
        s = step.settings
        _, time, channels = step.tensors["x"].shape
        out, _, taps = step.tensors["weight"].shape
        frames = conv_length(time, taps, s["stride"], s["padding"])
        windows = {
            **{"time": time, "bins": 1, "channels": channels, "frames": frames, "frame_bins": 1},
            **{"taps": taps, "taps_bins": 1, "stride": s["stride"], "stride_bins": 1},
            **{"padding": s["padding"], "padding_bins": 0},
        }
        if step.tensors["weight"].shape[1] == 1 and s["groups"] == out == channels:
            return self._depthwise(step, windows)
        self._convolution(i, step, windows, s["groups"])

    def _conv2d(self, i: int, step: Step) -> None:
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
        self._convolution(i, step, windows, 1)

    def _convolution(self, i: int, step: Step, windows: dict[str, int], groups: int) -> None:
        value, (result, ending) = step.tensors["x"], self._ending(i, step)
        x, y = self._view(value), self._new(result)
        used, out = windows["channels"] // groups, step.result.shape[-1] // groups
        parts = [
            windows | {"first_channel": g * used, "used_channels": used} for g in range(groups)
        ]
        # Along one axis, the frames of one item are windows as they lie there.
        one_axis = windows["bins"] == windows["taps_bins"] == 1 and not windows["padding_bins"]
        overlapping = value.shape[0] == 1 and one_axis
        patches = [self._padded(x, part) for part in parts] if overlapping else []
        name = step.tensors["weight"].name
        for g, part in enumerate(parts):
            if overlapping:
                row = windows["stride"] * used * _FLOAT
                rows = View(patches[g].buffer, y.rows, row, patches[g].offset)
            else:
                rows = self._windows(x, y.rows, part)
            columns, ends = y.columns(g * out * _FLOAT), ending.part(g * out, out)
            form = f"conv {g * out} {out}"
            self._product(None, rows, name, form, columns, ends, overlapping)

    def _windows(self, x: View, rows: int, windows: dict[str, int]) -> View:
        """A copy of what each row of a convolution's result is made of."""
        x = View(x.buffer, x.rows, windows["bins"] * windows["channels"] * _FLOAT, x.offset)
        taps = windows["taps"] * windows["taps_bins"]
        y = _room(rows, taps * windows["used_channels"] * _FLOAT)
        self._node(
            lambda plan, at: plan.windows(at(x), at(y), windows),
            rows=rows,
            reads_whole=[x],
            writes=[y],
        )
        return y

    def _padded(self, x: View, windows: dict[str, int]) -> View:
        """The frames that windows look at, with zeros around them and of their group alone."""
        time, padding = windows["time"], windows["padding"]
        if not padding and windows["used_channels"] == windows["channels"]:
            return x
        frames = time + 2 * padding
        return self._windows(x, frames, windows | {"taps": 1, "stride": 1, "frames": frames})

    def _depthwise(self, step: Step, windows: dict[str, int]) -> None:
        x, y = self._view(step.tensors["x"]), self._new(step.result)
        weight = floats(self._weights[step.tensors["weight"].name])
        taps = np.ascontiguousarray(weight[:, 0].T)
        bias = self._bias(step)
        part = windows | {"first_channel": 0, "used_channels": windows["channels"]}
        self._node(
            lambda plan, at: plan.depthwise(at(x), at(y), part, taps, bias),
            rows=y.rows,
            reads_whole=[x],
            writes=[y],
        )

    def _product(
        self,
        value: Value | None,
        x: View,
        name: str,
        form: str,
        y: View,
        ending: _Ending,
        overlapping: bool = False,
    ) -> None:
        """Rows times a weight.

        ``value``: whose rows, where several products may share codes. ``overlapping``: a row goes
        on in the next ones.
        """
        scales = None
        width = math.prod(self._weights[name].shape[1:])
        whole, rows = ([x], []) if overlapping else ([], [x])
        if is_integer(self._weights[name]):
            if value is None or value not in self._codes:
                depth = up(width, 4)
                codes, scales = _room(x.rows, depth), _room(x.rows, _FLOAT)
                floats = x

                def quantize(plan: Any, at: Any) -> None:
                    plan.quantize(at(floats), at(codes), at(scales), width, depth)

                self._node(
                    quantize, rows=x.rows, reads=rows, reads_whole=whole, writes=[codes, scales]
                )
                if value is not None:
                    self._codes[value] = codes, scales
            else:
                codes, scales = self._codes[value]
            x, whole, rows = codes, [], [codes, scales]
        residual = ending.residual
        bias = ending.bias
        matrix = self._matrix(name, form)

        def emit(plan: Any, at: Any) -> None:
            plan.multiply(
                at(x),
                None if scales is None else at(scales),
                at(y),
                matrix,
                bias,
                ending.activation,
                ending.factor,
                None if residual is None else at(residual),
            )

        reads = rows if residual is None else [*rows, residual]
        about = {"weights": [matrix], "integer": scales is not None}
        self._node(emit, rows=y.rows, reads=reads, reads_whole=whole, writes=[y], **about)

    def _ending(self, i: int, step: Step) -> tuple[Value, _Ending]:
        """What a product can do on its way out, and the value that is then its result."""
        ending = _Ending(self._bias(step))
        result, begin = step.result, i
        while (user := self._only_user(result)) is not None:
            after = self.program.steps[user]
            plain = ending.factor == 1 and ending.residual is None
            if after.operation in _ACTIVATIONS and plain and ending.activation == "none":
                ending.activation = after.operation
            elif after.operation == "scale" and ending.residual is None:
                ending.factor *= after.settings["factor"]
            elif after.operation == "add" and ending.residual is None:
                x, y = after.tensors["x"], after.tensors["y"]
                other = y if x is result else x
                known = other.is_weight or self._made.get(other, -1) < begin
                if other is result or other.shape != result.shape or not known:
                    break
                ending.residual = self._view(other)
            else:
                break
            self._done.add(user)
            result = after.result
        return result, ending

    def _only_user(self, value: Value) -> int | None:
        users = self._users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.program.outputs else None

    # ---- rows and elements

    def _layer_norm(self, i: int, step: Step) -> None:
        weight, bias = (self._vector(step.tensors[name]) for name in ("weight", "bias"))
        eps = step.settings["eps"]
        self._rows(step, lambda plan, x, y, n: plan.layer_norm(x, y, n, weight, bias, eps))

    def _batch_norm(self, i: int, step: Step) -> None:
        weight, bias, mean, variance = (
            self._vector(step.tensors[name]) for name in ("weight", "bias", "mean", "variance")
        )
        scale = weight / np.sqrt(variance + np.float32(step.settings["eps"]))
        shift = bias - mean * scale
        views = [View(Buffer(1, v.nbytes, constant=v), 1, v.nbytes) for v in (scale, shift)]
        self._affine(step, views[0], views[1], math.prod(step.result.shape[:-1]))

    def _group_norm(self, i: int, step: Step) -> None:
        x, lengths = (self._view(step.tensors[name]) for name in ("x", "lengths"))
        batch, time, channels = step.result.shape
        weight, bias = (self._vector(step.tensors[name]) for name in ("weight", "bias"))
        scale, shift = (_room(batch, channels * _FLOAT) for _ in range(2))
        work = _room(batch * -(-time // _MOMENT_ROWS), 2 * channels * 8)
        groups, eps = step.settings["groups"], step.settings["eps"]

        def emit(plan: Any, at: Any) -> None:
            places = (at(v) for v in (x, scale, shift, work))
            sizes = (batch, time, channels, groups)
            plan.moments(*places, *sizes, weight, bias, eps, at(lengths))

        self._node(emit, rows=None, reads=[x, lengths], writes=[scale, shift, work])
        self._affine(step, scale, shift, time)

    def _affine(self, step: Step, scale: View, shift: View, period: int) -> None:
        """With the activation that follows, if one does."""
        result, activation = step.result, "none"
        if (user := self._only_user(result)) is not None:
            after = self.program.steps[user]
            if after.operation in _ACTIVATIONS:
                self._done.add(user)
                result, activation = after.result, after.operation
        value = step.tensors["x"]
        x, y = self._view(value), self._over(value, result)

        def emit(plan: Any, at: Any) -> None:
            places = at(scale), at(shift), max(period, 1)
            plan.affine(at(x), at(y), y.row // _FLOAT, *places, activation)

        self._node(emit, rows=y.rows, reads=[x], reads_whole=[scale, shift], writes=[y])

    def _activation(self, i: int, step: Step) -> None:
        kind = step.operation
        self._rows(step, lambda plan, x, y, n: plan.activate(x, y, n, kind))

    _relu = _gelu = _silu = _activation

    def _glu(self, i: int, step: Step) -> None:
        self._rows(step, lambda plan, x, y, n: plan.glu(x, y, n))

    def _log_softmax(self, i: int, step: Step) -> None:
        self._rows(step, lambda plan, x, y, n: plan.log_softmax(x, y, n))

    def _scale(self, i: int, step: Step) -> None:
        factor = step.settings["factor"]
        self._rows(step, lambda plan, x, y, n: plan.scale(x, y, n, factor))

    def _add(self, i: int, step: Step) -> None:
        x, y = self._view(step.tensors["x"]), self._view(step.tensors["y"])
        result = self._new(step.result)
        repeats = step.tensors["y"].shape != step.tensors["x"].shape
        period = y.rows if repeats else 0

        def emit(plan: Any, at: Any) -> None:
            plan.add(at(x), at(y), at(result), result.row // _FLOAT, period)

        reads, whole = ([x], [y]) if repeats else ([x, y], [])
        self._node(emit, rows=result.rows, reads=reads, reads_whole=whole, writes=[result])

    def _concat(self, i: int, step: Step) -> None:
        y = self._new(step.result)
        column = 0
        for name in ("x", "y"):
            x = self._view(step.tensors[name])
            self._copy(x, y.columns(column), x.row, y.rows, y.rows, 0, whole=False)
            column += x.row

    def _copy(
        self, x: View, y: View, size: int, frames: int, time: int, start: int, *, whole: bool
    ) -> None:
        def emit(plan: Any, at: Any) -> None:
            plan.copy(at(x), at(y), size, max(frames, 1), time, start)

        reads = {"reads_whole" if whole else "reads": [x]}
        self._node(emit, rows=y.rows, writes=[y], **reads)

    def _mask(self, i: int, step: Step) -> None:
        x, y = self._view(step.tensors["x"]), self._new(step.result)
        lengths = self._view(step.tensors["lengths"])
        _, time, *bins = step.result.shape
        each = math.prod(bins[:-1])  # rows of a frame
        self._node(
            lambda plan, at: plan.mask(at(x), at(y), y.row // _FLOAT, time, each, at(lengths)),
            rows=y.rows,
            reads=[x],
            reads_whole=[lengths],
            writes=[y],
        )

    # ---- shapes and places

    def _reshape(self, i: int, step: Step) -> None:
        value = step.tensors["x"]
        view, shape = self._view(value), step.result.shape
        size = view.row // max(value.shape[-1], 1)
        rows = math.prod(shape[:-1])
        self._views[step.result] = View(view.buffer, rows, shape[-1] * size, view.offset)

    def _slice(self, i: int, step: Step) -> None:
        value, start, stop = step.tensors["x"], step.settings["start"], step.settings["stop"]
        x, time = self._view(value), value.shape[-2]
        if (start, stop) == (0, time):
            self._views[step.result] = x
        elif math.prod(value.shape[:-2]) == 1 and step.result not in self.program.outputs:
            offset = x.offset + start * x.row
            self._views[step.result] = View(x.buffer, stop - start, x.row, offset)
        else:
            y = self._new(step.result)
            self._copy(x, y, y.row, stop - start, time, start, whole=True)

    def _embedding(self, i: int, step: Step) -> None:
        ids, y = self._view(step.tensors["ids"]), self._new(step.result)
        name = step.tensors["weight"].name
        self._node(
            lambda plan, at: plan.lookup(at(ids), at(y), name),
            rows=y.rows,
            reads_whole=[ids],
            writes=[y],
            weights=[self._matrix(name, "linear")],
        )

    def _take(self, i: int, step: Step) -> None:
        value, items = step.tensors["x"], self._view(step.tensors["items"])
        x = self._view(value)
        each = _INTEGER if value.is_integer else _FLOAT
        count, size = value.shape[0], math.prod(value.shape[1:]) * each
        if value.remembered:
            size = x.row
        y = self._new(step.result, each)
        table = View(x.buffer, count, size, x.offset)
        rows = View(y.buffer, step.result.shape[0], size)
        self._node(
            lambda plan, at: plan.lookup_rows(at(items), at(rows), at(table), count, size),
            rows=rows.rows,
            reads_whole=[items, table],
            writes=[rows],
        )

    def _write(self, i: int, step: Step) -> None:
        cache, x, starts = (self._view(step.tensors[name]) for name in ("cache", "x", "starts"))
        self._views[step.result] = cache
        batch, time, _ = step.tensors["x"].shape
        capacity = step.tensors["cache"].shape[1]
        self._node(
            lambda plan, at: plan.write(at(cache), at(x), at(starts), batch, time, capacity, x.row),
            rows=None,
            reads=[x, starts],
            writes=[cache],
        )

    def _positions(self, i: int, step: Step) -> None:
        starts, y = self._view(step.tensors["starts"]), self._new(step.result, _INTEGER)
        size, count = step.tensors["starts"].size, step.settings["count"]
        self._integers(lambda plan, at: plan.positions(at(starts), at(y), size, count), starts, y)

    def _conv_lengths(self, i: int, step: Step) -> None:
        s = step.settings
        self._lengths(step, 2 * s["padding"] - s["kernel"], s["stride"], 1, 1)

    def _multiply_lengths(self, i: int, step: Step) -> None:
        self._lengths(step, 0, 1, 0, step.settings["factor"])

    def _lengths(self, step: Step, *numbers: int) -> None:
        x, y = self._view(step.tensors["lengths"]), self._new(step.result, _INTEGER)
        size = step.result.size
        self._integers(lambda plan, at: plan.lengths(at(x), at(y), size, *numbers), x, y)

    def _integers(self, emit: Callable[[Any, Any], None], x: View, y: View) -> None:
        self._node(emit, rows=None, reads=[x], writes=[y], early=True)

    # ---- what looks along time

    def _attention(self, i: int, step: Step) -> None:
        names = ("q", "k", "v", "lengths" if step.operation == "attention" else "starts")
        q, k, v, lengths = (self._view(step.tensors[name]) for name in names)
        y = self._new(step.result)
        heads = self._heads(step)

        def emit(plan: Any, at: Any) -> None:
            plan.attention(at(q), at(k), at(v), at(y), heads, at(lengths))

        about = {"local": attention_scratch(heads, self._machine), "integer": heads["integer"]}
        self._node(emit, rows=None, reads=[q, k, v, lengths], writes=[y], **about)

    _causal_attention = _attention

    def _attention_weights(self, i: int, step: Step) -> None:
        q, k, lengths = (self._view(step.tensors[name]) for name in ("q", "k", "lengths"))
        y, heads = self._new(step.result), self._heads(step)
        self._node(
            lambda plan, at: plan.attention_weights(at(q), at(k), at(y), heads, at(lengths)),
            rows=None,
            reads=[q, k, lengths],
            writes=[y],
            local=attention_scratch(heads, self._machine),
            integer=bool(heads["integer"]),
        )

    def _remember(self, i: int, step: Step) -> None:
        values = step.operation == "remember_values"
        x = self._view(step.tensors["v" if values else "k"])
        lengths = self._view(step.tensors["lengths"])
        batch, keys, channels = step.result.shape
        heads = {
            **{"batch": batch, "heads": step.settings["heads"], "queries": 0, "keys": keys},
            **{"channels": channels, "v_channels": channels, "causal": False},
            **{"integer": self._machine.bits == 8, "packed": True, "chunks": 1},
        }
        y = self._new(step.result)
        self._node(
            lambda plan, at: plan.remember(at(x), at(y), heads, values, at(lengths)),
            rows=None,
            reads=[x, lengths],
            writes=[y],
        )

    _remember_keys = _remember_values = _remember

    def _heads(self, step: Step) -> dict[str, int]:
        batch, queries, channels = step.tensors["q"].shape
        keys, heads = step.tensors["k"].shape[1], step.settings["heads"]
        packed = bool(step.tensors["k"].remembered)
        # Parts of the queries, so that the heads' work comes out even on the threads; each
        # rearranges the keys for itself, which has to pay.
        threads = self._machine.threads
        even = batch * heads % threads == 0
        most = max(1, queries // (8 * self._machine.tile))
        return {
            **{"batch": batch, "heads": heads, "queries": queries, "keys": keys},
            "channels": channels,
            "v_channels": step.tensors["v"].shape[2] if "v" in step.tensors else channels,
            "causal": step.operation == "causal_attention",
            "integer": self._machine.bits == 8
            and step.operation != "causal_attention"
            and (packed or (queries >= LEAST_QUERIES and step.operation == "attention")),
            "packed": packed,
            "chunks": 1 if even else min(threads, most),
        }

    def _lstm(self, i: int, step: Step) -> None:
        value, lengths = step.tensors["x"], self._view(step.tensors["lengths"])
        batch, time, hidden = step.result.shape
        b_ih, b_hh = (self._vector(step.tensors[name]) for name in ("bias_ih", "bias_hh"))
        gates = _room(batch * time, 4 * hidden * _FLOAT)
        name = step.tensors["weight_ih"].name
        bias = b_ih + b_hh
        self._product(value, self._view(value), name, "linear", gates, _Ending(bias))
        wide = up(hidden, self._machine.panel)
        y, work = self._new(step.result), _room(7 * batch, wide * _FLOAT)
        weights = [self._matrix(step.tensors["weight_hh"].name, f"gate {g}") for g in range(4)]
        reverse = step.settings["reverse"]

        def emit(plan: Any, at: Any) -> None:
            places = (at(v) for v in (gates, y, work))
            plan.lstm(*places, weights, batch, time, hidden, reverse, at(lengths))

        self._node(emit, rows=None, reads=[gates, lengths], writes=[y, work], weights=weights)


class _Ending:
    """What becomes of a product before it is written."""

    def __init__(self, bias: NDArray[np.float32] | None) -> None:
        self.bias = bias
        self.activation = "none"
        self.factor = 1.0
        self.residual: View | None = None

    def part(self, start: int, count: int) -> _Ending:
        """Of some of the outputs."""
        part = _Ending(None if self.bias is None else self.bias[start : start + count])
        part.activation, part.factor = self.activation, self.factor
        part.residual = self.residual and self.residual.columns(start * _FLOAT)
        return part


def _room(rows: int, row: int) -> View:
    return View(Buffer(rows, row), rows, row)


def held(weight: Any, form: str) -> tuple[int, int]:
    """In how many bits the kernels hold a weight, and in groups of how many inputs.

    ``form``: ``linear``; ``conv FIRST COUNT``, of some outputs; ``gate G`` of an LSTM.
    """
    return (32, 0) if form.startswith("gate") else kernel_format(weight)


def matrix_bytes(weight: Any, form: str, machine: Machine) -> int:
    """Of a weight in the kernels' hands, as ``Matrix`` has them."""
    bits, group = held(weight, form)
    kind, *numbers = form.split()
    rows: dict[str, int] = {"linear": weight.shape[0], "gate": weight.shape[0] // 4}
    outputs = up(int(numbers[1]) if kind == "conv" else rows[kind], machine.panel)
    inputs: int = math.prod(weight.shape[1:])
    if bits == 32:
        return outputs * inputs * _FLOAT
    if bits == 8:
        return outputs * (up(inputs, 4) + 8)  # each with a scale and where its sum starts
    groups = max(1, -(-inputs // group)) if group else 1
    return outputs * (up(inputs, _BLOCK_INPUTS) * bits // 8 + 8 + 2 * groups)


def remembered_bytes(value: Value, machine: Machine) -> int:
    """Of an item, as ``AttentionKernels`` has them."""
    what, heads = value.remembered.split()
    _, room, channels = value.shape
    size = _key_bytes if what == "keys" else _value_bytes
    return int(heads) * size(room, channels // int(heads), machine.bits == 8, machine.panel)


def _key_bytes(room: int, width: int, integer: bool, panel: int) -> int:
    wide = up(room, panel)
    return wide * (8 + up(width, 4)) if integer else wide * width * _FLOAT


def _value_bytes(room: int, width: int, integer: bool, panel: int) -> int:
    wide = up(width, panel)
    return up(room, KEYS) // KEYS * wide * (_FLOAT + KEYS) if integer else room * wide * _FLOAT


def attention_scratch(heads: Mapping[str, int], machine: Machine) -> int:
    """Bytes for each thread, as ``AttentionKernels`` has them."""
    queries, keys = -(-heads["queries"] // heads["chunks"]), heads["keys"]
    width, v_width = (heads[name] // heads["heads"] for name in ("channels", "v_channels"))
    if not heads["packed"] and queries < _FEW_QUERIES:
        return keys * _FLOAT
    integer, panel, tile = bool(heads["integer"]), machine.panel, machine.tile
    weight = 1 if integer else _FLOAT
    parts = (
        0 if heads["packed"] else _key_bytes(keys, width, integer, panel),
        0 if heads["packed"] else _value_bytes(keys, v_width, integer, panel),
        tile * (up(width, 4) if integer else width) * weight,
        tile * KEYS * _FLOAT,
        tile * KEYS * weight,
        tile * up(v_width, panel) * _FLOAT,
    )
    return sum(up(part, ALIGN) for part in parts)
