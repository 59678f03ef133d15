"""The PyTorch backend, for training and GPUs. Results equal those of ``tynda.ops.numpy``."""

# ruff: noqa: D102 - the protocol documents every operation

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tynda.ops.base import conv_length, rotary_frequencies
from tynda.ops.numpy import relative_sinusoids

__all__ = ["TorchOps", "has_bfloat16", "retain_freed_memory"]

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


class TorchOps:
    """Operations of ``tynda.ops.base`` on torch tensors, with gradients.

    ``training`` enables dropout and the statistics of the batch. The operations may run under
    ``torch.autocast``.
    """

    def __init__(self, training: bool = False) -> None:
        self.training = training

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def conv1d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> Tensor:
        # torch raises for an input that is shorter than the kernel, and for an empty one even with
        # padding.
        if conv_length(x.shape[1], weight.shape[2], stride, padding) == 0:
            return x.new_zeros(x.shape[0], 0, weight.shape[0])
        if x.shape[1] == 0:
            x, padding = F.pad(x, (0, 0, padding, padding)), 0
        if groups == 1 and weight.shape[2] % stride == 0:
            rows = _windows(x, weight.shape[2], stride, padding)
            return F.linear(rows, weight.transpose(1, 2).flatten(1), bias)
        y = F.conv1d(x.transpose(1, 2), weight, bias, stride, padding, 1, groups)
        return y.transpose(1, 2)

    def conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> Tensor:
        frames = conv_length(x.shape[1], weight.shape[2], stride[0], padding[0])
        bins = conv_length(x.shape[2], weight.shape[3], stride[1], padding[1])
        if frames == 0 or bins == 0:  # as in `conv1d`
            return x.new_zeros(x.shape[0], frames, bins, weight.shape[0])
        if x.shape[1] == 0 or x.shape[2] == 0:
            x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
            padding = (0, 0)
        # The permuted view has torch's channels_last layout, so that nothing is copied.
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups)
        return y.permute(0, 2, 3, 1)

    def layer_norm(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def group_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        groups: int,
        lengths: Tensor,
        eps: float = 1e-5,
    ) -> Tensor:
        parts = x.float().reshape(*x.shape[:2], groups, x.shape[2] // groups)
        count = (lengths * parts.shape[3]).clamp(min=1)[:, None, None, None]
        mean = self.mask(parts, lengths).sum((1, 3), keepdim=True) / count
        squares = self.mask(parts - mean, lengths).square()
        variance = squares.sum((1, 3), keepdim=True) / count
        normal = ((parts - mean) * torch.rsqrt(variance + eps)).flatten(2)
        y: Tensor = normal * weight + bias
        return y.to(x.dtype)

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        lengths: Tensor,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> Tensor:
        if self.training:
            now, population, count = _statistics(x, lengths)
            with torch.no_grad():
                # The running variance is the unbiased one, as in torch.
                unbiased = population * (count / (count - 1).clamp(min=1))
                moved = momentum * (count > 0)
                mean += moved * (now - mean)
                variance += moved * (unbiased - variance)
            mean, variance = now, population
        return ((x - mean) * (weight * torch.rsqrt(variance + eps)) + bias).to(x.dtype)

    def statistics(self, x: Tensor, lengths: Tensor, eps: float = 1e-7) -> Tensor:
        wide, count = x.float(), lengths[:, None, None]
        mean = self.mask(wide, lengths).sum(1, keepdim=True) / count.clamp(min=1)
        squares = self.mask(wide - mean, lengths).square().sum(1, keepdim=True)
        deviation = (squares / (count - 1).clamp(min=1) + eps).sqrt()
        return torch.cat([mean, deviation], -1).to(x.dtype)

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def asinh(self, x: Tensor) -> Tensor:
        return torch.asinh(x)

    def glu(self, x: Tensor) -> Tensor:
        return F.glu(x, -1)

    def swiglu(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return first * F.silu(second)

    def log_softmax(self, x: Tensor) -> Tensor:
        return F.log_softmax(x.float(), -1)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int,
        lengths: Tensor,
        log_counts: Tensor | None = None,
    ) -> Tensor:
        # An item without a key attends to its first one, whose value the mask sets to zero.
        v, seen = self.mask(v, lengths), _within(k, lengths.clamp(min=1))[:, None, None]
        if log_counts is None:
            return _attend(q, k, v, heads, seen)
        scores = _scores(q, k, heads) + log_counts[:, None, None]
        return (_softmax(scores, seen).to(v.dtype) @ _split(v, heads)).transpose(1, 2).flatten(2)

    def causal_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, heads: int, starts: Tensor
    ) -> Tensor:
        keys = torch.arange(k.shape[1], device=k.device)
        seen = self.positions(starts, q.shape[1])[..., None] >= keys
        return _attend(q, k, v, heads, seen[:, None])

    def window_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int,
        lengths: Tensor,
        before: int,
        after: int,
    ) -> Tensor:
        frames = torch.arange(q.shape[1], device=q.device)
        ahead = frames - frames[:, None]
        seen = (ahead >= -before) & (ahead <= after) & _within(k, lengths)[:, None]
        blind = ~seen.any(-1, keepdim=True)
        # A frame without a valid key first attends to all keys, since a softmax of none is NaN.
        return _attend(q, k, v, heads, (seen | blind)[:, None]).masked_fill(blind, 0)

    def rotary_table(self, starts: Tensor, count: int, *, width: int, base: float) -> Tensor:
        frequencies = torch.tensor(rotary_frequencies(width, base), device=starts.device)
        angles = self.positions(starts, count)[..., None].float() * frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)

    def rotary(self, x: Tensor, table: Tensor, *, heads: int) -> Tensor:
        y = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
        cos, sin = table[:, :, None].to(x.dtype).chunk(2, -1)
        rotated, rest = y[..., : table.shape[-1]], y[..., table.shape[-1] :]
        even, odd = rotated[..., ::2], rotated[..., 1::2]
        pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
        return torch.cat([pairs.flatten(-2), rest], -1).flatten(2)

    def relative_encoding(self, x: Tensor) -> Tensor:
        return torch.from_numpy(relative_sinusoids(*x.shape[1:])).to(x)

    def relative_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        encoding: Tensor,
        content_bias: Tensor,
        position_bias: Tensor,
        *,
        heads: int,
        lengths: Tensor,
    ) -> Tensor:
        time, v = k.shape[1], self.mask(v, lengths)
        away = _scores(q + position_bias, encoding[None], heads)
        frames = torch.arange(time, device=k.device)
        columns = (time - 1 - frames[:, None] + frames).expand(*away.shape[:3], time)
        scores = _scores(q + content_bias, k, heads) + away.gather(3, columns)
        seen = _within(k, lengths.clamp(min=1))[:, None, None]
        return (_softmax(scores, seen).to(v.dtype) @ _split(v, heads)).transpose(1, 2).flatten(2)

    def attention_weights(self, q: Tensor, k: Tensor, *, heads: int, lengths: Tensor) -> Tensor:
        return _softmax(_scores(q, k, heads), _within(k, lengths)[:, None, None])

    def pack_keys(self, k: Tensor, *, heads: int, lengths: Tensor) -> Tensor:
        return k

    def pack_values(self, v: Tensor, *, heads: int, lengths: Tensor) -> Tensor:
        return v

    def embedding(self, ids: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(ids, weight)

    def positions(self, starts: Tensor, count: int) -> Tensor:
        return starts[:, None] + torch.arange(count, device=starts.device)

    def write(self, cache: Tensor, x: Tensor, starts: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device)[:, None]
        cache[rows, self.positions(starts, x.shape[1])] = x.to(cache.dtype)
        return cache

    def index_select(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index]

    def slice(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[..., start:stop, :]

    def lstm(
        self,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        *,
        lengths: Tensor,
        reverse: bool = False,
    ) -> Tensor:
        state = x.new_zeros(1, x.shape[0], weight_hh.shape[1])
        if x.shape[1] == 0:  # torch raises for no frames
            return state.transpose(0, 1)[:, :0]
        # Padding comes after the last valid frame, so that it does not change the outputs before
        # it: no packed sequence is needed.
        if reverse:
            x = _reverse(x, lengths)
        weights = [weight_ih, weight_hh, bias_ih, bias_hh]
        device = x.device.type
        if torch.is_autocast_enabled(device) and not has_bfloat16(device):
            with torch.autocast(device, enabled=False):
                y = _lstm(x.float(), state.float(), weights, self.training)
        else:
            y = _lstm(x, state, weights, self.training)
        return self.mask(_reverse(y, lengths) if reverse else y, lengths)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def concat(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], -1)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        return x.reshape(shape)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def mask(self, x: Tensor, lengths: Tensor) -> Tensor:
        keep = _within(x, lengths)
        return x.masked_fill(~keep.reshape(keep.shape + (1,) * (x.ndim - 2)), 0)

    def conv_lengths(self, lengths: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        frames = torch.div(lengths + 2 * padding - kernel, stride, rounding_mode="floor") + 1
        return frames.clamp(min=0)

    def multiply_lengths(self, lengths: Tensor, factor: int) -> Tensor:
        return lengths * factor

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        if not self.training or rate == 0:
            return x
        # One 64-bit draw serves eight elements, a byte each: on a CPU, torch's own dropout
        # spends a quarter of a training step in its generator. The rate is thus a multiple
        # of 1/256.
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        draws.random_(torch.iinfo(torch.int64).min, None)
        dropped = min(round(rate * 256), 255)
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * (keep.to(x.dtype) * (256 / (256 - dropped)))


@cache
def retain_freed_memory() -> None:
    """Let glibc retain freed memory for the next tensors; other C libraries are left as they are.

    By default glibc returns each block of more than 32 MB to the system, so that the next tensor
    of that size begins with a page fault for every 4 kB of it. Peak memory may grow a little.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def has_bfloat16(device: str) -> bool:
    """Whether torch is fast in bfloat16 on a device of this type (``cpu``, ``cuda``).

    On x86, oneDNN has its bfloat16 kernels from AVX-512 on. Below it most operations are
    emulated, 5 to 20 times slower than in float32, and an LSTM raises, so this tries one.
    """
    if device != "cpu":
        return True
    x, w = torch.zeros(1, 1, 1), torch.zeros(4, 1, requires_grad=True)
    try:
        with torch.autocast(device, torch.bfloat16):
            y = _lstm(x, x, [w, w, w[:, 0], w[:, 0]], training=True)
        y.float().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


def _lstm(x: Tensor, state: Tensor, weights: list[Tensor], training: bool) -> Tensor:
    """Return one layer and direction over ``[batch, time, inputs]``: ``[batch, time, hidden]``."""
    y: Tensor = torch.lstm(
        x,
        (state, state),
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=training,
        bidirectional=False,
        batch_first=True,
    )[0]
    return y


def _windows(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the window of each output of a convolution: ``[batch, frames, kernel * channels]``.

    With windows as rows, a convolution is a matrix product, which trains faster with channels last
    than torch's kernel, which transposes input and output. ``kernel`` is a multiple of ``stride``.
    """
    frames = conv_length(x.shape[1], kernel, stride, padding)
    x, strides = F.pad(x, (0, 0, padding, padding)), kernel // stride
    steps = frames + strides - 1
    x = x[:, : steps * stride].reshape(len(x), steps, stride * x.shape[2])
    return torch.cat([x[:, i : i + frames] for i in range(strides)], -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, seen: Tensor) -> Tensor:
    """Return attention to the keys that each query has ``seen``: ``[batch, queries, channels]``.

    Torch's fused kernel is twice as fast as plain products in float32 on a CPU, forward and
    backward. In bfloat16 on a CPU its backward pass was four times slower, so it is not used there.
    """
    if q.dtype is torch.bfloat16 and q.device.type == "cpu":
        y = _softmax(_scores(q, k, heads), seen).to(v.dtype) @ _split(v, heads)
    else:
        q, k, v = (_split(x, heads) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return y.transpose(1, 2).flatten(2)


def _scores(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Return scaled products of queries and keys: ``[batch, heads, queries, keys]``."""
    q = _split(q, heads)
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ _split(k, heads).transpose(2, 3)
    return scores


def _split(x: Tensor, heads: int) -> Tensor:
    """Reshape ``[batch, time, channels]`` to ``[batch, heads, time, channels / heads]``."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Return the softmax of ``scores`` over what is ``seen``; uniform where nothing is."""
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=scores.dtype)  # under autocast, softmax would return float32


def _within(x: Tensor, lengths: Tensor) -> Tensor:
    """Return a mask ``[batch, time]`` of the frames of ``x`` within ``lengths``."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def _statistics(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and population variance of each channel within ``lengths``, and the count.

    They are in float32 for any type of ``x``, and zero where no frame is valid.
    """
    keep = _within(x, lengths)
    keep = keep.reshape(keep.shape + (1,) * (x.ndim - 2))
    axes = list(range(x.ndim - 1))
    count = lengths.sum() * x.shape[2:-1].numel()
    x = x.float()
    mean = (x * keep).sum(axes) / count.clamp(min=1)
    variance = ((x - mean).square() * keep).sum(axes) / count.clamp(min=1)
    return mean, variance, count


def _reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the order of the frames within ``lengths``; frames past them stay in place."""
    frames = torch.arange(x.shape[1], device=x.device)
    index = torch.where(frames < lengths[:, None], lengths[:, None] - 1 - frames, frames)
    return x.gather(1, index[..., None].expand_as(x))
