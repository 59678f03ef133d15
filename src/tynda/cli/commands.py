"""The command ``tynda commands``: sentences of a grammar, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

import tynda
from tynda import manifest
from tynda.cli.console import print_text, print_written, progress, say, visible
from tynda.cli.options import (
    Number,
    PathName,
    Sections,
    engine_options,
    limited,
    setting_options,
    sound_options,
)
from tynda.commands.calibrate import calibrate
from tynda.commands.export import export_commands
from tynda.commands.feedback import confusable, doubts
from tynda.commands.graph import WordGraph
from tynda.commands.read import read
from tynda.commands.recognizer import Answer, CommandRecognizer
from tynda.commands.session import CommandSession
from tynda.commands.settings import CommandSettings
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.microphone import live_blocks
from tynda.store import library

__all__ = ["commands"]

_MAX_PAIRS = 40
"""The maximum number of pairs of sentences that are listed."""


@click.command(cls=Sections)
@click.argument("grammar")
@click.argument("recordings", nargs=-1, metavar="[RECORDING... | -]")
@click.option("--model", default=library.DEFAULT, show_default=True, help="As of transcribe.")
@click.option("--language", metavar="CODE", help="As of transcribe.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["txt", "jsonl"]),
    default="txt",
    show_default=True,
    help="txt: a line for each utterance; jsonl: a JSON object for each.",
)
@sound_options
@click.option("--check", is_flag=True, help="List sentences that sound alike and doubtful words.")
@click.option(
    "--calibrate",
    "manifest_",
    metavar="MANIFEST",
    help="Find the threshold with recordings that have no commands.",
)
@click.option(
    "--false-accepts",
    type=Number(0, 3600),
    default=0.5,
    show_default=True,
    metavar="NUMBER",
    help="Utterances an hour that --calibrate accepts by mistake.",
)
@click.option(
    "--export",
    "target",
    metavar="FILE",
    type=PathName(path_type=Path),
    help="Write grammar, settings and search to a file, with which a web page knows the commands.",
)
@setting_options(CommandSettings)
@engine_options()
def commands(
    grammar: str,
    recordings: Sequence[str],
    model: str,
    language: str | None,
    format_: str,
    rate: int,
    device: str | None,
    check: bool,
    manifest_: str | None,
    false_accepts: float,
    target: Path | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
    **given: Any,
) -> None:
    """Recognise the sentences of a GRAMMAR, and refuse everything else.

    GRAMMAR is a list with a sentence on each line, or Home Assistant's intents (.yaml). Without a
    RECORDING, the microphone is recorded until Ctrl-C. "-" is raw audio on standard input: 16-bit
    little-endian, mono.
    """
    if "-" in recordings and len(recordings) > 1:
        raise click.UsageError('"-" is read until its end: name no other recording')
    recognizer = tynda.load(model, backend=backend, bits=bits, threads=threads)
    if check:
        languages = recognizer.header.languages
        read_ = read(grammar, language or (languages[0] if len(languages) == 1 else None))
        _print_feedback(WordGraph(read_, recognizer.normalize), recognizer)
        return
    settings = {name: value for name, value in given.items() if value is not None}
    options = recognizer.options() if language is None else recognizer.options(language=language)
    obeyed = recognizer.commands(grammar, options, **settings)
    if target is not None:
        export_commands(obeyed, target)
        print_written(target)
        return
    with limited(threads):
        if manifest_ is not None:
            _calibrate(obeyed, manifest_, false_accepts)
        elif recordings and recordings != ("-",):
            _recognize_all(obeyed, recordings, format_)
        else:
            is_piped = recordings == ("-",)
            blocks = live_blocks(is_piped, device)
            session = CommandSession(obeyed, rate if is_piped else SAMPLE_RATE)
            try:
                _recognize(session, blocks, format_, None)
            except KeyboardInterrupt:
                _print(session.finish(), format_, None)
                raise


def _recognize_all(obeyed: CommandRecognizer, recordings: Sequence[str], format_: str) -> None:
    """Print the answers to recordings; one that cannot be read does not stop the others."""
    failed = 0
    for path in recordings:
        try:
            name = path if len(recordings) > 1 else None
            if not _recognize(CommandSession(obeyed), audio.stream(path), format_, name):
                _print([Answer(None)], format_, name)
        except TyndaError as error:
            failed += 1
            say(f"error: {error}")
    if failed:
        sys.exit(1)


def _recognize(
    session: CommandSession, blocks: Iterable[Any], format_: str, name: str | None
) -> int:
    """Print the answers to a recording; return their number."""
    count = 0
    for block in blocks:
        count += _print(session.feed(block), format_, name)
    return count + _print(session.finish(), format_, name)


def _print(answers: Sequence[Answer], format_: str, name: str | None) -> int:
    for answer in answers:
        if format_ == "jsonl":
            known = {} if name is None else {"file": click.format_filename(name)}
            print_text(json.dumps({**known, **answer.to_dict()}, ensure_ascii=False, default=str))
            continue
        parts = [] if name is None else [visible(click.format_filename(name))]
        parts += [f"{answer.confidence:.2f}", answer.sentence or "not a command"]
        parts += [answer.intent] if answer.intent else []
        parts += [f"{slot}={value}" for slot, value in answer.slots.items()]
        print_text("\t".join(parts))
    sys.stdout.flush()
    return len(answers)


def _print_feedback(graph: WordGraph, recognizer: tynda.Model) -> None:
    found = list(doubts(graph, recognizer.head.spelling_doubt))
    for reason in found:
        print_text(f"spelling: {reason}")
    pairs = confusable(graph)
    for pair in pairs[:_MAX_PAIRS]:
        letters = "letter" if pair.edits == 1 else "letters"
        print_text(f"alike: {pair.first!r} and {pair.second!r} differ in {pair.edits} {letters}")
    if len(pairs) > _MAX_PAIRS:
        print_text(f"alike: {len(pairs) - _MAX_PAIRS} more pairs")
    if not found and not pairs:
        print_text("no doubtful words, and no sentences that sound alike")


def _calibrate(obeyed: CommandRecognizer, path: str, false_accepts: float) -> None:
    utterances = manifest.read(path)
    with progress("calibrating", "recordings") as advance:

        def recordings() -> Iterable[Any]:
            for done, utterance in enumerate(utterances):
                yield audio.stream(utterance.audio)
                advance(done + 1, len(utterances))

        found = calibrate(obeyed, recordings(), false_accepts)
    print_text(
        f"--threshold {found.threshold:.4f}: {found.false_accepts} false accepts in "
        f"{found.hours:.2f} hours"
    )
