"""Lowering of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tynda.compile.trace import Step
from tynda.weights.attention import MIN_QUERIES

if TYPE_CHECKING:
    from tynda.compile.lower import Lowering

__all__ = ["RULES"]


def attention(lower: Lowering, step: Step) -> None:
    """See `Ops.attention` and `Ops.causal_attention`."""
    names = ("q", "k", "v", "lengths" if step.operation == "attention" else "starts")
    q, k, v, lengths = (lower.view(step.tensors[name]) for name in names)
    y = lower.new(step.result)
    lower.emit("attention", **_heads(lower, step), q=q, k=k, v=v, lengths=lengths, y=y)


def window_attention(lower: Lowering, step: Step) -> None:
    """See `Ops.window_attention`."""
    q, k, v, lengths = (lower.view(step.tensors[name]) for name in ("q", "k", "v", "lengths"))
    y = lower.new(step.result)
    about = {name: step.settings[name] for name in ("before", "after")} | _heads(lower, step)
    lower.emit("window_attention", **about, q=q, k=k, v=v, lengths=lengths, y=y)


def attention_weights(lower: Lowering, step: Step) -> None:
    """See `Ops.attention_weights`."""
    q, k, lengths = (lower.view(step.tensors[name]) for name in ("q", "k", "lengths"))
    y = lower.new(step.result)
    lower.emit("attention_weights", **_heads(lower, step), q=q, k=k, lengths=lengths, y=y)


def relative_attention(lower: Lowering, step: Step) -> None:
    """See `Ops.relative_attention`: always in float32, since products with weights outweigh it."""
    names = ("q", "k", "v", "encoding", "content_bias", "position_bias", "lengths")
    places = {name: lower.view(step.tensors[name]) for name in names}
    batch, frames, channels = step.tensors["q"].shape
    about = {"batch": batch, "heads": step.settings["heads"], "queries": frames, "keys": frames}
    about |= {"channels": channels, "v_channels": step.tensors["v"].shape[2]}
    lower.emit("relative_attention", **about, **places, y=lower.new(step.result))


def relative_encoding(lower: Lowering, step: Step) -> None:
    """See `Ops.relative_encoding`: only the shape of its input is read."""
    y = lower.new(step.result)
    lower.emit("relative_encoding", rows=y.rows, width=step.result.shape[-1], y=y)


def pack_kv(lower: Lowering, step: Step) -> None:
    """See `Ops.pack_keys` and `Ops.pack_values`."""
    values = step.operation == "pack_values"
    x = lower.view(step.tensors["v" if values else "k"])
    lengths = lower.view(step.tensors["lengths"])
    batch, keys, channels = step.result.shape
    about = {
        **{"batch": batch, "heads": step.settings["heads"], "keys": keys, "channels": channels},
        **{"values": values, "integer": lower.bits == 8},
    }
    lower.emit("pack_kv", **about, x=x, lengths=lengths, y=lower.new(step.result))


def _heads(lower: Lowering, step: Step) -> dict[str, int]:
    batch, queries, channels = step.tensors["q"].shape
    packed = bool(step.tensors["k"].packed)
    causal = step.operation == "causal_attention"
    enough = queries >= MIN_QUERIES and step.operation != "attention_weights"
    return {
        **{"batch": batch, "heads": step.settings["heads"], "queries": queries},
        **{"keys": step.tensors["k"].shape[1], "channels": channels},
        "v_channels": step.tensors["v"].shape[2] if "v" in step.tensors else channels,
        "causal": causal,
        "integer": lower.bits == 8 and not causal and (packed or enough),
        "packed": packed,
    }


RULES = {
    **{"attention": attention, "causal_attention": attention},
    **{"window_attention": window_attention, "attention_weights": attention_weights},
    **{"relative_encoding": relative_encoding, "relative_attention": relative_attention},
    **{"pack_keys": pack_kv, "pack_values": pack_kv},
}
