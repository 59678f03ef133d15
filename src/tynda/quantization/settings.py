"""Settings of `tynda.quantize`, declared once for programs and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tynda.checks import Range, check, setting
from tynda.weights.grid import BITS, GroupSize

__all__ = ["CALIBRATED", "METHODS", "STORED", "Calibrated", "Method", "Settings"]

STORED = (*BITS, 16, 32)
"""Widths that a file's weights can have."""

Method = Literal[
    "rtn", "clip", "hqq", "absmean", "nf4", "kmeans", "gptq", "awq", "smooth", "learnt"
]
"""``rtn``: nearest values; ``clip``: the same on the grid that errs least; ``hqq``, ``absmean``,
``gptq`` and ``awq`` by their papers; ``nf4`` and ``kmeans``: a table; ``smooth``: SmoothQuant,
then ``clip``; ``learnt``: `gptq`, then learnt part by part, with torch."""
Calibrated = Literal["gptq", "awq", "smooth", "learnt"]
"""Methods that need a calibration set."""
METHODS: tuple[Method, ...] = get_args(Method)
CALIBRATED: tuple[Calibrated, ...] = get_args(Calibrated)


@dataclass(frozen=True)
class Settings:
    """How weights are rounded. Raises `TyndaError` for values that are none of these."""

    method: Method | None = setting(None, "By default gptq with `calibration`, else clip.")
    group: GroupSize = setting(
        32, "Inputs that share a step; 0: a row. Below 8 bits.", metavar="INTEGER"
    )
    utterances: Annotated[int, Range(1)] = setting(128, "Of the manifest, evenly taken.")

    def __post_init__(self) -> None:
        check(self)
