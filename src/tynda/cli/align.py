"""The command ``tynda align``: when each word of a known text was spoken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import tynda
from tynda.cli.console import print_text, print_written, say
from tynda.cli.options import PathName, Sections, engine_options, limited
from tynda.errors import TyndaError
from tynda.files import check_readable, read_text, write_whole

__all__ = ["align"]

_MODEL = "sentences-en"
_DOUBTFUL = 0.2
"""The confidence below which a text is probably not that of the recording."""
_MAX_BYTES = 4_000_000


@click.command(cls=Sections)
@click.argument("file")
@click.argument("text")
@click.option(
    "--inline", is_flag=True, help="TEXT is what is said, and not the name of a file with it."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["textgrid", "ctm", "json"]),
    default="textgrid",
    show_default=True,
    help="textgrid: for Praat, with words and letters; ctm: a line for each word; json: all.",
)
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    help="File for the alignment, instead of standard output.",
)
@click.option(
    "--model",
    default=_MODEL,
    show_default=True,
    help="A CTC model, which is accurate and tells letters, or a Whisper for recordings of up to "
    "30 s; as of transcribe.",
)
@click.option("--language", metavar="CODE", help="Language of the text, for a model of several.")
@click.option(
    "--audio-track",
    type=click.IntRange(1, 1000),
    metavar="NUMBER",
    help="Audio track of a video, counted from 1.",
)
@engine_options()
def align(
    file: str,
    text: str,
    inline: bool,
    format_: str,
    output: Path | None,
    model: str,
    language: str | None,
    audio_track: int | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
) -> None:
    """Say when each word of TEXT is spoken in FILE.

    TEXT is a file with all that is said, in order; "-" is standard input. Signs between the words
    do not matter.
    """
    from tynda.alignment import run, writers

    if file == text == "-":
        raise click.UsageError('only one of FILE and TEXT can be "-"')
    said = text if inline else _read(text)
    recognizer = tynda.load(model, backend=backend, bits=bits, threads=threads)
    with limited(threads):
        found = run.align(recognizer, file, said, language=language, track=audio_track)
    if found.confidence < _DOUBTFUL:
        say(
            f"warning: the words are improbable (confidence {found.confidence:.2f}): check that "
            "the text is that of the recording"
        )
    content = writers.write(found, format_, "-" if file == "-" else click.format_filename(file))
    if output is None:
        print_text(content)
    else:
        write_whole(output, content.encode("utf-8"))
        print_written(output)


def _read(path: str) -> str:
    if path == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise TyndaError(f"the text has more than {_MAX_BYTES:,} bytes: cut it")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise TyndaError("the text is not in UTF-8: convert it") from None
    check_readable(Path(path), "text")
    try:
        return read_text(Path(path)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise TyndaError(f"{path}: the text is not in UTF-8: convert it") from None
