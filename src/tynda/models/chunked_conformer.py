"""The compact Conformer for audio that is still being recorded: encoded chunk by chunk.

The blocks are those of ``conformer``, with the same tensors, so that training may start from a
model that encodes whole recordings. Frames are divided into chunks. A frame attends to all frames
of its own chunk and to a bounded number before it (Zhang et al. 2020, "Unified Streaming and
Non-streaming Two-pass End-to-end Speech Recognition", section 3.2); convolutions read zeros beyond
the end of the chunk (Li et al. 2023, "Dynamic Chunk Convolution for Unified Streaming and
Non-Streaming Conformer ASR"). A chunk is therefore the look-ahead: its result depends on no later
audio. The size of chunks is drawn for each batch in training, so that one model has several.

`encode_chunks` continues from the `State` that the chunks before have left. `encode` does the same
for a whole recording at once, and the sizes of all tensors of a chunk are the same in both, so that
their results are equal to the last bit. A recording whose last chunk is not full is followed by
frames of zeros, which are the mean of standardised features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np

from tynda.models import conformer
from tynda.models.base import Array, Family, Streaming
from tynda.models.conformer import convolution, feed_forward, specs, stem_convolutions, upsampled
from tynda.models.layers import check_ctc, layer_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.text.tokenizer import CharTokenizer

__all__ = ["FAMILY", "Config", "State", "encode", "encode_chunks", "specs"]


@dataclass(frozen=True)
class Config(conformer.Config):
    """The dimensions of the model."""

    chunk: int = 6
    """Number of frames of the blocks in a chunk."""
    chunks: tuple[int, ...] = (3, 6, 12)
    """The values of ``chunk`` that the model is trained for."""
    window: int = 48
    """Number of frames of the blocks that a frame attends to: those of its chunk and those before
    it; the size of a chunk times a power of two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride * self.upsample not in (4, 8):
            raise ValueError(f"stride {self.stride} x upsample {self.upsample} is not 4 or 8")
        if self.chunk not in self.chunks:
            raise ValueError(f"chunk {self.chunk} is not one of the chunks {self.chunks}")
        for chunk in self.chunks:
            count = self.window // chunk
            if self.window % chunk or count & (count - 1):
                raise ValueError(f"window {self.window} is not {chunk} times a power of two")

    @property
    def reduction(self) -> int:
        """Number of front end frames for each frame of the blocks."""
        return self.stride * self.upsample

    @property
    def convolved_chunks(self) -> int:
        """Number of chunks, a power of two, that the convolution's inputs for a chunk lie in."""
        count = 1
        while (count - 1) * self.chunk < self.kernel // 2:
            count *= 2
        return count


@dataclass(frozen=True)
class State(Generic[T]):
    """The inputs that a chunk has from the chunks before it; zeros at the beginning."""

    chunks: T
    """``[batch]``, integers: the number of chunks before."""
    features: T
    """``[batch, reduction, bins]``: the last frames of the front end."""
    keys: Sequence[T]
    """``[batch, window - chunk, channels]`` for each block: of the last frames."""
    values: Sequence[T]
    convolved: Sequence[T]
    """``[batch, (convolved_chunks - 1) * chunk, channels]`` for each block: the last inputs of its
    convolution."""


