"""Numbers from outside: settings of decoders, whoever gave them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tynda.errors import TyndaError

__all__ = ["GREATEST", "MOST", "is_number", "is_whole", "number", "whole"]

MOST = 1024
"""Of prefixes in a beam, of hypotheses: more would fill the memory and change nothing."""
GREATEST: float = 1000
"""Of a weight, a bonus, a threshold: nothing above it means anything."""


def is_whole(value: Any, least: int, most: int = MOST) -> bool:
    """Whether a value is a whole number in these bounds; True and False are none."""
    known = isinstance(value, int | np.integer)
    return known and not isinstance(value, bool) and bool(least <= value <= most)


def is_number(value: Any, least: float = -GREATEST, most: float = GREATEST) -> bool:
    """Whether a value is a number in these bounds; True, False and NaN are none."""
    known = isinstance(value, int | float | np.integer | np.floating)
    return known and not isinstance(value, bool) and bool(least <= value <= most)


def whole(name: str, value: Any, least: int = 1, most: int = MOST) -> None:
    """Raise `TyndaError` unless the value is a whole number in these bounds."""
    if not is_whole(value, least, most):
        raise TyndaError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def number(name: str, value: Any, least: float = -GREATEST, most: float = GREATEST) -> None:
    """Raise `TyndaError` unless the value is a number in these bounds."""
    if not is_number(value, least, most):
        raise TyndaError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
