"""Counting backend: no data, only shapes. What a model costs, per operation and per layer.

Conventions
-----------
- A multiply-add is one MAC and two FLOPs. Multiplications with padding zeros count (a dense
  kernel does them), and so do padded frames. A bias is where a sum starts: it costs nothing.
- Anything else counts per element: an addition, a multiplication, a division, a comparison,
  an ``exp``, ``erf``, ``log`` or ``tanh`` is one FLOP each. So: relu, add, scale 1; sigmoid 4;
  gelu (scale, erf, sum, two products), silu and glu (per output) 5; softmax and log-softmax 5
  (maximum, difference, exp, sum, division or difference); layer and group norm 7 (mean,
  difference, square, sum, product, scale, shift); batch norm 3; LSTM 22 for each hidden unit
  and frame beside its products. Moving data (concat, embedding, mask, reshape, slice, take,
  write) and what is done once per row or channel counts nothing.
- Weights and activations are float32.
"""

# ruff: noqa: D102 - the protocol documents every operation

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import ModuleType

from tynda.ops.base import conv_length

__all__ = ["CountOps", "Report", "Row", "Shape", "count"]

_BYTES = 4
_SIGMOID, _GELU, _SOFTMAX, _LAYER_NORM, _BATCH_NORM, _LSTM = 4, 5, 5, 7, 3, 22


class _Memory:
    """Bytes in use now, and the most there ever were."""

    def __init__(self) -> None:
        self.live = self.peak = 0


class _Block:
    """An allocation: counted from its making until nothing refers to it any more."""

    def __init__(self, memory: _Memory, size: int) -> None:
        self.memory, self.size = memory, size
        memory.live += size
        memory.peak = max(memory.peak, memory.live)

    def __del__(self) -> None:
        self.memory.live -= self.size


