"""The protocol of backends: the definition of each operation, with shapes.

Activations are batch-first with channels last: ``[batch, time, channels]``, or
``[batch, time, bins, channels]`` for two-dimensional convolutions. A padded batch carries
``lengths [batch]``, the number of valid frames of each item. An operation along time reads them, so
that the result of an item does not depend on the padding. Frames past ``lengths`` of a result are
unspecified unless the operation defines them.

Activations are float32; lengths, positions, indices and ids are integers. Operations do not check
values. Backends raise their own error where shapes do not fit (`TraceOps`: ValueError).

A weight has the layout of PyTorch's modules (``[out, in]`` first), so that published
checkpoints load without a transposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

__all__ = ["Ops", "Tap", "Weights", "conv_length", "rotary_frequencies"]

T = TypeVar("T")

Weights = Mapping[str, T]
"""Name of a weight -> tensor of the backend."""

Tap = Callable[[int, T], None]
"""A function that a model calls after each block, with the block's index and its output."""


def conv_length(length: int, kernel: int, stride: int, padding: int) -> int:
    """Return the output frames of a convolution over ``length`` frames, at least 0."""
    return max(0, (length + 2 * padding - kernel) // stride + 1)


def rotary_frequencies(width: int, base: float) -> list[float]:
    """Return the radians per position of each pair of `Ops.rotary`'s channels."""
    return [float(base ** (-i / width)) for i in range(0, width, 2)]


class Ops(Protocol[T]):
    """A backend. ``T`` is its type of all tensors, including integer ones such as ``lengths``."""

    def linear(self, x: T, weight: T, bias: T | None = None) -> T:
        """Return ``x [..., in] @ weight[out, in].T + bias[out]``: ``[..., out]``."""
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

        ``padding`` zeros come before and after the frames. Returns
        ``[batch, conv_length(time, ...), out]``. Frames past an item's length are read like all
        others: `mask` them before.
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
        """Correlate ``x [batch, time, bins, in]`` with ``weight``.

        ``weight [out, in / groups, k_time, k_bins]``; ``padding`` zeros come before and after both
        axes. Returns ``[batch, time', bins', out]``, where `conv_length` defines both sizes. Frames
        past an item's length are read like all others: `mask` them before.
        """
        ...

    def layer_norm(self, x: T, weight: T, bias: T | None = None, eps: float = 1e-5) -> T:
        """Normalise the last axis to mean 0 and population variance 1, then scale and shift it.

        The result is multiplied by ``weight``, then ``bias`` is added, both ``[channels]``.
        Source: Ba et al. 2016, "Layer normalization".
        """
        ...

    def group_norm(
        self, x: T, weight: T, bias: T, *, groups: int, lengths: T, eps: float = 1e-5
    ) -> T:
        """Normalise each of ``groups`` groups of channels over its channels and all frames.

        ``x [batch, time, channels]``; ``weight`` and ``bias [channels]``. Each item has its own
        mean and population variance, computed on the frames within ``lengths``; frames past them
        are normalised with the same statistics. Source: Wu & He 2018, "Group normalization".
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

        In training, a backend normalises by the statistics of the batch, computed on the frames
        within ``lengths``, and updates the running ones in place: each moves towards them by the
        factor ``momentum`` (the variance towards the unbiased one). Frames past ``lengths`` are
        normalised with the same statistics. ``x`` is ``[batch, time, channels]`` or ``[batch, time,
        bins, channels]``. Source: Ioffe & Szegedy 2015, in the form of ``torch.nn``.
        """
        ...

    def statistics(self, x: T, lengths: T, eps: float = 1e-7) -> T:
        """Return mean and deviation of each channel over the frames: ``[batch, 1, 2 channels]``.

        ``x [batch, time, channels]``; only frames within ``lengths [batch]`` count. The means of
        all channels come first, then the square roots of ``variance + eps``, where the variance is
        divided by the number of frames minus 1, but at least by 1. Source: Snyder et al. 2018,
        "X-vectors", section 2.2, statistics pooling.
        """
        ...

    def relu(self, x: T) -> T:
        """Return ``max(x, 0)``."""
        ...

    def gelu(self, x: T) -> T:
        """Return ``x * Phi(x)`` with the exact normal distribution (Hendrycks & Gimpel 2016)."""
        ...

    def silu(self, x: T) -> T:
        """Return ``x * sigmoid(x)``, also called swish (Ramachandran et al. 2017)."""
        ...

    def tanh(self, x: T) -> T:
        """Return the hyperbolic tangent of each element."""
        ...

    def asinh(self, x: T) -> T:
        """Return the inverse hyperbolic sine: linear near 0, logarithmic far from it."""
        ...

    def glu(self, x: T) -> T:
        """Return ``[..., n]`` from ``[..., 2 n]``: the first half times the sigmoid of the second.

        Source: Dauphin et al. 2017, "Language modeling with gated convolutional networks".
        """
        ...

    def swiglu(self, x: T) -> T:
        """Return ``[..., n]`` from ``[..., 2 n]``: the first half times the SiLU of the second.

        Source: Shazeer 2020, "GLU Variants Improve Transformer".
        """
        ...

    def log_softmax(self, x: T) -> T:
        """Return the logarithm of the softmax over the last axis."""
        ...

    def attention(
        self, q: T, k: T, v: T, *, heads: int, lengths: T, log_counts: T | None = None
    ) -> T:
        """Return multi-head scaled dot-product attention: ``[batch, queries, v channels]``.

        ``q [batch, queries, channels]``, ``k [batch, keys, channels]``, ``v [batch, keys,
        v channels]``. The channels are split evenly between ``heads``. Keys at or past ``lengths``
        have weight 0, and an item without any key gets zeros. Source: Vaswani et al. 2017,
        section 3.2.

        A key that stands for several equal ones has the logarithm of their number in ``log_counts
        [batch, keys]``, which is added to its scores. Source: Bolya et al. 2022, "Token Merging",
        section 3.2, proportional attention.
        """
        ...

    def causal_attention(self, q: T, k: T, v: T, *, heads: int, starts: T) -> T:
        """Return `attention` where query ``i`` of an item attends to keys 0 to ``starts + i``.

        ``starts [batch]``: the position of each item's first query, which is the number of its
        keys that earlier calls wrote to the KV cache.
        """
        ...

    def window_attention(
        self, q: T, k: T, v: T, *, heads: int, lengths: T, before: int, after: int
    ) -> T:
        """Return self-attention of frame ``i`` to frames ``i - before`` to ``i + after``.

        ``q``, ``k`` and ``v`` have the same frames. A frame past ``lengths`` whose window has no
        valid key gets zeros. Source: Beltagy et al. 2020, "Longformer", section 3.1.
        """
        ...

    def rotary_table(self, starts: T, count: int, *, width: int, base: float) -> T:
        """Return the cosines and sines of `rotary`: ``[batch, count, 2 pairs]``.

        The ``count`` positions of an item begin at its own ``starts [batch]``. Position ``p``
        rotates pair ``i`` by ``p * base ** (-2 i / width)`` radians, a product in float32; there
        are ``width / 2`` pairs, rounded up. The cosines of all pairs come before the sines.
        """
        ...

    def rotary(self, x: T, table: T, *, heads: int) -> T:
        """Rotate pairs of channels of ``x [batch, time, channels]`` by angles of their position.

        ``table [batch, time, 2 pairs]`` is a result of `rotary_table`. In each head, channels
        ``2 i`` and ``2 i + 1`` are pair ``i``; the channels after the last pair are unchanged.
        Source: Su et al. 2021, "RoFormer", section 3.2.2, equation 34.
        """
        ...

    def relative_encoding(self, x: T) -> T:
        """Return the sinusoidal encoding of relative positions: ``[2 time - 1, channels]``.

        It depends only on the shape of ``x [batch, time, channels]``; ``channels`` is even. There
        is a row for each distance ``d`` of a query from a key, from ``time - 1`` down to
        ``1 - time``. Channels ``2 i`` and ``2 i + 1`` are ``sin(d w)`` and ``cos(d w)`` with
        ``w = 10000 ** (-2 i / channels)``. Source: Dai
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
        """Return `attention` whose scores also depend on the distance of each key from the query.

        ``q``, ``k`` and ``v [batch, time, channels]``, ``encoding [2 time - 1, channels]`` in the
        order of `relative_encoding`, biases ``[channels]``. In each head, query ``i`` and key ``j``
        have the score ``((q[i] + content_bias) k[j] + (q[i] + position_bias) encoding[time - 1 - i
        + j]) / sqrt(width)``. Source: Dai et al. 2019, section 3.3 and appendix B.
        """
        ...

    def attention_weights(self, q: T, k: T, *, heads: int, lengths: T) -> T:
        """Return the weights of `attention`: ``[batch, heads, queries, keys]``.

        Keys at or past ``lengths`` have weight 0; without any key, all have the same weight.
        """
        ...

    def pack_keys(self, k: T, *, heads: int, lengths: T) -> T:
        """Return keys ``[batch, time, channels]`` in the layout that is fastest for `attention`.

        Packing pays where many calls read the same keys, as those of cross-attention. Only
        `attention`, `attention_weights` and `index_select` may read the result. ``heads`` and
        ``lengths`` are those of the attention.
        """
        ...

    def pack_values(self, v: T, *, heads: int, lengths: T) -> T:
        """Return values ``[batch, time, channels]`` in the layout that belongs to `pack_keys`."""
        ...

    def embedding(self, ids: T, weight: T) -> T:
        """Return rows of ``weight [count, channels]`` by ``ids [...]``: ``[..., channels]``."""
        ...

    def positions(self, starts: T, count: int) -> T:
        """Return ``count`` consecutive integers from each start: ``[batch, count]``."""
        ...

    def write(self, cache: T, x: T, starts: T) -> T:
        """Return ``cache [batch, capacity, channels]``, changed in place: with ``x [batch, time,
        channels]`` in it.

        The frames of an item are written from its own position ``starts [batch]`` on, and fit into
        the capacity.
        """
        ...

    def index_select(self, x: T, index: T) -> T:
        """Return the items ``x[index]`` of axis 0 for ``index [n]``, which may repeat items."""
        ...

    def slice(self, x: T, start: int, stop: int) -> T:
        """Return frames ``start`` to ``stop``, exclusive, of ``x [..., time, channels]``."""
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
        """Return one LSTM direction over ``x [batch, time, in]``: ``[batch, time, hidden]``.

        ``weight_ih [4 hidden, in]``, ``weight_hh [4 hidden, hidden]`` and the biases ``[4 hidden]``
        have the gates in the order input, forget, cell, output. With ``reverse``, the recurrence
        starts at each item's last valid frame. Outputs past ``lengths`` are zero.
        Source: Hochreiter & Schmidhuber 1997, in the form of ``torch.nn.LSTM``.
        """
        ...

    def add(self, x: T, y: T) -> T:
        """Return ``x + y``. ``y`` has the shape of ``x``, or that shape without the batch axis."""
        ...

    def scale(self, x: T, factor: float) -> T:
        """Return ``x * factor``."""
        ...

    def concat(self, x: T, y: T) -> T:
        """Concatenate two tensors along the last axis."""
        ...

    def reshape(self, x: T, *shape: int) -> T:
        """Return the same elements in another shape, one size of which may be -1 (inferred)."""
        ...

    def shape(self, x: T) -> tuple[int, ...]:
        """Return the shape as Python integers."""
        ...

    def mask(self, x: T, lengths: T) -> T:
        """Set the frames (axis 1) at and past ``lengths [batch]`` to zero."""
        ...

    def conv_lengths(self, lengths: T, kernel: int, stride: int, padding: int) -> T:
        """Return `conv_length` of each of ``lengths``."""
        ...

    def multiply_lengths(self, lengths: T, factor: int) -> T:
        """Return each of ``lengths`` times ``factor``."""
        ...

    def dropout(self, x: T, rate: float) -> T:
        """Return ``x``; in training, with random elements set to 0 (Srivastava et al. 2014).

        An element is dropped with probability ``rate``; the others are divided by ``1 - rate``.
        """
        ...
