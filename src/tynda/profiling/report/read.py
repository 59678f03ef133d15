"""Reads the rows and the record of a report's folder."""

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
    """The choice of a user: a model, an engine and its settings."""

    model: str
    """The model's name in `Case`."""
    engine: str
    bits: str
    device: str
    threads: int
    tokens: float

    @classmethod
    def of(cls, case: Case) -> Setup:
        """Return the setup of a case."""
        device, threads = case.device, case.threads
        return cls(case.model, case.engine, case.bits, device, threads, case.tokens)


@dataclass(frozen=True)
class Report:
    """The measurements in a folder, of all runs."""

    folder: Path
    rows: list[Row]
    """The last row of each case."""
    record: dict[str, Any]
    names: dict[str, str] = field(init=False)
    """The model's name in cases -> its name in the report."""

    def __post_init__(self) -> None:
        names = short_names(row.case.model for row in self.rows)
        object.__setattr__(self, "names", names)

    @property
    def models(self) -> list[str]:
        """The models' names in cases, in the order of measurement."""
        return list(self.names)

    def of(self, work: str, status: str = "ok") -> list[Row]:
        """Return the rows of a kind of work."""
        return [r for r in self.rows if r.case.work == work and r.status == status]

    def about(self, model: str) -> Mapping[str, Any]:
        """Return the record's description of a model."""
        return mapping(self.record["models"], model)


def read(folder: Path) -> Report:
    """Read a report. Raises `TyndaError` where there are no rows, or the record is damaged."""
    if not folder.is_dir():
        raise TyndaError(f"no report at {folder}: check the path")
    try:
        text = (folder / ROWS).read_text("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    rows = {row.case: row for row in read_rows(text)}
    whole = [line for line in text.split("\n")[:-1] if line]  # an interrupt may cut the last line
    if lost := len(whole) - len(read_rows("\n".join(whole))):
        warnings.warn(f"{folder / ROWS}: {count(lost, 'damaged row')} left out", stacklevel=2)
    if not rows:
        raise TyndaError(f"no rows in {folder}: measure with tynda profile … --report {folder}")
    try:
        known = record.read(folder / RECORD)
    except FileNotFoundError:
        raise TyndaError(f"{folder} has rows but no {RECORD}: measure again") from None
    return Report(folder, list(rows.values()), known)


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path, with as many more parts as make it unique."""
    paths = {model: Path(model).parts or (model,) for model in models}

    def name(parts: tuple[str, ...]) -> str:
        for count in range(1, len(parts)):
            tail = parts[-count:]
            if sum(other[-count:] == tail for other in paths.values()) == 1:
                return "/".join(tail)
        return str(Path(*parts))

    return {model: name(parts) for model, parts in paths.items()}


def mapping(values: Any, *path: str) -> Mapping[str, Any]:
    """Return the object at a path of keys, or an empty one where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def number(values: Any, *path: str) -> float | None:
    """Return the finite number at a path of keys, or None where there is none."""
    found = mapping(values, *path[:-1]).get(path[-1])
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def count(many: int, what: str) -> str:
    """Format a count with its noun: ``3 rows``, ``1 row``."""
    return f"{many:,} {what}{'' if many == 1 else 's'}"
