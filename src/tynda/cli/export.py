"""``tynda export``: a model as files that native code runs without Python."""

from __future__ import annotations

from pathlib import Path

import click

from tynda.cli.console import print_written
from tynda.cli.options import Number, PathName, engine_options
from tynda.export import MAX_SECONDS, MIN_SECONDS, export_model
from tynda.store import library

__all__ = ["export"]


@click.command()
@click.argument("model")
@click.argument("folder", type=PathName(path_type=Path))
@click.option(
    "--seconds",
    type=Number(min=MIN_SECONDS, max=MAX_SECONDS),
    help="Length of the longest recording: 30 by default, or the window of a model that has one, "
    "which is also the most that it takes.",
)
@engine_options(without=["backend", "threads", "max_memory"])
def export(model: str, folder: Path, seconds: float | None, bits: int | None) -> None:
    """Write weights and plans of MODEL to FOLDER, for native code that runs without Python.

    The text is found greedily, without a language model or time stamps. docs/native.md explains
    the files. An older export at FOLDER is replaced.
    """
    export_model(library.load(model), folder, seconds, bits)
    print_written(folder)
