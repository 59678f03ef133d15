"""Figures of time, energy and memory by duration and by batch, and of GPU against CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tynda.profiling.case import Case, Row
from tynda.profiling.report.drawing import (
    Drawing,
    Figure,
    canvas,
    decades,
    point,
    spread_labels,
    ticks,
)
from tynda.profiling.report.names import Names, energy_word, most_common, order, places, slug
from tynda.profiling.report.read import Report, Setup, number
from tynda.profiling.report.style import MUTED, Palette, bits_order, line_style, plain

__all__ = ["devices", "scaling"]

MB = 1e6


@dataclass(frozen=True)
class _Measure:
    key: str
    title: str
    unit: str
    value: Callable[[Row], float | None]


def scaling(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw time, energy and memory of a recording by its duration, and by the batch."""
    found = []
    for model, device in places(report.of("speed")):
        rows = [r for r in report.of("speed") if (r.case.model, r.case.device) == (model, device)]
        batch = most_common(r.case.batch for r in rows)
        by_duration = [r for r in rows if r.case.batch == batch]
        seconds = most_common((r.case.seconds for r in rows if r.case.batch > 1), near=30.0)
        by_batch = [r for r in rows if r.case.seconds == seconds]
        label = report.names[model] + (f" on {device}" if device != "cpu" else "")
        for way, there, unit in (
            ("duration", by_duration, f"duration, s (batch {batch})"),
            ("batch", by_batch, f"batch (of {seconds:g} s)" if seconds else ""),
        ):
            if len({_x(way, r) for r in there}) < 2:
                continue
            for measure in _measures(there):
                name = slug("scaling", order(report, model), label, way, measure.key)
                title = f"{label}: {measure.title}"
                figure = _lines(name, title, model, unit, way, measure, there, names, palette)
                found += [figure] if figure else []
    return found


def _measures(rows: Sequence[Row]) -> list[_Measure]:
    word = energy_word(rows)

    def time(row: Row) -> float | None:
        return _ratio(number(row.values, "stages", "whole", "p50"), row.case.batch)

    def peak(row: Row) -> float | None:
        return _ratio(number(row.values, "memory", "peak"), MB)

    return [
        _Measure("time", "time", "time, s per recording", time),
        _Measure(
            *("energy", f"energy{word}", f"energy{word}, J per recording"),
            lambda row: number(row.values, "energy", "joules"),
        ),
        _Measure("memory", "memory", "peak memory, MB", peak),
    ]


def _lines(
    name: str,
    title: str,
    model: str,
    unit: str,
    way: str,
    measure: _Measure,
    rows: Sequence[Row],
    names: Names,
    palette: Palette,
) -> Figure | None:
    series: dict[Setup, list[tuple[float, float, Row]]] = {}
    for row in rows:
        value = measure.value(row)
        if value is not None and value > 0:
            series.setdefault(Setup.of(row.case), []).append((_x(way, row), value, row))
    if not series:
        return None
    with canvas(name, title, model, (3.5, max(2.7, 0.7 + 0.17 * len(series)))) as drawing:
        axes, labels = drawing.axes, []
        axes.set_xscale("log")
        axes.set_yscale("log")
        for setup in sorted(series, key=lambda s: (s.engine, bits_order(s.bits))):
            points = sorted(series[setup], key=lambda p: p[0])
            colour = palette[setup.engine]
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            (line,) = axes.plot(xs, ys, color=colour, lw=1.4, ls=line_style(setup.bits))
            drawing.mark(line, names.way(setup), setup.engine, setup.bits)
            for x, y, row in points:
                tip = f"{names.way(setup)}: {plain(y)}"
                point(drawing, setup, x, y, colour, bool(row.noise), tip)
            labels.append((xs[-1], ys[-1], names.way(setup, device=False), colour))
        every = sorted({x for points in series.values() for x, _, _ in points})
        values = [y for points in series.values() for _, y, _ in points]
        ticks(axes, every)
        decades(axes.yaxis, min(values), max(values))
        noisy = any(row.noise for points in series.values() for _, _, row in points)
        axes.set_xlabel(unit + "; hollow: noisy" * noisy)
        axes.set_ylabel(measure.unit)
        axes.grid(axis="y")
        spread_labels(axes, labels)
    return drawing.done


def devices(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw the speed-up of each engine on a GPU, by duration and by batch, for each model."""
    rows = [r for r in report.of("speed") if number(r.values, "stages", "whole", "p50")]
    found = []
    for model in report.models:
        cpu = {_but_device(r.case): r for r in rows if r.case.device == "cpu"}
        pairs = [
            (cpu[_but_device(r.case)], r)
            for r in rows
            if (r.case.model, r.case.device) == (model, "cuda") and _but_device(r.case) in cpu
        ]
        batch = most_common(r.case.batch for _, r in pairs)
        seconds = most_common((r.case.seconds for _, r in pairs), near=30.0)
        by_duration = [pair for pair in pairs if pair[1].case.batch == batch]
        by_batch = [pair for pair in pairs if pair[1].case.seconds == seconds]
        for way, there, unit in (
            ("duration", by_duration, f"duration, s (batch {batch})"),
            ("batch", by_batch, f"batch (of {seconds:g} s)" if pairs else ""),
        ):
            if not there or (way == "batch" and len({r.case.batch for _, r in there}) < 2):
                continue
            label = report.names[model]
            name = slug("devices", order(report, model), label, way)
            with canvas(name, f"{label}: GPU against CPU", model) as drawing:
                _ratios(drawing, way, there, names, palette)
                drawing.axes.set_xlabel(unit)
            found += [drawing.done] if drawing.done else []
    return found


def _ratios(
    drawing: Drawing, way: str, pairs: Sequence[tuple[Row, Row]], names: Names, palette: Palette
) -> None:
    axes, labels = drawing.axes, []
    axes.set_xscale("log")
    axes.set_yscale("log")
    series: dict[Setup, list[tuple[float, float, bool]]] = {}
    for cpu, gpu in pairs:
        times = [number(r.values, "stages", "whole", "p50") or 1.0 for r in (cpu, gpu)]
        noisy = bool(cpu.noise or gpu.noise)
        series.setdefault(Setup.of(gpu.case), []).append((_x(way, gpu), times[0] / times[1], noisy))
    for setup, points in series.items():
        points.sort()
        colour = palette[setup.engine]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        axes.plot(xs, ys, color=colour, lw=1.4, ls=line_style(setup.bits))
        for x, y, noisy in points:
            tip = f"{names.way(setup)}: {plain(y)} times as fast"
            point(drawing, setup, x, y, colour, noisy, tip)
        labels.append((xs[-1], ys[-1], names.way(setup, device=False), colour))
    values = [y for points in series.values() for _, y, _ in points]
    if min(values) <= 1.5:
        axes.axhline(1, color=MUTED, lw=0.8)
        values.append(1.0)
    ticks(axes, sorted({x for points in series.values() for x, _, _ in points}))
    decades(axes.yaxis, min(values), max(values))
    axes.set_ylabel("CPU's time / GPU's time")
    axes.grid(axis="y")
    spread_labels(axes, labels)


def _but_device(case: Case) -> tuple[object, ...]:
    return case.model, case.engine, case.bits, case.seconds, case.batch, case.threads, case.tokens


def _x(way: str, row: Row) -> float:
    return row.case.seconds if way == "duration" else float(row.case.batch)


def _ratio(value: float | None, by: float) -> float | None:
    return None if value is None else value / by
