"""The command ``tynda profile``: measures time, energy, memory and error rates of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tynda.checks import MAX_COUNT
from tynda.cli.console import print_table, print_text, rate, say
from tynda.cli.options import Number, PathName, table_or_json
from tynda.errors import TyndaError
from tynda.text.normalize import NORMALIZERS

__all__ = ["profile"]


class _Default(click.Group):
    """A group with the default command ``run``: ``tynda profile MODEL`` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as `click.Group` does, and insert the default command."""
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Default)
def profile() -> None:
    """Measure time, energy, memory and error rates of models."""


_MAXIMUM = 86_400
"""Maximum seconds of audio, and maximum batch size."""
_BITS = ("stored", "32", "16", "bf16", "8", "6", "5", "4", "3", "2", "1.58")


def _engines() -> tuple[str, ...]:
    from tynda.profiling.engines import ENGINES

    return ("all", *ENGINES)


def _listed(kind: Any, minimum: float = 0, known: Any = None) -> Any:
    def parse(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            found = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not a list of numbers, separated by commas"
            ) from None
        if not found:
            raise click.BadParameter(f"{text!r} is empty")
        if kind is not str and not all(minimum <= x <= _MAXIMUM for x in found):
            raise click.BadParameter(f"{text!r}: give numbers from {minimum:g} to {_MAXIMUM:,}")
        if known and (unknown := [x for x in found if x not in known()]):
            raise click.BadParameter(f"no {unknown[0]!r}: choose from {', '.join(known())}")
        return tuple(dict.fromkeys(found))

    return parse


def _path(ctx: click.Context, param: click.Parameter, text: str | None) -> Path | None:
    if text == "":
        raise click.BadParameter("'' is empty: '.' is the current folder")
    return None if text is None else Path(text)


_NUMBERS, _WHOLE = _listed(float, 0.1), _listed(int, 1)


_MORE = """\b
tynda profile report DIR   write tables, figures and page of DIR again, without measuring
tynda profile diff A B     compare two reports, case by case"""


@profile.command("run", epilog=_MORE)
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--engines",
    callback=_listed(str, known=_engines),
    help="Engines, tynda by default; all: every engine. Those not installed are skipped.",
)
@click.option(
    "--bits",
    callback=_listed(str, known=lambda: _BITS),
    help="Bits of weights: 32, 16, bf16, 8 to 1.58, stored (as in the file).",
)
@click.option(
    "--devices",
    callback=_listed(str, known=lambda: ("cpu", "cuda")),
    default="cpu",
    show_default=True,
    help="Devices: cpu, cuda.",
)
@click.option(
    "--durations",
    callback=_NUMBERS,
    default="5,15,30,60",
    show_default=True,
    help="Durations of a recording in seconds.",
)
@click.option("--batches", callback=_WHOLE, default="1", show_default=True, help="Batch sizes.")
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_COUNT),
    help="Number of threads; all processors by default.",
)
@click.option(
    "--manifest",
    type=PathName(),
    callback=_path,
    help="Speech with texts, for error rates and speed; by default speed is measured on noise.",
)
@click.option(
    "--normalizer",
    type=click.Choice(list(NORMALIZERS)),
    help="Text normaliser for scoring; default: letters for English models, else basic.",
)
@click.option("--words-only", is_flag=True, help="Measure error rates only, no speed.")
@click.option(
    "--repeats",
    type=click.IntRange(1, 1_000_000),
    default=10,
    show_default=True,
    help="Number of timed runs within --budget; very short runs are repeated more often.",
)
@click.option(
    "--budget",
    type=Number(0, 86400),
    default=10.0,
    show_default=True,
    help="Seconds after which a run is not repeated again.",
)
@click.option(
    "--time-limit",
    type=Number(1, 86400),
    default=600.0,
    show_default=True,
    help="Seconds after which an engine is stopped; 3 times as many to prepare a model, 100 times "
    "as many for a manifest.",
)
@click.option(
    "--tokens-per-second",
    type=Number(0.1, 7),
    default=3.0,
    show_default=True,
    help="Tokens that a decoder generates for each second of audio, whatever its content.",
)
@click.option(
    "--report",
    type=PathName(file_okay=False),
    callback=_path,
    metavar="DIR",
    help="Folder for rows, figures and a page; cases that are there are not measured again.",
)
@click.option(
    "--operations/--no-operations",
    default=None,
    help="Measure single operations; by default this is done where a report is written.",
)
@click.option("--retry", is_flag=True, help="Measure again the cases that failed or were noisy.")
@click.option(
    "--again",
    type=PathName(),
    callback=_path,
    metavar="RECORD",
    help="Repeat the runs of a report's record.json, instead of MODEL and its options.",
)
@table_or_json
def measure(
    models: tuple[str, ...],
    engines: tuple[str, ...] | None,
    report: Path | None,
    retry: bool,
    again: Path | None,
    format_: str,
    words_only: bool,
    tokens_per_second: float,
    operations: bool | None,
    **how: Any,
) -> None:
    """Measure MODELs: files, folders of the Hugging Face hub, or names."""
    from tynda.profiling import check

    check()
    from tynda.profiling.engines import ENGINES
    from tynda.profiling.plan import Plan, replay
    from tynda.profiling.run import measure as run

    if bool(models) == bool(again):
        raise click.UsageError("give models to measure, or --again RECORD, and not both")
    if words_only and not how["manifest"]:
        raise click.UsageError("--words-only needs speech with texts: --manifest FILE")
    if retry and not report:
        raise click.UsageError("--retry needs an existing report: --report DIR")
    if again:
        _refuse(*how, "engines", "words_only", "tokens_per_second", "operations")
        if report and not retry and report.resolve() == again.resolve().parent:
            raise click.UsageError(f"{report} has these runs: use another --report, or --retry")
        plans = replay(again)
    else:
        engines = tuple(ENGINES) if engines == ("all",) else engines or ("tynda",)
        how |= {"manifest": how["manifest"] and str(how["manifest"]), "bits": how["bits"] or ()}
        how |= {"durations": () if words_only else how["durations"], "tokens": tokens_per_second}
        how |= {"operations": bool(report) if operations is None else operations}
        plans = [Plan(models, engines, **how)]

    def tell(row: Any, done: int, count: int) -> None:
        say(f"[{done}/{count}] {_about(row.case)}: {row.why or _short(row)}")

    found = (row for plan in plans for row in run(plan, report, retry=retry, on_row=tell))
    rows = list({row.case: row for row in found}.values())
    broken = _write(report) if report else ""
    if format_ == "json":
        print_text("\n".join(row.to_json() for row in rows))
    else:
        _print(rows)
    if not any(row.status == "ok" for row in rows):
        raise TyndaError("nothing could be measured: the reasons are above")
    if failed := sum(row.status == "failed" for row in rows):
        raise TyndaError(f"{failed} of {len(rows)} failed: the reasons are above")
    if broken:
        raise TyndaError(f"all cases were measured, but no page was written: {broken}")


def _refuse(*options: str) -> None:
    """Raise a usage error for options that cannot be combined with --again."""
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise click.UsageError(f"--again repeats the recorded runs: leave out --{option}")


def _write(report: Path) -> str:
    """Write the page; return an error message, or an empty string. Rows are kept."""
    from tynda.profiling.report import write

    try:
        say(f"report: {write(report)}")
    except TyndaError as error:
        return str(error)
    return ""


@profile.command("report")
@click.argument("folder", type=PathName(path_type=Path), metavar="DIR")
@click.option(
    "--memory",
    type=Number(1, 1e7),
    metavar="MB",
    help="Memory of the device to choose a model for; some common sizes by default.",
)
def report_(folder: Path, memory: float | None) -> None:
    """Write tables, figures and the page of DIR again, without measuring."""
    from tynda.profiling.report import write

    print_text(str(write(folder, memory and memory * 1e6)))


@profile.command("diff")
@click.argument("first", type=PathName(path_type=Path), metavar="A")
@click.argument("second", type=PathName(path_type=Path), metavar="B")
@click.option(
    "--fail-above",
    type=Number(1),
    metavar="RATIO",
    help="Exit with 1 if time, memory or energy of B is more than RATIO times A, beyond noise.",
)
@table_or_json
@click.pass_context
def diff(
    context: click.Context, first: Path, second: Path, fail_above: float | None, format_: str
) -> None:
    """Compare the reports A and B case by case; ratios are B to A."""
    import json
    from dataclasses import asdict

    from tynda.profiling.report.diff import compare
    from tynda.profiling.report.read import count, read

    found = compare(read(first), read(second))
    if not found.changes:
        raise TyndaError(f"{first} and {second} have no case in common")
    for warning in found.warnings:
        say(f"warning: {warning}")
    if format_ == "json":
        lines = [asdict(c) | {"certain": c.certain} for c in found.changes]
        print_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    else:
        _print_diff(found)
    for name, cases in ((first, found.first), (second, found.second)):
        if cases:
            say(f"only in {name}: {count(len(cases), 'case')}")
        for case in cases:
            say(f"  {_about(case)}")
    if fail_above is not None and all(change.noisy or change.broken for change in found.changes):
        say("warning: nothing could be compared: every case is noisy in one of the reports")
    worst = max(change.worst() for change in found.changes)
    if fail_above is not None and worst > fail_above:
        say(f"the maximum ratio is {worst:.2f}, above --fail-above {fail_above:g}")
        context.exit(1)


def _print_diff(found: Any) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("model", "engine", "bits", "device", "what"):
        table.add_column(name)
    estimate = " (est.)" if any(c.estimate for c in found.changes) else ""
    for name in ("time", "95 %", "memory", f"energy{estimate}", "WER"):
        table.add_column(name, justify="right")
    table.add_column("")
    for c in found.changes:
        case = c.case
        about = c.broken or ("noisy" if c.noisy else "")
        table.add_row(
            *(case.model, case.engine, case.bits, case.device, _what(case)),
            *(_times(c.time), "-" if c.low is None else f"{c.low:.3f} to {c.high:.3f}"),
            *(_times(c.memory), _times(c.energy), "-" if c.wer is None else f"{c.wer:+.4f}"),
            about or ("" if c.certain else "within noise"),
        )
    print_table(table)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _what(case: Any) -> str:
    what = "" if case.work == "words" else f"{case.seconds:g} s x {case.batch}"
    return what if case.work == "speed" else f"{case.work} {what}".strip()


def _about(case: Any) -> str:
    return f"{case.model} {case.engine} {case.bits} {case.device} {_what(case)}"


def _short(row: Any) -> str:
    values = row.values
    if row.case.work == "words":
        return f"WER {_rates(values)}"
    if row.case.work == "operations":
        items = [item for part in values["parts"].values() for item in part]
        return f"{sum(item['flops'] for item in items) / 1e9:.1f} GFLOPs"
    if row.case.work == "cache":
        last, whole = values["with_cache"][-1], values["without_cache"][-1]
        place = values["positions"][-1]
        return f"token {place}: {1e3 * last:.1f} ms, {1e3 * whole:.1f} ms without a cache"
    warning = values["machine"]["why_noisy"]
    times = values["stages"]["whole"]
    return f"{1e3 * times['p50']:.1f} ms" + (f", noisy: {warning}" if warning else "")


def _rates(values: dict[str, Any]) -> str:
    if values["wer"] is None:
        return "- (the manifest has no words)"
    return f"{rate(values['wer'])} ({rate(values['wer_low'])} to {rate(values['wer_high'])})"


def _interval(times: dict[str, Any]) -> str:
    if times["low"] is None:
        return "-"
    return f"{1e3 * times['low']:.1f} to {1e3 * times['high']:.1f}"


def _print(rows: list[Any]) -> None:
    from rich.table import Table

    speed = [row for row in rows if row.case.work == "speed" and row.status == "ok"]
    if speed:
        table = Table(box=None, pad_edge=False)
        for name in ("model", "engine", "bits", "device", "sound", "batch"):
            table.add_column(name)
        for name in ("ms", "95 %", "p95", "RTF", "J", "peak MB", ""):
            table.add_column(name, justify="right")
        for row in speed:
            case, values = row.case, row.values
            times, energy = values["stages"]["whole"], values["energy"]
            table.add_row(
                *(Path(case.model).name, case.engine, case.bits, case.device),
                *(f"{case.seconds:g} s", str(case.batch), f"{1e3 * times['p50']:.1f}"),
                _interval(times),
                *(f"{1e3 * times['p95']:.1f}", f"{values['real_time_factor']:.4f}"),
                f"{energy['joules']:.3g}{' est.' if energy['estimate'] else ''}",
                f"{values['memory']['peak'] / 1e6:.0f}",
                "noisy" * values["machine"]["noisy"],
            )
        print_table(table)
    words = [row for row in rows if row.case.work == "words" and row.status == "ok"]
    if words:
        table = Table(box=None, pad_edge=False)
        for name in ("model", "engine", "bits", "utterances", "bytes", "WER", "95 %", "CER"):
            table.add_column(name)
        for row in words:
            case, values = row.case, row.values
            table.add_row(
                *(Path(case.model).name, case.engine, case.bits, str(values["utterances"])),
                *(f"{values['bytes']:,}", rate(values["wer"])),
                *(f"{rate(values['wer_low'])} to {rate(values['wer_high'])}", rate(values["cer"])),
            )
        print_table(table)