@dataclass(frozen=True, eq=False)
class Shape:
    """A tensor without its data."""

    shape: tuple[int, ...]
    name: str = ""
    """A weight's own name, or the layer that an activation comes from."""
    block: _Block | None = None
    """What an activation occupies; a reshaped one shares it."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Row:
    """One call of an operation, or the sum of several."""

    operation: str
    layer: str
    """Name of the weights without the last part (``blocks.0.ff1.in``); an operation without
    weights belongs to the layer that made its last input."""
    macs: int
    flops: int
    """``2 * macs`` and the elementwise work."""
    weight_bytes: int
    input_bytes: int
    """Activations read."""
    output_bytes: int
    """Activations written."""


@dataclass(frozen=True)
class Report:
    """What one run of a model costs."""

    rows: tuple[Row, ...]
    """In the order of the calls; those that only move data are among them."""
    weight_bytes: int
    """Of every tensor read, each once."""
    peak_activation_bytes: int
    """The most bytes of tensors passing between operations that live at one time.

    A tensor dies when the model's code lets go of it. What an operation needs inside
    (attention's scores, a convolution's windows) is up to its backend and not in here.
    """

    @property
    def total_macs(self) -> int:
        """Multiply-adds of all rows."""
        return sum(row.macs for row in self.rows)

    @property
    def total_flops(self) -> int:
        """FLOPs of all rows."""
        return sum(row.flops for row in self.rows)

    def by_operation(self) -> dict[str, Row]:
        """Operation -> sum of its rows (``layer`` empty), most FLOPs first."""
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


def count(module: ModuleType, config: object, frames: int, batch: int = 1) -> Report:
    """Count one run of a model family on features ``[batch, frames, config.bins]``.

    ``module`` is a family of ``tynda.models`` and ``config`` its ``Config``. No weight is
    made: a model of any size is counted in milliseconds. Raises ValueError where shapes do
    not fit.
    """
    ops = CountOps()
    weights = {name: Shape(spec.shape, name) for name, spec in module.specs(config).items()}
    bins: int = config.bins  # type: ignore[attr-defined]
    module.encode(ops, weights, config, ops.input(batch, frames, bins), Shape((batch,)))
    return ops.report()


class CountOps:
    """Operations of ``tynda.ops.base`` on `Shape` objects; each call adds a `Row`.

    Raises ValueError where shapes do not fit.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._weights: dict[str, int] = {}
        self._memory = _Memory()

    def input(self, *shape: int) -> Shape:
        """An activation that comes from outside."""
        return Shape(shape, "", _Block(self._memory, _BYTES * math.prod(shape)))

    def report(self) -> Report:
        """Everything counted so far."""
        return Report(tuple(self._rows), sum(self._weights.values()), self._memory.peak)

    def linear(self, x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
        width, channels = weight.shape
        _expect(x.shape[-1] == channels, x, weight)
        shape = (*x.shape[:-1], width)
        return self._row("linear", shape, [x], [weight, bias], macs=math.prod(shape) * channels)

    def conv1d(
        self,
        x: Shape,
        weight: Shape,
        bias: Shape | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> Shape:
        batch, time, channels = x.shape
        width, per_group, kernel = weight.shape
        _expect(channels == per_group * groups and width % groups == 0, x, weight)
        shape = (batch, conv_length(time, kernel, stride, padding), width)
        macs = math.prod(shape) * per_group * kernel
        return self._row("conv1d", shape, [x], [weight, bias], macs=macs)

    def conv2d(
        self,
        x: Shape,
        weight: Shape,
        bias: Shape | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
    ) -> Shape:
        batch, time, bins, channels = x.shape
        width, inputs, *kernel = weight.shape
        _expect(channels == inputs, x, weight)
        sizes = zip((time, bins), kernel, stride, padding, strict=True)
        shape = (batch, *(conv_length(*size) for size in sizes), width)
        macs = math.prod(shape) * channels * math.prod(kernel)
        return self._row("conv2d", shape, [x], [weight, bias], macs=macs)

    def layer_norm(self, x: Shape, weight: Shape, bias: Shape, eps: float = 1e-5) -> Shape:
        _expect(weight.shape == bias.shape == x.shape[-1:], x, weight, bias)
        return self._row("layer_norm", x.shape, [x], [weight, bias], other=_LAYER_NORM * x.size)

    def group_norm(
        self,
        x: Shape,
        weight: Shape,
        bias: Shape,
        *,
        groups: int,
        lengths: Shape,
        eps: float = 1e-5,
    ) -> Shape:
        _expect(weight.shape == bias.shape == x.shape[-1:], x, weight, bias)
        _expect(x.shape[-1] % groups == 0, x)
        return self._row("group_norm", x.shape, [x], [weight, bias], other=_LAYER_NORM * x.size)

    def batch_norm(
        self,
        x: Shape,
        weight: Shape,
        bias: Shape,
        mean: Shape,
        variance: Shape,
        lengths: Shape,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> Shape:
        weights = [weight, bias, mean, variance]
        _expect(all(w.shape == x.shape[-1:] for w in weights), x, *weights)
        return self._row("batch_norm", x.shape, [x], weights, other=_BATCH_NORM * x.size)

    def relu(self, x: Shape) -> Shape:
        return self._row("relu", x.shape, [x], other=x.size)

    def gelu(self, x: Shape) -> Shape:
        return self._row("gelu", x.shape, [x], other=_GELU * x.size)

    def silu(self, x: Shape) -> Shape:
        return self._row("silu", x.shape, [x], other=(_SIGMOID + 1) * x.size)

    def glu(self, x: Shape) -> Shape:
        _expect(x.shape[-1] % 2 == 0, x)
        shape = (*x.shape[:-1], x.shape[-1] // 2)
        return self._row("glu", shape, [x], other=(_SIGMOID + 1) * math.prod(shape))

    def log_softmax(self, x: Shape) -> Shape:
        return self._row("log_softmax", x.shape, [x], other=_SOFTMAX * x.size)

    def attention(self, q: Shape, k: Shape, v: Shape, *, heads: int, lengths: Shape) -> Shape:
        return self._attention("attention", q, k, v, heads)

    def causal_attention(self, q: Shape, k: Shape, v: Shape, *, heads: int, starts: Shape) -> Shape:
        return self._attention("causal_attention", q, k, v, heads)

    def _attention(self, operation: str, q: Shape, k: Shape, v: Shape, heads: int) -> Shape:
        """Every query with every key: no kernel is said to skip what a query may not see."""
        batch, queries, channels = q.shape
        keys, values = v.shape[1:]
        _expect(k.shape == (batch, keys, channels) and v.shape[0] == batch, q, k, v)
        _expect(channels % heads == 0 and values % heads == 0, q, v)
        macs = batch * queries * keys * (channels + values)
        other = q.size + _SOFTMAX * batch * heads * queries * keys  # q is scaled
        return self._row(operation, (batch, queries, values), [q, k, v], macs=macs, other=other)

    def attention_weights(self, q: Shape, k: Shape, *, heads: int, lengths: Shape) -> Shape:
        batch, queries, channels = q.shape
        _expect(k.shape[::2] == (batch, channels) and channels % heads == 0, q, k)
        shape = (batch, heads, queries, k.shape[1])
        other = q.size + _SOFTMAX * math.prod(shape)
        macs = math.prod(shape) * channels // heads
        return self._row("attention_weights", shape, [q, k], macs=macs, other=other)

    def embedding(self, ids: Shape, weight: Shape) -> Shape:
        # Only the rows that are asked for are read.
        read = replace(weight, shape=(ids.size, weight.shape[1]))
        return self._row("embedding", (*ids.shape, weight.shape[1]), [ids], [read])

    def positions(self, starts: Shape, count: int) -> Shape:
        return Shape((*starts.shape, count))

    def write(self, cache: Shape, x: Shape, starts: Shape) -> Shape:
        _expect(cache.shape[::2] == x.shape[::2], cache, x)
        self._row("write", x.shape, [x])
        return cache

    def take(self, x: Shape, items: Shape) -> Shape:
        return self._row("take", (*items.shape, *x.shape[1:]), [x])

    def slice(self, x: Shape, start: int, stop: int) -> Shape:
        _expect(0 <= start <= stop <= x.shape[-2], x)
        return replace(x, shape=(*x.shape[:-2], stop - start, x.shape[-1]))

    def lstm(
        self,
        x: Shape,
        weight_ih: Shape,
        weight_hh: Shape,
        bias_ih: Shape,
        bias_hh: Shape,
        *,
        lengths: Shape,
        reverse: bool = False,
    ) -> Shape:
        gates, hidden = weight_hh.shape
        _expect(weight_ih.shape == (gates, x.shape[-1]) and gates == 4 * hidden, x, weight_ih)
        shape = (*x.shape[:-1], hidden)
        steps = math.prod(x.shape[:-1])
        # Four sums of two products, three sigmoids, two tanh, and c = f c + i g, h = o tanh c.
        return self._row(
            "lstm",
            shape,
            [x],
            [weight_ih, weight_hh, bias_ih, bias_hh],
            macs=steps * gates * (x.shape[-1] + hidden),
            other=_LSTM * math.prod(shape),
        )

    def add(self, x: Shape, y: Shape) -> Shape:
        _expect(y.shape in (x.shape, x.shape[1:]), x, y)
        inputs, weights = ([x], [y]) if y.block is None else ([x, y], [])
        return self._row("add", x.shape, inputs, weights, other=x.size)

    def scale(self, x: Shape, factor: float) -> Shape:
        return self._row("scale", x.shape, [x], other=x.size)

    def concat(self, x: Shape, y: Shape) -> Shape:
        _expect(x.shape[:-1] == y.shape[:-1], x, y)
        return self._row("concat", (*x.shape[:-1], x.shape[-1] + y.shape[-1]), [x, y])

    def reshape(self, x: Shape, *shape: int) -> Shape:
        known = math.prod(n for n in shape if n != -1)
        shape = tuple(x.size // max(known, 1) if n == -1 else n for n in shape)
        _expect(math.prod(shape) == x.size, x, Shape(shape))
        return replace(x, shape=shape)

    def shape(self, x: Shape) -> tuple[int, ...]:
        return x.shape

    def mask(self, x: Shape, lengths: Shape) -> Shape:
        _expect(lengths.shape == x.shape[:1], x, lengths)
        return self._row("mask", x.shape, [x])

    def conv_lengths(self, lengths: Shape, kernel: int, stride: int, padding: int) -> Shape:
        return lengths

    def multiply_lengths(self, lengths: Shape, factor: int) -> Shape:
        return lengths

    def dropout(self, x: Shape, rate: float) -> Shape:
        return x

    def _row(
        self,
        operation: str,
        shape: tuple[int, ...],
        inputs: list[Shape],
        weights: list[Shape | None] | list[Shape] | None = None,
        *,
        macs: int = 0,
        other: int = 0,
    ) -> Shape:
        """Note a call; gives its result, of ``shape``."""
        used = {w.name: _BYTES * w.size for w in weights or [] if w is not None}
        for name, size in used.items():  # an embedding reads a few rows of what others read whole
            self._weights[name] = max(size, self._weights.get(name, 0))
        layer = next(iter(used)).rpartition(".")[0] if used else inputs[-1].name
        result = Shape(shape, layer, _Block(self._memory, _BYTES * math.prod(shape)))
        self._rows.append(
            Row(
                operation=operation,
                layer=layer,
                macs=macs,
                flops=2 * macs + other,
                weight_bytes=sum(used.values()),
                input_bytes=_BYTES * sum(x.size for x in inputs),
                output_bytes=_BYTES * result.size,
            )
        )
        return result


def _expect(fits: bool, *tensors: Shape) -> None:
    if not fits:
        shapes = ", ".join(f"{t.name or 'input'} {list(t.shape)}" for t in tensors)
        raise ValueError(f"shapes do not fit: {shapes}")
