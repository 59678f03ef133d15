"""The command ``tynda text``: cleans and makes texts for language models and grammars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tynda.cli.console import print_text, print_written, progress, say, say_counts
from tynda.cli.options import Number, PathName
from tynda.errors import TyndaError
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
        kept = cleaner.lines if format_ == "jsonl" else cleaner.texts
        for line in kept(read(files)):
            write(line)
            advance(cleaner.counts.read)
    counts = cleaner.counts.to_dict()
    if counts_file is not None:
        data = json.dumps(counts, ensure_ascii=False, indent=2) + "\n"
        write_whole(counts_file, data.encode())
    say(f"{counts['kept']} of {counts['read']} lines kept")
    for name in ("changed", "dropped"):
        say_counts(name, counts[name])


@contextmanager
def _written_to(output: Path | None) -> Iterator[Any]:
    """Yield a function that writes a line to a file, or to standard output."""
    if output is None:
        yield print_text
        sys.stdout.flush()
        return
    with whole_file(output) as file:
        yield lambda line: file.write(line + "\n")


@text.command("generate")
@click.argument("seeds", nargs=-1, required=True, metavar="SEEDS...")
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    required=True,
    help="File for the sentences; one that is there already is gone on with.",
)
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), required=True, help="Sentences to keep."
)
@click.option(
    "--language",
    type=click.Choice(_LANGUAGES),
    default="en",
    show_default=True,
    help="Language of the sentences.",
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="OpenAI-compatible API of a language model, such as http://127.0.0.1:8000/v1. Its key is "
    "in the variable OPENAI_API_KEY. The seeds are sent there.",
)
@click.option("--model", metavar="NAME", help="Name of the model of the endpoint.")
@click.option(
    "--about",
    default="what people say to a voice assistant, ask, or dictate",
    show_default=True,
    help="What the sentences are, in words for the model.",
)
@click.option(
    "--grammar",
    metavar="FILE",
    help="Draw sentences of a grammar, as for tynda commands, instead of an endpoint.",
)
@click.option(
    "--below",
    type=Number(0, 1, min_open=True),
    default=0.7,
    show_default=True,
    help="Maximum ROUGE-L with each seed and each sentence so far.",
)
@click.option(
    "--min-words", type=click.IntRange(1, 1000), default=2, show_default=True, help="Minimum words."
)
@click.option(
    "--max-words",
    type=click.IntRange(1, 10_000),
    default=30,
    show_default=True,
    help="Maximum words.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
def generate(
    seeds: Sequence[str],
    output: Path,
    count: int,
    language: str,
    endpoint: str | None,
    model: str | None,
    about: str,
    grammar: str | None,
    below: float,
    min_words: int,
    max_words: int,
    seed: int,
) -> None:
    """Make new sentences from those in SEEDS, by a language model or a grammar (Self-Instruct).

    New ones are kept where they are in the language, of a fitting length, not repetitive and
    different from all others. Each round is written at once, with its counts in OUTPUT.counts.json;
    the same command goes on where an earlier one stopped.
    """
    import random

    from tynda.text.clean import Settings
    from tynda.text.generate import FromEndpoint, FromGrammar, Generator, Source
    from tynda.text.lines import read

    if (endpoint is None) == (grammar is None):
        raise click.UsageError("give --endpoint URL with --model NAME, or --grammar FILE")
    if endpoint is not None and model is None:
        raise click.UsageError("--endpoint needs the --model")
    settings = Settings(language, min_words, max_words, duplicates=1.0, remembered=count)
    texts = [line.text for line in read(seeds) if line.text]
    generator = Generator(output, texts, settings, below)
    # Another run draws other sentences, and not those of the one before again.
    rng = random.Random(f"{seed} {generator.record.requests}")
    source: Source
    if endpoint is not None:
        from tynda.text.endpoint import Endpoint

        source = FromEndpoint(
            Endpoint(endpoint, model or ""), rng=rng, language=language, about=about
        )
    else:
        from tynda.commands.read import read as read_grammar

        source = FromGrammar(read_grammar(grammar or "", language), rng)
    with progress("generating", "sentences") as advance:
        try:
            is_complete = generator.run(source, count, advance)
        except TyndaError as error:
            raise TyndaError(
                f"{error}; {len(generator.kept)} sentences are in {click.format_filename(output)}, "
                "and the same command goes on from there"
            ) from None
    record = generator.record
    say(
        f"{record.seeds} seeds, {record.requests} requests, {record.generated} generated, "
        f"{record.kept} kept"
    )
    say_counts("dropped", dict(record.dropped.most_common()))
    if not is_complete:
        say(f"stopped before {count}: there is hardly anything new any more")
    print_written(output)
