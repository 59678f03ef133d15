"""The tracing backend: it records the operations of a model's function from shapes, without data.

The recorded `Program` is what costs are counted on and plans are lowered from; `replay` runs it on
another backend.
"""

# ruff: noqa: D102 - the protocol documents every operation

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tynda.compile.shapes import attended, expect
from tynda.models.base import Family
from tynda.ops.base import conv_length
from tynda.ops.tree import leaves

__all__ = [
    "INTEGERS",
    "VIEWS",
    "Program",
    "Step",
    "TraceOps",
    "Value",
    "replay",
    "replay_step",
    "trace",
    "trace_call",
]

VIEWS = ("reshape", "slice")
"""Operations whose result is a view of their first tensor."""
INTEGERS = ("positions", "conv_lengths", "multiply_lengths")
"""Operations on lengths and positions, whose cost is negligible."""
_INTEGER_ARGUMENTS = ("lengths", "starts", "index", "ids")


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor without its data."""

    shape: tuple[int, ...]
    name: str = ""
    """The name of a weight, or of the layer that computes the tensor (``blocks.0.ff1.in``)."""
    is_weight: bool = False
    is_integer: bool = False
    """Whether its elements are integers: lengths, positions or tokens."""
    packed: str = ""
    """For a result of `pack_keys` or `pack_values`: ``keys`` or ``values``, and the heads."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Step:
    """One call of an operation."""

    operation: str
    tensors: Mapping[str, Value]
    """Name of a parameter in the protocol -> tensor."""
    settings: Mapping[str, Any]
    """Name of a parameter that is no tensor -> its value."""
    result: Value

    @property
    def weights(self) -> list[Value]:
        """The weights that it reads."""
        return [v for v in self.tensors.values() if v.is_weight]

    @property
    def activations(self) -> list[Value]:
        """The other tensors that it reads, without those of lengths, positions, indices and ids."""
        tensors = self.tensors.items()
        return [v for k, v in tensors if not v.is_weight and k not in _INTEGER_ARGUMENTS]


@dataclass(frozen=True)
class Program:
    """A model's operations, in the order in which its definition calls them."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]


def trace(family: Family, config: Any, frames: int, batch: int = 1) -> Program:
    """List the operations of a family's ``encode`` on features ``[batch, frames, bins]``.

    No weight is allocated: a model of any size is traced in milliseconds. Raises ValueError where
    shapes do not fit.
    """
    features, lengths = Value((batch, frames, config.bins)), Value((batch,), is_integer=True)
    encode = family.programs["encode"]
    return trace_call(encode, family.shapes(config), config, features, lengths)[0]


def trace_call(
    function: Callable[..., Any], shapes: Mapping[str, tuple[int, ...]], config: Any, *inputs: Any
) -> tuple[Program, Any]:
    """Return the program of ``function(ops, weights, config, *inputs)``, and the function's result.

    ``shapes``: name of a weight -> its shape. ``inputs`` and the result are values or structures of
    them (``ops.tree``). Raises ValueError where shapes do not fit.
    """
    ops = TraceOps()
    weights = {name: ops.weight(name, *shape) for name, shape in shapes.items()}
    result = function(ops, weights, config, *inputs)
    program = Program(tuple(leaves(inputs)), tuple(ops.steps), tuple(leaves(result)))
    return program, result


def replay(
    program: Program, ops: Any, weights: Mapping[str, Any], inputs: Sequence[Any]
) -> list[Any]:
    """Run a program on a backend's tensors; the result equals that of the traced function."""
    known = dict(zip(program.inputs, inputs, strict=True))
    for step in program.steps:
        replay_step(step, ops, weights, known)
    return [known[value] for value in program.outputs]


def replay_step(step: Step, ops: Any, weights: Mapping[str, Any], known: dict[Value, Any]) -> None:
    """Run one step on a backend's tensors, and add its result to ``known``.

    ``known``: the inputs of the program and the results of earlier steps.
    """

    def find(value: Value) -> Any:
        return known[value] if value in known or not value.is_weight else weights[value.name]

    tensors = {name: find(value) for name, value in step.tensors.items()}
    settings = dict(step.settings)
    positional = [tensors.pop("x"), *settings.pop("shape")] if "shape" in settings else []
    known[step.result] = getattr(ops, step.operation)(*positional, **tensors, **settings)


