"""Selects the best of the measured setups, and computes the Pareto front.

Setups are compared in the case that most of them were measured in (`reference`); throughput and
energy are compared in the best case of each setup.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tynda.profiling.case import Row
from tynda.profiling.report.read import Setup, mapping, number

__all__ = [
    *(
        "EDGES",
        "USABLE",
        "WORSE",
        "Candidate",
        "Choice",
        "Scenario",
        "balance",
        "candidates",
        "choose",
        "edges",
    ),
    *("pareto", "reference", "usable"),
]

Scenario = Literal["throughput", "quality", "balance", "edge", "energy"]
EDGES = (64e6, 128e6, 256e6, 512e6, 1e9, 2e9, 4e9, 8e9)
"""Common sizes of device memory in bytes: 64 MB to 8 GB."""
WORSE = 2.0
USABLE = 0.5
"""The highest WER of a recommended setup: with more, few sentences can be understood."""


@dataclass(frozen=True)
class Candidate:
    """A setup with its values in one case; None means not measured."""

    setup: Setup
    seconds: float
    """Seconds of audio in a recording."""
    batch: int
    throughput: float
    """Seconds of audio in a second."""
    low: float
    """Lower bound of the 95 % interval of throughput."""
    high: float
    memory: float | None
    """Peak bytes, including those of a GPU."""
    energy: float | None
    """Joules for a second of audio."""
    estimate: bool
    """Whether the energy is an estimate."""
    bytes: float | None
    """Size of the model's files."""
    wer: float | None = None
    wer_low: float | None = None
    wer_high: float | None = None
    words: float = 0.0
    """Number of reference words."""
    noisy: str = ""
    """The reason why the values cannot be trusted, or an empty string."""


@dataclass(frozen=True)
class Choice:
    """The best setup for a scenario."""

    scenario: Scenario
    winner: Candidate | None
    """The best setup, or None if no measured setup qualifies."""
    second: Candidate | None = None
    """The best of the other setups."""
    tied: tuple[Candidate, ...] = ()
    """The setups whose intervals overlap with the winner's, fastest first."""
    limit: float | None = None
    """The memory in bytes of an edge device."""


def candidates(rows: Iterable[Row]) -> list[Candidate]:
    """Return every case in which speed was measured, with the WER of its setup on `speech`."""
    rows = list(rows)
    common = speech(rows)
    words = {_words_key(Setup.of(r.case)): r for r in _scored(rows) if r.case.manifest == common}
    found = []
    for row in rows:
        values, case = row.values, row.case
        times = mapping(values, "stages", "whole")
        p50 = number(times, "p50")
        if case.work != "speed" or row.status != "ok" or not p50:
            continue
        sound, setup = case.seconds * case.batch, Setup.of(case)
        low, high = number(times, "low") or p50, number(times, "high") or p50
        scored = words.get(_words_key(setup))
        said = scored.values if scored else {}
        wer = number(said, "wer")
        found.append(
            Candidate(
                setup,
                case.seconds,
                case.batch,
                throughput=sound / p50,
                low=sound / high,
                high=sound / low,
                memory=_memory(values),
                energy=number(values, "energy", "joules_per_second"),
                estimate=bool(mapping(values, "energy").get("estimate")),
                bytes=number(values, "bytes"),
                wer=wer,
                wer_low=_or(number(said, "wer_low"), wer),
                wer_high=_or(number(said, "wer_high"), wer),
                words=number(said, "words") or 0.0,
                noisy=row.noise,
            )
        )
    return found


def reference(found: Sequence[Candidate]) -> tuple[float, int] | None:
    """Return the case (seconds and batch) that most setups were measured in; ties are broken by
    the smallest batch, then by the duration nearest to 30 s."""
    counts = Counter((c.seconds, c.batch) for c in found)
    return min(counts, key=lambda k: (-counts[k], k[1], abs(k[0] - 30), k[0]), default=None)


