"""Draws figures. Each is saved as PNG, and as SVG for the page.

The colours of the SVG are CSS variables, so that they follow the light or dark theme. Labels are
placed next to the data that they name.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tynda.profiling.report.names import Names
from tynda.profiling.report.read import Setup
from tynda.profiling.report.style import (
    BACK,
    GRID,
    HUES,
    INK,
    MUTED,
    PALETTE,
    Palette,
    marker,
    plain,
)

__all__ = [
    *("Drawing", "Figure", "canvas", "decades", "legend", "point", "row_names", "rows_size"),
    *("spread_labels", "ticks"),
]

_VARIABLES = {
    **{INK: "ink", MUTED: "muted", GRID: "grid", BACK: "back"},
    **{light: f"e{i}" for i, (light, _) in enumerate(PALETTE)},
    **{light: f"h{i}" for i, (light, _) in enumerate(HUES)},
}
_RC: Any = {
    **{"font.size": 9, "font.family": ["DejaVu Sans"], "text.parse_math": False},
    **{"axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9},
    **{"axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK},
    **{"xtick.color": MUTED, "ytick.color": MUTED, "axes.titlecolor": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6},
    **{"xtick.major.width": 0.6, "ytick.major.width": 0.6, "grid.color": GRID},
    **{"xtick.minor.size": 0, "ytick.minor.size": 0, "grid.linewidth": 0.6},
    **{"svg.fonttype": "none", "svg.hashsalt": "tynda", "figure.constrained_layout.use": False},
}


@dataclass(frozen=True)
class Mark:
    """The tooltip of a part of a figure on the page."""

    tip: str
    engine: str = ""
    bits: str = ""


@dataclass(frozen=True)
class Figure:
    """A finished figure."""

    name: str
    """The name of the figure's file."""
    alt: str
    svg: str
    png: bytes
    model: str | None = None
    """The model that the figure shows; None means all models."""


@dataclass
class Drawing:
    """A figure that is being drawn; ``axes`` are those of matplotlib."""

    name: str
    title: str
    model: str | None
    figure: Any
    axes: Any
    marks: dict[str, Mark] = field(default_factory=dict)
    done: Figure | None = None

    def mark(self, artist: Any, tip: str, engine: str = "", bits: str = "") -> None:
        """Show the tooltip ``tip`` for ``artist``."""
        gid = f"mark{len(self.marks)}"
        artist.set_gid(gid)
        self.marks[gid] = Mark(tip, engine, bits)


@contextmanager
def canvas(
    name: str, title: str, model: str | None = None, size: tuple[float, float] = (3.6, 2.9)
) -> Iterator[Drawing]:
    """Draw a figure: ``with canvas(...) as d: d.axes.plot(...)``; then it is in ``d.done``.

    ``size`` is in inches of 96 pixels on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_RC):
        figure = Canvas(figsize=size)
        axes = figure.add_subplot()
        drawing = Drawing(name, title, model, figure, axes)
        axes.set_title(title, x=0, pad=10)
        axes.set_axisbelow(True)
        yield drawing
        svg, png = io.StringIO(), io.BytesIO()
        # The box is computed once: "tight" would draw the figure again for each file.
        box = figure.get_tightbbox().padded(0.08)
        how: Any = {"bbox_inches": box}
        figure.savefig(png, format="png", dpi=200, facecolor="white", **how)
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(svg, format="svg", transparent=True, metadata=empty, **how)
    text = _inline(svg.getvalue(), title, drawing.marks, name)
    drawing.done = Figure(name, title, text, png.getvalue(), model)


def decades(axis: Any, low: float, high: float) -> None:
    """Set a log scale with plain numbers as tick labels: 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ratio = high / low if low > 0 else 1e9
    subs: tuple[float, ...] = (1,)
    crowded = 300 if axis.axis_name == "x" else 3000
    for limit, finer in ((crowded, (1, 3)), (60, (1, 2, 5)), (4, (1, 1.5, 2, 3, 4, 5, 6, 8))):
        subs = finer if ratio < limit else subs
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda x, _: plain(x)))
    axis.set_minor_formatter(NullFormatter())


