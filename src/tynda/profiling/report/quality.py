"""Figures of error rates: WER by speed and by size, with the Pareto front, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tynda.profiling.report.choose import Candidate, pareto
from tynda.profiling.report.drawing import (
    Figure,
    canvas,
    decades,
    point,
    row_names,
    rows_size,
    spread_labels,
)
from tynda.profiling.report.names import Names, order, slug
from tynda.profiling.report.read import Report, Setup, number
from tynda.profiling.report.style import BACK, MUTED, Palette, marker, plain

__all__ = ["front", "words"]

MB = 1e6


def front(
    found: Sequence[Candidate], names: Names, palette: Palette, model: str | None = None
) -> list[Figure]:
    """Draw WER by speed and by size; filled marks are on the Pareto front of all three."""
    having = [c for c in found if c.wer is not None and c.bytes]
    if not having:
        return []
    points = [(c.wer or 0.0, -c.throughput, c.bytes or 0.0) for c in having]
    best = set(pareto(points))
    figures = []
    several = len({c.setup.model for c in having}) > 1
    sizes = [c.bytes or 0.0 for c in having]
    ways: tuple[tuple[str, str, str, Callable[[Candidate], float]], ...] = (
        ("speed", "WER by speed", "speed, s of audio per s", lambda c: c.throughput),
        ("size", "WER by size", "size of the model, MB", lambda c: (c.bytes or 0) / MB),
    )
    for key, title, unit, value in ways:
        where = "" if model is None else f"{names.models[model]}: "
        name = slug("front", "all" if model is None else names.models[model], key)
        xs = [value(c) for c in having]
        sign = -1 if key == "speed" else 1
        line = pareto([(c.wer or 0.0, sign * x) for c, x in zip(having, xs, strict=True)])
        tall = 0.7 + (0.3 * len(line) if several else 0.17 * len(best))
        with canvas(name, where + title, model, (3.7, max(3.2, tall))) as drawing:
            axes, labels = drawing.axes, []
            axes.set_xscale("log")
            for i, (x, c) in enumerate(zip(xs, having, strict=True)):
                colour, on = palette[c.setup.engine], i in best
                wer, low, high = c.wer or 0.0, c.wer_low or 0.0, c.wer_high or 0.0
                axes.plot([x, x], [low, high], color=colour, lw=0.8, alpha=0.35)
                area = 24.0 if key == "size" else 16 + 130 * (c.bytes or 0) / max(sizes)
                dot = axes.scatter(
                    *([x], [c.wer]),
                    s=area,
                    marker=marker(c.setup.bits),
                    facecolor=colour if on else BACK,
                    edgecolor=colour,
                    linewidth=1,
                    zorder=3 if on else 2,
                )
                tip = (
                    f"{names.full(c.setup)}: WER {wer:.3f} ({low:.3f} to "
                    f"{high:.3f}), {plain(c.throughput)} s of audio per s, "
                    f"{plain((c.bytes or 0) / MB)} MB"
                )
                drawing.mark(
                    dot,
                    tip + (f" (noisy: {c.noisy})" if c.noisy else ""),
                    c.setup.engine,
                    c.setup.bits,
                )
                if i in line if several else on:
                    label = names.way(c.setup)
                    label = f"{names.models[c.setup.model]}\n{label}" if several else label
                    labels.append((x, wer, label + (" ⚠" if c.noisy else ""), colour))
            steps = sorted((xs[i], having[i].wer or 0.0) for i in line)
            where_ = "pre" if key == "speed" else "post"
            axes.step(*zip(*steps, strict=True), where=where_, color=MUTED, lw=0.8, zorder=1)
            decades(axes.xaxis, min(xs), max(xs))
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
            axes.set_xlabel(unit)
            axes.set_ylabel("WER")
            axes.grid(axis="y")
            spread_labels(axes, labels, 0.29 if several else 0.155)
        figures += [drawing.done] if drawing.done else []
    return figures


def words(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw WER with its interval, one figure for each model."""
    found = []
    for model in report.models:
        rows = [r for r in report.of("words") if r.case.model == model]
        rows = [r for r in rows if number(r.values, "wer") is not None]
        if not rows:
            continue
        rows.sort(key=lambda r: -(number(r.values, "wer") or 0))
        label = report.names[model]
        name = slug("words", order(report, model), label)
        with canvas(name, f"{label}: WER, 95 % interval", model, rows_size(rows)) as drawing:
            axes = drawing.axes
            for at, row in enumerate(rows):
                setup = Setup.of(row.case)
                wer = number(row.values, "wer") or 0.0
                low, high = number(row.values, "wer_low"), number(row.values, "wer_high")
                colour = palette[setup.engine]
                axes.plot([low or wer, high or wer], [at, at], color=colour, lw=2, alpha=0.5)
                tip = f"{names.way(setup)}: {wer:.4f}"
                point(drawing, setup, wer, at, colour, False, tip)
            row_names(axes, [(Setup.of(r.case), bool(r.noise)) for r in rows], names, palette, True)
            axes.set_xlim(left=0)
            axes.set_xlabel("WER")
            axes.grid(axis="x")
        found += [drawing.done] if drawing.done else []
    return found