def at_reference(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates of the `reference` case, at most one for each setup."""
    case = reference(found)
    return [c for c in found if (c.seconds, c.batch) == case]


def usable(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that may be recommended: those with a WER of at most `USABLE`, or all
    where no WER was measured."""
    if all(c.wer is None for c in found):
        return list(found)
    return [c for c in found if c.wer is not None and c.wer <= USABLE]


def pareto(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point dominates; lower is better. All of
    several equal points are included."""

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)

    return [i for i, b in enumerate(points) if not any(beats(a, b) for a in points)]


def balance(found: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    """Return the candidates with a WER, most balanced first, each with the maximum ratio of its
    WER, time and size to the best of each (minimax; Yu 1973). Candidates with more than `WORSE`
    times the lowest WER are left out, since nothing compensates for that. A WER counts as at
    least that of half a wrong word."""
    having = [(c, _costs(c)) for c in found if c.wer is not None and c.bytes]
    if not having:
        return []
    lowest = min(costs[0] for _, costs in having)
    having = [(c, costs) for c, costs in having if costs[0] <= WORSE * lowest]
    best = [min(costs[i] for _, costs in having) for i in range(3)]
    scored = []
    for candidate, costs in having:
        ratios = [x / y for x, y in zip(costs, best, strict=True)]
        scored.append((max(ratios), math.prod(ratios), candidate))
    scored.sort(key=lambda x: (x[0], x[1], x[2].setup))
    return [(worst, candidate) for worst, _, candidate in scored]


def choose(found: Sequence[Candidate], scenario: Scenario, limit: float | None = None) -> Choice:
    """Return the winner of a scenario:

    - ``throughput``: the maximum seconds of audio in a second;
    - ``quality``: the lowest WER, ties broken by speed;
    - ``balance``: see `balance`;
    - ``edge``: the lowest WER of the setups whose peak memory is at most ``limit`` bytes, or,
      where no WER was measured, the fastest;
    - ``energy``: the fewest joules for a second of audio.
    """
    if scenario == "throughput":
        return _choice(scenario, _best(found, _speed), _speed, _throughput_interval)
    if scenario == "energy":
        having = [c for c in found if c.energy is not None]
        return _choice(scenario, _best(having, _joules), _joules, None)
    here = at_reference(found)
    if scenario == "balance":
        ranked = [candidate for _, candidate in balance(here)]
        return _choice(scenario, ranked, None, None)
    if scenario == "edge":
        assert limit is not None
        here = [c for c in here if c.memory is not None and c.memory <= limit]
    scored = [c for c in here if c.wer is not None]
    if not scored and scenario == "edge":
        return _choice(scenario, _best(here, _speed), _speed, _throughput_interval, limit)
    return _choice(scenario, _best(scored, _errors), _errors, _wer_interval, limit)


def edges(found: Sequence[Candidate]) -> list[Choice]:
    """Return choices for common sizes of memory, those where more memory gives a better one."""
    chosen: list[Choice] = []
    for limit in EDGES:
        choice = choose(found, "edge", limit)
        if choice.winner and (not chosen or choice.winner != chosen[-1].winner):
            chosen.append(choice)
    return chosen


def _choice(
    scenario: Scenario,
    ranked: Sequence[Candidate],
    key: Callable[[Candidate], tuple[float, ...]] | None,
    interval: Callable[[Candidate], tuple[float, float]] | None,
    limit: float | None = None,
) -> Choice:
    if not ranked:
        return Choice(scenario, None, limit=limit)
    winner, *rest = ranked
    tied: list[Candidate] = []
    if interval:
        low, high = interval(winner)
        tied = [c for c in rest if interval(c)[0] <= high and interval(c)[1] >= low]
    elif key:
        tied = [c for c in rest if key(c)[0] == key(winner)[0]]
    tied.sort(key=_speed)
    return Choice(scenario, winner, rest[0] if rest else None, tuple(tied), limit)


def _best(
    found: Iterable[Candidate], key: Callable[[Candidate], tuple[float, ...]]
) -> list[Candidate]:
    """Return the best case of each setup, the best setup first."""
    best: dict[Setup, Candidate] = {}
    for candidate in sorted(found, key=lambda c: (key(c), c.setup)):
        best.setdefault(candidate.setup, candidate)
    return list(best.values())


def _speed(c: Candidate) -> tuple[float, ...]:
    return (-c.throughput,)


def _errors(c: Candidate) -> tuple[float, ...]:
    return (math.inf if c.wer is None else c.wer, -c.throughput)


def _joules(c: Candidate) -> tuple[float, ...]:
    return (math.inf if c.energy is None else c.energy,)


def _throughput_interval(c: Candidate) -> tuple[float, float]:
    return c.low, c.high


def _wer_interval(c: Candidate) -> tuple[float, float]:
    return c.wer_low or 0.0, c.wer_high or 0.0


def _costs(c: Candidate) -> tuple[float, float, float]:
    return max(c.wer or 0.0, 0.5 / max(c.words, 1.0)), 1 / c.throughput, c.bytes or 0.0


def speech(rows: Iterable[Row]) -> str | None:
    """Return the manifest that most setups were scored on: other WERs are not comparable."""
    counts = Counter(row.case.manifest for row in _scored(rows))
    return max(counts, key=lambda name: counts[name]) if counts else None


def _scored(rows: Iterable[Row]) -> list[Row]:
    rows = [row for row in rows if row.case.work == "words" and row.status == "ok"]
    return [row for row in rows if number(row.values, "wer") is not None]


def _words_key(setup: Setup) -> tuple[str, str, str, str]:
    return setup.model, setup.engine, setup.bits, setup.device


def _memory(values: object) -> float | None:
    peak = number(values, "memory", "peak")
    return None if peak is None else peak + (number(values, "memory", "gpu") or 0.0)


def _or(value: float | None, other: float | None) -> float | None:
    return other if value is None else value