def spread_labels(
    axes: Any, labels: Sequence[tuple[float, float, str, str]], gap: float = 0.155
) -> None:
    """Write labels to the right of the axes, each with a line to its point.

    ``labels`` are ``(x, y, text, colour)``. The labels are ``gap`` inches apart or more, in the
    order of their points.
    """
    if not labels:
        return
    axes.autoscale_view()  # the scales must include the line drawn last
    to_axes = axes.transData + axes.transAxes.inverted()
    points = sorted(
        ((*to_axes.transform((x, y)), t, c) for x, y, t, c in labels), key=lambda p: p[1]
    )
    height = axes.get_window_extent().height / axes.figure.dpi
    step = gap / height
    places = _apart([float(p[1]) for p in points], step)
    for (x, y, text, colour), at in zip(points, places, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.06, at),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
            },
        )


def point(
    drawing: Drawing, setup: Setup, x: float, y: float, colour: str, noisy: bool, tip: str
) -> None:
    """Draw a measured point, filled unless it is noisy."""
    (dot,) = drawing.axes.plot(
        *([x], [y]),
        marker=marker(setup.bits),
        ms=5,
        ls="",
        color=colour,
        markerfacecolor=BACK if noisy else colour,
    )
    drawing.mark(dot, tip + (" (noisy)" if noisy else ""), setup.engine, setup.bits)


def ticks(axes: Any, values: Sequence[float]) -> None:
    """Set ticks of the x axis at the measured values only."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xticks(values, [f"{v:g}" for v in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def row_names(
    axes: Any,
    rows: Sequence[tuple[Setup, bool]],
    names: Names,
    palette: Palette,
    device: bool = False,
) -> None:
    """Label the rows of a figure with setups, from bottom to top, and mark noisy ones."""
    axes.set_yticks(range(len(rows)), [names.way(s, device) + " ⚠" * noisy for s, noisy in rows])
    for text, (setup, _) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color(palette[setup.engine])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.6, len(rows) - 0.4)


def legend(axes: Any, kinds: Sequence[tuple[str, int]], columns: int = 4) -> None:
    """Draw a legend for the colours of `HUES` between title and axes."""
    from matplotlib.patches import Patch

    axes.legend(
        handles=[Patch(facecolor=HUES[i][0], label=name) for name, i in kinds],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.0,
        borderpad=0.2,
        labelspacing=0.3,
    )
    lines = -(-len(kinds) // columns)
    axes.set_title(axes.get_title(loc="left"), x=0, pad=8 + 13 * lines)


def rows_size(rows: Sequence[object]) -> tuple[float, float]:
    """Return the size in inches of a figure with these rows."""
    return 3.0, max(1.1, 0.6 + 0.22 * len(rows))


def _apart(wanted: Sequence[float], step: float) -> list[float]:
    """Return rising positions, at least ``step`` apart, near those wanted and between 0 and 1 if
    they fit: groups of adjacent ones are centred."""
    groups: list[list[float]] = []
    for place in wanted:
        groups.append([place])
        while (
            len(groups) > 1
            and _middle(groups[-1]) - _middle(groups[-2])
            < step * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    places = [
        _middle(group) + step * (i - (len(group) - 1) / 2)
        for group in groups
        for i in range(len(group))
    ]
    top = len(places) - 1
    if step * top > 1:
        return [0.5 + step * (i - top / 2) for i in range(len(places))]
    places = [min(place, 1 - step * (top - i)) for i, place in enumerate(places)]
    return [max(place, step * i) for i, place in enumerate(places)]


def _middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)


def _inline(svg: str, title: str, marks: dict[str, Mark], name: str) -> str:
    """Adapt an SVG to be part of a page: unique ids, colours by variable, flexible width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s+", " ", svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box
    width = float(box.group(1).split()[2]) / 72
    for gid, mark in marks.items():
        series = html.escape(f"{mark.engine}|{mark.bits}", quote=True)
        rest = rest.replace(
            f'<g id="{gid}">',
            f'<g class="mark" data-series="{series}"><title>{html.escape(mark.tip)}</title>',
        )
    kept = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', rest))
    rest = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in kept else "", rest)
    rest = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", rest)
    for colour, variable in _VARIABLES.items():
        rest = rest.replace(colour, f"var(--{variable})")
    return (
        f'<svg viewBox="{box.group(1)}" role="img" style="max-width:{width * 1.25:.2f}in" '
        f'aria-label="{html.escape(title, quote=True)}">{rest.strip().replace("> <", "><")}'
    )
