"""The sections of the page, as HTML."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tynda.profiling.case import Row
from tynda.profiling.report import choose, network
from tynda.profiling.report.drawing import Figure
from tynda.profiling.report.markup import Cell, Raw, details, esc, figures, table
from tynda.profiling.report.names import Names, energy_word
from tynda.profiling.report.read import Report, Setup, count, mapping, number
from tynda.profiling.report.style import plain

__all__ = [
    "cache",
    "commands",
    "devices",
    "environment",
    "failed",
    "front",
    "memory",
    "operations",
    "roofline",
    "rows",
    "scaling",
    "stages",
    "words",
]

MB = 1e6


def commands(report: Report) -> list[str]:
    """Return the command of each run."""
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


def _by_model(drawn: Iterable[Figure]) -> str:
    """Return a grid of figures for each model."""
    groups: dict[str | None, list[Figure]] = {}
    for figure in drawn:
        groups.setdefault(figure.model, []).append(figure)
    return "".join(figures(group) for group in groups.values())


def scaling(report: Report, drawn: Sequence[Figure]) -> str:
    """Return the section with curves by duration and batch."""
    if not drawn:
        return _none("Nothing was measured at two durations or two batch sizes.")
    word = energy_word(report.of("speed"))
    return (
        f'<p class="note">Times are medians of repeated runs, for one recording. Energy{word} is '
        f"for one recording; memory is the process's peak.</p>{_by_model(drawn)}"
    )


def devices(report: Report, drawn: Sequence[Figure]) -> str:
    """Return the section that compares GPU and CPU."""
    gpu = [r for r in report.rows if r.case.device == "cuda"]
    if drawn:
        return _by_model(drawn)
    if any(r.status == "ok" for r in gpu):
        return _none("No case was measured on both GPU and CPU.")
    if gpu:
        return _none("No GPU was measured: all of its rows were skipped or failed, see below.")
    return _none("No GPU was measured: use --devices cpu,cuda.")


def roofline(report: Report, drawn: Sequence[Figure]) -> str:
    """Return the section of operations and the machine's limits."""
    if not drawn:
        return _none("Operations were not measured.")
    return (
        '<p class="note">The speed of each operation, and the roofs of arithmetic and memory '
        "(Williams, Waterman and Patterson 2009). Larger marks have a larger share of the time; "
        f"hollow marks were not measured and are drawn at the roof.</p>{_by_model(drawn)}"
    )


def front(found: Sequence[choose.Candidate], drawn: Sequence[Figure]) -> str:
    """Return the section of the Pareto front."""
    case = choose.reference(found)
    if not drawn or case is None:
        return _none("This section needs WER (--manifest FILE) and speed of the same model.")
    return (
        f'<p class="note">Speed is measured at {case[0]:g} s × {case[1]}. Filled marks are on the '
        "Pareto front of WER, speed and size: nothing is better in all three. The line is the "
        "front of the two axes. In the first figure, the area of a mark shows the size.</p>"
        f"{_by_model(drawn)}"
    )


def words(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    """Return the section of error rates with their intervals."""
    rows = report.of("words")
    if not rows:
        return _none("No error rates were measured: use --manifest FILE.")
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


def stages(report: Report, drawn: Sequence[Figure]) -> str:
    """Return the section of the share of each stage."""
    if not drawn:
        return _none("No speed was measured.")
    return (
        '<p class="note">Left: the share of each stage, and the total time. Right: the time to the '
        f"first word and to the last.</p>{_by_model(drawn)}"
    )


def memory(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    """Return the section of predicted and measured memory."""
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


def operations(report: Report, names: Names, drawn: Sequence[Figure]) -> str:
    """Return the section of the share of each operation in the time."""
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
    text = _by_model(drawn) if drawn else _none("The times of operations were not measured.")
    columns = (
        *("model", "engine", "part", "operation", "bits", "calls", "GFLOP", "MB"),
        *("FLOP per byte", "ms"),
    )
    return text + details("All operations", table(columns, lines, left=4))


def cache(drawn: Sequence[Figure]) -> str:
    """Return the section of a decoder's time for a token by position."""
    if not drawn:
        return _none("The decoder's cache was not measured.")
    return (
        '<p class="note">The time of a token by its position, with the keys and values of the '
        f"tokens before it cached, and recomputed.</p>{_by_model(drawn)}"
    )


def rows(report: Report, names: Names) -> str:
    """Return the section with all cases of speed."""
    rows = report.of("speed")
    if not rows:
        return _none("No speed was measured.")
    word = energy_word(rows)
    lines = []
    for r in rows:
        v, whole = r.values, mapping(r.values, "stages", "whole")
        low, high = number(whole, "low"), number(whole, "high")
        interval = "–" if low is None else f"{_short(low, 1e3)} to {_short(high, 1e3)}"
        about = [f"⚠ {r.noise}"] if r.noise else []
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
        *("model", "engine", "s", "batch", "ms", "95 %", "p95, ms", "RTF", "s of audio per s"),
        *("first word, ms", f"energy{word}, J", "peak MB", "load, s", "cold, s", "runs", ""),
    )
    shown = table(columns, lines, left=2)
    return details(f"{count(len(rows), 'measurement')} of speed", shown)


def failed(report: Report, names: Names) -> str:
    """Return the section of cases that were not measured, with reasons."""
    rows = [r for r in report.rows if r.status != "ok"]
    if not rows:
        return _none("All requested cases were measured.")
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
                why or "no reason is known",
            ),
        )
        for (status, model, way, work, why), cases in sorted(groups.items())
    ]
    return table(("model", "engine", "", "what", "why"), lines, left=5)


def environment(report: Report) -> str:
    """Return the section of the machines, and the command of each run."""
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
    return "".join(found) + f'<p class="note">Repeat all runs: <code>{esc(again)}</code></p>'


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
