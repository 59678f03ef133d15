"""One file for a browser: what to choose first, then all that was measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tynda.files import write_whole
from tynda.profiling.case import Row
from tynda.profiling.report import choose, network, quality, scaling, stages
from tynda.profiling.report.answers import answers
from tynda.profiling.report.drawing import Figure
from tynda.profiling.report.markup import Cell, Raw, details, esc, figures, table
from tynda.profiling.report.names import Names, energy_word
from tynda.profiling.report.read import Report, Setup, count, mapping, number
from tynda.profiling.report.style import HUES, PALETTE, Palette, plain

__all__ = ["commands", "write"]

MB = 1e6


def write(report: Report, edge: float | None = None) -> Path:
    """``index.html``, and ``figures/`` in place of those drawn before; ``edge``: see
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


def commands(report: Report) -> list[str]:
    """The command of each run, as one would type it."""
    found = []
    for run in report.record["runs"]:
        plan = mapping(run, "plan")
        words = ["tynda", "profile", *map(str, plan.get("models") or ())]
        for option in ("engines", "bits", "devices", "durations", "batches"):
            if values := plan.get(option):
                words += [f"--{option}", ",".join(map(_number, values))]
        if plan.get("manifest") and not plan.get("durations"):
            words.append("--words-only")
        for option, name in (
            *(("threads", "threads"), ("manifest", "manifest"), ("repeats", "repeats")),
            *(("budget", "budget"), ("time_limit", "time-limit"), ("tokens", "tokens-per-second")),
        ):
            if plan.get(option) is not None:
                words += [f"--{name}", _number(plan[option])]
        found.append(shlex.join([*words, "--report", str(report.folder)]))
    return found


def _page(
    report: Report,
    names: Names,
    palette: Palette,
    found: Sequence[choose.Candidate],
    drawn: dict[str, list[Figure]],
    edge: float | None,
) -> str:
    sections: list[tuple[str, str, str, str]] = [
        ("scaling", "Scaling", "Scaling", _scaling(report, drawn["scaling"])),
        ("devices", "CPU/GPU", "CPU and GPU", _devices(report, drawn["devices"])),
        ("roofline", "Roofline", "Roofline", _roofline(report, drawn["roofline"])),
        ("front", "Pareto", "Size, words and speed", _front(found, drawn["front"])),
        ("words", "Words", "Words", _words(report, names, drawn["words"])),
        ("stages", "Stages", "Stages of a run", _stages(report, drawn["stages"])),
        ("memory", "Memory", "Memory", _memory(report, names, drawn["memory"])),
        ("operations", "Operations", "Operations", _operations(report, names, drawn["operations"])),
        ("cache", "Cache", "Decoder with and without its cache", _cache(drawn["cache"])),
        ("rows", "Rows", "All rows of speed", _rows(report, names)),
        ("failed", "Not measured", "Not measured", _failed(report, names)),
        ("environment", "Environment", "Environment and runs", _environment(report)),
    ]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _, _ in sections)
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
        '<p class="note nothing away">Nothing of this model.</p></section>'
        for key, _, title, text in sections
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
        f"{m.get('processor') or 'a processor without a name'}, {m.get('processors', '?')} threads"
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
    """Where joules come from, in a sentence for each machine's."""
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
        f'<div class="legend">{buttons}</div><p class="note">A colour is an engine, a marker and a '
        "line's dashes are bits, hollow is noisy (or off the Pareto front). Press an engine to see "
        "it alone; point at a mark for its figures.</p>"
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


def _by_model(drawn: Iterable[Figure]) -> str:
    """A grid for each model."""
    groups: dict[str | None, list[Figure]] = {}
    for figure in drawn:
        groups.setdefault(figure.model, []).append(figure)
    return "".join(figures(group) for group in groups.values())


def _scaling(report: Report, drawn: Sequence[Figure]) -> str:
    if not drawn:
        return _none("Nothing was measured at two durations or two batches.")
    word = energy_word(report.of("speed"))
    return (
        f'<p class="note">Medians of repeated runs, of one recording. Energy{word} is of one '
        f"recording; memory is the process's peak.</p>{_by_model(drawn)}"
    )


def _devices(report: Report, drawn: Sequence[Figure]) -> str:
    gpu = [r for r in report.rows if r.case.device == "cuda"]
    if drawn:
        return _by_model(drawn)
    if any(r.status == "ok" for r in gpu):
        return _none("Nothing that ran on the GPU was measured on the CPU as well.")
    if gpu:
        return _none("No GPU was measured: all of its rows were skipped or failed, see below.")
    return _none("No GPU was measured: --devices cpu,cuda does it.")


