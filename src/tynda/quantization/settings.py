"""Settings of `tynda.quantize`, declared once for programs and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tynda.checks import Range, check, setting
from tynda.weights.grid import BITS, GroupSize

__all__ = ["CALIBRATED", "METHODS", "STORED", "Calibrated", "Method", "Settings"]

STORED = (*BITS, 16, 32)
"""Bit widths of a file's weights."""

Method = Literal[
    "rtn", "clip", "hqq", "absmean", "nf4", "kmeans", "gptq", "awq", "smooth", "learnt"
]
"""Methods of rounding. ``rtn`` rounds to nearest; ``clip`` does so on the grid with the minimum
squared error. ``hqq``, ``absmean`` (BitNet b1.58), ``gptq`` and ``awq`` are those of their papers.
``nf4`` and ``kmeans`` have a table. ``smooth`` is SmoothQuant, then ``clip``; ``learnt`` is
``gptq``, then learnt rounding with block reconstruction, which needs torch."""
Calibrated = Literal["gptq", "awq", "smooth", "learnt"]
"""Methods that need a calibration set."""
METHODS: tuple[Method, ...] = get_args(Method)
CALIBRATED: tuple[Calibrated, ...] = get_args(Calibrated)


@dataclass(frozen=True)
class Settings:
    """How weights are rounded. Raises `TyndaError` for invalid values."""

    method: Method | None = setting(None, "By default gptq with `calibration`, else clip.")
    group: GroupSize = setting(
        32, "Inputs that share a scale; 0: a row. Below 8 bits.", metavar="INTEGER"
    )
    utterances: Annotated[int, Range(1)] = setting(128, "Number of them, at regular intervals.")

    def __post_init__(self) -> None:
        check(self)
