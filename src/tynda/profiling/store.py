"""Stores rows in a report's folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.profiling import energy, environment, record
from tynda.profiling.case import Case, Row, read_rows
from tynda.profiling.plan import Model, Plan
from tynda.profiling.record import RECORD, ROWS

__all__ = ["Store", "alone"]

LOGS = "logs"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Create ``folder`` and lock it: two processes at once would measure every case twice."""
    lock = FileLock(folder / LOGS / "lock", timeout=0)
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise TyndaError(
            f"another profile writes to {folder}: wait for it, or use another --report"
        ) from None
    except OSError as error:
        raise TyndaError(
            f"cannot write to {folder} ({error.strerror}): use another --report"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Store:
    """A report's folder to which rows are added."""

    def __init__(self, folder: Path, kept: bool = True) -> None:
        """``kept`` states whether the folder still exists after the measurement."""
        self._folder, self._kept = folder, kept
        self._record = record.begin()
        self._last: dict[Case, Row] = {}
        self._sources: dict[str, energy.Source] = {}
        self.environment = ""

    def begin(self, plan: Plan, models: dict[str, Model], retry: bool) -> dict[Case, Row]:
        """Record a run, and return the rows that need not be measured again."""
        (self._folder / LOGS).mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._record = record.read(self._folder / RECORD)
        now = environment.describe()
        self.environment = environment.digest(now)
        self._record["environments"].setdefault(self.environment, now)  # keeps a known "energy"
        for name, model in models.items():
            about = {k: model.about[k] for k in ("family", "bytes", "config")}
            self._know("models", name, about | {"digest": model.digest})
        if plan.manifest:
            digest = environment.model_digest(Path(plan.manifest))
            self._know("manifests", plan.manifest, {"digest": digest})
        load = os.getloadavg() if hasattr(os, "getloadavg") else ()
        self._record["runs"].append(
            {
                "plan": asdict(plan),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": self.environment,
                "load": list(load),
                "seed": 0,
            }
        )
        self._write()
        path = self._folder / ROWS
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        rows = read_rows(text)
        if text and not text.endswith("\n"):  # the last line is incomplete, after an interrupt
            write_whole(path, "".join(row.to_json() + "\n" for row in rows).encode())
        self._last = {row.case: row for row in rows}
        return {c: row for c, row in self._last.items() if _stays(row, retry)}

    def _know(self, kind: str, name: str, about: dict[str, Any]) -> None:
        if self._record[kind].get(name, about).get("digest") != about["digest"]:
            raise TyndaError(
                f"{name} is another {kind.rstrip('s')} than the one in {self._folder}: start a "
                "new report"
            )
        self._record[kind][name] = about

    def source(self, device: str) -> energy.Source:
        """Return the source of energy, which is measured on the first call."""
        if device not in self._sources:
            found = self._sources[device] = energy.detect(device == "cuda")
            self._record["environments"][self.environment]["energy"] = asdict(found)
            self._write()
        return self._sources[device]

    def log(self, case: Case) -> Path:
        """Return the path of the log of an engine's output."""
        name = f"{environment.digest(case.model)}-{case.engine}-{case.bits}-{case.device}.log"
        return self._folder / LOGS / name

    def see(self, log: Path) -> str:
        """Return a reference to the log for a message about a failure."""
        return f": see {log}" if self._kept else ""

    def add(self, row: Row) -> None:
        """Store a row unless it is stored already: skipped cases are checked in every run."""
        if row == self._last.get(row.case):
            return
        with (self._folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(row.to_json() + "\n")

    def _write(self) -> None:
        text = json.dumps(self._record, indent=1, ensure_ascii=False)
        write_whole(self._folder / RECORD, text.encode())


def _stays(row: Row, retry: bool) -> bool:
    """Return whether a row need not be measured again: the reason for skipping may be gone."""
    return row.status != "skipped" and not (retry and (row.status == "failed" or row.noise))
