"""The command line: one thin command per verb."""

from __future__ import annotations

import errno
import glob
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

import tynda
from tynda import checks, hub, library, writers
from tynda.engine import Backend
from tynda.errors import TyndaError, listed
from tynda.evaluation import Report, Result
from tynda.recognizers import Recognizer
from tynda.text.normalize import NORMALIZERS

__all__ = ["main"]

# Wide, or what is not a terminal would cut tables at 80 columns.
tables = Console(
    width=1000, color_system=None, highlight=False, markup=False, emoji=False, soft_wrap=True
)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Commands(click.Group):
    """Errors that a user can mend become one line and exit code 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        # What the shell has closed (>&-) is None, and print would be silent.
        sys.stdout = sys.stdout or _Closed()
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):  # what an encoding cannot write is escaped
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **extra)
        except TyndaError as error:
            _say(f"error: {error}")
        except OSError as error:  # sound, models and transcripts have their own messages
            _drop_stdout()
            if error.errno in _FULL and error.filename is None:
                _say(f"error: cannot write the result ({error.strerror}): make room")
            else:
                where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
                _say(f"error: {where}{error.strerror or error}")
        except MemoryError:
            _say("error: out of memory: use a smaller model or shorter pieces of sound")
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(130)


class _Closed(io.TextIOBase):
    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "standard output is closed: nothing can be written to it")


class _Number(click.FloatRange):
    """A range without NaN, which compares with nothing."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))
_SIZE = click.IntRange(1, checks.MOST)
_WEIGHT = _Number(0, checks.GREATEST)
_NUMBER = _Number(-checks.GREATEST, checks.GREATEST)
# Control characters, which could do anything to a terminal, as JSON spells them.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160))}
_IN_TEXT = {code: name for code, name in _CONTROLS.items() if chr(code) not in "\t\n"}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tynda.__version__, prog_name="tynda")
def main() -> None:
    """Speech recognition made small, fast and private."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")


def _say(line: str) -> None:
    with suppress(OSError):  # nobody is left to tell
        stderr.print(_visible(" ".join(line.split())))


def _print(text: str) -> None:
    """All that goes to standard output."""
    click.echo(text.translate(_IN_TEXT), nl=not text.endswith("\n"))


def _print_table(table: Table) -> None:
    with tables.capture() as captured:
        tables.print(table)
    _print(captured.get())


def _visible(name: str) -> str:
    return name.translate(_CONTROLS)


def _drop_stdout() -> None:
    """Let go of what could not be written, or Python would try, and complain, once more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--backend", type=click.Choice(get_args(Backend)), default="numpy", show_default=True
        ),
        click.option("--threads", type=click.IntRange(1), help="Threads to use; all by default."),
        click.option("--beam-size", type=_SIZE, help="1 is greedy, without n-gram."),
        click.option("--lm", metavar="FILE", help="ARPA or KenLM n-gram; 'none' for none."),
        click.option("--alpha", type=_WEIGHT, help="Weight of the n-gram."),
        click.option("--beta", type=_NUMBER, help="Bonus for each word, with an n-gram."),
        click.option("--hotwords", metavar="WORDS", help="Words to expect, parted by commas."),
        click.option(
            "--hotword-boost",
            type=_WEIGHT,
            help="Nats for each letter of a hot word, with CTC; 1 by default.",
        ),
        click.option("--language", help="Language of the recordings; the model has to know it."),
        click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Whisper."),
        click.option(
            "--temperature",
            multiple=True,
            type=_WEIGHT,
            help="Whisper: of the draws; again for each further try. 0, 0.2 ... 1 by default.",
        ),
        click.option("--best-of", type=_SIZE, help="Whisper: texts to draw."),
        click.option("--patience", type=_NUMBER, help="Whisper: of the beam search."),
        click.option("--length-penalty", type=_NUMBER, help="Whisper: of the beam search."),
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
        click.option("--batch-size", type=_SIZE, help="Whisper, with --vad-filter; 8."),
        click.option("--max-new-tokens", type=_SIZE, help="Whisper: in a window."),
        click.option(
            "--condition-on-previous-text/--no-condition-on-previous-text",
            default=None,
            help="Whisper: tell each window what was heard before it; done by default.",
        ),
        click.option("--compression-ratio-threshold", type=_NUMBER, help="Whisper; 2.4."),
        click.option("--logprob-threshold", type=_NUMBER, help="Whisper; -1."),
        click.option("--no-speech-threshold", type=_NUMBER, help="Whisper; 0.6."),
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
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(writers.FORMATS)),
    default="txt",
    show_default=True,
    help="Several files as json give JSON lines.",
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a text of each FILE, in place of stdout; older ones are replaced.",
)
@click.option("--n-best", type=_SIZE, help="Hypotheses in the json, with CTC; 1 by default.")
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
    """Write down what is said in FILEs: sound or video, names or patterns.

    The FILE "-" is standard input; in --output-dir its text is called stdin.

    One file that cannot be read does not stop the others; the exit code is then 1.
    """
    paths = _expand(files)
    if len(paths) > 1 and output_dir is None and format_ in ("srt", "vtt", "tsv"):
        raise click.UsageError(f"several files as {format_} need --output-dir")
    if decoding["n_best"] is not None and format_ != "json":
        raise click.UsageError(f"--n-best needs --format json: {format_} has one text alone")
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
        paths += [file] if not found or os.path.exists(file) else found
    # A file that is named twice is read once; a link of another name has a text of its own.
    first: dict[object, str] = {}
    for path in paths:
        key = path if path == "-" else (os.path.realpath(path), os.path.basename(path))
        first.setdefault(key, path)
    return list(first.values())