def _roofline(report: Report, drawn: Sequence[Figure]) -> str:
    if not drawn:
        return _none("Operations were not measured.")
    return (
        '<p class="note">What each operation achieves, and the roofs of arithmetic and memory '
        "above it (Williams, Waterman and Patterson 2009). Larger marks take more of the time; "
        f"hollow: not measured, drawn at its roof.</p>{_by_model(drawn)}"
    )


def _front(found: Sequence[choose.Candidate], drawn: Sequence[Figure]) -> str:
    case = choose.reference(found)
    if not drawn or case is None:
        return _none("No words were measured: --manifest FILE does it.")
    return (
        f'<p class="note">Speed at {case[0]:g} s × {case[1]}. Filled: on the Pareto '
        "front of words, speed and size, that is, nothing is better in all three; the line is the "
        f"front of the two axes. In the first, a mark's area is the size.</p>{_by_model(drawn)}"
    )


def _words(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    rows = report.of("words")
    if not rows:
        return _none("No words were measured: --manifest FILE does it.")
    rows.sort(key=lambda r: (report.models.index(r.case.model), number(r.values, "wer") or 9.9))
    lines = []
    for row in rows:
        v, setup = row.values, Setup.of(row.case)
        size = number(v, "bytes")
        lines.append(
            (
                row.case.model,
                (
                    *(report.names[setup.model], names.way(setup)),
                    *(_rate(v, "wer"), _interval(v, "wer"), _rate(v, "cer"), _interval(v, "cer")),
                    *(_cell(number(v, "utterances")), _cell(number(v, "words"))),
                    Path(row.case.manifest).name,
                    *(_cell(size, 1 / MB), _cell(number(v, "real_time_factor"))),
                ),
            )
        )
    columns = (
        *("model", "engine", "WER", "95 %", "CER", "95 %"),
        *("utterances", "words", "manifest", "MB", "RTF"),
    )
    return f'<div class="beside">{_by_model(drawn)}{table(columns, lines, left=2)}</div>'


def _stages(report: Report, drawn: Sequence[Figure]) -> str:
    if not drawn:
        return _none("No speed was measured.")
    return (
        '<p class="note">Left, the share of each stage, and the time of all; right, the time to '
        f"the first word and to the last.</p>{_by_model(drawn)}"
    )


def _memory(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    rows = [r for r in report.of("speed") if number(r.values, "memory", "peak")]
    if not rows:
        return _none("No memory was measured.")
    known = ("peak", "predicted", "base", "weights", "arena", "cache", "gpu")
    parts = tuple(p for p in known if any(number(r.values, "memory", p) for r in rows))
    lines = [
        (
            r.case.model,
            (
                *(report.names[r.case.model], names.way(Setup.of(r.case)), *_sound(r)),
                *(_cell(number(r.values, "memory", part), 1 / MB) for part in parts),
            ),
        )
        for r in rows
    ]
    text = figures(drawn) if drawn else _none("Memory was not predicted.")
    columns = ("model", "engine", "s", "batch", *(f"{part}, MB" for part in parts))
    return text + details(f"Memory of {count(len(rows), 'row')}", table(columns, lines, left=2))


def _operations(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    rows = report.of("operations")
    if not rows:
        return _none("Operations were not measured.")
    lines = [
        (
            row.case.model,
            (
                *(report.names[row.case.model], names.way(Setup.of(row.case))),
                *(item.part, item.operation, item.bits),
                *(_cell(item.calls), _cell(item.flops, 1e-9), _cell(item.bytes, 1 / MB)),
                *(_cell(item.intensity), _cell(item.seconds, 1e3)),
            ),
        )
        for row in rows
        for item in network.items(row)
    ]
    text = _by_model(drawn) if drawn else _none("How long operations take was not measured.")
    columns = (
        *("model", "engine", "part", "operation", "bits", "calls", "GFLOP", "MB"),
        *("FLOP per byte", "ms"),
    )
    return text + details("All operations", table(columns, lines, left=4))


def _cache(drawn: Sequence[Figure]) -> str:
    if not drawn:
        return _none("The decoder's cache was not measured.")
    return (
        '<p class="note">The time of a token by its position, with the keys and values of those '
        f"before it remembered, and computed anew.</p>{_by_model(drawn)}"
    )


def _rows(report: Report, names: Names) -> str:
    rows = report.of("speed")
    if not rows:
        return _none("No speed was measured.")
    word = energy_word(rows)
    lines = []
    for r in rows:
        v, whole = r.values, mapping(r.values, "stages", "whole")
        low, high = number(whole, "low"), number(whole, "high")
        interval = f"{_short(low, 1e3)} to {_short(high, 1e3)}"
        about = [f"⚠ {r.noise}"] if r.noise else []
        about += ["encoder only"] if not v.get("complete") else []
        about += ["one after another"] if v.get("batched") is False and r.case.batch > 1 else []
        estimate = " est." if mapping(v, "energy").get("estimate") else ""
        joules = number(v, "energy", "joules")
        lines.append(
            (
                r.case.model,
                (
                    *(report.names[r.case.model], names.way(Setup.of(r.case)), *_sound(r)),
                    *(
                        _cell(number(whole, "p50"), 1e3),
                        Cell(interval, low or ""),
                        _cell(number(whole, "p95"), 1e3),
                    ),
                    *(_cell(number(v, "real_time_factor")), _cell(number(v, "throughput"))),
                    _cell(number(v, "stages", "first", "p50"), 1e3),
                    None if joules is None else Cell(plain(joules) + estimate, joules),
                    *(_cell(number(v, "memory", "peak"), 1 / MB), _cell(number(v, "load"))),
                    *(_cell(number(v, "cold")), _cell(number(whole, "runs")), "; ".join(about)),
                ),
            )
        )
    columns = (
        *("model", "engine", "s", "batch", "ms", "95 %", "p95, ms", "RTF", "s of sound per s"),
        *("first word, ms", f"energy{word}, J", "peak MB", "load, s", "cold, s", "runs", ""),
    )
    shown = table(columns, lines, left=2)
    return details(f"{count(len(rows), 'row')} of speed", shown)


def _failed(report: Report, names: Names) -> str:
    rows = [r for r in report.rows if r.status != "ok"]
    if not rows:
        return _none("All that was asked for was measured.")
    groups: dict[tuple[str, str, str, str, str], list[str]] = {}
    for r in rows:
        key = (r.status, r.case.model, names.way(Setup.of(r.case)), r.case.work, r.why)
        groups.setdefault(key, []).append(f"{r.case.seconds:g} s × {r.case.batch}")
    lines = [
        (
            model,
            (
                *(report.names[model], way, status),
                work + (f" {', '.join(cases)}" if work == "speed" else ""),
                why or "no reason was given",
            ),
        )
        for (status, model, way, work, why), cases in sorted(groups.items())
    ]
    return table(("model", "engine", "", "what", "why"), lines, left=5)


def _environment(report: Report) -> str:
    found = []
    for key, machine in report.record["environments"].items():
        if not isinstance(machine, dict):
            continue
        lines = []
        for name, value in machine.items():
            lines.append((None, (name.replace("_", " "), _value(name, value))))
        found.append(f"<h3>Machine {esc(key)}</h3>{table(('', ''), lines, left=2)}")
    models = [
        (
            None,
            (
                report.names.get(model, model),
                *(str(mapping(about).get("family") or "–"), _cell(number(about, "bytes"), 1 / MB)),
                str(mapping(about).get("digest") or "–"),
            ),
        )
        for model, about in report.record["models"].items()
    ]
    found.append("<h3>Models</h3>" + table(("model", "family", "MB", "digest"), models, left=2))
    runs = report.record["runs"]
    for run, command in zip(runs, commands(report), strict=True):
        load = mapping(run).get("load")
        before = f", load {load[0]:.1f}" if isinstance(load, list) and load else ""
        when = f"{mapping(run).get('started', '')}{before}, seed {mapping(run).get('seed', '–')}"
        found.append(f'<p class="note">{esc(when)}</p><pre>{esc(command)}</pre>')
    again = f"tynda profile --again {shlex.quote(str(report.folder / 'record.json'))}"
    return "".join(found) + f'<p class="note">All of them anew: <code>{esc(again)}</code></p>'


def _value(name: str, value: Any) -> str:
    if name == "memory" and isinstance(value, int):
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def _none(text: str) -> Raw:
    return Raw(f'<p class="note">{esc(text)}</p>')


def _sound(row: Row) -> tuple[Cell, Cell]:
    case = row.case
    return Cell(f"{case.seconds:g}", case.seconds), Cell(str(case.batch), case.batch)


def _cell(value: float | None, scale: float = 1.0) -> Cell | None:
    return None if value is None else Cell(plain(value * scale), value)


def _short(value: float | None, scale: float) -> str:
    return "–" if value is None else plain(value * scale)


def _rate(values: Any, key: str) -> Cell | None:
    value = number(values, key)
    return None if value is None else Cell(f"{value:.4f}", value)


def _interval(values: Any, key: str) -> Cell | None:
    low, high = number(values, f"{key}_low"), number(values, f"{key}_high")
    return None if low is None or high is None else Cell(f"{low:.4f} to {high:.4f}", low)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
