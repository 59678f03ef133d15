"""The command line: one thin command per verb."""

from __future__ import annotations

import glob
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

import tynda
from tynda import hub, library, writers
from tynda.errors import TyndaError
from tynda.evaluation import Report, Result
from tynda.recognizers import Recognizer

__all__ = ["main"]

# Wide, or what is not a terminal would cut tables at 80 columns.
stdout = Console(width=1000, highlight=False, markup=False, emoji=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Commands(click.Group):
    """Errors that a user can mend become one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TyndaError as error:
            _say(f"error: {error}")
            ctx.exit(1)
        except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
            sys.stderr.close()
            ctx.exit(1)
        except OSError as error:  # input has its own messages
            _say(f"error: cannot write the result ({error.strerror}): make room")
            ctx.exit(1)
        except MemoryError:
            _say("error: out of memory: use a smaller model or shorter pieces of sound")
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tynda.__version__, prog_name="tynda")
def main() -> None:
    """Speech recognition made small, fast and private."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")


def _say(line: str) -> None:
    stderr.print(" ".join(line.split()))


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--backend", type=click.Choice(["numpy", "torch"]), default="numpy"),
        click.option("--threads", type=click.IntRange(1), help="Threads to use; all by default."),
        click.option("--beam-size", type=click.IntRange(1), help="1 is greedy, without n-gram."),
        click.option("--lm", metavar="FILE", help="ARPA or KenLM n-gram; 'none' for none."),
        click.option("--alpha", type=click.FloatRange(0), help="Weight of the n-gram."),
        click.option("--beta", type=float, help="Bonus for each word, with an n-gram."),
        click.option("--hotwords", metavar="WORDS", help="Words to expect, parted by commas."),
        click.option(
            "--hotword-boost",
            type=click.FloatRange(0),
            help="Nats for each letter of a hot word, with CTC; 1 by default.",
        ),
        click.option("--language", help="Language of the recordings; the model has to know it."),
        click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Whisper."),
        click.option(
            "--temperature",
            multiple=True,
            type=click.FloatRange(0),
            help="Whisper: of the draws; again for each further try. 0, 0.2 ... 1 by default.",
        ),
        click.option("--best-of", type=click.IntRange(1), help="Whisper: texts to draw."),
        click.option("--patience", type=float, help="Whisper: of the beam search."),
        click.option("--length-penalty", type=float, help="Whisper: of the beam search."),
        click.option("--initial-prompt", metavar="TEXT", help="Whisper: what came before."),
        click.option("--prefix", metavar="TEXT", help="Whisper: how the text begins."),
        click.option("--without-timestamps", is_flag=True, default=None, help="Whisper."),
        click.option("--word-timestamps", is_flag=True, default=None, help="Whisper: word times."),
        click.option(
            "--window",
            type=click.Choice(["exact", "fit"]),
            help="Whisper: fit encodes no more than what is said; exact by default.",
        ),
        click.option("--vad-filter", is_flag=True, default=None, help="Whisper: only speech."),
        click.option("--batch-size", type=click.IntRange(1), help="Whisper, with --vad-filter; 8."),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Whisper: in a window."),
        click.option(
            "--condition-on-previous-text/--no-condition-on-previous-text",
            default=None,
            help="Whisper: tell each window what was heard before it; done by default.",
        ),
        click.option("--compression-ratio-threshold", type=float, help="Whisper; 2.4."),
        click.option("--logprob-threshold", type=float, help="Whisper; -1."),
        click.option("--no-speech-threshold", type=float, help="Whisper; 0.6."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--model",
    default=library.DEFAULT,
    show_default=True,
    help="Name, file, or owner/name of the hub.",
)
@click.option("--format", "format_", type=click.Choice(list(writers.FORMATS)), default="txt")
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n-best", type=click.IntRange(1), help="Hypotheses in the json, with CTC.")
@_model_options
def transcribe(
    files: Sequence[str],
    model: str,
    format_: str,
    output_dir: Path | None,
    backend: Any,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Write down what is said in FILEs (sound or video; patterns; "-" is stdin).

    One file that cannot be read does not stop the others; the exit code is then 1.
    """
    paths = _expand(files)
    if len(paths) > 1 and output_dir is None and format_ in ("srt", "vtt", "tsv"):
        raise click.UsageError(f"several files as {format_} need --output-dir")
    targets = _targets(paths, output_dir, format_) if output_dir else {}
    recognizer = tynda.load(model, backend=backend)
    options = _options(recognizer, **decoding)
    recognizer.prepare(options)  # what is wrong with the options is said once
    failed = 0
    with threadpool_limits(threads):
        for path in paths:
            try:
                with _progress(path) as advance:
                    transcript = recognizer.transcribe(path, options, on_progress=advance)
                if output_dir:
                    transcript.save(targets[path])
                else:
                    _print_transcript(transcript, path, format_, many=len(paths) > 1)
            except TyndaError as error:
                failed += 1
                _say(f"error: {error}")
    if failed:
        if len(paths) > 1:
            _say(f"{failed} of {len(paths)} files could not be transcribed")
        sys.exit(1)


def _expand(files: Sequence[str]) -> list[str]:
    """Resolve patterns that the shell left alone; a file of just that name comes first."""
    paths: list[str] = []
    for file in files:
        found = sorted(glob.glob(file, recursive=True)) if glob.has_magic(file) else []
        paths += [file] if not found or Path(file).exists() else found
    return list(dict.fromkeys(paths))


def _targets(paths: Sequence[str], folder: Path, format_: str) -> dict[str, Path]:
    targets = {p: folder / f"{'stdin' if p == '-' else Path(p).stem}.{format_}" for p in paths}
    owner: dict[Path, str] = {}
    for path, target in targets.items():
        if target in owner:
            raise click.UsageError(f"{owner[target]} and {path} would both become {target}")
        owner[target] = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TyndaError(f"cannot make the folder {folder} ({error.strerror})") from None
    return targets


def _print_transcript(transcript: tynda.Transcript, path: str, format_: str, *, many: bool) -> None:
    name = click.format_filename(path)  # a name may hold bytes that are no characters
    if not many:
        text = writers.write(transcript, format_)
    elif format_ == "json":  # JSON lines
        text = json.dumps({"file": name, **transcript.to_dict()}, ensure_ascii=False)
    else:
        text = f"{name}: {transcript.text}"
    click.echo(text, nl=not text.endswith("\n"))


@main.command()
@click.argument("model")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table")
@click.option("--worst", type=click.IntRange(0), default=10, help="Worst utterances to list.")
@click.option("--show", is_flag=True, help="List every utterance instead, in order.")
@_model_options
def evaluate(
    model: str,
    manifests: Sequence[str],
    format_: str,
    worst: int,
    show: bool,
    backend: Any,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Score MODEL on MANIFESTs: word and character error rates, real-time factor."""
    recognizer = tynda.load(model, backend=backend)
    options = _options(recognizer, **decoding)
    with threadpool_limits(threads), _progress("evaluating", "utterances") as advance:
        report = tynda.evaluate(recognizer, manifests, options, on_progress=advance)
    for path, why in report.failed:
        _say(f"not scored: {path}: {why}")
    if format_ == "json":
        click.echo(json.dumps(report.to_dict(worst), indent=2, ensure_ascii=False))
    else:
        _print_report(report, report.results if show else report.worst(worst))
    if report.failed:
        sys.exit(1)


def _print_report(report: Report, listed: Sequence[Result]) -> None:
    table = Table("source", "utterances", "words", "WER", "CER", "sub", "ins", "del", box=None)
    for name, s in (*report.sources.items(), ("all", report.overall)):
        counts = (s.substitutions, s.insertions, s.deletions)
        table.add_row(
            name, str(s.utterances), str(s.words), _rate(s.wer), _rate(s.cer), *map(str, counts)
        )
    stdout.print(table)
    stdout.print(
        f"{report.model}: {report.bytes:,} bytes; "
        f"{report.audio_seconds:.0f} s of sound at a real-time factor of "
        f"{report.real_time_factor or 0:.3f}"
    )
    for result in listed:
        stdout.print(f"\n{result.audio}\n  said  {result.reference}\n  heard {result.hypothesis}")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@main.command()
@click.argument("recipe")
@click.option("--data", type=click.Path(path_type=Path), default=Path(), help="Data folder.")
@click.option("--output", type=click.Path(path_type=Path), help="Run folder; default runs/NAME.")
@click.option("--init", type=click.Path(path_type=Path), help="Model file to start from.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--threads", type=click.IntRange(1), help="Threads to use; all by default.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads for the data."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="optimizer.epochs=5")
def train(
    recipe: str,
    data: Path,
    output: Path | None,
    init: Path | None,
    resume: bool,
    device: str,
    threads: int | None,
    workers: int,
    settings: Sequence[str],
) -> None:
    """Train a model by RECIPE: a bundled name or a TOML file."""
    try:
        from tynda.train.run import train as run
    except ImportError as error:
        raise TyndaError(f"training needs {error.name}: pip install 'tynda[train]'") from None
    path = run(
        recipe,
        data,
        output,
        settings,
        init=init,
        resume=resume,
        device=device,
        threads=threads,
        workers=workers,
    )
    click.echo(path)


@main.group()
def models() -> None:
    """The models that are at hand."""


@models.command("list")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table")
def list_models(format_: str) -> None:
    """List the models that come with tynda, are cached or were pulled."""
    rows = library.describe()
    if format_ == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "", "bytes", "family", "languages", "licence", "scores", box=None)
    for row in rows:
        where = "default" if row["default"] else "bundled" if row["bundled"] else "cached"
        table.add_row(
            row["name"],
            where,
            str(row["bytes"]),
            row["family"],
            " ".join(row["languages"]),
            row["licence"],
            _scores(row),
        )
    stdout.print(table)


