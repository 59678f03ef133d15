"""The command ``tynda quantize``: writes a model with weights in fewer bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tynda.cli.console import print_written, progress, say
from tynda.cli.options import PathName, setting_options
from tynda.errors import TyndaError
from tynda.quantization import run as quantizing
from tynda.quantization.mixed import Mixer
from tynda.quantization.plan import read_plan
from tynda.quantization.plan import save_plan as write_plan
from tynda.quantization.settings import CALIBRATED, STORED, Settings
from tynda.quantization.steps import StepPlanner
from tynda.store import library
from tynda.weights.grid import Grid

__all__ = ["quantize"]

_BITS = [f"{bits:g}" for bits in STORED]
_FEW = _BITS[:-2]
_PLANNED = ("mixed", "entropy")


@click.command()
@click.argument("model")
@click.option(
    "--output", "-o", type=PathName(path_type=Path), required=True, help="New model file."
)
@click.option(
    "--bits",
    type=click.Choice([*_BITS, *_PLANNED]),
    help="Bits of a weight, 8 by default. mixed: chosen for each tensor, with --target-size or "
    "--max-wer-loss. entropy: codes in 8 bits, so coarse that an entropy code makes the file as "
    "small as --target-size says.",
)
@setting_options(Settings)
@click.option(
    "--calibration",
    type=PathName(path_type=Path),
    metavar="MANIFEST",
    help="Calibration set (speech), for gptq, awq, smooth, learnt and mixed bits.",
)
@click.option(
    "--target-size", type=click.FloatRange(0, min_open=True), help="Maximum size of the file in MB."
)
@click.option(
    "--max-wer-loss",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Maximum increase of the word error rate on the calibration set, in percentage points.",
)
@click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="PATTERN=BITS",
    help="Bits for tensors that match a pattern, such as 'head.*=8'.",
)
@click.option(
    "--plan", type=PathName(path_type=Path), help="JSON file with the bits of each tensor."
)
@click.option(
    "--save-plan", type=PathName(path_type=Path), help="Write the bits of each tensor to a file."
)
def quantize(
    model: str,
    output: Path,
    bits: str | None,
    target_size: float | None,
    max_wer_loss: float | None,
    overrides: Sequence[str],
    plan: Path | None,
    save_plan: Path | None,
    **how: Any,
) -> None:
    """Write MODEL, a name, file or folder, as one file with weights in fewer bits.

    MODEL may also be a Whisper of other programs: whisper.cpp's ggml-*.bin, or a folder of
    CTranslate2 (faster-whisper). The file loads faster than a folder and uses less memory.
    """
    if bits == "mixed":
        if (target_size is None) == (max_wer_loss is None):
            raise click.UsageError("--bits mixed needs either --target-size or --max-wer-loss")
        if how["calibration"] is None:
            raise click.UsageError("mixed bits need a calibration set: --calibration MANIFEST")
        if how["method"] not in (None, *CALIBRATED):
            raise click.UsageError(f"mixed bits need a method of {', '.join(CALIBRATED)}")
    elif max_wer_loss is not None:
        raise click.UsageError("--max-wer-loss needs --bits mixed")
    if (bits == "entropy" and target_size is None) or (bits not in _PLANNED and target_size):
        raise click.UsageError("--bits entropy needs --target-size, which needs it or --bits mixed")
    if bits == "entropy" and how["method"] not in (None, "rtn", "gptq"):
        raise click.UsageError("--bits entropy needs the method rtn or gptq")
    if plan and bits:
        raise click.UsageError("--plan states all bits: leave out --bits")
    if not all(math.isfinite(x) for x in (target_size, max_wer_loss) if x is not None):
        raise click.UsageError("--target-size and --max-wer-loss must be finite numbers")
    widths = [bits, *(text.rpartition("=")[2] for text in overrides)]
    if how["group"] is not None and not {*widths} & {"mixed", *_BITS[: _BITS.index("8")]}:
        raise click.UsageError(
            "--group is for weights in fewer than 8 bits: wider ones have a scale for each row, "
            "and a plan has its own groups"
        )
    how = {name: value for name, value in how.items() if value is not None}
    group = how.get("group", Settings.group)
    quantizing.check_new(output)
    changes = [_override(text) for text in overrides]
    used: Any = None if bits in _PLANNED else _number(bits or "8")
    with progress("quantizing", "tensors") as advance:
        if plan:
            used = read_plan(plan, quantizing.matrix_names(library.load(model)))
        elif bits in _PLANNED:
            settings = {key: how[key] for key in how if key != "method"}
            planner: Any = (Mixer if bits == "mixed" else StepPlanner)(
                model, overrides=changes, on_progress=advance, **settings
            )
            if target_size is not None:
                used = planner.for_size(round(target_size * 1e6))
            else:
                used = planner.for_loss(max_wer_loss)
            how["calibration"] = planner.calibration
            _report_bits(used)
        elif save_plan and used < 16:
            used = quantizing.uniform_plan(library.load(model), used, group)
        if save_plan:
            _keep(save_plan, used, quantizing.override_plan(library.load(model), group, changes))
        quantizing.quantize(model, output, used, overrides=changes, on_progress=advance, **how)
    print_written(output)


def _report_bits(plan: dict[str, Grid]) -> None:
    """Report the bits or the relative step of each tensor."""
    for bits in sorted({grid.bits for grid in plan.values() if not grid.relative_step}):
        names = [
            name for name, grid in plan.items() if grid.bits == bits and not grid.relative_step
        ]
        say(f"{bits:g} bits: {', '.join(names)}")
    for step in sorted({grid.relative_step for grid in plan.values() if grid.relative_step}):
        names = [name for name, grid in plan.items() if grid.relative_step == step]
        say(f"relative step {step:g}: {', '.join(names)}")


def _keep(path: Path, plan: Any, changes: dict[str, Grid]) -> None:
    if not isinstance(plan, dict):
        raise TyndaError("--save-plan: there is no plan for 16 or 32 bits: leave it out")
    write_plan(path, plan | changes)


def _override(text: str) -> tuple[str, float]:
    pattern, _, bits = text.rpartition("=")
    if not pattern or bits not in _FEW:
        raise click.UsageError(
            f"--override {text}: write PATTERN=BITS with BITS one of {', '.join(_FEW)}"
        )
    return pattern, _number(bits)


def _number(bits: str) -> float:
    return float(bits) if "." in bits else int(bits)
