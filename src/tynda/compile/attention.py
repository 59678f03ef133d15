"""Lowering of attention and of the packing of its keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tynda.compile.trace import Step
from tynda.weights.attention import MIN_QUERIES

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["RULES"]


def attention(lower: Lowering, step: Step) -> None:
    """See `Ops.attention`."""
    views = lower.views(step, "q", "k", "v", "lengths")
    name = "attention"
    if "log_counts" in step.tensors:
        name, views = "counted_attention", views | lower.views(step, "log_counts")
    lower.emit(name, **_sizes(lower, step), **views, y=lower.new_view(step.result))


def causal_attention(lower: Lowering, step: Step) -> None:
    """See `Ops.causal_attention`; the native field ``lengths`` then holds the starts."""
    views = lower.views(step, "q", "k", "v") | {"lengths": lower.view(step.tensors["starts"])}
    lower.emit("attention", **_sizes(lower, step), **views, y=lower.new_view(step.result))


def window_attention(lower: Lowering, step: Step) -> None:
    """See `Ops.window_attention`."""
    views = lower.views(step, "q", "k", "v", "lengths")
    sizes = {name: step.settings[name] for name in ("before", "after")} | _sizes(lower, step)
    lower.emit("window_attention", **sizes, **views, y=lower.new_view(step.result))


def attention_weights(lower: Lowering, step: Step) -> None:
    """See `Ops.attention_weights`."""
    views = lower.views(step, "q", "k", "lengths")
    lower.emit("attention_weights", **_sizes(lower, step), **views, y=lower.new_view(step.result))


def relative_attention(lower: Lowering, step: Step) -> None:
    """See `Ops.relative_attention`.

    The operation is always in float32: it takes little time beside the products with weights.
    """
    names = ("q", "k", "v", "encoding", "content_bias", "position_bias", "lengths")
    views = lower.views(step, *names)
    batch, frames, channels = step.tensors["q"].shape
    sizes = {"batch": batch, "heads": step.settings["heads"], "queries": frames, "keys": frames}
    sizes |= {"channels": channels, "v_channels": step.tensors["v"].shape[2]}
    lower.emit("relative_attention", **sizes, **views, y=lower.new_view(step.result))


def relative_encoding(lower: Lowering, step: Step) -> None:
    """See `Ops.relative_encoding`. The operation reads only the shape of its input."""
    y = lower.new_view(step.result)
    lower.emit("relative_encoding", rows=y.rows, width=step.result.shape[-1], y=y)


def pack_kv(lower: Lowering, step: Step) -> None:
    """See `Ops.pack_keys` and `Ops.pack_values`."""
    values = step.operation == "pack_values"
    x = lower.view(step.tensors["v" if values else "k"])
    lengths = lower.view(step.tensors["lengths"])
    batch, keys, channels = step.result.shape
    sizes = {
        **{"batch": batch, "heads": step.settings["heads"], "keys": keys, "channels": channels},
        **{"values": values, "integer": lower.bits == 8},
    }
    lower.emit("pack_kv", **sizes, x=x, lengths=lengths, y=lower.new_view(step.result))


def _sizes(lower: Lowering, step: Step) -> dict[str, int]:
    """Return the sizes and flags that all kinds of attention but the relative one have.

    Attention multiplies in 8 bits only where rounding its inputs pays: with packed keys, which are
    rounded once, or with at least `MIN_QUERIES` queries.
    """
    batch, queries, channels = step.tensors["q"].shape
    packed = bool(step.tensors["k"].packed)
    causal = step.operation == "causal_attention"
    pays = packed or (queries >= MIN_QUERIES and step.operation != "attention_weights")
    return {
        **{"batch": batch, "heads": step.settings["heads"], "queries": queries},
        **{"keys": step.tensors["k"].shape[1], "channels": channels},
        "v_channels": step.tensors["v"].shape[2] if "v" in step.tensors else channels,
        "causal": causal,
        "integer": lower.bits == 8 and not causal and pays,
        "packed": packed,
    }


RULES = {
    **{"attention": attention, "causal_attention": causal_attention},
    **{"window_attention": window_attention, "attention_weights": attention_weights},
    **{"relative_encoding": relative_encoding, "relative_attention": relative_attention},
    **{"pack_keys": pack_kv, "pack_values": pack_kv},
}
