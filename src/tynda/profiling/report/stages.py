"""Figures of the time of each stage of a run, and of predicted memory."""

from __future__ import annotations

from collections.abc import Sequence

from tynda.profiling.case import Row
from tynda.profiling.report.drawing import (
    Drawing,
    Figure,
    canvas,
    decades,
    legend,
    point,
    row_names,
    rows_size,
)
from tynda.profiling.report.names import Names, most_common, order, places, slug
from tynda.profiling.report.read import Report, Setup, number
from tynda.profiling.report.style import HUES, MUTED, Palette, plain

__all__ = ["memory", "stages"]

MB = 1e6


def stages(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw, for each model, the share of each stage, and the time to the first word."""
    found = []
    for model, device in places(report.of("speed")):
        rows = [r for r in report.of("speed") if (r.case.model, r.case.device) == (model, device)]
        batch = most_common(r.case.batch for r in rows)
        seconds = most_common((r.case.seconds for r in rows if r.case.batch == batch), near=30.0)
        rows = [r for r in rows if (r.case.seconds, r.case.batch) == (seconds, batch)]
        rows = [r for r in rows if number(r.values, "stages", "whole", "p50")]
        if not rows:
            continue
        rows.sort(key=lambda r: -(number(r.values, "stages", "whole", "p50") or 0))
        label = report.names[model] + (f" on {device}" if device != "cpu" else "")
        case = f"{seconds:g} s × {batch}"
        for draw, key, title in (
            (_shares, "shares", f"{label}: stages ({case})"),
            (_first, "first", f"{label}: whole and first word ({case})"),
        ):
            name = slug("stages", order(report, model), label, key)
            with canvas(name, title, model, rows_size(rows)) as drawing:
                draw(drawing, rows, names, palette)
            found += [drawing.done] if drawing.done else []
    return found


def _shares(drawing: Drawing, rows: Sequence[Row], names: Names, palette: Palette) -> None:
    axes = drawing.axes
    kinds = ("frontend", "encoder", "decoder", "rest")
    for at, row in enumerate(rows):
        whole = number(row.values, "stages", "whole", "p50") or 1.0
        parts = [number(row.values, "stages", kind, "p50") or 0.0 for kind in kinds[:3]]
        scale = max(whole, sum(parts))
        left = 0.0
        for i, part in enumerate([*parts, scale - sum(parts)]):
            (bar,) = axes.barh(at, part / scale, left=left, color=HUES[i][0], height=0.7)
            tip = f"{names.way(Setup.of(row.case))}: {kinds[i]} {plain(1e3 * part)} ms"
            drawing.mark(bar, tip, row.case.engine, row.case.bits)
            left += part / scale
        axes.text(1.02, at, f"{plain(1e3 * whole)} ms", va="center", fontsize=8.5)
    row_names(axes, [(Setup.of(r.case), bool(r.noise)) for r in rows], names, palette)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.set_xlabel("share of the time, %")
    legend(axes, [("front end", 0), ("encoder", 1), ("decoder", 2), ("rest", 3)])


def _first(drawing: Drawing, rows: Sequence[Row], names: Names, palette: Palette) -> None:
    axes = drawing.axes
    values = []
    axes.set_xscale("log")
    for at, row in enumerate(rows):
        setup = Setup.of(row.case)
        colour = palette[setup.engine]
        whole = number(row.values, "stages", "whole", "p50") or 0.0
        first = number(row.values, "stages", "first", "p50")
        low, high = (number(row.values, "stages", "whole", end) or whole for end in ("low", "high"))
        values.append(whole)
        if first:
            values.append(first)
            axes.plot([first, whole], [at, at], color=colour, lw=0.8, alpha=0.5)
            tip = f"{names.way(setup)}: first word after {plain(1e3 * first)} ms"
            (dot,) = axes.plot(first, at, marker="|", ms=9, mew=2, color=colour, ls="")
            drawing.mark(dot, tip, setup.engine, setup.bits)
        axes.plot([low, high], [at, at], color=colour, lw=3, alpha=0.4)
        tip = f"{names.way(setup)}: {plain(1e3 * whole)} ms"
        point(drawing, setup, whole, at, colour, bool(row.noise), tip)
    row_names(axes, [(Setup.of(r.case), bool(r.noise)) for r in rows], names, palette)
    decades(axes.xaxis, min(values), max(values))
    axes.set_xlabel("time, s (bar: first word; marker: whole)")
    axes.grid(axis="x")


def memory(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw predicted against measured peak memory of all models."""
    rows = [
        r
        for r in report.of("speed")
        if number(r.values, "memory", "predicted") and number(r.values, "memory", "peak")
    ]
    if not rows:
        return []
    with canvas("memory-predicted", "Peak memory: predicted and measured", None, (3.9, 3.4)) as d:
        axes = d.axes
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = []
        for row in rows:
            setup = Setup.of(row.case)
            predicted = (number(row.values, "memory", "predicted") or 0) / MB
            peak = (number(row.values, "memory", "peak") or 0) / MB
            values += [predicted, peak]
            tip = (
                f"{names.full(setup)}, {row.case.seconds:g} s × {row.case.batch}: "
                f"{plain(predicted)} MB predicted, {plain(peak)} MB measured"
            )
            point(d, setup, predicted, peak, palette[setup.engine], bool(row.noise), tip)
        ends = [min(values) * 0.9, max(values) * 1.1]
        axes.plot(ends, ends, color=MUTED, lw=0.8)
        axes.text(ends[1], ends[1], " as predicted", color=MUTED, fontsize=8.5, va="center")
        decades(axes.xaxis, *ends)
        decades(axes.yaxis, *ends)
        axes.set_xlabel("predicted, MB")
        axes.set_ylabel("measured, MB")
        axes.grid()
    return [d.done] if d.done else []
