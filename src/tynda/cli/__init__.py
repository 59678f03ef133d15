"""The command line: one thin command per verb."""

from __future__ import annotations

import warnings

import click

import tynda
from tynda.cli.console import Commands, say

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tynda.__version__, prog_name="tynda")
def main() -> None:
    """Speech recognition made small, fast and private."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
