"""What is to be measured: every model in every way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tynda.compile.engine import processors
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.models import family
from tynda.profiling import environment, record
from tynda.profiling.case import Case
from tynda.profiling.engines import ENGINES, engine
from tynda.store import library

__all__ = ["HEARING", "PREPARING", "Model", "Plan", "cases", "replay"]

PREPARING, HEARING = 3, 100
"""Times `Plan.time_limit`, to bring a model into an engine's form and to hear a manifest."""


@dataclass(frozen=True)
class Plan:
    """What to measure: every model in every way."""

    models: tuple[str, ...]
    engines: tuple[str, ...] = ("tynda",)
    bits: tuple[str, ...] = ()
    """None: ``stored`` for a file of tynda's, 32 and 8 for a folder of the hub's."""
    devices: tuple[str, ...] = ("cpu",)
    durations: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0)
    """Seconds; none: no speed is measured."""
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    """None: as many as there are processors."""
    tokens: float = 3.0
    """See `Case.tokens`."""
    manifest: str | None = None
    """Speech with texts, for error rates, and to measure speed on; None: noise, and no words."""
    repeats: int = 10
    budget: float = 10.0
    """Seconds for one case, after which it is not repeated once more."""
    operations: bool = False
    """Whether to see what is computed and where the time goes, of engines that can tell."""
    time_limit: float = 600.0
    """Seconds, after which an engine is stopped and its row has failed; `PREPARING` and `HEARING`
    times as many for what takes longer."""

    def __post_init__(self) -> None:
        """Raises `TyndaError` for what nobody can measure."""
        texts = (*self.models, *self.engines, *self.bits, *self.devices, self.manifest or "")
        numbers = (*self.durations, *self.batches, self.tokens, self.repeats, self.time_limit)
        numbers = (*numbers, 1 if self.threads is None else self.threads, 1 + self.budget)
        if not all(isinstance(x, str) for x in texts):
            raise TyndaError("a profile's models, engines, bits and devices have names")
        if not all(isinstance(x, int | float) for x in numbers):
            raise TyndaError("a profile's durations, batches and limits are numbers")
        if not all(0 < x < float("inf") for x in numbers) or self.budget < 0:
            raise TyndaError("a profile's durations, batches and limits are more than 0")
        for names, known in ((self.engines, tuple(ENGINES)), (self.devices, ("cpu", "cuda"))):
            if unknown := [name for name in names if name not in known]:
                raise TyndaError(f"no {unknown[0]!r}: take some of {', '.join(known)}")

    @classmethod
    def from_dict(cls, values: Any) -> Plan:
        """What a record holds. Raises `TyndaError` for anything else."""
        try:
            plan: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**plan)
        except (AttributeError, TypeError):  # no dict, other names, or other kinds of values
            raise TyndaError(
                "the record holds no plan of a profile: take another, or begin anew"
            ) from None


def replay(path: Path) -> list[Plan]:
    """The plans of a record, each once, to be measured again.

    Raises `TyndaError` where it is no record, or its models or manifests are not what they were.
    """
    path = path / record.RECORD if path.is_dir() else path
    try:
        known = record.read(path)
    except FileNotFoundError:
        raise TyndaError(f"no record at {path}: check the path") from None
    if not known["runs"]:
        raise TyndaError(f"{path} is no record of a run: take a report's record.json")
    for name, about in known["models"].items():
        if Model(library.find(name)).digest != about.get("digest"):
            raise TyndaError(f"{name} is another model than the one that {path} is of")
    for name, about in known["manifests"].items():
        if environment.model_digest(Path(name)) != about.get("digest"):
            raise TyndaError(f"{name} is another manifest than the one that {path} is of")
    return list(dict.fromkeys(Plan.from_dict(run.get("plan", {})) for run in known["runs"]))


@dataclass(frozen=True)
class Model:
    """A model to be measured, and what engines have to know of it."""

    path: Path

    @cached_property
    def digest(self) -> str:
        """Of its files."""
        return environment.model_digest(self.path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """As ``tynda models show`` has it."""
        return library.show(str(self.path))

    @property
    def is_folder(self) -> bool:
        """Whether it is as the Hugging Face hub has it."""
        return self.path.is_dir()

    @property
    def normalizer(self) -> str:
        """In which texts are compared; as `Recognizer.normalize`."""
        return "letters" if self.about["languages"] == ["en"] else "basic"


def cases(plan: Plan, models: dict[str, Model]) -> list[Case]:
    """All of a plan; ``models`` by the names that it has for them."""
    threads, heard = plan.threads or processors(), plan.manifest or ""
    found = []
    for (name, model), device, which in itertools.product(
        models.items(), plan.devices, plan.engines
    ):
        for bits in plan.bits or (("32", "8") if model.is_folder else ("stored",)):
            way = (name, which, bits, device)
            case = Case("speed", *way, threads=threads, tokens=plan.tokens, manifest=heard)
            if plan.manifest:
                found.append(replace(case, work="words"))
            for seconds, batch in itertools.product(plan.durations, plan.batches):
                found.append(replace(case, seconds=float(seconds), batch=batch))
            if plan.operations and device == "cpu":
                found += _studies(case, model, plan.durations)
    return found


def _studies(case: Case, model: Model, durations: tuple[float, ...]) -> list[Case]:
    """Operations at the duration nearest to 30 s, and for a model with a decoder its cache."""
    works, found, case = engine(case.engine).works, [], replace(case, manifest="")
    if "operations" in works and durations:
        usual = min(durations, key=lambda seconds: abs(seconds - 30))
        found.append(replace(case, work="operations", seconds=float(usual)))
    if "cache" in works and head_of(family(model.about["family"])).decodes and durations:
        found.append(replace(case, work="cache", seconds=float(max(durations))))
    return found
