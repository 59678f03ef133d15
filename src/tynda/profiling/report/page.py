"""Writes the page, one file for a browser: recommendations first, then all measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tynda.files import write_whole
from tynda.profiling.report import choose, network, quality, scaling, sections, stages
from tynda.profiling.report.answers import answers
from tynda.profiling.report.drawing import Figure
from tynda.profiling.report.markup import esc
from tynda.profiling.report.names import Names
from tynda.profiling.report.read import Report, count, mapping, number
from tynda.profiling.report.style import HUES, PALETTE, Palette, plain

__all__ = ["write"]


def write(report: Report, edge: float | None = None) -> Path:
    """Write ``index.html`` and ``figures/``, and replace older figures; for ``edge`` see
    `tynda.profiling.report.write`."""
    names = Names(report)
    palette = Palette(row.case.engine for row in report.rows)
    found = choose.candidates(report.rows)
    here = choose.at_reference(found)
    drawn = {
        "scaling": scaling.scaling(report, names, palette),
        "devices": scaling.devices(report, names, palette),
        "roofline": network.roofline(report, names),
        "front": _fronts(report, here, names, palette),
        "words": quality.words(report, names, palette),
        "stages": stages.stages(report, names, palette),
        "memory": stages.memory(report, names, palette),
        "operations": network.shares(report, names),
        "cache": network.cache(report, names, palette),
    }
    folder = report.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for figure in (f for group in drawn.values() for f in group):
        write_whole(folder / f"{figure.name}.png", figure.png)
    page = _page(report, names, palette, found, drawn, edge)
    path = report.folder / "index.html"
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def _page(
    report: Report,
    names: Names,
    palette: Palette,
    found: Sequence[choose.Candidate],
    drawn: dict[str, list[Figure]],
    edge: float | None,
) -> str:
    parts: list[tuple[str, str, str, str]] = [
        ("scaling", "Scaling", "Scaling", sections.scaling(report, drawn["scaling"])),
        ("devices", "CPU/GPU", "CPU and GPU", sections.devices(report, drawn["devices"])),
        ("roofline", "Roofline", "Roofline", sections.roofline(report, drawn["roofline"])),
        ("front", "Pareto", "Size, WER and speed", sections.front(found, drawn["front"])),
        ("words", "Words", "Words", sections.words(report, names, drawn["words"])),
        ("stages", "Stages", "Stages of a run", sections.stages(report, drawn["stages"])),
        ("memory", "Memory", "Memory", sections.memory(report, names, drawn["memory"])),
        (
            "operations",
            "Operations",
            "Operations",
            sections.operations(report, names, drawn["operations"]),
        ),
        ("cache", "Cache", "Decoder with and without its cache", sections.cache(drawn["cache"])),
        ("rows", "Rows", "All measurements of speed", sections.rows(report, names)),
        ("failed", "Not measured", "Not measured", sections.failed(report, names)),
        ("environment", "Environment", "Environment and runs", sections.environment(report)),
    ]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _, _ in parts)
    model = ""
    if len(report.models) > 1:
        options = "".join(
            f'<option value="{esc(m)}"{" selected" * (i == 0)}>{esc(report.names[m])}</option>'
            for i, m in enumerate(report.models)
        )
        model = (
            '<label>Model <select id="model"><option value="">all</option>'
            f"{options}</select></label>"
        )
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{text}'
        '<p class="note nothing away">Nothing for this model.</p></section>'
        for key, _, title, text in parts
    )
    style, script = (Path(__file__).with_name(f"page.{end}").read_text() for end in ("css", "js"))
    for at, word in enumerate(("LIGHT", "DARK")):
        colours = [f"--e{i}: {both[at]};" for i, both in enumerate(PALETTE)]
        colours += [f"--h{i}: {both[at]};" for i, both in enumerate(HUES)]
        style = style.replace(word, " ".join(colours))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tynda profile</title><style>{style}</style></head><body>"
        f"<header><h1>What to choose</h1>{_summary(report)}</header>"
        f"<main>{answers(report, names, palette, found, edge)}</main>"
        f"<nav><div>{model}{links}</div></nav>"
        f"<main>{_legend(report, palette)}{body}</main><script>{script}</script></body></html>\n"
    )


def _summary(report: Report) -> str:
    rows = report.rows
    by = {s: sum(r.status == s for r in rows) for s in ("ok", "skipped", "failed")}
    noisy = sum(bool(r.noise) for r in rows if r.status == "ok")
    machines = [m for m in report.record["environments"].values() if isinstance(m, dict)]
    where = "; ".join(
        f"{m.get('processor') or 'an unnamed processor'}, {m.get('processors', '?')} threads"
        + (f", {m['gpu']}" if m.get("gpu") else "")
        for m in machines
    )
    engines = {r.case.engine for r in rows}
    parts = [
        f"{count(len(report.models), 'model')}, {count(len(engines), 'engine')}, "
        f"{count(by['ok'], 'measurement')} on {where or 'an unknown machine'}."
    ]
    if noisy:
        parts.append(f"<span class=warn>⚠ {noisy} of them noisy.</span>")
    if by["failed"] or by["skipped"]:
        parts.append(f'<a href="#failed">{by["failed"]} failed, {by["skipped"]} skipped.</a>')
    return f'<p class="sub">{esc(parts[0])} {" ".join(parts[1:])} {esc(_energy(report))}</p>'


def _energy(report: Report) -> str:
    """Describe the source of energy values, in a sentence for each machine."""
    rows = [r for r in report.of("speed") if mapping(r.values, "energy")]
    found = []
    for row in rows:
        values = mapping(row.values, "energy")
        idle = number(values, "idle_watts") or 0.0
        source = mapping(report.record["environments"], row.environment, "energy")
        if values.get("estimate"):
            of = source.get("of") or "the processor's rated power"
            watts = plain(number(source, "watts") or 0)
            line = f"Energy is an estimate: processor time × {watts} W ({of}); "
        else:
            line = f"Energy is measured ({values.get('source')}); "
        found.append(f"{line}idle power subtracted: {plain(idle)} W.")
    return " ".join(dict.fromkeys(found)) or "No energy was measured."


def _legend(report: Report, palette: Palette) -> str:
    engines = list(dict.fromkeys(row.case.engine for row in report.rows))
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-engine="{esc(e)}">'
        f'<i style="background:{palette.css(e)}"></i>{esc(e)}</button>'
        for e in engines
    )
    return (
        f'<div class="legend">{buttons}</div><p class="note">Colours show engines, markers and '
        "dashes show bits, hollow marks are noisy (or off the Pareto front). Click an engine to "
        "show it alone; point at a mark to see its values.</p>"
    )


def _fronts(
    report: Report, here: Sequence[choose.Candidate], names: Names, palette: Palette
) -> list[Figure]:
    drawn = quality.front(here, names, palette)
    if len(report.models) > 1:
        for model in report.models:
            mine = [c for c in here if c.setup.model == model]
            drawn += quality.front(mine, names, palette, model)
    return drawn
