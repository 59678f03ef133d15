"""Programs of a recording that a decoder writes down, made of those of its family.

All take ``settings``, which are the family and its config. Whoever traces, counts, calibrates,
profiles or trains a model with a decoder reads these.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from tynda.compile.runs import Run, Runs, Work
from tynda.compile.trace import Value
from tynda.models.base import CrossKV, Family, KVCache
from tynda.ops.base import Ops, T, Weights
from tynda.ops.tree import map_tree

__all__ = [
    "Settings",
    "attend",
    "cache",
    "exported",
    "forced",
    "forced_logits",
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
    """One step: states ``[batch, n, channels]`` of ``tokens [batch, n]``, the logits ``[batch,
    vocab]`` of what follows the last token of each row, and the cache after it.

    ``starts [batch]`` counts the tokens that are in the ``cache`` already; without one the tokens
    are the beginning.
    """
    family, config = settings
    batch, count = ops.shape(tokens)
    states, grown = family.programs["decode"](ops, weights, config, tokens, starts, cross, cache)
    last = ops.reshape(ops.slice(states, count - 1, count), batch, config.channels)
    return states, family.programs["logits"](ops, weights, config, last), grown


def select(ops: Ops[T], weights: Weights[T], settings: None, part: Part, index: T) -> Part:
    """The rows of a `KVCache`, or the items of a `CrossKV`, numbered by ``index [n]``."""
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
    """Logits ``[batch, n, vocab]`` behind each of the ``tokens [batch, n]`` that the decoder is
    made to follow, for encoded sound; ``starts [batch]`` are zeros."""
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
    """`forced_logits` from the features ``[items, frames, bins]``."""
    family, config = settings
    encoded: tuple[T, T] = family.programs["encode"](ops, weights, config, features, lengths)
    return forced_logits(ops, weights, settings, *encoded, tokens, starts)


def attend(
    ops: Ops[T],
    weights: Weights[T],
    settings: tuple[Family, Any, Sequence[int]],
    tokens: T,
    starts: T,
    cross: CrossKV[T],
    length: T,
) -> tuple[T, list[T]]:
    """Logits behind ``tokens``, and the cross-attention of some decoder layers ``[1, heads, n,
    frames]`` to the first ``length`` frames; the layers' numbers end the ``settings``."""
    family, config, layers = settings
    found: list[T] = []

    def watch(layer: int, q: T, k: T) -> None:
        if layer in layers:
            heads = config.decoder_heads
            found.append(ops.attention_weights(q, k, heads=heads, lengths=length))

    decode, logits = family.programs["decode"], family.programs["logits"]
    states, _ = decode(ops, weights, config, tokens, starts, cross, watch=watch)
    scores: T = logits(ops, weights, config, states)
    return scores, found


def cache(config: Any, rows: int, capacity: int, make: Any = Value) -> KVCache[Any]:
    """An empty cache; ``make`` takes a shape."""
    shape, layers = (rows, capacity, config.channels), range(config.decoder_layers)
    return KVCache([make(shape) for _ in layers], [make(shape) for _ in layers])


def runs(family: Family, config: Any, work: Work) -> Runs:
    """See `Head.runs`: the encoder, keys and values of the cross-attention, the prompt, then a step
    for each token but the first. What a step costs grows by as much from each to the next, so that
    the first and the last of them stand for all."""
    cross = yield from _encoded(family, config, work)

    def tokens(seen: int, count: int, times: float = 1) -> Run:
        return _step((family, config), cross, work.batch, count, seen + count, times=times)

    yield tokens(0, work.prompt)
    more = work.tokens - 1  # the prompt's step gives the first
    if more > 0:
        yield tokens(work.prompt, 1, more / 2)
        yield tokens(work.prompt + more - 1, 1, more / 2)


def exported(family: Family, config: Any, work: Work) -> Runs:
    """See `Head.exported`: each program once, the steps with a cache for the whole context."""
    cross = yield from _encoded(family, config, work)
    for name, count in (("prompt", work.prompt), ("step", 1)):
        yield _step((family, config), cross, work.batch, count, config.context, name)


def _encoded(family: Family, config: Any, work: Work) -> Generator[Run, Any, CrossKV[Any]]:
    """The encoder, then the keys and values of the cross-attention, which are returned."""
    features = Value((work.batch, work.frames, config.bins))
    inputs = features, Value((work.batch,), is_integer=True)
    encoded = yield Run("encoder", "encode", family.programs["encode"], config, inputs)
    cross: CrossKV[Any] = yield Run(
        "decoder", "cross_kv", family.programs["cross_kv"], config, encoded
    )
    return cross


def _step(
    settings: Settings,
    cross: CrossKV[Any],
    batch: int,
    count: int,
    capacity: int,
    name: str = "step",
    times: float = 1,
) -> Run:
    """A step of ``count`` tokens with a cache for ``capacity`` of them."""
    ids = Value((batch, count), is_integer=True), Value((batch,), is_integer=True)
    inputs = (*ids, cross, cache(settings[1], batch, capacity))
    return Run("decoder", name, step, settings, inputs, times)
