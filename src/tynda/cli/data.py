"""The command ``tynda data``: what the store of ``tynda serve`` holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tynda.cli.console import print_text, print_written
from tynda.cli.options import PathName
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.serve.configuration import CONFIG, read_settings
from tynda.serve.settings import ServeSettings

if TYPE_CHECKING:
    from tynda.serve.store.store import Store

__all__ = ["data"]

_NEEDED = ("sqlalchemy", "alembic", "cryptography")


@click.group()
@click.option(
    "--config", metavar="FILE", help=f"Settings of the server in TOML. Default: that of {CONFIG}."
)
@click.option("--data", metavar="FOLDER", help="Folder of the store, as of serve.")
@click.pass_context
def data(ctx: click.Context, /, config: str | None, data: str | None) -> None:
    """Export recordings of the server's store, and change its master key.

    The settings of the store are those of serve: a file, and variables such as
    TYNDA_SERVE_DATABASE.
    """
    ctx.obj = read_settings(config, os.environ, {"data": data})


@data.command("export")
@click.argument("folder", type=PathName(path_type=Path))
@click.pass_obj
def export(settings: ServeSettings, folder: Path) -> None:
    """Write the corrected recordings whose owners agreed to FOLDER, and a manifest for train.

    The files are not encrypted. A FOLDER that was written before is replaced.
    """
    with _opened(settings) as store:
        from tynda.serve.export import write_manifest

        write_manifest(store, folder)
    print_written(folder / "manifest.jsonl")


@data.command("rotate-key")
@click.pass_obj
def rotate_key(settings: ServeSettings) -> None:
    """Wrap the keys of all recordings by a new master key, also while a server runs.

    A new key is put first in the file of master keys, which keeps the one before until the next
    rotation. Where a variable or a command gives the keys, put the new one first yourself.
    """
    with _opened(settings) as store:
        masters = store.vault.masters
        if masters.file is not None:
            masters.rotate()
        count = store.rewrap()
        if masters.file is not None:
            masters.retain(2)
    print_text(f"{count} keys are wrapped by the new master key {masters.current().id}")


@contextmanager
def _opened(settings: ServeSettings) -> Iterator[Store]:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise TyndaError(f"the store needs {', '.join(missing)}: {install('serve')}")
    from tynda.serve.store.opening import open_store

    store = open_store(settings, os.environ)
    try:
        yield store
    finally:
        store.close()
