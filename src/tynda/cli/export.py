"""``tynda export``: a model as files that native code runs without Python."""

from __future__ import annotations

from pathlib import Path

import click

from tynda import archive
from tynda.cli.console import print_written
from tynda.cli.options import Number, PathName, engine_options
from tynda.export import MAX_SECONDS, MIN_SECONDS, export_archive, export_model
from tynda.store import library

__all__ = ["export"]


@click.command()
@click.argument("model")
@click.argument("target", type=PathName(path_type=Path))
@click.option(
    "--seconds",
    type=Number(min=MIN_SECONDS, max=MAX_SECONDS),
    help="Length of the longest recording: 30 by default, or the window of a model that has one, "
    "which is also the most that it takes.",
)
@engine_options(without=["backend", "threads", "max_memory"])
def export(model: str, target: Path, seconds: float | None, bits: int | None) -> None:
    """Write weights and plans of MODEL to the folder TARGET, for native code that runs without
    Python, or to the file TARGET, whose name ends in .tar.gz, for web pages.

    The text is found greedily, without a language model or time stamps. docs/native.md and
    docs/web.md explain the files. An older export at TARGET is replaced.
    """
    write = export_archive if target.name.endswith(archive.SUFFIX) else export_model
    write(library.load(model), target, seconds, bits)
    print_written(target)
