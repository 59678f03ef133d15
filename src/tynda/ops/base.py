"""The protocol: what each operation means, with shapes. Backends implement it.

Activations are batch-first with channels last: ``[batch, time, channels]``, or
``[batch, time, bins, channels]`` for two-dimensional convolutions. A padded batch carries
``lengths [batch]`` (frames that count); an operation that looks along time takes them, and
gives every item the answer that it would get alone.

A weight has the layout of PyTorch's modules (``[out, in]`` first), so that published
checkpoints load without a transposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

__all__ = ["Ops", "Tap", "Weights", "conv_length", "rotary_frequencies"]

T = TypeVar("T")

Weights = Mapping[str, T]
"""Tensor name -> tensor of the backend at hand."""

Tap = Callable[[int, T], None]
"""Called by a model after each block with the block's index and its output."""


def conv_length(length: int, kernel: int, stride: int, padding: int) -> int:
    """Frames that a convolution makes of ``length`` frames; 0 where it fits nowhere."""
    return max(0, (length + 2 * padding - kernel) // stride + 1)


def rotary_frequencies(width: int, base: float) -> list[float]:
    """Radians from one position to the next, for each pair of `Ops.rotary`'s channels."""
    return [float(base ** (-i / width)) for i in range(0, width, 2)]


class Ops(Protocol[T]):
    """One backend. ``T`` is its tensor type; the type of ``lengths`` is ``T`` as well."""

    def linear(self, x: T, weight: T, bias: T | None = None) -> T:
        """``x [..., in] @ weight[out, in].T + bias[out]`` -> ``[..., out]``."""
        ...

    def conv1d(
        self,
        x: T,
        weight: T,
        bias: T | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> T:
        """Correlate ``x [batch, time, in]`` with ``weight [out, in / groups, kernel]``.

        ``padding`` zeros stand before and after the time axis. Gives
        ``[batch, conv_length(time, ...), out]``. Padded frames are values like any other:
        `mask` them before.
        """
        ...

    def conv2d(
        self,
        x: T,
        weight: T,
        bias: T | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> T:
        """Correlate ``x [batch, time, bins, in]``, with zeros around, with ``weight``.

        ``weight [out, in / groups, k_time, k_bins]``. Gives ``[batch, time', bins', out]`` with
        both axes by `conv_length`.
        """
        ...

    def layer_norm(self, x: T, weight: T, bias: T | None = None, eps: float = 1e-5) -> T:
        """Normalise the last axis to zero mean, unit (population) variance; then scale, shift."""
        ...

    def group_norm(
        self, x: T, weight: T, bias: T, *, groups: int, lengths: T, eps: float = 1e-5
    ) -> T:
        """Normalise each of ``groups`` parts of the channels over those channels and all time.

        ``x [batch, time, channels]``. Each item has its own mean and (population) variance,
        of the frames within ``lengths``; frames past them are normalised like the others.
        Source: Wu & He 2018.
        """
        ...

    def batch_norm(
        self,
        x: T,
        weight: T,
        bias: T,
        mean: T,
        variance: T,
        lengths: T,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> T:
        """Normalise each channel (last axis) by running ``mean`` and ``variance [channels]``.

        A backend in training takes the statistics of the batch instead, over the frames
        within ``lengths`` only, and moves the running ones towards them in place, by
        ``momentum`` (the variance towards the unbiased one). Frames past ``lengths`` are
        normalised like the others. ``x`` is ``[batch, time, channels]`` or ``[batch, time,
        bins, channels]``. Source: Ioffe & Szegedy 2015, in the form of ``torch.nn``.
        """
        ...

    def relu(self, x: T) -> T:
        """``max(x, 0)``."""
        ...

    def gelu(self, x: T) -> T:
        """``x * Phi(x)``, with the normal distribution itself (Hendrycks & Gimpel 2016)."""
        ...

    def silu(self, x: T) -> T:
        """``x * sigmoid(x)`` (also called swish)."""
        ...

    def tanh(self, x: T) -> T:
        """The hyperbolic tangent."""
        ...

    def asinh(self, x: T) -> T:
        """The inverse hyperbolic sine: linear around 0, a signed logarithm far from it."""
        ...

    def glu(self, x: T) -> T:
        """``[..., 2 n]`` -> ``[..., n]``: the first half times the sigmoid of the second."""
        ...

    def swiglu(self, x: T) -> T:
        """``[..., 2 n]`` -> ``[..., n]``: the first half times the SiLU of the second.

        Source: Shazeer 2020, "GLU Variants Improve Transformer".
        """
        ...

    def log_softmax(self, x: T) -> T:
        """Logarithm of the softmax over the last axis."""
        ...

    def attention(self, q: T, k: T, v: T, *, heads: int, lengths: T) -> T:
        """Multi-head scaled dot-product attention, all of ``[batch, time, channels]``.

        The channels are split into ``heads`` parts; keys at or past ``lengths`` (of ``k``)
        get no weight, and an item without any key gives zeros. ``v`` may have other channels
        than ``q`` and ``k``. Source: Vaswani et al. 2017, section 3.2.
        """
        ...

    def causal_attention(self, q: T, k: T, v: T, *, heads: int, starts: T) -> T:
        """`attention` where query ``i`` of an item sees the keys up to ``starts + i``.

        ``starts [batch]`` counts the frames of each item that came before those in ``q``.
        """
        ...

    def window_attention(
        self, q: T, k: T, v: T, *, heads: int, lengths: T, before: int, after: int
    ) -> T:
        """`attention` of a sequence to itself, where frame ``i`` sees frames ``i - before`` to
        ``i + after``.

        ``q``, ``k`` and ``v`` have the same frames. A frame that sees no key, which only one past
        ``lengths`` can, gets zeros. Source: Beltagy et al. 2020, "Longformer", section 3.1.
        """
        ...

    def rotary_table(self, starts: T, count: int, *, width: int, base: float) -> T:
        """Cosines, then sines, of the angles by which `rotary` turns ``count`` positions.

        The positions of an item begin at its own ``starts [batch]``. Position ``p`` turns pair
        ``i`` by the angle ``p * base ** (-2 i / width)``, a product in float32; there are
        ``width / 2`` pairs, rounded up. Gives float32 ``[batch, count, 2 * pairs]``.
        """
        ...

    def rotary(self, x: T, table: T, *, heads: int) -> T:
        """Turn channels of ``x [batch, time, channels]`` in pairs, by angles of their position.

        ``table [batch, time, 2 * pairs]`` is that of `rotary_table`. In each of ``heads`` parts of
        the channels, channels ``2 i`` and ``2 i + 1`` are a pair, from the first on; those behind
        the pairs stay. Source: Su et al. 2021, "RoFormer", section 3.2.2, equation 34.
        """
        ...

    def relative_encoding(self, x: T) -> T:
        """Sinusoids of how far two frames of ``x [batch, time, channels]`` may lie apart.

        Gives ``[2 time - 1, channels]``, a row for each distance ``d`` from ``time - 1`` down to
        ``1 - time``: ``sin(d w)`` and ``cos(d w)`` in turn, with ``w = 10000 ** (-2 i / channels)``
        for ``i`` from 0 on. ``channels`` is even. Depends on the shape of ``x`` alone. Source: Dai
        et al. 2019 ("Transformer-XL"), section 3.3.
        """
        ...

    def relative_attention(
        self,
        q: T,
        k: T,
        v: T,
        encoding: T,
        content_bias: T,
        position_bias: T,
        *,
        heads: int,
        lengths: T,
    ) -> T:
        """`attention` that also looks at how far each key lies from the query.

        ``q``, ``k`` and ``v [batch, time, channels]``, ``encoding [2 time - 1, channels]`` in the
        order of `relative_encoding`, biases ``[channels]``. In each head, query ``i`` and key ``j``
        have the score ``((q[i] + content_bias) k[j] + (q[i] + position_bias) encoding[time - 1 - i
        + j]) / sqrt(width)``. Source: Dai et al. 2019, section 3.3 and appendix B.
        """
        ...

    def attention_weights(self, q: T, k: T, *, heads: int, lengths: T) -> T:
        """The weights that `attention` gives to each key: ``[batch, heads, queries, keys]``."""
        ...

    def pack_keys(self, k: T, *, heads: int, lengths: T) -> T:
        """Keys ``[batch, time, channels]`` that `attention` will see again and again.

        A backend may hold them in a form of its own, which nothing else reads than `attention`,
        `attention_weights` and `index_select`. `heads` and ``lengths`` are those of attention.
        """
        ...

    def pack_values(self, v: T, *, heads: int, lengths: T) -> T:
        """The values that belong to `pack_keys`."""
        ...

    def embedding(self, ids: T, weight: T) -> T:
        """Rows of ``weight [count, channels]`` by integer ``ids [...]`` -> ``[..., channels]``."""
        ...

    def positions(self, starts: T, count: int) -> T:
        """``starts + 0, 1, ... count - 1`` for each of ``starts [batch]``: ``[batch, count]``."""
        ...

    def write(self, cache: T, x: T, starts: T) -> T:
        """Put ``x [batch, time, channels]`` into ``cache [batch, capacity, channels]``.

        The frames of an item begin at its own ``starts [batch]``. The cache may be changed in
        place: only the result is to be used.
        """
        ...

    def index_select(self, x: T, index: T) -> T:
        """The items (axis 0) numbered by ``index [n]``, in that order, repeated as named."""
        ...

    def slice(self, x: T, start: int, stop: int) -> T:
        """Frames ``start`` to ``stop`` of ``[..., time, channels]``."""
        ...

    def lstm(
        self,
        x: T,
        weight_ih: T,
        weight_hh: T,
        bias_ih: T,
        bias_hh: T,
        *,
        lengths: T,
        reverse: bool = False,
    ) -> T:
        """One LSTM direction over ``x [batch, time, in]`` -> ``[batch, time, hidden]``.

        Gates stand in the order input, forget, cell, output: ``weight_ih [4 hidden, in]``,
        ``weight_hh [4 hidden, hidden]``. ``reverse`` starts at each item's own last frame.
        Outputs past ``lengths`` are zero. Source: Hochreiter & Schmidhuber 1997, in the form
        of ``torch.nn.LSTM``.
        """
        ...

    def add(self, x: T, y: T) -> T:
        """Elementwise sum. ``y`` has the shape of ``x`` or lacks its first axis (the batch)."""
        ...

    def scale(self, x: T, factor: float) -> T:
        """``x * factor``."""
        ...

    def concat(self, x: T, y: T) -> T:
        """Join along the last axis."""
        ...

    def reshape(self, x: T, *shape: int) -> T:
        """The same elements in another shape; one entry may be -1."""
        ...

    def shape(self, x: T) -> tuple[int, ...]:
        """The shape as plain integers."""
        ...

    def mask(self, x: T, lengths: T) -> T:
        """Set the frames (axis 1) at and past ``lengths [batch]`` to zero."""
        ...

    def conv_lengths(self, lengths: T, kernel: int, stride: int, padding: int) -> T:
        """`conv_length` of each item."""
        ...

    def multiply_lengths(self, lengths: T, factor: int) -> T:
        """Each of ``lengths`` times ``factor``."""
        ...

    def dropout(self, x: T, rate: float) -> T:
        """The identity, except in training (Srivastava et al. 2014)."""
        ...
