"""The plans of a model, which the native engine runs for a recording of some length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tynda.compile.engine import convert_weights
from tynda.compile.native import Lowered, Machine, lowered, machine
from tynda.compile.runs import Run, Runs, follow
from tynda.compile.trace import trace_call
from tynda.heads import head_of
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["Planned", "lower_runs", "plans"]


@dataclass(frozen=True)
class Planned:
    """One program of a model for inputs of certain shapes, and its plan."""

    run: Run
    lowered: Lowered
    machine: Machine

    def text(self) -> str:
        """Return the plan as text, with the program's name and its memory on this machine."""
        header, _, lines = self.lowered.plan.text().partition("\n")
        here = f"{self.machine.instructions}, {self.machine.threads} threads"
        memory = f"# {self.run.name}: arena of {self.lowered.arena_bytes} bytes ({here})"
        return f"{header}\n{memory}\n{lines}"


def plans(
    model: Checkpoint,
    seconds: float,
    tokens: float = 3.0,
    batch: int = 1,
    bits: int | None = None,
    threads: int = 1,
) -> list[Planned]:
    """Lower every program that ``batch`` recordings of ``seconds`` need, in order, from shapes.

    A decoder generates ``tokens`` for each second of audio. ``bits`` is the matmul precision, as
    for `tynda.load`. Raises `TyndaError` where there are no kernels.
    """
    head, held = head_of(model.family), model.family.trainable(model.config)
    weights, bits = convert_weights(model.weights, held, "native", bits)
    work = head.work(model, round(seconds * SAMPLE_RATE), tokens, batch)
    return lower_runs(head.runs(model.family, model.config, work), weights, machine(threads, bits))


def lower_runs(runs: Runs, weights: Mapping[str, Any], here: Machine) -> list[Planned]:
    """Lower the program of each of the ``runs``, in order; ``weights`` are as they are held."""
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    found: list[Planned] = []

    def execute(run: Run) -> Any:
        program, result = trace_call(run.program, shapes, run.settings, *run.inputs)
        found.append(Planned(run, lowered(program, weights, here), here))
        return result

    follow(runs, execute)
    return found
