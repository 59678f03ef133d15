"""Structures of tensors (lists, tuples, dataclasses), as a model's functions accept and return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["leaves", "map_tree"]


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same structure with ``function(tensor)`` for each tensor; None stays None."""
    if tree is None:
        return None
    if dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        names = [field.name for field in dataclasses.fields(tree)]
        mapped = {name: map_tree(function, getattr(tree, name)) for name in names}
        return dataclasses.replace(tree, **mapped)  # type: ignore[type-var]
    if isinstance(tree, list | tuple):
        return type(tree)(map_tree(function, item) for item in tree)
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the tensors of a structure, in the order of `map_tree`."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from leaves(item)
    elif dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    elif tree is not None:
        yield tree
