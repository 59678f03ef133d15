"""The top of the page: the best setup for each scenario, and the reason in a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tynda.profiling.report.choose import (
    USABLE,
    WORSE,
    Candidate,
    Choice,
    at_reference,
    balance,
    choose,
    edges,
    reference,
    speech,
    usable,
)
from tynda.profiling.report.markup import Cell, esc, table
from tynda.profiling.report.names import Names
from tynda.profiling.report.read import Report, count
from tynda.profiling.report.style import Palette, plain

__all__ = ["answers", "reason"]

MB = 1e6
_Text = Callable[[Candidate], str]
_NO_WORDS = "No error rates were measured: use --manifest FILE."


def answers(
    report: Report,
    names: Names,
    palette: Palette,
    found: Sequence[Candidate],
    edge: float | None = None,
) -> str:
    """Return a list of scenarios with their winners, then the winners of each model."""
    case = reference(found)
    if case is None:
        return (
            '<p class="note">There is nothing to choose from: no speed of a complete recogniser '
            "was measured.</p>"
        )
    has_wer, good = any(c.wer is not None for c in found), usable(found)
    if not good:
        lowest = min(c.wer for c in found if c.wer is not None)
        return (
            f'<p class="note">No setup can be recommended: the lowest WER is {lowest:.3f}, and '
            f"with more than {USABLE:g}, few sentences can be understood.</p>"
            + _models(report, names, found)
        )
    small = [choose(good, "edge", edge)] if edge else edges(good)
    asked = [
        ("Highest throughput", choose(good, "throughput")),
        ("Lowest WER", choose(good, "quality")),
        ("Balance", choose(good, "balance")),
        *((f"Within {_size(c.limit)}", c) for c in small),
        ("Lowest energy" + _estimate(good), choose(good, "energy")),
    ]
    lines = []
    for title, choice in asked:
        lines.append(_line(title, choice, good, names, palette, has_wer))
    about = (
        f"WER, balance and memory are compared at {case[0]:g} s × {case[1]} (duration × batch); "
        "throughput and energy in the case that is best for each setup."
    )
    if has_wer:
        about += f" WER is measured on {Path(speech(report.rows) or '').name}."
        about += f" Setups with a WER above {USABLE:g}, or without one, are not recommended"
        out = len({c.setup for c in found} - {c.setup for c in good})
        about += f": {out} here." if out else "."
        about += (
            f" Balance: among setups with at most {WORSE:g} times the lowest WER, the one with the "
            "smallest maximum of WER, time and size, each relative to the best."
        )
    text = f'<dl class="choices">{"".join(lines)}</dl><p class="note">{esc(about)}</p>'
    if len(report.models) > 1:
        text += _models(report, names, found)
    return text


def reason(choice: Choice, found: Sequence[Candidate], names: Names) -> list[str]:
    """Return why a setup wins: its values, those of the second, then how certain this is."""
    winner, second = choice.winner, choice.second
    if winner is None:
        return []
    parts = [_figures(choice, winner, found)]
    if second is None:
        parts.append("nothing else to compare with")
    else:
        parts.append(f"then {names.full(second.setup)}: {_against(choice, winner, second, found)}")
    if tied := choice.tied:
        fast = tied[0]
        if choice.scenario == "throughput":
            parts.append(f"the interval overlaps with {count(len(tied), 'other')}")
        elif choice.scenario == "energy":
            parts.append(f"equal to {count(len(tied), 'other')}")
        elif choice.limit and fast.wer is None:
            parts.append(f"the interval overlaps with {count(len(tied), 'other')}")
        else:
            ratio = fast.throughput / winner.throughput
            line = f"the interval of WER overlaps with {count(len(tied), 'other')}"
            if ratio > 1.05:
                line += f"; of these {names.full(fast.setup)} is {plain(ratio, 2)} times as fast"
            parts.append(line)
    return parts


def _line(
    title: str,
    choice: Choice,
    found: Sequence[Candidate],
    names: Names,
    palette: Palette,
    has_wer: bool,
) -> str:
    winner = choice.winner
    head = f'<div class="choice"><dt>{esc(title)}</dt>'
    if winner is None:
        why = _NO_WORDS if not has_wer and choice.scenario != "energy" else "Nothing fits."
        if choice.scenario == "energy":
            why = "No energy was measured."
        if choice.scenario == "edge":
            minimum = min((c.memory for c in at_reference(found) if c.memory), default=None)
            why = "Nothing fits." + (f" The minimum is {_size(minimum)}." if minimum else "")
        return f'{head}<dd class="who">–</dd><dd class="why">{esc(why)}</dd></div>'
    setup = winner.setup
    first, *rest = reason(choice, found, names)
    warning = f' <span class="warn">⚠ noisy: {esc(winner.noisy)}</span>' if winner.noisy else ""
    return (
        f'{head}<dd class="who"><span style="background:{palette.css(setup.engine)}"></span>'
        f"{esc(names.models[setup.model])}<small>{esc(names.way(setup))}</small></dd>"
        f'<dd class="why">{esc(first)}; <span class="note">{esc("; ".join(rest))}.</span>'
        f"{warning}</dd></div>"
    )


def _figures(choice: Choice, c: Candidate, found: Sequence[Candidate]) -> str:
    sound = f"{c.seconds:g} s × {c.batch}"
    speed = f"{plain(c.throughput)} s of audio per s"
    if choice.scenario == "throughput":
        spread = f"{plain(c.low)} to {plain(c.high)}; " if c.low < c.high else ""
        text = f"{speed} ({spread}{sound})"
        return text + (f", WER {_wer(c)}" if c.wer is not None else "")
    if choice.scenario == "energy":
        word = " (estimate)" if c.estimate else ""
        return f"{plain(c.energy or 0)} J per s of audio{word} ({sound})"
    text = f"WER {_wer(c)}, {speed}" if c.wer is not None else speed
    if choice.scenario == "balance":
        worst = next(r for r, other in balance(at_reference(found)) if other is c)
        text += f", {_size(c.bytes)}: "
        if worst < 1.05:
            return text + "the best in all three"
        return text + f"none worse than {plain(worst, 2)} times the best"
    return f"{text}, peak {_size(c.memory)}" if choice.limit else text


def _against(choice: Choice, a: Candidate, b: Candidate, found: Sequence[Candidate]) -> str:
    if choice.scenario == "throughput":
        return f"{plain(b.throughput)} ({plain(a.throughput / b.throughput)} times less)"
    if choice.scenario == "energy":
        ratio = f" ({plain(b.energy / a.energy)} times as much)" if a.energy and b.energy else ""
        word = ", an estimate" if b.estimate and not a.estimate else ""
        return f"{plain(b.energy or 0)} J{ratio}{word}"
    if choice.scenario == "balance":
        worst = next(r for r, other in balance(at_reference(found)) if other is b)
        return f"{plain(worst, 2)} times"
    if b.wer is None:
        return f"{plain(b.throughput)} s of audio per s"
    return f"{_wer(b)}"


def _models(report: Report, names: Names, found: Sequence[Candidate]) -> str:
    lines = []
    for model in report.models:
        mine = [c for c in found if c.setup.model == model]
        if not mine:
            continue
        here = at_reference(mine)
        speed, words = choose(mine, "throughput").winner, choose(mine, "quality").winner
        energy = choose(mine, "energy").winner
        light = min((c for c in here if c.memory), key=lambda c: c.memory or 0, default=None)
        cells: list[Cell | str | None] = [report.names[model]]
        wanted: tuple[tuple[Candidate | None, Callable[[Candidate], float | None], _Text], ...] = (
            (words, lambda c: c.wer, _wer),
            (speed, lambda c: c.throughput, lambda c: f"{plain(c.throughput)} s/s"),
            (light, lambda c: c.memory, lambda c: _size(c.memory)),
            (energy, lambda c: c.energy, lambda c: f"{plain(c.energy or 0)} J/s"),
        )
        for c, value, text in wanted:
            sign = " ⚠" if c and c.noisy else ""
            cells.append(Cell(f"{names.way(c.setup)}: {text(c)}{sign}", value(c)) if c else None)
        cells.insert(3, _next_engine(mine, names))
        lines.append((None, cells))
    columns = ("model", "lowest WER", "fastest", "next engine's time", "lowest memory")
    return "<h3>Each model's best</h3>" + table(
        (*columns, f"lowest energy{_estimate(found)} per s of audio"), lines, left=6
    )


def _next_engine(mine: Sequence[Candidate], names: Names) -> Cell | None:
    """Return the fastest setup of all engines but the fastest one's, in the reference case."""
    here = sorted(at_reference(mine), key=lambda c: -c.throughput)
    others = [c for c in here if c.setup.engine != here[0].setup.engine]
    if not others:
        return None
    best, sign = others[0], " ⚠" if others[0].noisy or here[0].noisy else ""
    ratio = here[0].throughput / best.throughput
    text = f"{names.way(best.setup)}: {plain(ratio, 2)} times {names.way(here[0].setup)}"
    return Cell(text + sign, ratio)


def _wer(c: Candidate) -> str:
    return f"{c.wer or 0:.3f} ({c.wer_low or 0:.3f} to {c.wer_high or 0:.3f})"


def _size(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{plain(value / 1e9)} GB" if value >= 1e9 else f"{plain(value / MB)} MB"


def _estimate(found: Sequence[Candidate]) -> str:
    kinds = {c.estimate for c in found if c.energy is not None}
    if len(kinds) == 2:
        return " (partly an estimate)"
    return " (estimate)" if True in kinds else ""
