"""The command ``tynda select``: the recordings of a manifest that teach a model most."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import click

from tynda.checks import MAX_COUNT
from tynda.cli.console import print_written, progress, say, say_counts
from tynda.cli.options import Number, PathName
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.train.select.run import By, Unit
from tynda.train.select.run import select as run

__all__ = ["select"]


@click.command()
@click.argument("manifest", type=PathName(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    required=True,
    help="Manifest for what is chosen.",
)
@click.option(
    "--target", type=PathName(path_type=Path), help="Manifest of speech as the model will meet it."
)
@click.option("--model", help="The model that will be trained; as of transcribe.")
@click.option(
    "--fraction",
    type=Number(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of MANIFEST.",
)
@click.option(
    "--unit",
    type=click.Choice(get_args(Unit)),
    default="utterances",
    show_default=True,
    help="What the share is of.",
)
@click.option(
    "--by",
    type=click.Choice(get_args(By)),
    default="gradients",
    show_default=True,
    help="Gradients are LESS; embeddings need no texts; random neither model nor target.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=42,
    show_default=True,
    help="Seed of the projection, or of a choice by chance.",
)
@click.option(
    "--threads", type=click.IntRange(1, MAX_COUNT), help="Number of threads; all by default."
)
def select(
    manifest: Path,
    output: Path,
    target: Path | None,
    model: str | None,
    fraction: float,
    unit: Unit,
    by: By,
    seed: int,
    threads: int | None,
) -> None:
    """Choose the recordings of MANIFEST that teach a model most about a target (LESS).

    A recording has a high score where its gradients are like those of the target's recordings.
    Features are stored beside the output: the same command goes on where an earlier one stopped,
    and other targets and shares need no more than their own.
    """
    if by != "random" and find_spec("torch") is None:
        raise TyndaError(f"choosing by {by} needs torch: {install('train')}")
    with progress(by, "recordings") as advance:
        found = run(
            manifest,
            output,
            target=target,
            model=model,
            fraction=fraction,
            by=by,
            unit=unit,
            seed=seed,
            threads=threads,
            on_progress=advance,
        )
    say(f"{found.chosen} of {found.total} recordings ({found.seconds / 3600:.2f} hours) are chosen")
    say_counts("without features", found.left_out)
    if found.features is not None:
        say(f"features: {click.format_filename(found.features)}")
    print_written(output)
