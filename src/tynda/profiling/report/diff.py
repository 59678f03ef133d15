"""Compares two reports case by case: slower, larger, worse, or within noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case, Row
from tynda.profiling.report.read import Report, mapping, number, short_names

__all__ = ["Change", "Diff", "compare", "ratio"]

DRAWS, SEED = 2000, 0


@dataclass(frozen=True)
class Change:
    """One case in both reports. Ratios are those of the second to the first: over 1 is more."""

    case: Case
    """The case, with its model's short name."""
    time: float | None = None
    """Ratio of the median times."""
    low: float | None = None
    """Lower bound of the 95 % interval of the ratio, by bootstrap over the runs."""
    high: float | None = None
    memory: float | None = None
    """Ratio of peak memory, a single value without an interval."""
    energy: float | None = None
    """Ratio of joules for a recording, measured over all runs together, without an interval."""
    estimate: bool = False
    """Whether one of the energies is an estimate."""
    wer: float | None = None
    """Difference of WER, second minus first."""
    apart: bool = False
    """Whether the intervals of the two WERs are disjoint."""
    noisy: str = ""
    """The reason why one of the two cannot be trusted, or an empty string."""
    broken: str = ""
    """Both statuses, where the case could be measured in only one report."""

    @property
    def certain(self) -> bool:
        """Whether times or WERs differ by more than noise."""
        if self.noisy:
            return False
        moved = self.low is not None and self.high is not None and not self.low <= 1 <= self.high
        return moved or self.apart

    @property
    def size(self) -> float:
        """The size of the change in time or WER."""
        ratio = self.time or 1.0
        return max(ratio, 1 / ratio) - 1 + abs(self.wer or 0.0)

    def worst(self) -> float:
        """Return the maximum ratio that is not noise. Memory and energy have no interval, and
        count unless the row is noisy."""
        if self.noisy:
            return 1.0
        time = self.time if self.certain and self.time else 1.0
        return max(time, self.memory or 1.0, self.energy or 1.0)


@dataclass(frozen=True)
class Diff:
    """The comparison of two reports."""

    changes: list[Change]
    """Cases of both reports, largest change first."""
    first: list[Case]
    """Cases measured in the first report only."""
    second: list[Case]
    warnings: list[str]
    """Reasons why the reports may not be comparable."""


def compare(a: Report, b: Report) -> Diff:
    """Compare all cases of both reports. Models are matched by their short names."""
    ours, theirs = _cases(a), _cases(b)
    changes = [_change(case, row, theirs[case]) for case, row in ours.items() if case in theirs]
    changes = [c for c in changes if c.broken or c.time is not None or c.wer is not None]
    changes.sort(key=lambda c: (not c.broken, -c.size))
    return Diff(
        changes,
        [case for case, row in ours.items() if case not in theirs and row.status == "ok"],
        [case for case, row in theirs.items() if case not in ours and row.status == "ok"],
        _warnings(a, b),
    )


def ratio(a: list[float], b: list[float]) -> tuple[float, float | None, float | None]:
    """Return the ratio of ``b``'s median to ``a``'s, and its 95 % interval by bootstrap of both.
    With a single run of either, there is no interval."""
    found = float(np.median(b) / np.median(a))
    if min(len(a), len(b)) < 2:
        return found, None, None
    rng = np.random.default_rng(SEED)

    def medians(values: list[float]) -> NDArray[np.float64]:
        picks = rng.integers(0, len(values), (DRAWS, len(values)))
        return np.asarray(np.median(np.array(values, np.float64)[picks], axis=1))

    low, high = map(float, np.quantile(medians(b) / medians(a), [0.025, 0.975]))
    return found, low, high


def _cases(report: Report) -> dict[Case, Row]:
    names = short_names(report.models)
    return {
        replace(row.case, model=names[row.case.model]): row
        for row in report.rows
        if row.case.work in ("speed", "words")
    }


def _change(case: Case, a: Row, b: Row) -> Change:
    if a.status != "ok" or b.status != "ok":
        if a.status == b.status:
            return Change(case)
        return Change(case, broken=f"{_status(a)}, then {_status(b)}")
    noisy = "; ".join(f"{w}: {r.noise}" for w, r in (("first", a), ("second", b)) if r.noise)
    change = Change(case, noisy=noisy)
    if case.work == "words":
        before, after = number(a.values, "wer"), number(b.values, "wer")
        if before is None or after is None:
            return change
        first, second = _interval(a, before), _interval(b, after)
        apart = second[0] > first[1] or second[1] < first[0]
        return replace(change, wer=after - before, apart=apart)
    ours, theirs = _runs(a), _runs(b)
    if not ours or not theirs:
        return change
    time, low, high = ratio(ours, theirs)
    return replace(
        change,
        time=time,
        low=low,
        high=high,
        memory=_over(a, b, "memory", "peak"),
        energy=_over(a, b, "energy", "joules"),
        estimate=any(bool(mapping(r.values, "energy").get("estimate")) for r in (a, b)),
    )


def _runs(row: Row) -> list[float]:
    values = mapping(row.values, "stages", "whole").get("values")
    values = values if isinstance(values, list) else []
    times = [number({"x": value}, "x") for value in values]
    found = [time for time in times if time and time > 0]
    median = number(row.values, "stages", "whole", "p50")
    return found or ([median] if median and median > 0 else [])


def _over(a: Row, b: Row, *path: str) -> float | None:
    below, above = number(a.values, *path), number(b.values, *path)
    return above / below if above is not None and below else None


def _interval(row: Row, wer: float) -> tuple[float, float]:
    low, high = number(row.values, "wer_low"), number(row.values, "wer_high")
    return wer if low is None else low, wer if high is None else high


def _status(row: Row) -> str:
    return row.status if row.status == "ok" else f"{row.status} ({row.why})"


def _warnings(a: Report, b: Report) -> list[str]:
    found = []
    for title, keys in (
        ("machines", ("processor", "processors", "memory", "governor", "turbo_off", "gpu")),
        ("libraries", ("libraries", "python")),
    ):
        ours, theirs = _machines(a, keys), _machines(b, keys)
        if ours != theirs:
            differing = [k for k in keys if _machines(a, (k,)) != _machines(b, (k,))]
            found.append(f"the {title} differ in {', '.join(differing)}")
    threads = [sorted({r.case.threads for r in report.rows}) for report in (a, b)]
    if threads[0] != threads[1]:
        before, after = (", ".join(map(str, x)) for x in threads)
        found.append(f"threads differ: {before} and {after}; cases match only where they agree")
    ours_, theirs_ = _digests(a), _digests(b)
    for name in ours_.keys() & theirs_.keys():
        if ours_[name] != theirs_[name]:
            found.append(f"{name} is not the same model in both: its digests differ")
    return found


def _machines(report: Report, keys: Iterable[str]) -> set[str]:
    used = {row.environment for row in report.rows}
    machines: Mapping[str, Any] = report.record["environments"]
    return {str([mapping(machines, key).get(k) for k in keys]) for key in used}


def _digests(report: Report) -> dict[str, Any]:
    return {name: report.about(model).get("digest") for model, name in report.names.items()}