def start(config: Config, batch: int) -> State[Array]:
    """Return the state before the first chunk."""

    def zeros(frames: int, channels: int) -> Array:
        return np.zeros((batch, frames, channels), np.float32)

    return _zero_state(config, np.zeros(batch, np.int64), zeros)


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Encode the features ``[batch, frames, bins]`` of whole recordings for CTC.

    ``lengths [batch]``, integers, are the numbers of frames of the items. Returns
    log-probabilities ``[batch, frames / stride, vocab]`` and their lengths ``[batch]``.
    """
    batch, frames, _ = ops.shape(features)
    if not frames:  # There is no chunk, and nothing to make zeros of.
        return conformer.encode(ops, weights, config, features, lengths, tap)
    size = config.chunk * config.reduction
    features = ops.mask(features, lengths)
    none = ops.multiply_lengths(lengths, 0)
    if rest := -frames % size:
        features = _append(ops, features, _zeros(ops, features, rest, none))
    values = ops.reshape(features, batch, -1, 1)

    def zeros(frames: int, channels: int) -> T:
        x = _zeros(ops, values, frames * channels, none)
        return ops.reshape(x, batch, frames, channels)

    state = _zero_state(config, none, zeros)
    log_probs, _ = encode_chunks(ops, weights, config, features, state, tap)
    for _ in range(config.reduction.bit_length() - 1):
        lengths = ops.conv_lengths(lengths, kernel=3, stride=2, padding=1)
        frames = -(-frames // 2)
    lengths = ops.multiply_lengths(lengths, config.upsample)
    return ops.slice(log_probs, 0, frames * config.upsample), lengths


def encode_chunks(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    state: State[T],
    tap: Tap[T] | None = None,
) -> tuple[T, State[T]]:
    """Encode the features ``[batch, chunks * chunk * reduction, bins]`` of the next whole chunks.

    Returns log-probabilities ``[batch, chunks * chunk * upsample, vocab]``, and the state after
    these chunks.
    """
    before = _append(ops, state.features, features)
    x = stem_convolutions(ops, weights, config, before)
    # The first frame is centred on the last ones of the chunk before, which has computed it.
    frames = ops.shape(x)[1]
    x = ops.slice(x, 1, frames)
    chunks = (frames - 1) // config.chunk
    lengths = _key_counts(ops, config, state.chunks, chunks)
    keys, values, convolved = list[T](), list[T](), list[T]()
    for i in range(config.layers):
        name = f"blocks.{i}"
        context = state.keys[i], state.values[i], state.convolved[i]
        x = ops.add(x, ops.scale(feed_forward(ops, weights, config, f"{name}.ff1", x), 0.5))
        y, k, v = _attention(ops, weights, config, f"{name}.attention", x, lengths, *context[:2])
        x = ops.add(x, y)
        y, c = _convolution(ops, weights, config, f"{name}.conv", x, context[2])
        x = ops.add(x, y)
        x = ops.add(x, ops.scale(feed_forward(ops, weights, config, f"{name}.ff2", x), 0.5))
        x = layer_norm(ops, weights, f"{name}.norm", x)
        keys.append(k)
        values.append(v)
        convolved.append(c)
        if tap is not None:
            tap(i, x)
    if config.upsample > 1:
        x = upsampled(ops, weights, config, x)
        if tap is not None:
            tap(config.layers, x)
    last = ops.shape(before)[1]
    after = State(
        # A convolution of `chunks` + 1 frames with twice this padding has that many more outputs.
        ops.conv_lengths(state.chunks, kernel=chunks + 1, stride=1, padding=chunks),
        ops.slice(before, last - config.reduction, last),
        keys,
        values,
        convolved,
    )
    return ops.log_softmax(linear(ops, weights, "head", x)), after


def _zero_state(config: Config, none: T, zeros: Callable[[int, int], T]) -> State[T]:
    """Return the state before the first chunk; ``none [batch]`` are integer zeros.

    ``zeros`` makes a tensor ``[batch, frames, channels]``.
    """
    attended, convolved = _context(config)
    return State(
        none,
        zeros(config.reduction, config.bins),
        [zeros(attended, config.channels) for _ in range(config.layers)],
        [zeros(attended, config.channels) for _ in range(config.layers)],
        [zeros(convolved, config.channels) for _ in range(config.layers)],
    )


def _context(config: Config) -> tuple[int, int]:
    """Return the numbers of frames before a chunk that attention and convolutions read."""
    return config.window - config.chunk, (config.convolved_chunks - 1) * config.chunk


def _key_counts(ops: Ops[T], config: Config, before: T, chunks: int) -> T:
    """Return the number of frames ``[batch * chunks]`` from the beginning to each chunk's end.

    Where it exceeds the window, attention has as many keys as the window has frames.
    """
    (batch,) = ops.shape(before)
    index = ops.reshape(ops.positions(before, chunks), batch * chunks)
    # A convolution with 2 frames more of padding than its kernel needs has one output more.
    counts = ops.conv_lengths(index, kernel=2, stride=1, padding=1)
    return ops.multiply_lengths(counts, config.chunk)


def _attention(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    name: str,
    x: T,
    lengths: T,
    keys: T,
    values: T,
) -> tuple[T, T, T]:
    """Return the result of attention, and the last keys and values for the next chunk."""
    batch, frames, channels = ops.shape(x)
    x = layer_norm(ops, weights, f"{name}.norm", x)
    q, k, v = (linear(ops, weights, f"{name}.{part}", x) for part in ("q", "k", "v"))
    k, v = _append(ops, keys, k), _append(ops, values, v)
    count = config.window // config.chunk
    windows = (_windows(ops, config, y, count, newest_first=True) for y in (k, v))
    q = ops.reshape(q, batch * frames // config.chunk, config.chunk, channels)
    y = ops.attention(q, *windows, heads=config.heads, lengths=lengths)
    y = linear(ops, weights, f"{name}.out", ops.reshape(y, batch, frames, channels))
    k, v = (ops.slice(y, frames, frames + config.window - config.chunk) for y in (k, v))
    return ops.dropout(y, config.dropout), k, v


def _convolution(
    ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, before: T
) -> tuple[T, T]:
    """Return the result of the convolution module, and its last inputs for the next chunk."""
    batch, frames, channels = ops.shape(x)
    half, context = config.kernel // 2, _context(config)[1]

    def convolve(x: T) -> T:
        nonlocal before
        x = _append(ops, before, x)
        before = ops.slice(x, frames, frames + context)
        x = _windows(ops, config, x, config.convolved_chunks, newest_first=False)
        x = ops.slice(x, context - half, context + config.chunk)
        weight, bias = (weights[f"{name}.depthwise.{part}"] for part in ("weight", "bias"))
        x = ops.conv1d(x, weight, bias, padding=half, groups=config.channels)
        return ops.reshape(ops.slice(x, half, half + config.chunk), batch, frames, channels)

    return convolution(ops, weights, config, name, x, convolve), before


def _windows(ops: Ops[T], config: Config, x: T, count: int, *, newest_first: bool) -> T:
    """Return the last ``count`` chunks, a power of two, up to each chunk.

    ``x [batch, (count - 1 + chunks) * chunk, channels]``: the first chunks are only context.
    Returns ``[batch * chunks, count * chunk, channels]``. With ``newest_first``, the order of the
    chunks is reversed, so that those before the beginning are the last ones.
    """
    batch, frames, channels = ops.shape(x)
    rows = frames // config.chunk
    x = ops.reshape(x, batch, rows, config.chunk * channels)
    width = 1
    while width < count:
        rows -= width
        older, newer = ops.slice(x, 0, rows), ops.slice(x, width, width + rows)
        x = ops.concat(newer, older) if newest_first else ops.concat(older, newer)
        width *= 2
    return ops.reshape(x, batch * rows, count * config.chunk, channels)


def _append(ops: Ops[T], x: T, y: T) -> T:
    """Concatenate ``x`` and ``y [batch, time, channels]`` along time."""
    batch, frames, channels = ops.shape(x)
    rows = frames + ops.shape(y)[1]
    joined = ops.concat(ops.reshape(x, batch, -1), ops.reshape(y, batch, -1))
    return ops.reshape(joined, batch, rows, channels)


def _zeros(ops: Ops[T], x: T, count: int, none: T) -> T:
    """Return zeros ``[batch, count, channels]`` for ``x [batch, time, channels]``.

    ``none [batch]`` are lengths of 0.
    """
    zeros = ops.mask(x, none)
    while ops.shape(zeros)[1] < count:
        zeros = _append(ops, zeros, zeros)
    return ops.slice(zeros, 0, count)


def _variants(config: Config) -> list[Config]:
    return [replace(config, chunk=chunk) for chunk in config.chunks]


FAMILY = Family(
    name="chunked_conformer",
    config=Config,
    specs=specs,
    head="ctc",
    programs={"encode": encode, "encode_chunks": encode_chunks},
    tokenizer=CharTokenizer.from_dict,
    check=check_ctc,
    streaming=Streaming(
        variants=_variants,
        frames=lambda config: config.chunk * config.reduction,
        reduction=lambda config: config.reduction,
        start=start,
    ),
    same_tensors=("conformer",),
)
