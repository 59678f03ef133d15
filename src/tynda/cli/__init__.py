"""The command line: one thin command per verb."""

from __future__ import annotations

import os
import warnings

import click

import tynda
from tynda.cli.console import Commands, say

__all__ = ["main"]

# Idle threads of NumPy's OpenBLAS spin for 2**28 cycles before they sleep, on processors that the
# kernels' threads need; 2**20 cycles are enough to wait for a next product. OpenBLAS reads the
# variable when NumPy is imported, which no module above does.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tynda.__version__, prog_name="tynda")
def main() -> None:
    """Speech recognition made small, fast and private."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
