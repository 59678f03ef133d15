"""The command ``tynda label``: texts for recordings that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import tynda
from tynda.cli.console import print_written, progress, say, say_counts
from tynda.cli.options import Number, PathName, Sections, engine_options, limited
from tynda.errors import TyndaError
from tynda.store import library

__all__ = ["label"]


@click.command(cls=Sections)
@click.argument("source", type=PathName(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    required=True,
    help="Manifest for the labelled recordings; one that is there already is gone on with.",
)
@click.option(
    "--model", default=library.DEFAULT, show_default=True, help="The teacher; as of transcribe."
)
@click.option("--second", metavar="MODEL", help="Another model, which has to agree.")
@click.option("--language", metavar="CODE", help="Language, for a model of several.")
@click.option(
    "--min-confidence",
    type=Number(0, 1),
    default=0.5,
    show_default=True,
    help="Minimum confidence of the teacher.",
)
@click.option(
    "--max-disagreement",
    type=Number(0, 1),
    default=0.4,
    show_default=True,
    help="Maximum character errors between the texts of both models, for each character.",
)
@click.option(
    "--min-seconds", type=Number(0, 3600), default=0.5, show_default=True, help="Shorter: dropped."
)
@click.option(
    "--max-seconds", type=Number(0, 3600), default=20, show_default=True, help="Longer: dropped."
)
@click.option(
    "--min-words", type=click.IntRange(1, 1000), default=1, show_default=True, help="Minimum words."
)
@click.option(
    "--max-rate",
    type=Number(0, 1000),
    default=25,
    show_default=True,
    help="Maximum characters in a second.",
)
@engine_options()
def label(
    source: Path,
    output: Path,
    model: str,
    second: str | None,
    language: str | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
    **settings: Any,
) -> None:
    """Label the recordings of SOURCE, a folder or a manifest, by a model, for tynda train.

    Recordings are dropped where the teacher is in doubt, two models disagree, the text repeats
    itself, or is too long or too short for the audio. OUTPUT.journal.jsonl has all recordings with
    the reasons; the same command goes on where an earlier one stopped.
    """
    from tynda import labelling

    chosen = labelling.LabelSettings(**settings)
    if not source.exists():
        raise TyndaError(f"no folder or manifest at {source}: check the path")
    models = [
        None if name is None else tynda.load(name, backend=backend, bits=bits, threads=threads)
        for name in (model, second)
    ]
    teacher, other = models
    assert teacher is not None
    for each in (teacher, other):
        if each is not None:
            each.prepare(each.options(language=language))
    labeller = labelling.Labeller(teacher, other, chosen, language)
    sheet = labelling.Sheet(output, labelling.identity(teacher, other, chosen))
    try:
        with limited(threads), progress("labelling", "recordings") as advance:
            count = labelling.run(labeller, sheet, labelling.recordings(source), advance)
    finally:
        sheet.close()
        hours, dropped = sheet.seconds / 3600, sheet.counts
        say(f"{sheet.kept} recordings ({hours:.2f} hours) are labelled, {dropped.total()} dropped")
        say_counts("dropped", dict(dropped.most_common()))
    if not count:
        raise TyndaError(f"{source} has no recordings: give a folder with some, or a manifest")
    print_written(output)