def _targets(paths: Sequence[str], folder: Path, format_: str) -> dict[str, Path]:
    targets = {p: folder / f"{'stdin' if p == '-' else Path(p).stem}.{format_}" for p in paths}
    owner: dict[Path, str] = {}
    inputs = {_identity(p): p for p in paths if p != "-"}
    inputs.pop(None, None)
    for path, target in targets.items():
        if target in owner:
            raise click.UsageError(
                _visible(f"{owner[target]} and {path} would both become {target}")
            )
        if (lost := inputs.get(_identity(target))) is not None:
            raise click.UsageError(
                _visible(f"the text of {path} would replace {lost}: choose another --output-dir")
            )
        owner[target] = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TyndaError(f"cannot make the folder {folder} ({error.strerror})") from None
    return targets


def _identity(path: str | Path) -> tuple[int, int] | None:
    """The same for all names of a file, links among them; None where there is none."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _print_transcript(transcript: tynda.Transcript, path: str, format_: str, *, many: bool) -> None:
    name = click.format_filename(path)  # a name may hold bytes that are no characters
    if not many:
        text = writers.write(transcript, format_)
    elif format_ == "json":  # JSON lines
        text = json.dumps({"file": name, **transcript.to_dict()}, ensure_ascii=False)
    else:
        text = f"{_visible(name)}: {transcript.text}"
    _print(text)


_table_or_json = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)


@main.command()
@click.argument("model")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@_table_or_json
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Worst utterances to list.",
)
@click.option("--show", is_flag=True, help="List every utterance instead, in order.")
@click.option(
    "--normalizer",
    type=click.Choice(list(NORMALIZERS)),
    help="Spelling in which texts are compared; letters for English models, else basic.",
)
@_model_options
def evaluate(
    model: str,
    manifests: Sequence[str],
    format_: str,
    worst: int,
    show: bool,
    normalizer: str | None,
    backend: Any,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Score MODEL on MANIFESTs: word and character error rates, real-time factor."""
    recognizer = tynda.load(model, backend=backend)
    options = _options(recognizer, **decoding)
    with threadpool_limits(threads), _progress("evaluating", "utterances") as advance:
        report = tynda.evaluate(
            recognizer, manifests, options, normalizer=normalizer, on_progress=advance
        )
    for path, why in report.failed:
        _say(f"not scored: {why if str(path) in why else f'{path}: {why}'}")
    if format_ == "json":
        _print(json.dumps(report.to_dict(worst, every=show), indent=2, ensure_ascii=False))
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
    _print_table(table)
    _print(
        f"{report.model}: {report.bytes:,} bytes; "
        f"{report.audio_seconds:.0f} s of sound at a real-time factor of "
        f"{report.real_time_factor or 0:.3f}"
    )
    for result in listed:
        name = _visible(click.format_filename(result.audio))
        _print(f"\n{name}\n  said  {result.reference}\n  heard {result.hypothesis}")


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
    _print(click.format_filename(path))


@main.group()
def models() -> None:
    """The models that are at hand."""


@models.command("list")
@_table_or_json
def list_models(format_: str) -> None:
    """List the models that come with tynda, are cached or were pulled."""
    rows = library.describe()
    if format_ == "json":
        _print(json.dumps(rows, indent=2, ensure_ascii=False))
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
    _print_table(table)


@models.command("show")
@click.argument("name")
@_table_or_json
def show_model(name: str, format_: str) -> None:
    """Describe the model NAME: a name as listed, or a path."""
    row = library.show(name)
    if format_ == "json":
        _print(json.dumps(row, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False)
    for key in ("name", "path", "bytes", "family", "languages", "licence", "scores"):
        value = {"languages": " ".join(row["languages"]), "scores": _scores(row)}.get(key)
        table.add_row(key, str(row[key]) if value is None else value)
    for key, value in row["config"].items():
        table.add_row(f"  {key}", str(value))
    _print_table(table)


@models.command("pull")
@click.argument("name")
@click.option(
    "--language", "languages", multiple=True, help="MMS: get its adapter too; may be repeated."
)
def pull_model(name: str, languages: Sequence[str]) -> None:
    """Get the model NAME, owner/name or owner/name@revision, from the Hugging Face hub."""
    _print(str(hub.pull(name, languages)))


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
                f"its languages: {listed(known)}"
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
        task = progress.add_task(_visible(title), total=None)
        yield lambda done, total=None: progress.update(task, completed=done, total=total)
