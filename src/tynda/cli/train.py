"""The command ``tynda train``: trains a model by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tynda.checks import MAX_COUNT
from tynda.cli.console import print_text
from tynda.cli.options import PathName
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.train.recipe import read_table

__all__ = ["train"]


@click.command()
@click.argument("recipe")
@click.option("--data", type=PathName(path_type=Path), default=Path(), help="Data folder.")
@click.option("--output", type=PathName(path_type=Path), help="Run folder; default runs/NAME.")
@click.option("--init", type=PathName(path_type=Path), help="Model file to start from.")
@click.option("--resume", is_flag=True, help="Resume the run in --output.")
@click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda, cuda:1 ...")
@click.option(
    "--threads", type=click.IntRange(1, MAX_COUNT), help="Number of threads; all by default."
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    show_default=True,
    help="Threads that prepare data.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as optimizer.epochs=5.",
)
def train(
    recipe: str,
    data: Path,
    output: Path | None,
    init: Path | None,
    resume: bool,
    device: str,
    threads: int | None,
    workers: int,
    settings: Sequence[str],
) -> None:
    """Train a model by RECIPE: a bundled name or a TOML file."""
    read_table(recipe)  # A wrong name is answered before torch is imported, which takes seconds.
    try:
        from tynda.train.run import train as run
    except ImportError as error:
        raise TyndaError(f"training needs {error.name}: {install('train')}") from None
    path = run(
        recipe,
        data,
        output,
        settings,
        init=init,
        resume=resume,
        device=device,
        threads=threads,
        workers=workers,
    )
    print_text(click.format_filename(path))
