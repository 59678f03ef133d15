"""The style of figures: colours by engine, markers and lines by bits, number formats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tynda.profiling.engines import ENGINES

__all__ = [
    *("BACK", "GRID", "HUES", "INK", "MUTED", "PALETTE", "Palette"),
    *("bits_order", "line_style", "marker", "plain"),
]

INK, MUTED, GRID, BACK = "#1b1b1a", "#62625f", "#dededb", "#fffffe"
# Colours of Okabe and Ito (2008), the light ones darkened, then of Tol (2021), each with a variant
# for dark pages.
PALETTE = (
    ("#0072b2", "#5ab4ec"),
    ("#d55e00", "#ff8c42"),
    ("#008f68", "#35cfa0"),
    ("#c05a94", "#ee9fca"),
    ("#b07d00", "#e8b21f"),
    ("#332288", "#a79cf5"),
    ("#6b7a00", "#bccb3c"),
    ("#882255", "#d9709f"),
    ("#2f9dbd", "#7fdcf5"),
    ("#8a5a34", "#cf9f78"),
    ("#707070", "#a9a9a9"),
    ("#a11d1d", "#ff7a7a"),
)
HUES = (
    ("#c9d6df", "#3d5568"),
    ("#7f9fb5", "#6d93ad"),
    ("#3c607a", "#a9c8dc"),
    ("#e7e3da", "#4a4740"),
    ("#b9c4a5", "#5f6d4a"),
    ("#d8b89a", "#8a6a4c"),
    ("#b79bb5", "#7d5f7b"),
    ("#e4d08a", "#8f7c2c"),
    ("#9a9a96", "#7c7c78"),
)
"""Colours of stages and operations, distinct from those of engines."""
_MARKERS = {
    **{"32": "o", "16": "s", "bf16": "D", "8": "^", "6": "p", "5": "P", "4": "v", "3": "<"},
    **{"2": ">", "1.58": "X", "stored": "h"},
}


def bits_order(bits: str) -> tuple[float, str]:
    """Return a key that sorts by bits, most first and ``stored`` last."""
    order = {"stored": 1e9, "bf16": -15.5}
    try:
        return order[bits] if bits in order else -float(bits), bits
    except ValueError:
        return 1e8, bits


def marker(bits: str) -> str:
    """Return the marker of a precision."""
    return _MARKERS.get(bits, "*")


def line_style(bits: str) -> Any:
    """Return the line style of a precision: the fewer bits, the shorter the dashes."""
    if bits in ("32", "stored"):
        return "-"
    if bits in ("16", "bf16"):
        return (0, (7, 1.5))
    return (0, (4, 1.5)) if bits in ("8", "6", "5") else (0, (1.5, 1.5))


class Palette:
    """The colour of each engine, the same in all figures, by the order of `ENGINES`."""

    def __init__(self, engines: Iterable[str]) -> None:
        there = set(engines)
        used = [*ENGINES, *sorted(there - set(ENGINES))]
        self._index = {name: i % len(PALETTE) for i, name in enumerate(used)}

    def __getitem__(self, engine: str) -> str:
        return PALETTE[self._index[engine]][0]

    def css(self, engine: str) -> str:
        """Return the colour as a CSS variable for the page."""
        return f"var(--e{self._index[engine]})"


def plain(value: float, digits: int = 3) -> str:
    """Format a number with three significant digits: ``1,234``, ``12.3``, ``0.0123``."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"
