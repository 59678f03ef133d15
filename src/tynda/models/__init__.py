"""Model families: each file defines one, as plain functions over ``tynda.ops``.

A family is a module with

- ``Config``: a frozen dataclass, the numbers that shape the model; ``bins``, ``vocab``,
  ``layers``, ``channels`` (width of what ``tap`` sees) and ``stride`` (frames of the front end
  to one of the output) are among them;
- ``specs(config)``: name -> `Spec` of every tensor in the file;
- ``encode(ops, weights, config, features, lengths, tap=None)``: the model itself.
"""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError

__all__ = ["CTC_FAMILIES", "FAMILIES", "Spec", "configure", "family", "sinusoids", "trainable"]

CTC_FAMILIES = ("conformer", "n2", "wav2vec2")
"""Their ``encode`` gives log-probabilities, blank first."""
FAMILIES = (*CTC_FAMILIES, "whisper")
# A model file may come from anywhere: no number in it may ask for gigabytes.
_LARGEST = 1 << 16


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape of one tensor and how training starts it.

    ``uniform``: ``gain`` U(-1, 1) / sqrt(fan_in), fan_in being the product of all axes but the
    first (PyTorch's default for linear and convolution layers). ``sinusoids``: as `sinusoids` gives
    them. A tensor that is not ``trainable`` is a constant or a running statistic.
    """

    shape: tuple[int, ...]
    init: Literal["uniform", "zeros", "ones", "sinusoids", "trainable"] = "uniform"
    trainable: bool = True
    gain: float = 1.0


def sinusoids(count: int, channels: int) -> NDArray[np.float32]:
    """Positions of a transformer ``[count, channels]``: sines, then cosines.

    The wave lengths run from 2 pi to 20000 pi frames in a geometric series (Vaswani et al.
    2017, section 3.5, ordered as in Whisper). ``channels`` is even, at least 4.
    """
    waves = np.exp(-np.log(10000.0) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(count)[:, None] * waves
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def trainable(module: ModuleType, config: Any) -> dict[str, bool]:
    """Whether each tensor of a family's model is learnt, by name."""
    return {name: spec.trainable for name, spec in module.specs(config).items()}


def family(name: str) -> ModuleType:
    """The module of a family. Raises `TyndaError` for a name not in `FAMILIES`."""
    if name not in FAMILIES:
        raise TyndaError(f"unknown model family {name!r}; known: {', '.join(FAMILIES)}")
    return importlib.import_module(f"tynda.models.{name}")


def configure(module: ModuleType, values: dict[str, Any]) -> Any:
    """Make a family's ``Config`` from plain values.

    Raises `TyndaError` for a setting that is unknown, of a wrong type or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(module.Config)}
    if unknown := set(values) - set(fields):
        raise TyndaError(
            f"unknown model setting {sorted(unknown)[0]!r}; known: {', '.join(fields)}"
        )
    hints = get_type_hints(module.Config)
    values = {name: _check(name, value, hints[name]) for name, value in values.items()}
    try:
        return module.Config(**values)
    except (TypeError, ValueError) as error:
        raise TyndaError(f"model settings do not fit: {error}") from None


def _check(name: str, value: Any, hint: Any) -> Any:
    """A setting as its field takes it; JSON and TOML have lists for tuples."""
    if get_origin(hint) is UnionType:  # of a type with None
        return None if value is None else _check(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TyndaError(f"model setting {name} must be a list, not {value!r}")
        return tuple(_check(name, item, get_args(hint)[0]) for item in value)
    if hint is int and not (type(value) is int and 1 <= value <= _LARGEST):
        raise TyndaError(
            f"model setting {name} must be a whole number from 1 to {_LARGEST}, not {value!r}"
        )
    if hint is float and type(value) not in (int, float):
        raise TyndaError(f"model setting {name} must be a number, not {value!r}")
    if hint is bool and type(value) is not bool:
        raise TyndaError(f"model setting {name} must be true or false, not {value!r}")
    return value
