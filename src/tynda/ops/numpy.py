"""The NumPy backend: the reference, with the shortest exact code for each operation, in float32.

``tynda.ops.base`` defines the operations, with shapes and sources. This backend does not train:
batch norm uses the running statistics, and dropout is the identity.

A weight may be a `Weight` whose products are computed in 8 bits: ``linear`` and the convolutions
then multiply integers as the native kernels do, and equal their results bit for bit.
"""

# ruff: noqa: D102 - the protocol documents every operation

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tynda.ops.base import conv_length, rotary_frequencies
from tynda.weights.attention import MIN_QUERIES
from tynda.weights.attention import attention as attention_8
from tynda.weights.weight import Weight, by_tap, floats, is_integer, lookup, product

__all__ = ["Array", "NumpyOps", "relative_sinusoids"]

Array = NDArray[Any]
"""float32 for activations and weights, any integer type for lengths."""

_LOWEST = np.finfo(np.float32).min


class _Packed(np.ndarray[Any, Any]):
    """Packed keys or values: `attention` rounds them to 8 bits for any number of queries."""


class NumpyOps:
    """Operations of ``tynda.ops.base`` on float32 arrays.

    ``bits``: with 8, attention simulates the 8-bit kernels. ``observe``: a function called before
    each product with a weight, with the index of the first row of the weight that is used (the
    first output of a group, for a grouped convolution) and the inputs ``[..., in]``, which are
    ordered by tap in a convolution.
    """

    def __init__(self, bits: int = 32, observe: Callable[[int, Array], None] | None = None) -> None:
        self._bits, self._observe = bits, observe

    def linear(self, x: Array, weight: Array | Weight, bias: Array | None = None) -> Array:
        return _shift(self._product(x, weight), bias)

    def conv1d(
        self,
        x: Array,
        weight: Array | Weight,
        bias: Array | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> Array:
        sizes = (weight.shape[2], 1), (stride, 1), (padding, 0)
        return self._convolve(x[:, :, None], weight, bias, *sizes, groups)[:, :, 0]

    def conv2d(
        self,
        x: Array,
        weight: Array | Weight,
        bias: Array | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> Array:
        return self._convolve(x, weight, bias, weight.shape[2:], stride, padding, groups)

    def _convolve(
        self,
        x: Array,
        weight: Array | Weight,
        bias: Array | None,
        kernel: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
    ) -> Array:
        """Return a convolution over frames and bins; ``kernel``: taps along both axes."""
        if groups > 1 and weight.shape[:2] == (groups, 1):
            values = floats(weight).reshape(-1, *kernel)
            return _shift(_depthwise(x, values, stride, padding), bias)
        out = weight.shape[0] // groups
        parts = [
            self._group(part, weight[i * out : (i + 1) * out], kernel, stride, padding, i * out)
            for i, part in enumerate(np.split(x, groups, axis=-1))
        ]
        return _shift(np.concatenate(parts, axis=-1), bias)

    def _group(
        self,
        x: Array,
        weight: Array | Weight,
        kernel: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, int],
        start: int,
    ) -> Array:
        """Return one group's convolution; ``weight``: rows of the full weight from ``start`` on."""
        (step, step_bins), (pad, pad_bins) = stride, padding
        channels, (taps, taps_bins) = weight.shape[0], kernel
        frames = conv_length(x.shape[1], taps, step, pad)
        bins = conv_length(x.shape[2], taps_bins, step_bins, pad_bins)
        y = np.zeros((x.shape[0], frames, bins, channels), np.float32)
        if not y.size:
            return y
        x = np.pad(x, ((0, 0), (pad, pad), (pad_bins, pad_bins), (0, 0)))
        # [batch, time, bins', in, taps over bins]
        windows = sliding_window_view(x, taps_bins, axis=2)[:, :, ::step_bins]
        if (
            is_integer(weight) or self._observe
        ):  # a window has one scale, so all its values are needed
            windows = sliding_window_view(windows, taps, axis=1)[:, ::step]
            rows = np.moveaxis(windows, 3, -1).swapaxes(3, 4).reshape(*y.shape[:3], -1)
            return self._product(rows, by_tap(weight), start)
        # There is one product per tap in time, over windows of bins, because windows over both
        # axes would multiply the memory by the number of taps.
        values = floats(weight)
        values = values[..., None] if values.ndim == 3 else values
        for tap in range(taps):
            part = windows[:, tap : tap + step * frames : step]
            y += np.tensordot(part, values[:, :, tap], axes=((4, 3), (2, 1)))
        return y

    def _product(self, x: Array, weight: Array | Weight, start: int = 0) -> Array:
        """Return ``x [..., in] @ weight[out, in].T``; ``start``: see `_group`."""
        if self._observe:
            self._observe(start, x)
        return product(x, weight)

    def layer_norm(
        self, x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5
    ) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return _shift(centred / np.sqrt(variance + eps) * weight, bias)

    def group_norm(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        *,
        groups: int,
        lengths: Array,
        eps: float = 1e-5,
    ) -> Array:
        batch, frames, channels = x.shape
        parts = x.reshape(batch, frames, groups, channels // groups)
        count = np.maximum(lengths * (channels // groups), 1).astype(np.float32)
        count = count[:, None, None, None]
        mean = self.mask(parts, lengths).sum((1, 3), keepdims=True) / count
        squares = np.square(self.mask(parts - mean, lengths))
        variance = squares.sum((1, 3), keepdims=True) / count
        normal = ((parts - mean) / np.sqrt(variance + eps)).reshape(x.shape)
        return cast(Array, normal * weight + bias)

    def batch_norm(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        mean: Array,
        variance: Array,
        lengths: Array,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> Array:
        return cast(Array, (x - mean) * (weight / np.sqrt(variance + eps)) + bias)

    def statistics(self, x: Array, lengths: Array, eps: float = 1e-7) -> Array:
        count = np.asarray(lengths, np.float32)[:, None, None]
        mean = self.mask(x, lengths).sum(1, keepdims=True) / np.maximum(count, 1)
        squares = np.square(self.mask(x - mean, lengths)).sum(1, keepdims=True)
        deviation = np.sqrt(squares / np.maximum(count - 1, 1) + np.float32(eps))
        return np.concatenate([mean, deviation], -1)

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def gelu(self, x: Array) -> Array:
        return cast(Array, np.float32(0.5) * x * (1 + _erf(x * np.float32(0.5**0.5))))

    def silu(self, x: Array) -> Array:
        return x * _sigmoid(x)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def asinh(self, x: Array) -> Array:
        return np.arcsinh(x)

    def glu(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        return x[..., :half] * _sigmoid(x[..., half:])

    def swiglu(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        return x[..., :half] * self.silu(x[..., half:])

    def log_softmax(self, x: Array) -> Array:
        x = x - x.max(-1, keepdims=True)
        return cast(Array, x - np.log(np.exp(x).sum(-1, keepdims=True)))

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        heads: int,
        lengths: Array,
        log_counts: Array | None = None,
    ) -> Array:
        if self._bits == 8 and (q.shape[1] >= MIN_QUERIES or isinstance(k, _Packed)):
            return attention_8(q, np.asarray(k), np.asarray(v), heads, lengths, None, log_counts)
        k, v = np.asarray(k), np.asarray(v)
        valid = np.arange(k.shape[1]) < lengths[:, None]
        # An item without a key averages all its values, which the mask sets to zero.
        v = np.where(valid[..., None], v, np.float32(0))
        scores = _scores(q, k, heads)
        if log_counts is not None:
            scores = scores + log_counts[:, None, None]
        return _weighted(_softmax(scores, valid[:, None, None]), v)

    def causal_attention(self, q: Array, k: Array, v: Array, *, heads: int, starts: Array) -> Array:
        seen = self.positions(starts, q.shape[1])[..., None] >= np.arange(k.shape[1])
        return _weighted(_softmax(_scores(q, k, heads), seen[:, None]), v)

    def window_attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        heads: int,
        lengths: Array,
        before: int,
        after: int,
    ) -> Array:
        frames = np.arange(q.shape[1])
        ahead = frames - frames[:, None]
        valid = frames < lengths[:, None]
        seen = (ahead >= -before) & (ahead <= after) & valid[:, None]
        if self._bits == 8 and q.shape[1] >= MIN_QUERIES:
            return attention_8(q, k, v, heads, lengths, seen)
        y = _weighted(_softmax(_scores(q, k, heads), seen[:, None]), v)
        return np.where(seen.any(-1, keepdims=True), y, np.float32(0))

    def rotary_table(self, starts: Array, count: int, *, width: int, base: float) -> Array:
        frequencies = np.array(rotary_frequencies(width, base), np.float32)
        angles = self.positions(starts, count)[..., None].astype(np.float32) * frequencies
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)

    def rotary(self, x: Array, table: Array, *, heads: int) -> Array:
        pairs = table.shape[-1] // 2
        cos, sin = table[:, :, None, :pairs], table[:, :, None, pairs:]
        y = x.copy().reshape(*x.shape[:2], heads, x.shape[2] // heads)
        even, odd = y[..., 0 : 2 * pairs : 2], y[..., 1 : 2 * pairs : 2]
        even[:], odd[:] = even * cos - odd * sin, odd * cos + even * sin
        return y.reshape(x.shape)

    def relative_encoding(self, x: Array) -> Array:
        return relative_sinusoids(*x.shape[1:])

    def relative_attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        encoding: Array,
        content_bias: Array,
        position_bias: Array,
        *,
        heads: int,
        lengths: Array,
    ) -> Array:
        valid = np.arange(k.shape[1]) < lengths[:, None]
        v = np.where(valid[..., None], v, np.float32(0))
        # Row i has the scores of query i at all distances; those of its keys are contiguous.
        away = _scores(q + position_bias, encoding[None], heads)
        scores = _scores(q + content_bias, k, heads) + _diagonals(away, k.shape[1])
        return _weighted(_softmax(scores, valid[:, None, None]), v)

    def attention_weights(self, q: Array, k: Array, *, heads: int, lengths: Array) -> Array:
        valid = np.arange(k.shape[1]) < lengths[:, None]
        return _softmax(_scores(q, np.asarray(k), heads), valid[:, None, None])

    def pack_keys(self, k: Array, *, heads: int, lengths: Array) -> Array:
        return k.view(_Packed)

    def pack_values(self, v: Array, *, heads: int, lengths: Array) -> Array:
        return v.view(_Packed)

    def embedding(self, ids: Array, weight: Array | Weight) -> Array:
        return lookup(weight, ids)

    def positions(self, starts: Array, count: int) -> Array:
        return starts[:, None] + np.arange(count)

    def write(self, cache: Array, x: Array, starts: Array) -> Array:
        rows = np.arange(len(x))[:, None]
        cache[rows, self.positions(starts, x.shape[1])] = x
        return cache

    def index_select(self, x: Array, index: Array) -> Array:
        return x[index]

    def slice(self, x: Array, start: int, stop: int) -> Array:
        return x[..., start:stop, :]

    def lstm(
        self,
        x: Array,
        weight_ih: Array | Weight,
        weight_hh: Array | Weight,
        bias_ih: Array,
        bias_hh: Array,
        *,
        lengths: Array,
        reverse: bool = False,
    ) -> Array:
        if reverse:
            x = _reverse(x, lengths)
        batch, frames, _ = x.shape
        inputs = self._product(x, weight_ih) + (bias_ih + bias_hh)
        weight_hh = floats(weight_hh)
        hidden = cell = np.zeros((batch, weight_hh.shape[1]), np.float32)
        y = np.empty((batch, frames, weight_hh.shape[1]), np.float32)
        for t in range(frames):
            i, f, g, o = np.split(inputs[:, t] + hidden @ weight_hh.T, 4, axis=-1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            hidden = _sigmoid(o) * np.tanh(cell)
            y[:, t] = hidden
        return self.mask(_reverse(y, lengths) if reverse else y, lengths)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    def concat(self, x: Array, y: Array) -> Array:
        return np.concatenate([x, y], axis=-1)

    def reshape(self, x: Array, *shape: int) -> Array:
        return x.reshape(shape)

    def shape(self, x: Array) -> tuple[int, ...]:
        return x.shape

    def mask(self, x: Array, lengths: Array) -> Array:
        keep = np.arange(x.shape[1]) < lengths[:, None]
        return np.where(keep.reshape(keep.shape + (1,) * (x.ndim - 2)), x, np.float32(0))

    def conv_lengths(self, lengths: Array, kernel: int, stride: int, padding: int) -> Array:
        return cast(Array, np.maximum((lengths + 2 * padding - kernel) // stride + 1, 0))

    def multiply_lengths(self, lengths: Array, factor: int) -> Array:
        return lengths * factor

    def dropout(self, x: Array, rate: float) -> Array:
        return x


def relative_sinusoids(time: int, channels: int) -> Array:
    """Return `Ops.relative_encoding` for ``time`` frames and ``channels`` channels."""
    away = np.arange(time - 1, -time, -1)[:, None]
    angles = away * 10_000.0 ** (-np.arange(0, channels, 2) / channels)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(-1, channels).astype(np.float32)


def _shift(x: Array, bias: Array | None) -> Array:
    """Add a bias in place, since ``x`` is always a new array."""
    if bias is not None:
        x += bias
    return x


def _scores(q: Array, k: Array, heads: int) -> Array:
    """Return scaled products of queries and keys: ``[batch, heads, queries, keys]``."""
    q = _split(q, heads)
    return (q * np.float32(q.shape[-1] ** -0.5)) @ _split(k, heads).swapaxes(2, 3)


def _split(x: Array, heads: int) -> Array:
    """Reshape ``[batch, time, channels]`` to ``[batch, heads, time, channels / heads]``."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2)


def _diagonals(scores: Array, keys: int) -> Array:
    """Return ``[..., keys, keys]``: row i of ``scores [..., keys, 2 keys - 1]`` from column
    ``keys - 1 - i`` on."""
    columns = keys - 1 - np.arange(scores.shape[-2])[:, None] + np.arange(keys)
    return np.take_along_axis(scores, columns[(None,) * (scores.ndim - 2)], -1)


def _softmax(scores: Array, seen: Array) -> Array:
    """Return the softmax of ``scores`` over what is ``seen``; uniform where nothing is."""
    scores = np.where(seen, scores, _LOWEST)
    scores = np.exp(scores - scores.max(-1, keepdims=True, initial=_LOWEST))
    return cast(Array, scores / scores.sum(-1, keepdims=True))


def _weighted(weights: Array, v: Array) -> Array:
    """Return values ``[batch, keys, channels]`` averaged by ``weights [batch, heads, q, keys]``."""
    y = weights @ _split(v, weights.shape[1])
    return y.swapaxes(1, 2).reshape(*y.shape[::2], v.shape[2])


def _erf(x: Array) -> Array:
    """Return the error function within 2e-7 (Abramowitz & Stegun 1964, formula 7.1.26)."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series: Array = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    return cast(Array, np.copysign(1 - series * np.exp(-np.square(x)), x))


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # where exp(-x) is infinite, the result is 0, which is correct
        return cast(Array, 1 / (1 + np.exp(-x)))


def _depthwise(x: Array, weight: Array, stride: tuple[int, int], padding: tuple[int, int]) -> Array:
    """Correlate each channel of ``x [batch, time, bins, channels]`` with its own taps."""
    sizes = zip(x.shape[1:3], weight.shape[1:], stride, padding, strict=True)
    frames, bins = (conv_length(*size) for size in sizes)
    x = np.pad(x, ((0, 0), *((pad, pad) for pad in padding), (0, 0)))
    y = np.zeros((x.shape[0], frames, bins, x.shape[3]), np.float32)
    for t, b in np.ndindex(weight.shape[1:] if y.size else (0, 0)):
        rows = x[:, t : t + stride[0] * frames : stride[0]]
        y += rows[:, :, b : b + stride[1] * bins : stride[1]] * weight[:, t, b]
    return y


def _reverse(x: Array, lengths: Array) -> Array:
    """Reverse the order of the frames within ``lengths``; frames past them stay in place."""
    frames = np.arange(x.shape[1])
    index = np.where(frames < lengths[:, None], lengths[:, None] - 1 - frames, frames)
    return np.take_along_axis(x, index[..., None], axis=1)
