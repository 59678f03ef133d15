"""What the command line says, and where; errors as one line."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tynda.errors import TyndaError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Commands",
    "print_table",
    "print_text",
    "print_written",
    "progress",
    "rate",
    "say",
    "visible",
]

# Rich is imported where something is drawn: it takes as long to start as the rest of this.
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
_VERBS = ("transcribe", "evaluate", "quantize", "export", "profile", "train", "models")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))
# Control characters, which could do anything to a terminal, as JSON spells them.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160))}
_IN_TEXT = {code: name for code, name in _CONTROLS.items() if chr(code) not in "\t\n"}


class Commands(click.Group):
    """A module for each command, imported when it is called.

    Errors that a user can mend become one line and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"tynda.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line as ``click.Group`` does, but for the errors."""
        # What the shell has closed (>&-) is None, and print would be silent.
        sys.stdout = sys.stdout or _Closed()
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):  # what an encoding cannot write is escaped
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **extra)
        except TyndaError as error:
            say(f"error: {error}")
        except OSError as error:  # sound, models and transcripts have their own messages
            _drop_stdout()
            if error.errno in _FULL and error.filename is None:
                say(f"error: cannot write the result ({error.strerror}): make room")
            else:
                where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
                say(f"error: {where}{error.strerror or error}")
        except MemoryError:
            say("error: out of memory: use a smaller model or shorter pieces of sound")
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one command; an interrupt ends it with exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(130)


class _Closed(io.TextIOBase):
    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "standard output is closed: nothing can be written to it")


def say(line: str) -> None:
    """All that goes to standard error, a line at a time."""
    with suppress(OSError):  # nobody is left to tell
        print(visible(" ".join(line.split())), file=sys.stderr, flush=True)


def print_text(text: str, *, more: bool = False) -> None:
    """All that goes to standard output; ``more`` of the line follows."""
    click.echo(text.translate(_IN_TEXT), nl=not (more or text.endswith("\n")))


def print_written(path: Path) -> None:
    """The name of a file that is finished."""
    name = click.format_filename(path)
    try:
        print_text(name)
    except OSError as error:
        if error.errno == errno.EPIPE:  # nobody wants to know
            raise
        _drop_stdout()
        raise TyndaError(f"{name} is finished, but cannot be told ({error.strerror})") from None


def print_table(table: Table) -> None:
    """A table to standard output, as wide as it has to be."""
    from rich.console import Console

    # Wide, or what is not a terminal would cut tables at 80 columns.
    console = Console(width=1000, color_system=None, **_PLAIN)
    with console.capture() as captured:
        console.print(table)
    print_text(captured.get())


def visible(name: str) -> str:
    """A name on one line, its control characters spelled out."""
    return name.translate(_CONTROLS)


def _drop_stdout() -> None:
    """Let go of what could not be written, or Python would try, and complain, once more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def rate(value: float | None) -> str:
    """An error rate, or a dash where there was nothing to score."""
    return "-" if value is None else f"{value:.4f}"


@contextmanager
def progress(title: str, unit: str = "seconds") -> Iterator[Callable[..., None]]:
    """A line on stderr, on a terminal only: ``advance(done)`` or ``advance(done, total)``."""
    if not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} " + unit),
        TimeElapsedColumn(),
        console=Console(stderr=True, **_PLAIN),
        transient=True,
    ) as bar:
        task = bar.add_task(visible(title), total=None)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
