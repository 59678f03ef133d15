"""Model families: each file defines one, as plain functions over ``tynda.ops``.

A family is a module with

- ``Config``: a frozen dataclass, the numbers that shape the model; ``bins``, ``vocab``,
  ``channels`` (width of what ``tap`` sees) and ``stride`` (frames of the front end to one of
  the output) are among them;
- ``specs(config)``: name -> `Spec` of every tensor in the file;
- ``encode(ops, weights, config, features, lengths, tap=None)``: the model itself.
"""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType
from typing import Any, Literal

from tynda.errors import TyndaError

__all__ = ["FAMILIES", "Spec", "configure", "family"]

FAMILIES = ("conformer", "n2")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape of one tensor and how training starts it.

    ``uniform``: U(-1, 1) / sqrt(fan_in), fan_in being the product of all axes but the first
    (PyTorch's default for linear and convolution layers). A tensor that is not ``trainable``
    is a running statistic.
    """

    shape: tuple[int, ...]
    init: Literal["uniform", "zeros", "ones"] = "uniform"
    trainable: bool = True


def family(name: str) -> ModuleType:
    """The module of a family. Raises `TyndaError` for a name not in `FAMILIES`."""
    if name not in FAMILIES:
        raise TyndaError(f"unknown model family {name!r}; known: {', '.join(FAMILIES)}")
    return importlib.import_module(f"tynda.models.{name}")


def configure(module: ModuleType, values: dict[str, Any]) -> Any:
    """Make a family's ``Config`` from plain values; unknown or missing ones are named."""
    fields = {f.name: f for f in dataclasses.fields(module.Config)}
    if unknown := set(values) - set(fields):
        raise TyndaError(
            f"unknown model setting {sorted(unknown)[0]!r}; known: {', '.join(fields)}"
        )
    try:
        return module.Config(**values)
    except (TypeError, ValueError) as error:
        raise TyndaError(f"model settings do not fit: {error}") from None
