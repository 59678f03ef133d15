"""Options that commands share, generated from the settings of decoders."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from tynda.checks import MAX_COUNT, Range, Setting, schema, simple
from tynda.compile.engine import BITS, Backend, processors
from tynda.compile.limits import ENVIRONMENT, MAX_GIGABYTES, set_limit
from tynda.heads.ctc.options import CTCOptions
from tynda.heads.seq2seq.options import Options
from tynda.heads.settings import HEADINGS
from tynda.sound.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from tynda.model import Model

__all__ = [
    "Number",
    "PathName",
    "Sections",
    "decoder_options",
    "engine_options",
    "limited",
    "model_options",
    "raw_rate",
    "setting_options",
    "sound_options",
    "table_or_json",
]

_HEADS: tuple[type[CTCOptions] | type[Options], ...] = (CTCOptions, Options)
"""The settings of each head; settings with the same name share an option."""


class Number(click.FloatRange):
    """A range that excludes NaN: all comparisons with NaN are false."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert as `click.FloatRange` does, and reject NaN."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class PathName(click.Path):
    """A path that is not empty: an empty one would be the current folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert as `click.Path` does, and reject an empty name."""
        if value == "":
            self.fail("the name is empty.", param, ctx)
        return super().convert(value, param, ctx)


class _Option(click.Option):
    """An option that is listed under a heading."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the record of `click.Option`, with default and range in the same brackets."""
        if (record := super().get_help_record(ctx)) is None:
            return None
        return record[0], record[1].replace("]  [", "; ")


class Sections(click.Command):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading, then one that describes the kinds of models."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "heading", "Options"), []).append(record)
        sections["Kinds of models"] = [(kind.head, kind.about) for kind in _HEADS]
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


raw_rate = click.IntRange(1000, 768_000)
"""The rate in hertz of raw audio on standard input."""


def sound_options(command: Any) -> Any:
    """Add the options of audio that comes while it is recorded."""
    about_device = "Microphone: a number or a part of its name."
    rate = click.option(
        "--rate",
        type=raw_rate,
        default=SAMPLE_RATE,
        show_default=True,
        metavar="HERTZ",
        help='Rate of the raw audio of "-".',
    )
    return rate(click.option("--device", metavar="NAME", help=about_device)(command))


table_or_json = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)


def engine_options(*, without: Collection[str] = ()) -> Callable[[Any], Any]:
    """Add the options of the engine to a command, except those ``without``."""
    option = partial(click.option, cls=_Option, heading="Computing")
    options = {
        "backend": option(
            "--backend",
            type=click.Choice(get_args(Backend)),
            help="Default: native, or numpy where tynda was installed without a compiler.",
        ),
        "bits": option(
            "--bits",
            type=click.Choice([str(bits) for bits in BITS]),
            callback=lambda ctx, param, given: given and int(given),
            help="Precision of matrix products in bits. Default: 32, or 8 for a model with "
            "8-bit weights.",
        ),
        "threads": option(
            "--threads",
            type=click.IntRange(1, MAX_COUNT),
            metavar="NUMBER",
            help="Number of threads. Default: one for each processor.",
        ),
        "max_memory": option(
            "--max-memory",
            type=Number(0.001, MAX_GIGABYTES),
            metavar="GB",
            expose_value=False,
            callback=_limit_memory,
            help="Maximum memory of a run in gigabytes. Default: 16 bytes for each weight of the "
            f"model, at least 0.256, or the environment variable {ENVIRONMENT}.",
        ),
    }
    return _all_of([option for name, option in options.items() if name not in without])


def _limit_memory(ctx: click.Context, param: click.Parameter, gigabytes: float | None) -> None:
    """Set the limit of memory until the command ends."""
    set_limit(gigabytes)
    ctx.call_on_close(lambda: set_limit(None))


def model_options(*, without: Collection[str] = ()) -> Callable[[Any], Any]:
    """Add the options of the engine and the decoders to a command, except those ``without``."""
    decoder = [_setting(name) for name in _names() if name not in without]
    return _all_of([engine_options(without=without), *decoder])


