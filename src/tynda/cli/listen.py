"""The command ``tynda listen``: live text of a microphone, or of raw audio from a pipe."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click

import tynda
from tynda.cli.console import print_text
from tynda.cli.diarization import SpeakersCommand, diarizer_of, speaker_options
from tynda.cli.options import (
    decoder_options,
    limited,
    model_options,
    setting_options,
    sound_options,
)
from tynda.live.session import LiveSegment
from tynda.live.settings import LiveSettings
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.microphone import live_blocks
from tynda.store import library

__all__ = ["listen"]


@click.command(cls=SpeakersCommand)
@click.argument("source", required=False, metavar="[-]")
@click.option("--model", default=library.DEFAULT, show_default=True, help="As of transcribe.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["txt", "jsonl"]),
    default="txt",
    show_default=True,
    help="txt: a line for each utterance; jsonl: one JSON object for each change.",
)
@sound_options
@speaker_options
@setting_options(LiveSettings)
@model_options()
def listen(
    source: str | None,
    model: str,
    format_: str,
    rate: int,
    device: str | None,
    speakers: int | str | None,
    profiles: Path | None,
    key_file: Path | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
    **given: Any,
) -> None:
    """Write what is said while it is said.

    Without an argument, the microphone is recorded until Ctrl-C. "-" is raw audio on standard
    input: 16-bit little-endian, mono.
    """
    if source not in (None, "-"):
        raise click.UsageError(f'{source!r} is a file: use tynda transcribe, or "-" for raw audio')
    names = {field.name for field in dataclasses.fields(LiveSettings)}
    own = {k: given.pop(k) for k in list(given) if k in names}
    settings = LiveSettings(**{k: v for k, v in own.items() if v is not None})
    recognizer = tynda.load(model, backend=backend, bits=bits, threads=threads)
    options = decoder_options(recognizer, **given)
    is_piped = source == "-"
    session = recognizer.live(
        options,
        settings=settings,
        sample_rate=rate if is_piped else SAMPLE_RATE,
        speakers=diarizer_of(speakers, profiles, key_file, backend, threads) or False,
    )
    show = _print_json if format_ == "jsonl" else _print_line
    with limited(threads):
        try:
            for block in live_blocks(is_piped, device):
                _show(session.feed(block), show)
        except KeyboardInterrupt:
            _show(session.finish(), show)
            raise
        _show(session.finish(), show)


def _show(segments: list[LiveSegment], show: Any) -> None:
    for segment in segments:
        show(segment)
    sys.stdout.flush()


def _print_json(segment: LiveSegment) -> None:
    print_text(json.dumps(segment.to_dict(), ensure_ascii=False))


def _print_line(segment: LiveSegment) -> None:
    """Print the text of an utterance; a terminal also shows it while it is being said."""
    text = _text_of(segment)
    if not sys.stdout.isatty():
        if segment.is_final:
            print_text(text)
        return
    # The line is written anew; only its end is shown where the terminal is too narrow.
    width = shutil.get_terminal_size().columns - 1
    sys.stdout.write("\r\x1b[K")
    print_text(text if segment.is_final else text[-width:], more=not segment.is_final)


def _text_of(segment: LiveSegment) -> str:
    """Return the text of an utterance; where speakers are known, a line for each turn."""
    if all(word.speaker is None for word in segment.segment.words):
        return segment.segment.text
    from tynda.speakers.attribution import by_speaker

    return "\n".join(f"{part.speaker}: {part.text}" for part in by_speaker(segment.segment))
