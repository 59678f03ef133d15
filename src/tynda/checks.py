"""Settings and their checks: a dataclass declares once which values are valid.

The annotation of a field is its schema. ``int``, ``float``, ``bool``, ``str``, ``Literal``, lists
(``tuple``, ``Sequence``), and unions of them are supported; ``Annotated`` adds a `Range` or any
other `Rule`. `check` applies the schema to dataclasses created by a program, readers of files use
`fits` and `describe`, and the command line generates options from it (``cli/options.py``).

>>> @dataclass(frozen=True)
... class Search:
...     beam_size: Annotated[int, Range(1, 1024)] = setting(32, "Width of the beam search.")
...
...     def __post_init__(self) -> None:
...         check(self)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Rational, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tynda.errors import TyndaError

__all__ = [
    "MAX_COUNT",
    "MAX_NUMBER",
    "Range",
    "Rule",
    "Setting",
    "check",
    "describe",
    "fits",
    "is_number",
    "is_whole",
    "schema",
    "setting",
    "simple",
]

MAX_COUNT = 1024
"""The maximum beam size or number of hypotheses: more only fills the memory."""
MAX_NUMBER: float = 1000
"""The maximum weight, bonus or threshold: larger values are meaningless."""
_MAX_SHOWN = 100
"""The maximum number of characters of a value in a message."""


@dataclass(frozen=True)
class Range:
    """The bounds of a number; None leaves an end open."""

    min: float
    max: float | None = None
    above: bool = False
    """Whether the minimum itself is excluded."""
    below: bool = False
    """Whether the maximum itself is excluded."""

    def holds(self, value: Any) -> bool:
        """Return whether a number is within the bounds; NaN is not."""
        low = value > self.min if self.above else value >= self.min
        if self.max is None:
            return bool(low)
        return bool(low and (value < self.max if self.below else value <= self.max))

    @property
    def words(self) -> str:
        """The bounds as text for a message, to follow "a number"."""
        low = f"{self.min:.12g}"
        if self.max is None and self.above:
            return f"above {low}"
        if self.max is None:
            return "of 0 or more" if self.min == 0 else f"of at least {low}"
        high = f"{self.max:.12g}"
        if self.below:
            return f"of at least {low} and below {high}"
        return f"above {low} and up to {high}" if self.above else f"from {low} to {high}"


@dataclass(frozen=True)
class Rule:
    """Any other condition on a value, and its description for a message."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """The help of a setting, shown by the command line."""

    help: str
    heading: str
    metavar: str | None
    repeat: bool


def setting(
    default: Any,
    help: str,
    *,
    heading: str = "",
    metavar: str | None = None,
    repeat: bool = False,
) -> Any:
    """Return a dataclass field with a default value and a `Setting`.

    ``help`` is a sentence or two; the default value is added to it. ``heading`` is the title of
    the option's group. ``metavar`` names the option's value, such as SECONDS. With ``repeat``, the
    option is given once for each item of a list, instead of items separated by commas.
    """
    return field(default=default, metadata={"setting": Setting(help, heading, metavar, repeat)})


def schema(kind: Any) -> Mapping[str, Any]:
    """Return the annotation of each field of a dataclass, by name."""
    return _schema(kind)


@functools.cache
def _schema(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind)}


def check(settings: Any) -> None:
    """Raise `TyndaError` for the first field of a dataclass that does not fit its annotation."""
    for name, hint in schema(type(settings)).items():
        value = getattr(settings, name)
        if not fits(value, hint):
            shown = repr(value)
            shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
            raise TyndaError(f"{name} must be {describe(hint)}, not {shown}")


def is_whole(value: Any, min: float, max: float = MAX_COUNT) -> bool:
    """Return whether a value is an integer within these bounds; True and False are not."""
    known = isinstance(value, Integral) and not isinstance(value, bool)
    return known and Range(min, max).holds(value)


def is_number(value: Any, min: float = -MAX_NUMBER, max: float = MAX_NUMBER) -> bool:
    """Return whether a value is a number within these bounds; True, False and NaN are not."""
    return _is_real(value) and Range(min, max).holds(value)


def _is_real(value: Any) -> bool:
    """Return whether a value is an integer or a float, of Python or NumPy; fractions are not."""
    known = isinstance(value, Integral) or not isinstance(value, Rational)
    return known and isinstance(value, Real) and not isinstance(value, bool)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value fits an annotation; an integer is a number, but a bool is not.

    Numbers must be finite, and integers must fit in 64 bits.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, rule = arguments
        return fits(value, kind) and rule.holds(value)
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(items) and all(map(fits, value, items))
    if origin is Sequence:
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(fits(item, arguments[0]) for item in value)
    if hint is int:
        return is_whole(value, -(2**63), 2**63 - 1)
    if hint is float:
        return fits(value, int) or (
            _is_real(value) and not isinstance(value, Integral) and math.isfinite(value)
        )
    if origin is Mapping:
        return isinstance(value, dict) and all(
            math.isfinite(v) for v in value.values() if isinstance(v, float)
        )
    return isinstance(value, origin or hint)


def describe(hint: Any) -> str:
    """Describe the values that `fits` accepts."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, rule = arguments
        if isinstance(rule, Range):
            return f"{describe(kind)} {rule.words}"
        united = get_origin(kind) in (Union, UnionType)  # the rule alone is shorter
        return rule.words if united else f"{describe(kind)}, {rule.words}"
    if origin in (Union, UnionType):
        return " or ".join(describe(kind) for kind in arguments if kind is not NoneType)
    if origin is Literal:
        return " or ".join(arguments)
    if origin in (tuple, Sequence):
        count = f" of {len(arguments)}" if origin is tuple and arguments[-1] is not ... else ""
        return f"a list{count}, each {describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words |= {dict: "a dict", list: "a list"}
    return words.get(origin or hint, "a table of finite values")


def simple(hint: Any) -> tuple[Any, Range | None]:
    """Return the type of an annotation without None and rules, and the range of its numbers."""
    if get_origin(hint) in (Union, UnionType):
        return simple(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        kind, rule = get_args(hint)
        return simple(kind)[0], rule if isinstance(rule, Range) else None
    return hint, None
