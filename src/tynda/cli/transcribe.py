"""The command ``tynda transcribe``: writes the text of recordings."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import tynda
from tynda import writers
from tynda.cli.console import print_text, progress, say, visible
from tynda.cli.diarization import SpeakersCommand, diarizer_of, speaker_options
from tynda.cli.options import (
    PathName,
    decoder_options,
    limited,
    model_options,
    raw_rate,
)
from tynda.errors import TyndaError
from tynda.files import new_folder
from tynda.sound import audio
from tynda.sound.microphone import raw_stream
from tynda.sound.sources import standard_input
from tynda.store import library

__all__ = ["transcribe"]

Floats = NDArray[np.float32]


@click.command(cls=SpeakersCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--model",
    default=library.DEFAULT,
    show_default=True,
    help="Model name, owner/name on the hub, file (also whisper.cpp's ggml-*.bin), or folder (of "
    "the hub, or of CTranslate2).",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(writers.FORMATS)),
    default="txt",
    show_default=True,
    help="Output format; several files as json give JSON lines.",
)
@click.option(
    "--output-dir",
    type=PathName(file_okay=False, path_type=Path),
    help="Folder for one text file per FILE, instead of stdout; existing ones are replaced.",
)
@click.option(
    "--audio-track",
    type=click.IntRange(1, 1000),
    metavar="NUMBER",
    help="Audio track of a video, counted from 1. Default: the one that the file marks as such, or "
    "else the best.",
)
@click.option(
    "--raw",
    "rate",
    type=raw_rate,
    metavar="HERTZ",
    help='The FILE "-" is raw audio at this rate, without a header: 16-bit little-endian, mono.',
)
@speaker_options
@model_options()
def transcribe(
    files: Sequence[str],
    model: str,
    format_: str,
    output_dir: Path | None,
    audio_track: int | None,
    rate: int | None,
    speakers: int | str | None,
    profiles: Path | None,
    key_file: Path | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Transcribe FILEs: audio or video, names or patterns.

    The FILE "-" is standard input; in --output-dir its text is named stdin.

    A file that cannot be read does not stop the others; the exit code is then 1.
    """
    paths = _expand(files)
    if len(paths) > 1 and output_dir is None and format_ in ("srt", "vtt", "tsv"):
        raise click.UsageError(f"several files as {format_} need --output-dir")
    if rate is not None and paths != ["-"]:
        raise click.UsageError('--raw is for raw audio on standard input: the only FILE is "-"')
    if rate is not None and audio_track is not None:
        raise click.UsageError("--raw does not go with --audio-track: raw audio has no tracks")
    if decoding["n_best"] is not None and format_ != "json":
        raise click.UsageError(f"--n-best needs --format json: {format_} has a single text")
    targets = _targets(paths, output_dir, format_) if output_dir else {}
    recognizer = tynda.load(model, backend=backend, bits=bits, threads=threads)
    options = decoder_options(recognizer, **decoding)
    recognizer.prepare(options)  # errors in the options are reported once, not for every file
    diarizer = diarizer_of(speakers, profiles, key_file, backend, threads)
    if diarizer is not None:
        options = recognizer.head.with_word_times(options)
    live = format_ == "txt" and output_dir is None and len(paths) == 1 and diarizer is None
    failed = 0
    made = new_folder(output_dir) if output_dir else nullcontext()
    with made, limited(threads):
        for path in paths:
            try:
                blocks = (
                    audio.stream(path, track=audio_track)
                    if rate is None
                    else raw_stream(standard_input().fileno(), rate)
                )
                if live:
                    _print_as_it_comes(recognizer, path, blocks, options)
                    continue
                with progress(path) as advance:
                    session = recognizer.session(options)
                    if diarizer is None:
                        transcript = session.transcribe(blocks, advance)
                    else:
                        from tynda.speakers.attribution import transcribe as with_speakers

                        transcript = with_speakers(session, blocks, diarizer, advance)
                if output_dir:
                    transcript.save(targets[path])
                else:
                    _print_transcript(transcript, path, format_, many=len(paths) > 1)
            except TyndaError as error:
                failed += 1
                say(f"error: {error}")
    if failed:
        if len(paths) > 1:
            say(f"{failed} of {len(paths)} files could not be transcribed")
        sys.exit(1)


def _expand(files: Sequence[str]) -> list[str]:
    """Expand patterns that the shell did not; a file with exactly that name has precedence.

    A pattern selects no folders, and no pipes or devices, whose audio might not end.
    """
    paths: list[str] = []
    for file in files:
        found = sorted(glob.glob(file, recursive=True)) if glob.has_magic(file) else []
        found = [path for path in found if os.path.isfile(path)]
        paths += [file] if not found or os.path.exists(file) else found
    # A file that is named twice is read once; a link with another name has its own text.
    first: dict[object, str] = {}
    for path in paths:
        key = path if path == "-" else (os.path.realpath(path), os.path.basename(path))
        first.setdefault(key, path)
    return list(first.values())


def _targets(paths: Sequence[str], folder: Path, format_: str) -> dict[str, Path]:
    targets = {p: folder / f"{'stdin' if p == '-' else Path(p).stem}.{format_}" for p in paths}
    owner: dict[Path, str] = {}
    inputs = {_identity(p): p for p in paths if p != "-"}
    inputs.pop(None, None)
    for path, target in targets.items():
        if target in owner:
            raise click.UsageError(
                visible(f"{owner[target]} and {path} would both become {target}")
            )
        if (lost := inputs.get(_identity(target))) is not None:
            raise click.UsageError(
                visible(f"the text of {path} would replace {lost}: choose another --output-dir")
            )
        owner[target] = path
    return targets


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return an identity shared by all names of a file, including links, or None if missing."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _print_as_it_comes(
    model: tynda.Model, path: str, blocks: Iterator[Floats], options: Any
) -> None:
    """Print the text of one recording, each segment as soon as it is ready."""
    session, shown = model.session(options), 0
    # On a terminal the text itself shows the progress, and a progress line would overwrite it.
    quiet = nullcontext(None) if sys.stdout.isatty() else progress(path)
    try:
        with quiet as advance:
            for _ in session.segments(blocks, advance):
                print_text(session.text[shown:], more=True)
                shown = len(session.text)
    except TyndaError:
        if shown:
            print_text("")
        raise
    print_text("")


def _print_transcript(transcript: tynda.Transcript, path: str, format_: str, *, many: bool) -> None:
    name = click.format_filename(path)  # a name may have bytes that are not characters
    if not many:
        text = writers.write(transcript, format_)
    elif format_ == "json":  # JSON lines
        text = json.dumps({"file": name, **transcript.to_dict()}, ensure_ascii=False)
    elif any(segment.speaker for segment in transcript.segments):
        lines = writers.write(transcript, format_).splitlines()
        text = "\n".join(f"{visible(name)}: {line}" for line in lines)
    else:
        text = f"{visible(name)}: {transcript.text}"
    print_text(text)
