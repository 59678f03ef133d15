"""``tynda quantize``: a model becomes a file with weights in fewer bits."""

from __future__ import annotations

from pathlib import Path

import click

from tynda import quantize as quantizing

__all__ = ["quantize"]


@click.command()
@click.argument("model")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="A new model file."
)
@click.option(
    "--bits",
    type=click.Choice(["8", "16", "32"]),
    default="8",
    show_default=True,
    help="Of a weight.",
)
def quantize(model: str, output: Path, bits: str) -> None:
    """Write MODEL, a name, file or folder, as one file with weights in fewer bits.

    It starts faster than a folder of the hub and takes less memory.
    """
    quantizing.quantize(model, output, int(bits))
