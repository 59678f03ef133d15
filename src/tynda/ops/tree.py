"""Tensors in lists, tuples and dataclasses: the arguments and results of a model's functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["leaves", "map_tree"]


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with ``function`` of each tensor in it; None stays None."""
    if tree is None:
        return None
    if dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        parts = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
        mapped = {name: map_tree(function, part) for name, part in parts.items()}
        return dataclasses.replace(tree, **mapped)  # type: ignore[type-var]
    if isinstance(tree, list | tuple):
        return type(tree)(map_tree(function, part) for part in tree)
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """The tensors, in the order in which `map_tree` comes by them."""
    if isinstance(tree, list | tuple):
        for part in tree:
            yield from leaves(part)
    elif dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    elif tree is not None:
        yield tree
