"""The command ``tynda models``: list, describe, download and remove models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from tynda.cli.console import print_table, print_text, rate
from tynda.cli.options import Number, engine_options, table_or_json
from tynda.compile.engine import processors
from tynda.plans import plans
from tynda.store import hub, library

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, describe, download and remove models."""


@models.command("list")
@table_or_json
def list_models(format_: str) -> None:
    """List the models that are bundled with tynda, cached or pulled."""
    rows = library.describe()
    if format_ == "json":
        print_text(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("name", "", "bytes", "family", "languages", "licence", "scores", box=None)
    for row in rows:
        where = "default" if row["default"] else "bundled" if row["bundled"] else "cached"
        table.add_row(
            row["name"],
            where,
            str(row["bytes"]),
            row["family"],
            " ".join(row["languages"]),
            row["licence"],
            _scores(row),
        )
    print_table(table)


@models.command("show")
@click.argument("name")
@table_or_json
def show_model(name: str, format_: str) -> None:
    """Describe the model NAME: a name as listed, or the path of any model that tynda reads."""
    row = library.show(name)
    if format_ == "json":
        print_text(json.dumps(row, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for key in ("name", "path", "bytes", "family", "languages", "licence", "scores"):
        value = {"languages": " ".join(row["languages"]), "scores": _scores(row)}.get(key)
        table.add_row(key, str(row[key]) if value is None else value)
    if isinstance(done := row["quantized"], dict):
        table.add_row("quantized", ", ".join(f"{key} {value}" for key, value in done.items()))
    for key, value in row["config"].items():
        table.add_row(f"  {key}", str(value))
    print_table(table)


@models.command("plan")
@click.argument("name")
@click.option(
    "--seconds",
    type=Number(min=0.01, max=3600),
    default=10.0,
    show_default=True,
    help="Length of the recording.",
)
@engine_options(without=["backend", "max_memory"])
def plan_model(name: str, seconds: float, bits: int | None, threads: int | None) -> None:
    """Print the native engine's plans for a recording with the model NAME.

    There is a plan for each program of the model: its tensors, weights and operations, in the
    order in which they run. A line that begins with # gives the plan's memory here. Nothing is
    computed. docs/native.md explains the format.
    """
    threads = threads or processors()
    for planned in plans(library.load(name), seconds, bits=bits, threads=threads):
        print_text(planned.text())


@models.command("pull")
@click.argument("name")
@click.option(
    "--language", "languages", multiple=True, help="MMS: also pull this adapter; may be repeated."
)
def pull_model(name: str, languages: Sequence[str]) -> None:
    """Download the model NAME, owner/name or owner/name@revision, from the Hugging Face hub."""
    print_text(str(hub.pull(name, languages)))


@models.command("remove")
@click.argument("name")
def remove_model(name: str) -> None:
    """Delete the cached or pulled model NAME from disk."""
    library.remove(name)


def _scores(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{k} EER {rate(v['eer'])}" if "eer" in v else f"{k} WER {rate(v.get('wer'))}"
        for k, v in row["scores"].items()
    )
