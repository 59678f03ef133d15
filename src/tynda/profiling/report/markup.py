"""Builds pieces of HTML and escapes names and messages in them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tynda.profiling.report.drawing import Figure

__all__ = ["Cell", "Raw", "details", "esc", "figures", "table"]


class Raw(str):
    """Text that is HTML already and not escaped again."""


@dataclass(frozen=True)
class Cell:
    """A table's cell: the displayed text, and the key for sorting."""

    text: str
    key: float | str | None = None
    """The key for sorting; None means the text."""


def esc(text: object) -> str:
    """Escape a text for elements and attributes."""
    return text if isinstance(text, Raw) else html.escape(str(text), quote=True)


def table(
    columns: Sequence[str],
    rows: Iterable[tuple[str | None, Sequence[Cell | str | None]]],
    left: int = 1,
) -> Raw:
    """Return a sortable table; each row has its model. The first ``left`` columns are texts, the
    others numbers; None is shown as a dash."""
    head = "".join(
        f'<th scope="col"{"" if i < left else " class=n"}>{esc(name)}</th>'
        for i, name in enumerate(columns)
    )
    body = []
    for model, cells in rows:
        shown = []
        for i, cell in enumerate(cells):
            cell = Cell("–", "") if cell is None else Cell(cell) if isinstance(cell, str) else cell
            kind = "" if i < left else " class=n"
            key = "" if cell.key is None else f' data-key="{esc(cell.key)}"'
            shown.append(f"<td{kind}{key}>{esc(cell.text)}</td>")
        of = "" if model is None else f' data-model="{esc(model)}"'
        body.append(f"<tr{of}>{''.join(shown)}</tr>")
    return Raw(
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def figures(drawn: Iterable[Figure]) -> Raw:
    """Return figures in a grid, each shown only with its model."""
    drawn = list(drawn)
    models = {figure.model for figure in drawn}
    one = models.pop() if len(models) == 1 else None  # hide the whole grid, since it needs space

    def of(model: str | None) -> str:
        return "" if model is None else f' data-model="{esc(model)}"'

    found = [f"<figure{'' if one else of(figure.model)}>{figure.svg}</figure>" for figure in drawn]
    return Raw(f'<div class="figures"{of(one)}>{"".join(found)}</div>') if found else Raw("")


def details(title: str, body: str) -> Raw:
    """Return a collapsed section."""
    return Raw(f"<details><summary>{esc(title)}</summary>{esc(body)}</details>")
