"""The output of the command line; errors are printed as one line."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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

# Rich is imported only where it draws: importing it takes as long as the rest of the command line.
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
_MAX_LINE = 2000
_VERBS = (
    *("transcribe", "listen", "commands", "serve", "evaluate", "quantize", "export", "profile"),
    *("train", "text", "align", "label", "select", "models", "speakers", "data"),
)
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))
# Control characters are escaped as in JSON, since they could change the terminal's state.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160))}
_IN_TEXT = {code: name for code, name in _CONTROLS.items() if chr(code) not in "\t\n"}


class Commands(click.Group):
    """A group of commands; each has a module that is imported when the command is called.

    Errors that a user can fix become one line and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"tynda.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line as ``click.Group`` does, except for errors."""
        # A stream that the shell has closed (>&-) is None, and print would silently do nothing.
        sys.stdout = sys.stdout or _Closed()
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal escapes what it cannot show; files and pipes have any text, as UTF-8.
            is_terminal = sys.stdout.isatty()
            sys.stdout.reconfigure(
                encoding=None if is_terminal else "utf-8", errors="backslashreplace"
            )
        for name in ("COLUMNS", "LINES"):  # Rich fails for what is no size of a terminal.
            if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "")):
                os.environ.pop(name, None)
        try:
            with suppress(ValueError):  # only the main thread may set handlers
                signal.signal(signal.SIGTERM, _terminate)
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    signal.signal(signal.SIGINT, _interrupt)
            return super().main(*args, **extra)
        except Exception as error:
            # A library may turn the exception of a signal into one of its own.
            if _signals:
                _end_by_signal()
            _say_error(error)
        sys.exit(1)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments as ``click.Group`` does; messages have no control characters."""
        with _visible_message():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one command; an interrupt ends it with exit code 130."""
        try:
            with _visible_message():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say(_INTERRUPTED)
            ctx.exit(130)


@contextmanager
def _visible_message() -> Iterator[None]:
    """Escape the control characters of a usage error, which quotes what somebody passed."""
    try:
        yield
    except click.ClickException as error:
        setattr(error, "message", visible(error.message))  # noqa: B010 (declared final)
        raise


def _say_error(error: Exception) -> None:
    """Print the line of an error that is not a bug. Raises what is one."""
    match error:
        case TyndaError():
            say(f"error: {error}")
        case OSError():  # audio, models and transcripts have their own messages
            _drop_stdout()
            if error.errno in _FULL and error.filename is None:
                say(f"error: cannot write the result ({error.strerror}): free disk space")
            else:
                where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
                say(f"error: {where}{error.strerror or error}")
        case MemoryError():
            say("error: out of memory: use a smaller model or shorter recordings")
        case _:
            raise error


_signals: list[int] = []
"""The signals that came to end this process."""
_INTERRUPTED = "interrupted"


def _terminate(*_: object) -> None:
    """End as an exception does, so that temporary files are removed and children stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _signals.append(signal.SIGTERM)
    sys.exit(128 + signal.SIGTERM)


def _interrupt(*_: object) -> None:
    _signals.append(signal.SIGINT)
    raise KeyboardInterrupt


def _end_by_signal() -> NoReturn:
    """Exit as the first signal has it."""
    if _signals[0] == signal.SIGINT:
        say(_INTERRUPTED)
    sys.exit(128 + _signals[0])


class _Closed(io.TextIOBase):
    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "standard output is closed: nothing can be written to it")


def say(line: str) -> None:
    """Print one line to standard error; one that holds a long text of somebody's file is cut."""
    line = " ".join(line.split())
    if len(line) > _MAX_LINE:
        line = f"{line[: _MAX_LINE // 2]} ... {line[-_MAX_LINE // 2 :]}"
    with suppress(OSError):  # nobody reads standard error any more
        print(visible(line), file=sys.stderr, flush=True)


def say_counts(title: str, counts: Mapping[str, int]) -> None:
    """Print how often each reason was counted to standard error, where one was."""
    if counts:
        say(f"{title}: " + ", ".join(f"{why} {n}" for why, n in counts.items()))


def print_text(text: str, *, more: bool = False) -> None:
    """Print a text to standard output; with ``more``, the line is not ended."""
    click.echo(text.translate(_IN_TEXT), nl=not (more or text.endswith("\n")))


def print_written(path: Path) -> None:
    """Print the name of a finished file."""
    name = click.format_filename(path)
    try:
        print_text(name)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has gone
            raise
        _drop_stdout()
        raise TyndaError(f"{name} is finished, but cannot be printed ({error.strerror})") from None


def print_table(table: Table) -> None:
    """Print a table to standard output, with the width that it needs."""
    from rich.console import Console

    # The width is large because Rich cuts tables at 80 columns where there is no terminal.
    console = Console(width=1000, color_system=None, **_PLAIN)
    with console.capture() as captured:
        console.print(table)
    print_text(captured.get())


def visible(name: str) -> str:
    """Return a name with its control characters escaped, so that it fits on one line."""
    return name.translate(_CONTROLS)


def _drop_stdout() -> None:
    """Discard output that could not be written: Python would try again at exit, and fail."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def rate(value: float | None) -> str:
    """Format an error rate, or a dash where there was nothing to score."""
    return "-" if value is None else f"{value:.4f}"


@contextmanager
def progress(title: str, unit: str = "seconds") -> Iterator[Callable[..., None]]:
    """Show progress on a terminal's stderr: ``advance(done)`` or ``advance(done, total)``."""
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
