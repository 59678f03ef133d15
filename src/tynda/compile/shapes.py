"""Checks of the shapes of a traced operation's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Shaped", "attended", "expect"]


class Shaped(Protocol):
    """A tensor whose name and shape are known, with or without data."""

    @property
    def name(self) -> str:
        """The name of a weight, or ``""``."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """The sizes of all axes."""
        ...


def attended(q: Shaped, k: Shaped, v: Shaped, heads: int) -> tuple[int, int, int]:
    """Return the shape of attention's result. Raises ValueError where shapes do not fit."""
    batch, queries, channels = q.shape
    keys, values = v.shape[1:]
    expect(tuple(k.shape) == (batch, keys, channels) and v.shape[0] == batch, q, k, v)
    expect(channels % heads == 0 and values % heads == 0, q, v)
    return batch, queries, values


def expect(fits: bool, *tensors: Shaped) -> None:
    """Raise ValueError, with the shapes of ``tensors``, unless they fit."""
    if not fits:
        shapes = ", ".join(f"{t.name or 'input'} {list(t.shape)}" for t in tensors)
        raise ValueError(f"shapes do not fit: {shapes}")
