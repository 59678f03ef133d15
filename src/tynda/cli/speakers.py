"""The command ``tynda speakers``: enrols people, and recognises their voices later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tynda.cli.console import print_table, print_text, print_written, progress, say
from tynda.cli.options import Number, PathName, limited, table_or_json
from tynda.errors import TyndaError

if TYPE_CHECKING:
    from tynda.speakers.voices import Answer, Speakers

__all__ = ["speakers"]

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--model",
        default="speakers",
        show_default=True,
        help="Model of voices: a name or a file.",
    ),
    click.option(
        "--profiles",
        type=PathName(dir_okay=False, path_type=Path),
        help="File of the enrolled people. Default: speakers.bin in the user's folder of data.",
    ),
    click.option(
        "--key-file",
        type=PathName(dir_okay=False, path_type=Path),
        help="Key of that file, created where it is missing. Default: speakers.key in the user's "
        "folder of configuration.",
    ),
    click.option("--threads", type=click.IntRange(1, 1000), metavar="NUMBER", help="Threads."),
)
_RATE = click.option(
    "--false-acceptance",
    type=Number(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    metavar="RATE",
    help="How often a stranger may be taken for an enrolled person.",
)
_MIN_SECONDS = click.option(
    "--min-seconds",
    type=Number(0, 60),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Speech that a recording must have.",
)


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for each in reversed((*options, *_OPTIONS)):
            command = each(command)
        return command

    return decorate


@click.group()
def speakers() -> None:
    """Enrol people, recognise their voices in other words, refuse strangers."""


@speakers.command("enrol")
@click.argument("name")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_with(_MIN_SECONDS)
def enrol(name: str, files: Sequence[str], **settings: Any) -> None:
    """Add the voice in FILEs, of NAME, to the enrolled people.

    Several recordings, or ten seconds of speech and more, tell a voice apart better than one short
    one. A NAME that is enrolled already gets these recordings in addition.
    """
    with limited(settings["threads"]):
        profile = _open(**settings).enrol(name, list(files))
    print_text(f"{profile.name}: {_count(profile.recordings)}, {profile.seconds:.1f} s of speech")


@speakers.command("identify")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_with(_RATE, _MIN_SECONDS, table_or_json)
def identify(files: Sequence[str], format_: str, **settings: Any) -> None:
    """Print for each FILE who speaks: a name, "unknown", or "too little speech".

    A file that cannot be read does not stop the others; the exit code is then 1.
    """
    with limited(settings["threads"]):
        opened, failed = _open(**settings), False
        for file in files:
            try:
                _print(file, opened.identify(file), format_)
            except TyndaError as error:
                if len(files) == 1:
                    raise
                failed = True
                say(f"error: {error}")
    if failed:
        raise click.exceptions.Exit(1)


@speakers.command("verify")
@click.argument("name")
@click.argument("file")
@_with(_RATE, _MIN_SECONDS, table_or_json)
def verify(name: str, file: str, format_: str, **settings: Any) -> None:
    """Print whether NAME speaks in FILE; the exit code is 1 where NAME does not."""
    with limited(settings["threads"]):
        answer = _open(**settings).verify(name, file)
    _print(file, answer, format_)
    if answer.name is None:
        raise click.exceptions.Exit(1)


@speakers.command("list")
@_with(table_or_json)
def list_people(format_: str, **settings: Any) -> None:
    """List the enrolled people."""
    people = _open(**settings).people()
    if format_ == "json":
        rows = [
            {"name": p.name, "recordings": p.recordings, "seconds": round(p.seconds, 2)}
            for p in people
        ]
        print_text(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("name", "recordings", "seconds of speech", box=None)
    for p in people:
        table.add_row(p.name, str(p.recordings), f"{p.seconds:.1f}")
    print_table(table)


@speakers.command("remove")
@click.argument("name")
@_with()
def remove(name: str, **settings: Any) -> None:
    """Delete the profile of NAME."""
    _open(**settings).remove(name)


@speakers.command("calibrate")
@click.argument("model")
@click.argument("manifest", type=PathName(path_type=Path))
@click.option(
    "--output", "-o", type=PathName(path_type=Path), required=True, help="New model file."
)
@click.option(
    "--cohort",
    type=PathName(path_type=Path),
    multiple=True,
    metavar="MANIFEST",
    help="People with whose voices scores are normalised, instead of half of those in MANIFEST; "
    "may be repeated.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Find the last layer again on the recordings of the cohort, for a model in few bits; a "
    "hundred people and more are needed.",
)
def calibrate(
    model: str, manifest: Path, output: Path, cohort: Sequence[Path], refit: bool
) -> None:
    """Write MODEL, of voices, with thresholds from the recordings of a MANIFEST.

    Each line of MANIFEST names a speaker; 20 people and more, with four recordings and more each,
    recorded as those will be that are to be recognised. Half of the people are the cohort with
    which scores are normalised. Published models have no thresholds before this.
    """
    from tynda.speakers import calibrate as calibrating

    with progress("embedding", "people") as advance:
        found = calibrating.calibrate(
            model, manifest, output, cohort=cohort, refit=refit, on_progress=advance
        )
    say(
        f"{found['cohort']:.0f} people in the cohort; {found['people']:.0f} for thresholds, equal "
        f"error rate {100 * found['eer']:.1f} %"
    )
    print_written(output)


def _open(
    model: str,
    profiles: Path | None,
    key_file: Path | None,
    threads: int | None,
    **settings: Any,
) -> Speakers:
    from tynda.model import load
    from tynda.speakers.profiles import ProfileStore
    from tynda.speakers.voices import Speakers

    return Speakers(load(model, threads=threads), ProfileStore(profiles, key_file), **settings)


def _print(file: str, answer: Answer, format_: str) -> None:
    if format_ == "json":
        about = {
            "file": file,
            "answer": answer.kind,
            "name": answer.name,
            "probability": answer.probability,
            "score": answer.score,
            "seconds": round(answer.seconds, 2),
        }
        print_text(json.dumps(about, ensure_ascii=False))
        return
    chance = "" if answer.probability is None else f"  {answer.probability:.2f}"
    print_text(f"{file}: {answer}{chance}")


def _count(recordings: int) -> str:
    return "1 recording" if recordings == 1 else f"{recordings} recordings"
