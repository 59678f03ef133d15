"""The runs of a model's programs that a recording needs, before or while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from tynda.models.base import Program

__all__ = ["Run", "Runs", "Work", "follow"]


@dataclass(frozen=True)
class Work:
    """A recording, or a batch of several of the same length, in the sizes that programs see."""

    frames: int
    """Frames of the front end."""
    batch: int = 1
    prompt: int = 1
    """Tokens that a decoder begins with; heads without a decoder ignore it."""
    tokens: int = 0
    """Tokens that a decoder writes after them."""


@dataclass(frozen=True)
class Run:
    """One run of a program, as `Engine.run` takes it."""

    stage: str
    """``encoder`` or ``decoder``."""
    name: str
    """The program's, for people."""
    program: Program
    settings: Any
    """The program's third argument."""
    inputs: tuple[Any, ...]
    """Tensors without data (``compile.trace.Value``), or structures of them."""
    times: float = 1
    """How often a recording needs it: runs that differ a little are counted as one."""


Runs = Generator[Run, Any, None]
"""The runs of a recording, in order. Whoever iterates sends back each run's result, which the
next runs take for their inputs: traced, lowered or computed, as the reader likes."""


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
