"""The names of setups, files and elements of the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tynda.profiling.case import Row
from tynda.profiling.report.read import Report, Setup, mapping

__all__ = ["Names", "energy_word", "most_common", "order", "places", "slug"]


class Names:
    """The names of setups, as short as is unambiguous."""

    def __init__(self, report: Report) -> None:
        setups = {Setup.of(row.case) for row in report.rows}
        self.models = report.names
        self._threads = len({s.threads for s in setups}) > 1
        self._tokens = len({s.tokens for s in setups}) > 1
        self._devices = len({s.device for s in setups}) > 1

    def way(self, setup: Setup, device: bool = True) -> str:
        """Return engine and bits, and the other properties that differ in this report."""
        bits = setup.bits if setup.bits in ("stored", "bf16") else f"{setup.bits} bit"
        found = f"{setup.engine} {bits}"
        if device and self._devices:
            found += f" {setup.device}"
        if self._threads:
            found += f", {setup.threads} threads"
        if self._tokens:
            found += f", {setup.tokens:g} tokens/s"
        return found

    def full(self, setup: Setup) -> str:
        """Return the name with the model."""
        return f"{self.models[setup.model]}, {self.way(setup)}"


def slug(*parts: object) -> str:
    """Return a name for a file and an element of the page."""
    text = "-".join(re.sub(r"[^a-z0-9.]+", "-", str(p).lower()).strip("-.") for p in parts)
    return text.replace(".", "_") or "figure"


def energy_word(rows: Iterable[Row]) -> str:
    """Return a note for titles and axes on whether the energy of rows is estimated."""
    kinds = {bool(mapping(row.values, "energy").get("estimate")) for row in rows}
    return {frozenset({True}): " (estimate)", frozenset({False}): ""}.get(
        frozenset(kinds), " (partly an estimate)" if kinds else ""
    )


def most_common(values: Iterable[Any], near: float = 0.0) -> Any:
    """Return the most frequent value; of several the one nearest to ``near``."""
    counts = Counter(values)
    return min(counts, key=lambda v: (-counts[v], abs(v - near), v), default=None)


def places(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return the models with their devices, in the order of the rows."""
    return list(dict.fromkeys((row.case.model, row.case.device) for row in rows))


def order(report: Report, model: str) -> str:
    """Return a model's number in the report: it keeps file names distinct, which leave out
    special characters."""
    return f"{report.models.index(model) + 1}"