@dataclass
class TraceOps:
    """The operations of ``tynda.ops.base`` on `Value` objects; each call records a `Step`.

    Raises ValueError where shapes do not fit.
    """

    steps: list[Step] = field(default_factory=list)

    def weight(self, name: str, *shape: int) -> Value:
        """Return the value of a weight."""
        return Value(shape, name, is_weight=True)

    def linear(self, x: Value, weight: Value, bias: Value | None = None) -> Value:
        expect(x.shape[-1] == weight.shape[1], x, weight)
        shape = (*x.shape[:-1], weight.shape[0])
        return self._step("linear", shape, x=x, weight=weight, bias=bias)

    def conv1d(
        self,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> Value:
        batch, time, channels = x.shape
        width, per_group, kernel = weight.shape
        expect(channels == per_group * groups and width % groups == 0, x, weight)
        shape = (batch, conv_length(time, kernel, stride, padding), width)
        settings = {"stride": stride, "padding": padding, "groups": groups}
        return self._step("conv1d", shape, settings, x=x, weight=weight, bias=bias)

    def conv2d(
        self,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> Value:
        batch, time, bins, channels = x.shape
        width, per_group, *kernel = weight.shape
        expect(channels == per_group * groups and width % groups == 0, x, weight)
        sizes = zip((time, bins), kernel, stride, padding, strict=True)
        shape = (batch, *(conv_length(*size) for size in sizes), width)
        settings = {"stride": stride, "padding": padding, "groups": groups}
        return self._step("conv2d", shape, settings, x=x, weight=weight, bias=bias)

    def layer_norm(
        self, x: Value, weight: Value, bias: Value | None = None, eps: float = 1e-5
    ) -> Value:
        expect(weight.shape == x.shape[-1:], x, weight)
        expect(bias is None or bias.shape == weight.shape, weight, *([bias] if bias else []))
        return self._step("layer_norm", x.shape, {"eps": eps}, x=x, weight=weight, bias=bias)

    def group_norm(
        self,
        x: Value,
        weight: Value,
        bias: Value,
        *,
        groups: int,
        lengths: Value,
        eps: float = 1e-5,
    ) -> Value:
        expect(weight.shape == bias.shape == x.shape[-1:], x, weight, bias)
        expect(x.shape[-1] % groups == 0, x)
        tensors = {"x": x, "weight": weight, "bias": bias, "lengths": lengths}
        return self._step("group_norm", x.shape, {"groups": groups, "eps": eps}, **tensors)

    def batch_norm(
        self,
        x: Value,
        weight: Value,
        bias: Value,
        mean: Value,
        variance: Value,
        lengths: Value,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> Value:
        weights = {"weight": weight, "bias": bias, "mean": mean, "variance": variance}
        expect(all(w.shape == x.shape[-1:] for w in weights.values()), x, *weights.values())
        settings = {"eps": eps, "momentum": momentum}
        return self._step("batch_norm", x.shape, settings, x=x, **weights, lengths=lengths)

    def statistics(self, x: Value, lengths: Value, eps: float = 1e-7) -> Value:
        shape = (x.shape[0], 1, 2 * x.shape[2])
        return self._step("statistics", shape, {"eps": eps}, x=x, lengths=lengths)

    def relu(self, x: Value) -> Value:
        return self._step("relu", x.shape, x=x)

    def gelu(self, x: Value) -> Value:
        return self._step("gelu", x.shape, x=x)

    def silu(self, x: Value) -> Value:
        return self._step("silu", x.shape, x=x)

    def tanh(self, x: Value) -> Value:
        return self._step("tanh", x.shape, x=x)

    def asinh(self, x: Value) -> Value:
        return self._step("asinh", x.shape, x=x)

    def glu(self, x: Value) -> Value:
        return self._gated("glu", x)

    def swiglu(self, x: Value) -> Value:
        return self._gated("swiglu", x)

    def _gated(self, operation: str, x: Value) -> Value:
        expect(x.shape[-1] % 2 == 0, x)
        return self._step(operation, (*x.shape[:-1], x.shape[-1] // 2), x=x)

    def log_softmax(self, x: Value) -> Value:
        return self._step("log_softmax", x.shape, x=x)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        heads: int,
        lengths: Value,
        log_counts: Value | None = None,
    ) -> Value:
        shape = attended(q, k, v, heads)
        if log_counts is not None:
            expect(log_counts.shape == k.shape[:2], k, log_counts)
        tensors = {"q": q, "k": k, "v": v, "lengths": lengths, "log_counts": log_counts}
        return self._step("attention", shape, {"heads": heads}, **tensors)

    def causal_attention(self, q: Value, k: Value, v: Value, *, heads: int, starts: Value) -> Value:
        shape = attended(q, k, v, heads)
        return self._step("causal_attention", shape, {"heads": heads}, q=q, k=k, v=v, starts=starts)

    def window_attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        heads: int,
        lengths: Value,
        before: int,
        after: int,
    ) -> Value:
        shape = attended(q, k, v, heads)
        expect(q.shape[1] == k.shape[1], q, k)
        settings = {"heads": heads, "before": before, "after": after}
        return self._step("window_attention", shape, settings, q=q, k=k, v=v, lengths=lengths)

    def rotary_table(self, starts: Value, count: int, *, width: int, base: float) -> Value:
        settings = {"count": count, "width": width, "base": base}
        shape = (*starts.shape, count, 2 * -(-width // 2))
        return self._step("rotary_table", shape, settings, starts=starts)

    def rotary(self, x: Value, table: Value, *, heads: int) -> Value:
        width = x.shape[-1] // heads
        expect(x.shape[-1] % heads == 0 and table.shape[:-1] == x.shape[:-1], x, table)
        expect(table.shape[-1] % 2 == 0 and table.shape[-1] <= width, x, table)
        return self._step("rotary", x.shape, {"heads": heads}, table=table, x=x)

    def relative_encoding(self, x: Value) -> Value:
        _, time, channels = x.shape
        expect(channels % 2 == 0, x)
        return self._step("relative_encoding", (max(0, 2 * time - 1), channels), x=x)

    def relative_attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        encoding: Value,
        content_bias: Value,
        position_bias: Value,
        *,
        heads: int,
        lengths: Value,
    ) -> Value:
        shape = attended(q, k, v, heads)
        time, channels = q.shape[1:]
        expect(k.shape == q.shape and encoding.shape == (max(0, 2 * time - 1), channels), q, k)
        expect(content_bias.shape == position_bias.shape == (channels,), q, content_bias)
        tensors = {"q": q, "k": k, "v": v, "encoding": encoding}
        tensors |= {"content_bias": content_bias, "position_bias": position_bias}
        return self._step("relative_attention", shape, {"heads": heads}, **tensors, lengths=lengths)

    def attention_weights(self, q: Value, k: Value, *, heads: int, lengths: Value) -> Value:
        batch, queries, channels = q.shape
        expect(k.shape[::2] == (batch, channels) and channels % heads == 0, q, k)
        shape = (batch, heads, queries, k.shape[1])
        return self._step("attention_weights", shape, {"heads": heads}, q=q, k=k, lengths=lengths)

    def pack_keys(self, k: Value, *, heads: int, lengths: Value) -> Value:
        return self._pack("keys", heads, k=k, lengths=lengths)

    def pack_values(self, v: Value, *, heads: int, lengths: Value) -> Value:
        return self._pack("values", heads, v=v, lengths=lengths)

    def _pack(self, what: str, heads: int, **tensors: Value) -> Value:
        x = tensors[what[0]]
        expect(x.shape[-1] % heads == 0, x)
        return self._step(f"pack_{what}", x.shape, {"heads": heads}, **tensors)

    def embedding(self, ids: Value, weight: Value) -> Value:
        return self._step("embedding", (*ids.shape, weight.shape[1]), ids=ids, weight=weight)

    def positions(self, starts: Value, count: int) -> Value:
        return self._step("positions", (*starts.shape, count), {"count": count}, starts=starts)

    def write(self, cache: Value, x: Value, starts: Value) -> Value:
        expect(cache.shape[::2] == x.shape[::2], cache, x)
        return self._step("write", cache.shape, cache=cache, x=x, starts=starts)

    def index_select(self, x: Value, index: Value) -> Value:
        return self._step("index_select", (*index.shape, *x.shape[1:]), x=x, index=index)

    def slice(self, x: Value, start: int, stop: int) -> Value:
        expect(0 <= start <= stop <= x.shape[-2], x)
        shape = (*x.shape[:-2], stop - start, x.shape[-1])
        return self._step("slice", shape, {"start": start, "stop": stop}, x=x)

    def lstm(
        self,
        x: Value,
        weight_ih: Value,
        weight_hh: Value,
        bias_ih: Value,
        bias_hh: Value,
        *,
        lengths: Value,
        reverse: bool = False,
    ) -> Value:
        gates, hidden = weight_hh.shape
        expect(weight_ih.shape == (gates, x.shape[-1]) and gates == 4 * hidden, x, weight_ih)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh}
        weights |= {"bias_ih": bias_ih, "bias_hh": bias_hh}
        shape, settings = (*x.shape[:-1], hidden), {"reverse": reverse}
        return self._step("lstm", shape, settings, x=x, **weights, lengths=lengths)

    def add(self, x: Value, y: Value) -> Value:
        expect(y.shape in (x.shape, x.shape[1:]), x, y)
        return self._step("add", x.shape, x=x, y=y)

    def scale(self, x: Value, factor: float) -> Value:
        return self._step("scale", x.shape, {"factor": factor}, x=x)

    def concat(self, x: Value, y: Value) -> Value:
        expect(x.shape[:-1] == y.shape[:-1], x, y)
        return self._step("concat", (*x.shape[:-1], x.shape[-1] + y.shape[-1]), x=x, y=y)

    def reshape(self, x: Value, *shape: int) -> Value:
        known = math.prod(n for n in shape if n != -1)
        shape = tuple(x.size // max(known, 1) if n == -1 else n for n in shape)
        expect(math.prod(shape) == x.size, x, Value(shape))
        return self._step("reshape", shape, {"shape": shape}, x=x)

    def shape(self, x: Value) -> tuple[int, ...]:
        return x.shape

    def mask(self, x: Value, lengths: Value) -> Value:
        expect(lengths.shape == x.shape[:1], x, lengths)
        return self._step("mask", x.shape, x=x, lengths=lengths)

    def conv_lengths(self, lengths: Value, kernel: int, stride: int, padding: int) -> Value:
        settings = {"kernel": kernel, "stride": stride, "padding": padding}
        return self._step("conv_lengths", lengths.shape, settings, lengths=lengths)

    def multiply_lengths(self, lengths: Value, factor: int) -> Value:
        return self._step("multiply_lengths", lengths.shape, {"factor": factor}, lengths=lengths)

    def dropout(self, x: Value, rate: float) -> Value:
        return x

    def _step(
        self,
        operation: str,
        shape: tuple[int, ...],
        settings: Mapping[str, Any] | None = None,
        **tensors: Value | None,
    ) -> Value:
        """Record a call, and return its result of ``shape``."""
        given = {name: value for name, value in tensors.items() if value is not None}
        step = Step(operation, given, settings or {}, Value(shape))
        if operation in VIEWS:  # a view of a weight is a weight
            (x,) = given.values()
            result = Value(shape, x.name, x.is_weight, x.is_integer)
        elif operation in INTEGERS:
            result = Value(shape, "", is_integer=True)
        elif operation == "index_select":
            result = replace(given["x"], shape=shape, is_weight=False)
        elif operation.startswith("pack_"):
            packed = f"{operation.partition('_')[2]} {step.settings['heads']}"
            result = Value(shape, step.activations[0].name, packed=packed)
        elif step.weights:
            result = Value(shape, step.weights[0].name.rpartition(".")[0])
        else:
            result = Value(shape, step.activations[-1].name if step.activations else "")
        self.steps.append(replace(step, result=result))
        return result
