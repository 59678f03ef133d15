"""The command ``tynda evaluate``: error rates of a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

import tynda
from tynda.cli.console import print_table, print_text, progress, rate, say, visible
from tynda.cli.options import Sections, decoder_options, limited, model_options, table_or_json
from tynda.evaluation import Report, Result
from tynda.text.normalize import NORMALIZERS

__all__ = ["evaluate"]


@click.command(cls=Sections)
@click.argument("model")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@table_or_json
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Number of utterances with most errors to list.",
)
@click.option("--show", is_flag=True, help="List all utterances in order instead.")
@click.option(
    "--normalizer",
    type=click.Choice(list(NORMALIZERS)),
    help="Text normaliser for scoring; default: letters for English models, else basic.",
)
@model_options(without=["n_best"])
def evaluate(
    model: str,
    manifests: Sequence[str],
    format_: str,
    worst: int,
    show: bool,
    normalizer: str | None,
    backend: Any,
    bits: int | None,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Score MODEL on MANIFESTs: word and character error rates, real-time factor."""
    recognizer = tynda.load(model, backend=backend, bits=bits, threads=threads)
    options = decoder_options(recognizer, **decoding)
    with limited(threads), progress("evaluating", "utterances") as advance:
        report = tynda.evaluate(
            recognizer, manifests, options, normalizer=normalizer, on_progress=advance
        )
    for path, why in report.failed:
        say(f"error: not scored: {why if str(path) in why else f'{path}: {why}'}")
    if format_ == "json":
        print_text(json.dumps(report.to_dict(worst, every=show), indent=2, ensure_ascii=False))
    else:
        _print_report(report, report.results if show else report.worst(worst))
    if report.failed:
        sys.exit(1)


def _print_report(report: Report, listed: Sequence[Result]) -> None:
    from rich.table import Table

    table = Table("source", "utterances", "words", "WER", "CER", "sub", "ins", "del", box=None)
    for name, s in (*report.sources.items(), ("all", report.overall)):
        counts = (s.substitutions, s.insertions, s.deletions)
        table.add_row(
            name, str(s.utterances), str(s.words), rate(s.wer), rate(s.cer), *map(str, counts)
        )
    print_table(table)
    print_text(
        f"{report.model}: {report.bytes:,} bytes; "
        f"{report.audio_seconds:.0f} s of audio at a real-time factor of "
        f"{report.real_time_factor or 0:.3f}"
    )
    for result in listed:
        name = visible(click.format_filename(result.audio))
        print_text(f"\n{name}\n  reference  {result.reference}\n  hypothesis {result.hypothesis}")
