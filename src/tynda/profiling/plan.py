"""The plan of a profile: which models are measured in which configurations."""

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
from tynda.store import formats, library
from tynda.text.normalize import NORMALIZERS

__all__ = ["PREPARING", "TRANSCRIBING", "Model", "Plan", "cases", "replay"]

PREPARING, TRANSCRIBING = 3, 100
"""Factors of `Plan.time_limit` for converting a model and for transcribing a manifest."""


@dataclass(frozen=True)
class Plan:
    """The models and configurations to measure, in all combinations."""

    models: tuple[str, ...]
    engines: tuple[str, ...] = ("tynda",)
    bits: tuple[str, ...] = ()
    """Bits of weights; empty means ``stored`` for a tynda file, 32 and 8 for a hub folder."""
    devices: tuple[str, ...] = ("cpu",)
    durations: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0)
    """Seconds of each recording; if empty, no speed is measured."""
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    """Number of threads; None means one for each processor."""
    tokens: float = 3.0
    """See `Case.tokens`."""
    manifest: str | None = None
    """Speech with texts, for error rates and speed; None means noise and no error rates."""
    normalizer: str | None = None
    """See `Case.normalizer`; None means the model's own."""
    repeats: int = 10
    budget: float = 10.0
    """Seconds for one case, after which its run is not repeated again."""
    operations: bool = False
    """Whether to measure the operations of a model, for engines that support it."""
    time_limit: float = 600.0
    """Seconds after which an engine is stopped and its row has failed; multiplied by `PREPARING`
    and `TRANSCRIBING` for these tasks."""

    def __post_init__(self) -> None:
        """Raise `TyndaError` for values that cannot be measured."""
        texts = (*self.models, *self.engines, *self.bits, *self.devices)
        texts = (*texts, self.manifest or "", self.normalizer or "")
        numbers = (*self.durations, *self.batches, self.tokens, self.repeats, self.time_limit)
        numbers = (*numbers, 1 if self.threads is None else self.threads, 1 + self.budget)
        if not all(isinstance(x, str) for x in texts):
            raise TyndaError("a profile's models, engines, bits and devices must be names")
        if not all(isinstance(x, int | float) for x in numbers):
            raise TyndaError("a profile's durations, batches and limits must be numbers")
        if not all(0 < x < float("inf") for x in numbers) or self.budget < 0:
            raise TyndaError("a profile's durations, batches and limits must be more than 0")
        normalizers = (self.normalizer,) if self.normalizer else ()
        for names, known in (
            (self.engines, tuple(ENGINES)),
            (self.devices, ("cpu", "cuda")),
            (normalizers, tuple(NORMALIZERS)),
        ):
            if unknown := [name for name in names if name not in known]:
                raise TyndaError(f"no {unknown[0]!r}: choose from {', '.join(known)}")

    @classmethod
    def from_dict(cls, values: Any) -> Plan:
        """Return the plan that a record stores. Raises `TyndaError` for other values."""
        try:
            plan: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**plan)
        except (AttributeError, TypeError):  # not a dict, or other names or types
            raise TyndaError(
                "the record has no plan of a profile: give another, or start a new report"
            ) from None


def replay(path: Path) -> list[Plan]:
    """Return the distinct plans of a record, to measure them again.

    Raises `TyndaError` where the file is not a record, or its models or manifests have changed.
    """
    path = path / record.RECORD if path.is_dir() else path
    try:
        known = record.read(path)
    except FileNotFoundError:
        raise TyndaError(f"no record at {path}: check the path") from None
    if not known["runs"]:
        raise TyndaError(f"{path} is not a record of a run: give a report's record.json")
    for name, about in known["models"].items():
        if Model(library.find(name)).digest != about.get("digest"):
            raise TyndaError(f"{name} is not the same model as in {path}")
    for name, about in known["manifests"].items():
        if environment.model_digest(Path(name)) != about.get("digest"):
            raise TyndaError(f"{name} is not the same manifest as in {path}")
    return list(dict.fromkeys(Plan.from_dict(run.get("plan", {})) for run in known["runs"]))


@dataclass(frozen=True)
class Model:
    """A model to measure, with the properties that engines need."""

    path: Path

    @cached_property
    def digest(self) -> str:
        """The digest of the model's files."""
        return environment.model_digest(self.path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The description that ``tynda models show`` prints."""
        return library.show(str(self.path))

    @property
    def is_folder(self) -> bool:
        """Whether the model is a Hugging Face folder."""
        return formats.is_hub_folder(self.path)

    @property
    def normalizer(self) -> str:
        """The normaliser with which texts are scored, the one of `Model.normalize`."""
        return "letters" if self.about["languages"] == ["en"] else "basic"


def cases(plan: Plan, models: dict[str, Model]) -> list[Case]:
    """Return all cases of a plan; ``models`` are by the plan's names."""
    threads, manifest = plan.threads or processors(), plan.manifest or ""
    found = []
    for (name, model), device, which in itertools.product(
        models.items(), plan.devices, plan.engines
    ):
        for bits in plan.bits or (("32", "8") if model.is_folder else ("stored",)):
            way = (name, which, bits, device)
            case = Case("speed", *way, threads=threads, tokens=plan.tokens, manifest=manifest)
            if plan.manifest:
                found.append(replace(case, work="words", normalizer=plan.normalizer or ""))
            for seconds, batch in itertools.product(plan.durations, plan.batches):
                found.append(replace(case, seconds=float(seconds), batch=batch))
            if plan.operations and device == "cpu":
                found += _studies(case, model, plan.durations)
    return found


def _studies(case: Case, model: Model, durations: tuple[float, ...]) -> list[Case]:
    """Return the cases of operations, at the duration nearest to 30 s, and of a decoder's cache."""
    works, found, case = engine(case.engine).works, [], replace(case, manifest="")
    if "operations" in works and durations:
        usual = min(durations, key=lambda seconds: abs(seconds - 30))
        found.append(replace(case, work="operations", seconds=float(usual)))
    if "cache" in works and head_of(family(model.about["family"])).has_decoder and durations:
        found.append(replace(case, work="cache", seconds=float(max(durations))))
    return found
