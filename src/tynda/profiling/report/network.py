"""Figures of a model's internals: roofline, operations, the decoder's cache.

Rows of work ``operations`` have ``limits`` (``flops_32``, ``ops_8``, ``bandwidth``: the machine's
maximum per second), ``parts`` (of the model -> items) and ``layers`` (items with a ``layer``); an
item is one kind of operation with its ``flops``, ``bits``, bytes and ``seconds``. Rows of
``cache`` have ``positions``, ``with_cache`` and ``without_cache`` (seconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tynda.profiling.case import Row
from tynda.profiling.report.drawing import Figure, canvas, decades, legend, spread_labels
from tynda.profiling.report.names import Names, order, slug
from tynda.profiling.report.read import Report, Setup, mapping, number
from tynda.profiling.report.style import (
    BACK,
    HUES,
    INK,
    MUTED,
    Palette,
    bits_order,
    line_style,
    marker,
    plain,
)

__all__ = ["Item", "cache", "items", "roofline", "shares"]

SHOWN = 8
"""Number of operations with a colour of their own; the others are combined."""
_DOTS = {"encoder": "o", "decoder": "D"}


def _reached(ratio: float) -> str:
    """Describe a speed relative to its roof, that of memory or of products: operations on cached
    data, and those that are not products, may exceed it."""
    return f"{ratio:.0%} of its roof" if ratio <= 1 else f"{plain(ratio, 2)} times its roof: cached"


@dataclass(frozen=True)
class Item:
    """One kind of operation in a part of a model, summed up over a run."""

    part: str
    operation: str
    flops: float
    bytes: float
    """Bytes of weights, inputs and outputs."""
    bits: str
    """Precision of the arithmetic: ``32`` or ``8``."""
    seconds: float | None
    """The time of all calls, or None if it was not measured."""
    calls: float
    layer: str = ""

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity in operations per byte."""
        return self.flops / self.bytes if self.flops > 0 and self.bytes > 0 else None


def items(row: Row, layers: bool = False) -> list[Item]:
    """Return the operations of a row, by layer or by part."""
    lists: list[tuple[str, Any]] = list(mapping(row.values, "parts").items())
    if layers:
        found = row.values.get("layers")
        pairs = found.items() if isinstance(found, dict) else [("", found)]
        lists = [(part, values) for part, values in pairs]
    return [
        _item(part, item)
        for part, values in lists
        if isinstance(values, list)
        for item in values
        if isinstance(item, dict) and "operation" in item
    ]


def roofline(report: Report, names: Names) -> list[Figure]:
    """Draw the speed of each operation, and the maximum that the machine's arithmetic and memory
    allow (Williams, Waterman and Patterson 2009). Hollow marks were not measured and are at their
    maximum."""
    found = []
    for row in _rows(report, "operations"):
        setup = Setup.of(row.case)
        limits = mapping(row.values, "limits")
        bandwidth = number(limits, "bandwidth")
        tops: dict[str, float | None] = {
            "32": number(limits, "flops_32"),
            "8": number(limits, "ops_8"),
        }
        points = [i for i in items(row) if i.intensity and (i.bits == "8" or tops["32"])]
        if not bandwidth or not tops["32"] or not points:
            continue
        title = f"{names.full(setup)}: roofline"
        name = slug("roofline", order(report, setup.model), title, _case(row))
        with canvas(name, title, setup.model, (3.5, 3.0)) as drawing:
            axes, labels = drawing.axes, []
            axes.set_xscale("log")
            axes.set_yscale("log")
            reached = []
            spent = sum(i.seconds or 0 for i in points)
            for item in points:
                intensity = item.intensity or 1.0
                top = tops["8" if item.bits == "8" and tops["8"] else "32"] or 1.0
                bound = min(top, intensity * bandwidth)
                speed = item.flops / item.seconds if item.seconds else bound
                share = (item.seconds or 0) / spent if spent else 0.0
                colour = HUES[2][0] if item.bits == "8" else MUTED
                (dot,) = axes.plot(
                    *([intensity], [speed / 1e9]),
                    marker=_DOTS.get(item.part, "s"),
                    ms=4 + 10 * share**0.5,
                    ls="",
                    color=colour,
                    alpha=0.9,
                    markerfacecolor=colour if item.seconds else BACK,
                )
                tip = f"{item.part} {item.operation} ({item.bits} bits): "
                if not item.seconds:
                    tip += f"not measured, at {plain(intensity)} a byte"
                else:
                    tip += f"{plain(speed / 1e9)} G/s at {plain(intensity)} a byte, "
                    tip += _reached(speed / bound) + f", {share:.0%} of the time"
                drawing.mark(dot, tip)
                reached.append((intensity, speed / 1e9, share, f"{item.operation} ({item.part})"))
            low = min(x for x, *_ in reached) / 1.6
            high = max(*(x for x, *_ in reached), 2 * (tops["8"] or tops["32"]) / bandwidth)
            for bits, colour in (("32", MUTED), ("8", HUES[2][0])):
                if roof := tops[bits]:
                    knee = roof / bandwidth
                    axes.plot(
                        *(
                            [min(low, knee), knee, high],
                            [min(low, knee) * bandwidth / 1e9] + [roof / 1e9] * 2,
                        ),
                        color=colour,
                        lw=1.2,
                        zorder=1,
                    )
                    axes.text(
                        high, roof / 1e9, f"{bits} bits", ha="right", va="bottom", fontsize=8.5
                    )
            reached.sort(key=lambda p: -p[2])
            labels = [(x, y, text, INK) for x, y, _, text in reached[:6]]
            ys = [y for _, y, _, _ in reached]
            decades(axes.xaxis, low, high)
            decades(
                axes.yaxis, min(*ys, low * bandwidth / 1e9), max(tops[b] or 0 for b in tops) / 1e9
            )
            axes.set_xlabel("intensity, operations per byte")
            axes.set_ylabel("speed, G operations/s")
            axes.grid()
            spread_labels(axes, labels)
        found += [drawing.done] if drawing.done else []
    return found


