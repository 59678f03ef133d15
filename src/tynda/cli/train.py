"""The command ``tynda train``: trains a model by a recipe, or an n-gram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tynda.checks import MAX_COUNT
from tynda.cli.console import print_text, print_written, say
from tynda.cli.options import PathName
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.files import write_whole
from tynda.train.recipe import read_table

__all__ = ["train"]


class _Train(click.Group):
    """A command with a recipe as its argument, and subcommands with names of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as `click.Group` does; what names no subcommand is the recipe."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["recipe", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two ways of use."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE")
        formatter.write_usage(ctx.command_path, "lm [OPTIONS] FILE...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of a recipe and the subcommands."""
        by_recipe.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Train)
def train() -> None:
    """Train a model by RECIPE: a bundled name or a TOML file; or an n-gram (lm)."""


@train.command("recipe", hidden=True)
@click.argument("recipe")
@click.option("--data", type=PathName(path_type=Path), default=Path(), help="Data folder.")
@click.option("--output", type=PathName(path_type=Path), help="Run folder; default runs/NAME.")
@click.option("--init", type=PathName(path_type=Path), help="Model file to start from.")
@click.option("--resume", is_flag=True, help="Resume the run in --output.")
@click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda, cuda:1 ...")
@click.option(
    "--threads", type=click.IntRange(1, MAX_COUNT), help="Number of threads; all by default."
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    show_default=True,
    help="Threads that prepare data.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as optimizer.epochs=5.",
)
def by_recipe(
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
    read_table(recipe)  # A wrong name is answered before torch is imported, which takes seconds.
    try:
        from tynda.train.run import train as run
    except ImportError as error:
        raise TyndaError(f"training needs {error.name}: {install('train')}") from None
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
    print_text(click.format_filename(path))


@train.command("lm")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output",
    "-o",
    type=PathName(dir_okay=False, path_type=Path),
    required=True,
    help="ARPA file for the n-gram.",
)
@click.option("--language", default="en", show_default=True, help="Language of the texts.")
@click.option(
    "--order", type=click.IntRange(2, 6), default=3, show_default=True, help="Words of an n-gram."
)
@click.option(
    "--prune",
    type=click.IntRange(0, 1000),
    default=1,
    show_default=True,
    help="Maximum count of n-grams of three and more words that are dropped.",
)
def lm(files: Sequence[str], output: Path, language: str, order: int, prune: int) -> None:
    """Train a word n-gram on the distinct lines of FILEs, for --lm of a CTC model.

    FILEs have plain text, or JSON objects with a "text", as manifests and the output of tynda text
    clean. "-" is standard input. All lines are in memory.
    """
    from tynda.heads.ctc import ngram
    from tynda.text.lines import read
    from tynda.text.normalize import normalizer_of

    normalize, sentences, skipped = normalizer_of([language]), set[str](), 0
    for line in read(files):
        skipped += line.text is None
        sentences.add("" if line.text is None else normalize(line.text))
    sentences.discard("")
    if skipped:
        say(f"warning: {skipped} lines could not be read, and are left out")
    arpa = ngram.train(sorted(sentences), order, [0, 0, *[prune] * (order - 2)])
    write_whole(output, arpa.encode())
    say(f"{len(sentences)} distinct lines, {sum(s.count(' ') + 1 for s in sentences)} words")
    print_written(output)