def _all_of(decorators: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for each in reversed(decorators):  # the help lists the option applied last first
            command = each(command)
        return command

    return decorate


def _names() -> list[str]:
    """Return all settings of decoders by heading; those that all heads have come first."""

    def place(name: str) -> tuple[int, int]:
        said = _said(name)
        return HEADINGS.index(said[0][1].heading), -len(said)

    return sorted(dict.fromkeys(name for kind in _HEADS for name in schema(kind)), key=place)


def _said(name: str) -> list[tuple[type[CTCOptions] | type[Options], Setting, Any]]:
    """Return the heads that have a setting, each with its `Setting` and default value."""
    return [
        (kind, field.metadata["setting"], field.default)
        for kind in _HEADS
        for field in dataclasses.fields(kind)
        if field.name == name
    ]


def setting_options(kind: Any) -> Callable[[Any], Any]:
    """Add the options of a dataclass of settings to a command; omitted ones are None."""

    def decorate(command: Any) -> Any:
        for each in reversed(dataclasses.fields(kind)):
            said, hint = each.metadata["setting"], schema(kind)[each.name]
            help = _spelled(f"{said.help}{_default(each.default)}")
            command = _option(each.name, hint, said, each.default, help)(command)
        return command

    return decorate


def _setting(name: str) -> Callable[[Any], Any]:
    """Return the option for a setting of one or more heads; it is None where omitted."""
    kind, said, default = _said(name)[0]
    return _option(name, schema(kind)[name], said, default, _help(name))


def _option(name: str, hint: Any, said: Setting, default: Any, help: str) -> Callable[[Any], Any]:
    type_, bounds = simple(hint)
    spelling = f"--{name.replace('_', '-')}"
    how: dict[str, Any] = {"metavar": said.metavar}
    if type_ is bool:
        spelling += f"/--no-{name.replace('_', '-')}" if default else ""
        how = {"is_flag": True, "default": None}
    elif get_origin(type_) is Literal:
        how["type"] = click.Choice(get_args(type_))
    elif type_ in (int, float):
        how = {"type": _number(type_, bounds), "metavar": said.metavar or "NUMBER"}
    elif get_origin(type_) is Sequence and said.repeat:
        how = {"type": _number(*simple(get_args(type_)[0])), "multiple": True, "metavar": "NUMBER"}
        how["callback"] = lambda ctx, param, given: given or None  # an omitted option is ()
    elif get_origin(type_) is Sequence:
        item, bounds = simple(get_args(type_)[0])
        what = "whole numbers" if item is int else (said.metavar or "numbers").lower()
        minimum = bounds.min if bounds else -math.inf
        how["callback"] = lambda ctx, param, text: _several(text, item, minimum, what)
    return click.option(spelling, cls=_Option, heading=said.heading, help=help, **how)


def _number(kind: type, bounds: Range | None) -> click.ParamType[Any]:
    if bounds is None:
        assert kind is int, "a number without a range must be an integer"
        return click.INT  # a `Rule` checks the value
    if kind is int:
        return click.IntRange(int(bounds.min), None if bounds.max is None else int(bounds.max))
    return Number(bounds.min, bounds.max, min_open=bounds.above, max_open=bounds.below)


def _help(name: str) -> str:
    """Return the help of a setting, for each head separately where they differ."""
    texts = [
        (
            kind.head,
            f"{said.help}{' May be repeated.' if said.repeat else ''}{_default(default)}",
        )
        for kind, said, default in _said(name)
    ]
    same = len(texts) == len(_HEADS) and len({text for _, text in texts}) == 1
    text = texts[0][1] if same else " ".join(f"{head}: {text}" for head, text in texts)
    return _spelled(text)


def _spelled(text: str) -> str:
    """Replace names of settings in a text by their names on the command line."""
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1].replace('_', '-')}", text)


def _default(value: Any) -> str:
    if value is None or value is False or value in ("", ()):
        return ""
    if value is True:
        return "  [default: yes]"
    if isinstance(value, int | float):
        value = f"{value:g}"
    elif isinstance(value, tuple):
        value = ", ".join(f"{x:g}" for x in value)
    return f"  [default: {value}]"


def _several(text: str | None, kind: Callable[[str], float], minimum: float, what: str) -> Any:
    """Parse numbers separated by commas, each at least ``least``; an empty text has none."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.split(",")] if text.strip() else []
        fit = all(minimum <= number < math.inf for number in numbers)
    except ValueError:
        fit = False
    if not fit:
        raise click.BadParameter(
            f"{text!r} is not {what} of {minimum:g} or more, separated by commas."
        )
    return tuple(numbers)


def limited(threads: int | None) -> AbstractContextManager[Any]:
    """Return a context that limits the threads of NumPy's products, by default all processors."""
    if threads is None or threads >= processors():
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(threads)
    return limits


def decoder_options(model: Model, **options: Any) -> Any:
    """Return the decoder's options from those given on the command line."""
    given = {name: value for name, value in options.items() if value is not None}
    return model.options(**given)
