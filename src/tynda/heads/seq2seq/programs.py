"""Programs of encoder-decoder models, composed of those of a family.

All have the argument ``settings``: the family and its config. Decoding, tracing, counting,
calibration, profiling and training use these programs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tynda.compile.runs import Run, Runs, Work
from tynda.compile.trace import Value
from tynda.models.base import CrossKV, Family, KVCache, MergedFrames
from tynda.ops.base import Ops, T, Weights
from tynda.ops.tree import map_tree

__all__ = [
    "Settings",
    "cache",
    "cross_attention",
    "exported",
    "forced",
    "forced_logits",
    "log_probs",
    "runs",
    "select",
    "step",
]

Settings = tuple[Family, Any]
Part = TypeVar("Part", "KVCache[Any]", "CrossKV[Any]")


def step(
    ops: Ops[T],
    weights: Weights[T],
    settings: Settings,
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    cache: KVCache[T] | None = None,
) -> tuple[T, T, KVCache[T] | None]:
    """Run one step of the decoder on ``tokens [batch, n]``.

    ``starts [batch]``, integers, are the numbers of tokens that the ``cache`` already has; without
    a cache, they are zeros. Returns the states ``[batch, n, channels]``, the logits ``[batch,
    vocab]`` of the next token of each row, and the new cache.
    """
    family, config = settings
    batch, count = ops.shape(tokens)
    states, grown = family.programs["decode"](ops, weights, config, tokens, starts, cross, cache)
    last = ops.reshape(ops.slice(states, count - 1, count), batch, config.channels)
    return states, family.programs["logits"](ops, weights, config, last), grown


def log_probs(ops: Ops[T], weights: Weights[T], settings: None, logits: T) -> T:
    """Return the logarithms of the probabilities that ``logits [rows, vocab]`` stand for."""
    return ops.log_softmax(logits)


def select(ops: Ops[T], weights: Weights[T], settings: None, part: Part, index: T) -> Part:
    """Return the rows of a `KVCache`, or the items of a `CrossKV`, at ``index [n]``."""
    return map_tree(lambda x: ops.index_select(x, index), part)  # type: ignore[no-any-return]


def forced_logits(
    ops: Ops[T],
    weights: Weights[T],
    settings: Settings,
    states: T,
    lengths: T,
    tokens: T,
    starts: T,
) -> T:
    """Return logits ``[batch, n, vocab]`` after each of the forced ``tokens [batch, n]``, from the
    encoder's ``states [items, frames, channels]``; ``starts [batch]`` are zeros."""
    family, config = settings
    cross = family.programs["cross_kv"](ops, weights, config, states, lengths)
    decoded, _ = family.programs["decode"](ops, weights, config, tokens, starts, cross)
    scores: T = family.programs["logits"](ops, weights, config, decoded)
    return scores


def forced(
    ops: Ops[T],
    weights: Weights[T],
    settings: Settings,
    features: T,
    lengths: T,
    tokens: T,
    starts: T,
) -> T:
    """Run the encoder and `forced_logits` on features ``[items, frames, bins]``; see
    `Head.forced`."""
    family, config = settings
    encoded: tuple[T, T] = family.programs["encode"](ops, weights, config, features, lengths)
    return forced_logits(ops, weights, settings, *encoded, tokens, starts)


def cross_attention(
    ops: Ops[T],
    weights: Weights[T],
    settings: tuple[Family, Any, Sequence[int]],
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    length: T,
) -> tuple[T, list[T]]:
    """Return the logits after each of ``tokens [1, n]``, and the cross-attention weights ``[1,
    heads, n, frames]`` of some decoder layers over the first ``length`` frames. The last one of the
    ``settings`` has the indices of these layers."""
    family, config, layers = settings
    found: list[T] = []

    def on_cross_attention(layer: int, q: T, k: T) -> None:
        if layer in layers:
            heads = config.decoder_heads
            found.append(ops.attention_weights(q, k, heads=heads, lengths=length))

    decode, logits = family.programs["decode"], family.programs["logits"]
    states, _ = decode(
        ops, weights, config, tokens, starts, cross, on_cross_attention=on_cross_attention
    )
    scores: T = logits(ops, weights, config, states)
    return scores, found


def cache(config: Any, rows: int, capacity: int, make: Any = Value) -> KVCache[Any]:
    """Return an empty KV cache; ``make`` creates a tensor of a shape."""
    shape, layers = (rows, capacity, config.channels), range(config.decoder_layers)
    return KVCache([make(shape) for _ in layers], [make(shape) for _ in layers])


def runs(family: Family, config: Any, work: Work) -> Runs:
    """See `Head.runs`: the encoder, keys and values of the cross-attention, the prompt, and a step
    for each token except the first. The cost of a step grows linearly with its position, so that
    the first and the last step, each counted half of the times, represent all of them."""
    cross = yield from _encoded(family, config, work)

    def tokens(seen: int, count: int, times: float = 1) -> Run:
        return _step((family, config), cross, work.batch, count, seen + count, times=times)

    yield tokens(0, work.prompt)
    more = work.tokens - 1  # The step of the prompt gives the first token.
    if more > 0:
        yield tokens(work.prompt, 1, more / 2)
        yield tokens(work.prompt + more - 1, 1, more / 2)


def exported(
    family: Family, config: Any, work: Work, merged: Sequence[tuple[int, int]] = ()
) -> Runs:
    """Yield one run of each program; the cache of the steps has the size of the whole context.

    ``merged``: the numbers of front end frames and of merged frames of each shorter window, whose
    programs follow; their names end in the number of the window.
    """
    for number, (frames, count) in enumerate([(work.frames, None), *merged]):
        suffix = f".{number}" if number else ""
        own = replace(work, frames=frames)
        cross = yield from _encoded(family, config, own, count, suffix)
        for name, tokens in (("prompt", work.prompt), ("step", 1)):
            sizes = work.batch, tokens, config.context
            yield _step((family, config), cross, *sizes, name + suffix)


def _encoded(
    family: Family, config: Any, work: Work, merged: int | None = None, suffix: str = ""
) -> Generator[Run, Any, CrossKV[Any]]:
    """Yield the runs of the encoder and of the cross-attention's keys and values; return these.

    ``merged`` is the number of frames where some stand for several, see `MergedFrames`.
    """
    batch, programs = work.batch, family.programs
    inputs: tuple[Any, ...] = Value((batch, work.frames, config.bins)), _integers(batch)
    log_counts: tuple[Value, ...] = ()
    if merged is not None:
        log_counts = (Value((batch, merged)),)
        frames = _integers(batch * merged), _integers(batch, merged)
        inputs += None, MergedFrames(*frames, *log_counts, _integers(batch))
    encoded = yield Run("encoder", f"encode{suffix}", programs["encode"], config, inputs)
    inputs = *encoded, *log_counts
    cross: CrossKV[Any] = yield Run(
        "decoder", f"cross_kv{suffix}", programs["cross_kv"], config, inputs
    )
    return cross


def _integers(*shape: int) -> Value:
    return Value(shape, is_integer=True)


def _step(
    settings: Settings,
    cross: CrossKV[Any],
    batch: int,
    count: int,
    capacity: int,
    name: str = "step",
    times: float = 1,
) -> Run:
    """Return the run of a step of ``count`` tokens, with a cache for ``capacity`` tokens."""
    ids = Value((batch, count), is_integer=True), Value((batch,), is_integer=True)
    inputs = (*ids, cross, cache(settings[1], batch, capacity))
    return Run("decoder", name, step, settings, inputs, times)
