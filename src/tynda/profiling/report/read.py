"""Rows and record of a report's folder."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tynda.errors import TyndaError
from tynda.profiling import record
from tynda.profiling.case import Case, Row, read_rows
from tynda.profiling.record import RECORD, ROWS

__all__ = ["Report", "Setup", "count", "mapping", "number", "read", "short_names"]


@dataclass(frozen=True, order=True)
class Setup:
    """What one chooses: a model in an engine's hands."""

    model: str
    """As the case names it."""
    engine: str
    bits: str
    device: str
    threads: int
    tokens: float

    @classmethod
    def of(cls, case: Case) -> Setup:
        """That of a case."""
        device, threads = case.device, case.threads
        return cls(case.model, case.engine, case.bits, device, threads, case.tokens)


@dataclass(frozen=True)
class Report:
    """What has been measured into a folder, in all runs."""

    folder: Path
    rows: list[Row]
    """One for each case: the last."""
    record: dict[str, Any]
    names: dict[str, str] = field(init=False)
    """Model, as cases name it -> as the report does."""

    def __post_init__(self) -> None:
        names = short_names(row.case.model for row in self.rows)
        object.__setattr__(self, "names", names)

    @property
    def models(self) -> list[str]:
        """As cases name them, in the order they were measured."""
        return list(self.names)

    def of(self, work: str, status: str = "ok") -> list[Row]:
        """The rows of a kind of work."""
        return [r for r in self.rows if r.case.work == work and r.status == status]

    def about(self, model: str) -> Mapping[str, Any]:
        """What the record says of a model."""
        return mapping(self.record["models"], model)


def read(folder: Path) -> Report:
    """Raises `TyndaError` where there are no rows, or the record is damaged."""
    if not folder.is_dir():
        raise TyndaError(f"no report at {folder}: check the path")
    try:
        text = (folder / ROWS).read_text("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    rows = {row.case: row for row in read_rows(text) if _sound(row)}
    whole = [line for line in text.split("\n")[:-1] if line]  # an interrupt leaves half a line
    if lost := len(whole) - sum(_sound(row) for row in read_rows("\n".join(whole))):
        warnings.warn(f"{folder / ROWS}: {count(lost, 'damaged row')} left out", stacklevel=2)
    if not rows:
        raise TyndaError(f"no rows in {folder}: measure with tynda profile … --report {folder}")
    try:
        known = record.read(folder / RECORD)
    except FileNotFoundError:
        raise TyndaError(f"{folder} has rows but no {RECORD}: measure it anew") from None
    return Report(folder, list(rows.values()), known)


def short_names(models: Iterable[str]) -> dict[str, str]:
    """The last part of each path, with as many more as it takes to tell them apart."""
    paths = {model: Path(model).parts or (model,) for model in models}

    def name(parts: tuple[str, ...]) -> str:
        for count in range(1, len(parts)):
            tail = parts[-count:]
            if sum(other[-count:] == tail for other in paths.values()) == 1:
                return "/".join(tail)
        return str(Path(*parts))

    return {model: name(parts) for model, parts in paths.items()}


def mapping(values: Any, *path: str) -> Mapping[str, Any]:
    """The object at a path of keys; an empty one where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def number(values: Any, *path: str) -> float | None:
    """The finite number at a path of keys; None where there is none."""
    found = mapping(values, *path[:-1]).get(path[-1])
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def count(many: int, what: str) -> str:
    """``3 rows``, ``1 row``."""
    return f"{many:,} {what}{'' if many == 1 else 's'}"


def _sound(row: Row) -> bool:
    case = row.case
    words = (case.model, case.engine, case.bits, case.device, case.work, row.status, row.why)
    numbers = (case.seconds, case.batch, case.threads, case.tokens)
    return (
        all(isinstance(x, str) for x in words)
        and all(isinstance(x, int | float) for x in numbers)
        and isinstance(row.values, dict)
    )