def shares(report: Report, names: Names) -> list[Figure]:
    """Draw the share of time of each operation: a bar for each part of each setup of a model."""
    found = []
    for model in report.models:
        bars: list[tuple[str, dict[str, float]]] = []
        for row in _rows(report, "operations"):
            if row.case.model != model:
                continue
            by_part: dict[str, dict[str, float]] = {}
            for item in items(row):
                if item.seconds:
                    there = by_part.setdefault(item.part, {})
                    there[item.operation] = there.get(item.operation, 0.0) + item.seconds
            way = names.way(Setup.of(row.case))
            bars += [(f"{way}: {part}", there) for part, there in by_part.items()]
        if not bars:
            continue
        total: dict[str, float] = {}
        for _, there in bars:
            for operation, seconds in there.items():
                total[operation] = total.get(operation, 0.0) + seconds / sum(there.values())
        ranked = sorted(total, key=lambda o: -total[o])[:SHOWN]
        title = f"{report.names[model]}: operations"
        size = (3.0, max(1.1, 0.6 + 0.24 * len(bars)))
        name = slug("operations", order(report, model), title)
        with canvas(name, title, model, size) as drawing:
            axes = drawing.axes
            for at, (label, there) in enumerate(reversed(bars)):
                whole, left = sum(there.values()), 0.0
                parts = [(o, there.get(o, 0.0)) for o in ranked]
                parts.append(("others", whole - sum(s for _, s in parts)))
                for i, (operation, seconds) in enumerate(parts):
                    (bar,) = axes.barh(at, seconds / whole, left=left, color=HUES[i][0], height=0.7)
                    tip = f"{label}, {operation}: {seconds / whole:.0%}, {plain(1e3 * seconds)} ms"
                    drawing.mark(bar, tip)
                    if seconds / whole > 0.13:
                        middle = left + seconds / whole / 2
                        text = f"{seconds / whole:.0%}"
                        axes.text(middle, at, text, ha="center", va="center", fontsize=8)
                    left += seconds / whole
                axes.text(1.02, at, f"{plain(1e3 * whole)} ms", va="center", fontsize=8.5)
            axes.set_yticks(range(len(bars)), [label for label, _ in reversed(bars)])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
            axes.set_xlabel("share of the time, %")
            kinds = [(o, i) for i, o in enumerate([*ranked, "others"])]
            legend(axes, kinds, 3)
        found += [drawing.done] if drawing.done else []
    return found


def cache(report: Report, names: Names, palette: Palette) -> list[Figure]:
    """Draw the time of a token by its position, with and without the KV cache."""
    found = []
    for model in report.models:
        series = []
        for row in _rows(report, "cache"):
            values = row.values
            if row.case.model != model:
                continue
            for key, kind in (("with_cache", "with cache"), ("without_cache", "without")):
                pairs = _pairs(values.get("positions"), values.get(key))
                if pairs:
                    series.append((Setup.of(row.case), kind, pairs))
        if not series:
            continue
        title = f"{report.names[model]}: time of a token"
        size = (3.5, max(2.7, 0.7 + 0.17 * len(series)))
        name = slug("cache", order(report, model), title)
        with canvas(name, title, model, size) as drawing:
            axes, labels = drawing.axes, []
            axes.set_yscale("log")
            for setup, kind, pairs in series:
                xs, ys = zip(*pairs, strict=True)
                colour = palette[setup.engine]
                (line,) = axes.plot(
                    *(xs, [1e3 * y for y in ys]),
                    color=colour,
                    lw=1.6 if kind == "with cache" else 0.9,
                    ls=line_style(setup.bits),
                    marker=marker(setup.bits),
                    ms=4,
                    markerfacecolor=colour if kind == "with cache" else BACK,
                )
                drawing.mark(line, f"{names.way(setup)} {kind}", setup.engine, setup.bits)
                labels.append((xs[-1], 1e3 * ys[-1], f"{names.way(setup)}, {kind}", colour))
            every = [1e3 * y for _, _, pairs in series for _, y in pairs]
            decades(axes.yaxis, min(every), max(every))
            axes.set_xlabel("position of the token")
            axes.set_ylabel("time of the token, ms")
            axes.grid(axis="y")
            spread_labels(axes, labels)
        found += [drawing.done] if drawing.done else []
    return found


def _rows(report: Report, work: str) -> list[Row]:
    return sorted(report.of(work), key=lambda r: (r.case.engine, bits_order(r.case.bits)))


def _item(part: str, values: dict[str, Any]) -> Item:
    sizes = [number(values, f"{name}_bytes") or 0.0 for name in ("weight", "input", "output")]
    return Item(
        part,
        str(values["operation"]),
        number(values, "flops") or 0.0,
        sum(sizes),
        str(values.get("bits", "32")),
        number(values, "seconds"),
        number(values, "calls") or 0.0,
        str(values.get("layer", "")),
    )


def _pairs(positions: Any, seconds: Any) -> list[tuple[float, float]]:
    if not isinstance(positions, list) or not isinstance(seconds, list):
        return []
    pairs = [
        (number({"x": x}, "x"), number({"y": y}, "y"))
        for x, y in zip(positions, seconds, strict=False)
    ]
    return [(x, y) for x, y in pairs if x is not None and y is not None and y > 0]


def _case(row: Row) -> str:
    return f"{row.case.seconds:g}s-{row.case.batch}"
