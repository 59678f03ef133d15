"""The option ``--speakers`` and its like, of the commands that say who speaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tynda
from tynda.cli.options import PathName, Sections

if TYPE_CHECKING:
    from tynda.speakers.diarize import Diarizer

__all__ = ["SpeakersCommand", "diarizer_of", "speaker_options"]

_ESTIMATED = "estimated"


class SpeakersCommand(Sections):
    """A command with an option whose value may be left out, though names of files may follow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as `click.Command` does; the value of ``--speakers`` is a number that follows."""
        end = args.index("--") if "--" in args else len(args)
        for i, arg in enumerate(args[:end]):
            if arg == "--speakers" and not (i + 1 < end and args[i + 1].isdecimal()):
                args[i] = f"--speakers={_ESTIMATED}"
        return super().parse_args(ctx, args)


def _count(ctx: click.Context, param: click.Parameter, given: str | None) -> int | str | None:
    """Return a number of speakers, `_ESTIMATED`, or None."""
    if given in (None, _ESTIMATED):
        return given
    number: int = click.IntRange(1, 1000)(given, param, ctx)
    return number


def speaker_options(command: Any) -> Any:
    """Add the options of a `SpeakersCommand`: ``speakers``, ``profiles`` and ``key_file``."""
    for option in (
        click.option(
            "--key-file",
            type=PathName(dir_okay=False, path_type=Path),
            help="Key of that file.",
        ),
        click.option(
            "--profiles",
            type=PathName(dir_okay=False, path_type=Path),
            help="File of the people whom --speakers may know; see tynda speakers.",
        ),
        click.option(
            "--speakers",
            callback=_count,
            metavar="[NUMBER]",
            help="Say who speaks: enrolled people by name, others by number. The number of "
            "speakers is estimated unless it is given.",
        ),
    ):
        command = option(command)
    return command


def diarizer_of(
    speakers: int | str | None,
    profiles: Path | None,
    key_file: Path | None,
    backend: Any,
    threads: int | None,
) -> Diarizer | None:
    """Return what the options describe; None without ``--speakers``.

    Raises `click.UsageError` for options that need it, and `TyndaError` as `Diarizer` does.
    """
    if speakers is None:
        if profiles or key_file:
            raise click.UsageError("--profiles and --key-file are for --speakers: add it")
        return None
    from tynda.speakers.diarize import Diarizer  # Most text has no speakers.
    from tynda.speakers.profiles import ProfileStore
    from tynda.speakers.voices import DEFAULT, Speakers

    model = tynda.load(DEFAULT, backend=backend, threads=threads)
    people = Speakers(model, ProfileStore(profiles, key_file))
    return Diarizer(people, None if isinstance(speakers, str) else speakers)
