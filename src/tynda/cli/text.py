"""The command ``tynda text``: cleans and makes texts for language models and grammars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tynda.cli.console import print_text, progress, say
from tynda.cli.options import Number, PathName
from tynda.files import whole_file, write_whole

__all__ = ["text"]

_LANGUAGES = ("kk", "uk", "ru", "en")


@click.group()
def text() -> None:
    """Clean and make texts, for language models and for grammars."""


@text.command("clean")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--language",
    type=click.Choice(_LANGUAGES),
    default="kk",
    show_default=True,
    help="Language of the lines that are kept.",
)
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    help="File for the kept lines, instead of standard output.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "txt"]),
    default="jsonl",
    show_default=True,
    help="jsonl: an object for each line, with the keys that it had; txt: the text alone.",
)
@click.option(
    "--counts",
    "counts_file",
    type=PathName(dir_okay=False, path_type=Path),
    help="JSON file for the counts of what was changed and dropped, and why.",
)
@click.option(
    "--min-words", type=click.IntRange(1, 1000), default=1, show_default=True, help="Minimum words."
)
@click.option(
    "--max-words",
    type=click.IntRange(1, 10_000),
    default=60,
    show_default=True,
    help="Maximum words.",
)
@click.option(
    "--min-share",
    type=Number(0, 1),
    default=0.5,
    show_default=True,
    help="Minimum share of letters in words of the language, in lines with several languages.",
)
@click.option(
    "--duplicates",
    type=Number(0, 1, min_open=True),
    default=0.7,
    show_default=True,
    help="Similarity to an earlier line from which on a line is dropped.",
)
@click.option(
    "--remembered",
    type=click.IntRange(1, 10_000_000),
    default=500_000,
    show_default=True,
    help="Number of earlier lines with which a line is compared; each takes about 0.5 kB.",
)
def clean(
    files: Sequence[str],
    language: str,
    output: Path | None,
    format_: str,
    counts_file: Path | None,
    **settings: Any,
) -> None:
    """Clean the lines of FILEs: plain text, or JSON objects with a "text". "-" is standard input.

    Kept lines are in one language and one script, with figures in words, without look-alike letters
    of other scripts and without near-duplicates. Kazakh in Latin and Arabic letters becomes
    Cyrillic. The counts of what was changed and dropped go to standard error.
    """
    from tynda.text.clean import Cleaner, Settings
    from tynda.text.lines import read

    cleaner = Cleaner(Settings(language, **settings))
    with _written_to(output) as write, progress("cleaning", "lines") as advance:
        for line in cleaner.lines(read(files)):
            write(line if format_ == "jsonl" else json.loads(line)["text"])
            advance(cleaner.counts.read)
    counts = cleaner.counts.to_dict()
    if counts_file is not None:
        data = json.dumps(counts, ensure_ascii=False, indent=2) + "\n"
        write_whole(counts_file, data.encode())
    say(f"{counts['kept']} of {counts['read']} lines kept")
    for name in ("changed", "dropped"):
        if counts[name]:
            say(f"{name}: " + ", ".join(f"{why} {n}" for why, n in counts[name].items()))


@contextmanager
def _written_to(output: Path | None) -> Iterator[Any]:
    """Yield a function that writes a line to a file, or to standard output."""
    if output is None:
        yield print_text
        sys.stdout.flush()
        return
    with whole_file(output) as file:
        yield lambda line: file.write(line + "\n")
