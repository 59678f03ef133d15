"""``tynda quantize``: a model becomes a file with weights in fewer bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tynda.cli.console import print_text, progress
from tynda.errors import TyndaError
from tynda.quant.methods import METHODS
from tynda.quantize import STORED
from tynda.quantize import quantize as run

__all__ = ["quantize"]

_BITS = [f"{bits:g}" for bits in STORED]


@click.command()
@click.argument("model")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="A new model file."
)
@click.option(
    "--bits", type=click.Choice(_BITS), default="8", show_default=True, help="Of a weight."
)
@click.option("--method", type=click.Choice(METHODS), help="gptq with --calibration, else clip.")
@click.option(
    "--group", type=int, default=32, show_default=True, help="Inputs that share a step; 0: a row."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="MANIFEST",
    help="Speech that the model listens to, for gptq, awq and smooth.",
)
@click.option(
    "--utterances",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="Of the manifest, evenly taken.",
)
@click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="PATTERN=BITS",
    help="Other bits for some tensors: 'head.*=8'.",
)
def quantize(
    model: str,
    output: Path,
    bits: str,
    method: str | None,
    group: int,
    calibration: Path | None,
    utterances: int,
    overrides: Sequence[str],
) -> None:
    """Write MODEL, a name, file or folder, as one file with weights in fewer bits.

    It starts faster than a folder of the hub and takes less memory.
    """
    with progress("quantizing", "tensors") as advance:
        run(
            model,
            output,
            float(bits) if bits == "1.58" else int(bits),
            method=method,
            group=group,
            calibration=calibration,
            utterances=utterances,
            overrides=[_override(text) for text in overrides],
            on_progress=advance,
        )
    print_text(click.format_filename(output))


def _override(text: str) -> tuple[str, float]:
    pattern, _, bits = text.rpartition("=")
    known = _BITS[:-2]
    if not pattern or bits not in known:
        raise TyndaError(f"--override {text}: write PATTERN=BITS, BITS one of {', '.join(known)}")
    return pattern, float(bits) if bits == "1.58" else int(bits)