@models.command("show")
@click.argument("name")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table")
def show_model(name: str, format_: str) -> None:
    """Describe the model NAME: a name as listed, or a path."""
    row = library.show(name)
    if format_ == "json":
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False)
    for key in ("name", "path", "bytes", "family", "languages", "licence", "scores"):
        value = {"languages": " ".join(row["languages"]), "scores": _scores(row)}.get(key)
        table.add_row(key, str(row[key]) if value is None else value)
    for key, value in row["config"].items():
        table.add_row(f"  {key}", str(value))
    stdout.print(table)


@models.command("pull")
@click.argument("name")
def pull_model(name: str) -> None:
    """Get the model NAME, owner/name or owner/name@revision, from the Hugging Face hub."""
    click.echo(hub.pull(name))


@models.command("remove")
@click.argument("name")
def remove_model(name: str) -> None:
    """Delete the cached or pulled model NAME from the disk."""
    library.remove(name)


def _scores(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} WER {_rate(v.get('wer'))}" for k, v in row["scores"].items())


def _options(recognizer: Recognizer[Any], language: str | None, **options: Any) -> Any:
    """The decoder's options, of those that were given on the command line."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    known = recognizer.header.languages
    if language is not None:
        if language not in known:
            raise TyndaError(
                f"{recognizer.header.name} does not know {language!r}; "
                f"its languages: {', '.join(known)}"
            )
        if len(known) > 1:
            given["language"] = language
    return recognizer.options(**given)


@contextmanager
def _progress(title: str, unit: str = "seconds") -> Iterator[Callable[..., None]]:
    """A line on stderr, on a terminal only: ``advance(done)`` or ``advance(done, total)``."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} " + unit),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total=None: progress.update(task, completed=done, total=total)
