"""The runs of a model's programs that are needed to recognise a recording."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from tynda.models.base import Program

__all__ = ["Run", "Runs", "Work", "follow"]


@dataclass(frozen=True)
class Work:
    """The sizes of a recording, or of a batch of recordings of the same length."""

    frames: int
    """Frames of the front end."""
    batch: int = 1
    prompt: int = 1
    """Tokens of the decoder's prompt; heads without a decoder ignore them."""
    tokens: int = 0
    """Tokens that a decoder generates after the prompt."""


@dataclass(frozen=True)
class Run:
    """One run of a program: the arguments of `Engine.run`."""

    stage: str
    """``encoder`` or ``decoder``."""
    name: str
    """The name of the program, shown in reports."""
    program: Program
    settings: Any
    """The program's third argument."""
    inputs: tuple[Any, ...]
    """Tensors without data (``compile.trace.Value``), or structures of them."""
    times: float = 1
    """How often a recording needs this run: similar runs are counted as one."""


Runs = Generator[Run, Any, None]
"""The runs of a recording, in order. The caller sends the result of each run to the generator,
which needs it for the inputs of later runs; the result may be traced or computed."""


def follow(runs: Runs, execute: Callable[[Run], Any]) -> None:
    """Call ``execute`` with each of the runs, in order; it returns the run's result."""
    try:
        run = next(runs)
    except StopIteration:
        return
    while True:
        result = execute(run)
        try:
            run = runs.send(result)
        except StopIteration:
            return
