"""Structures of tensors (lists, tuples, dataclasses), as a model's functions accept and return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

__all__ = ["leaves", "map_tree"]


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same structure with ``function(tensor)`` for each tensor; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, list | tuple):
        return type(tree)([map_tree(function, item) for item in tree])
    if names := _fields(tree.__class__):
        return type(tree)(**{name: map_tree(function, getattr(tree, name)) for name in names})
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the tensors of a structure, in the order of `map_tree`."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from leaves(item)
    elif names := _fields(tree.__class__):
        for name in names:
            yield from leaves(getattr(tree, name))
    elif tree is not None:
        yield tree


@cache  # A decoder's step asks this of some forty values for each token.
def _fields(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields; none of a tensor, which may be a dataclass too."""
    if not dataclasses.is_dataclass(kind):
        return ()
    names = tuple(field.name for field in dataclasses.fields(kind))
    return () if "shape" in names else names
