"""Options that commands share, and what they make of a recogniser's decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, get_args

import click

from tynda import checks
from tynda.compile.engine import BITS, Backend, processors

if TYPE_CHECKING:
    from tynda.model import Model

__all__ = ["SIZE", "Number", "decoder_options", "limited", "model_options", "table_or_json"]


class Number(click.FloatRange):
    """A range without NaN, which compares with nothing."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """As `click.FloatRange` does."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


SIZE = click.IntRange(1, checks.MOST)
_WEIGHT = Number(0, checks.GREATEST)
_NUMBER = Number(-checks.GREATEST, checks.GREATEST)
_ABOVE_ZERO = Number(0, checks.GREATEST, min_open=True)

table_or_json = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)


def _several(text: str | None, kind: Callable[[str], float], least: float, what: str) -> Any:
    """Numbers parted by commas, ``least`` or more; none where the text is empty."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.split(",")] if text.strip() else []
        fit = all(least <= number < math.inf for number in numbers)
    except ValueError:
        fit = False
    if not fit:
        raise click.BadParameter(f"{text!r} is not {what} of {least} or more, parted by commas.")
    return tuple(numbers)


def _tokens(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    return _several(text, int, -1, "whole numbers")


def _clips(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    return _several(text, float, 0, "seconds")


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the backend and the decoders."""
    options = (
        click.option(
            "--backend",
            type=click.Choice(get_args(Backend)),
            help="native by default, or numpy where tynda was installed without a compiler.",
        ),
        click.option(
            "--bits",
            type=click.Choice([str(bits) for bits in BITS]),
            callback=lambda ctx, param, given: given and int(given),
            help="Of numbers in products: 32 by default, or 8 for a model that is stored so.",
        ),
        click.option("--threads", type=click.IntRange(1), help="Threads to use; all by default."),
        click.option("--beam-size", type=SIZE, help="1 is greedy, without n-gram."),
        click.option("--lm", metavar="FILE", help="ARPA or KenLM n-gram; 'none' for none."),
        click.option("--alpha", type=_WEIGHT, help="Weight of the n-gram."),
        click.option("--beta", type=_NUMBER, help="Bonus for each word, with an n-gram."),
        click.option("--hotwords", metavar="WORDS", help="Words to expect, parted by commas."),
        click.option(
            "--hotword-boost",
            type=_WEIGHT,
            help="Nats for each letter of a hot word, with CTC; 1 by default.",
        ),
        click.option(
            "--chunk-length",
            type=Number(1, checks.GREATEST),
            metavar="SECONDS",
            help="CTC: hear so much at once, with overlap; by default pieces of 3 s to 8 s, cut "
            "at the quietest spots.",
        ),
        click.option(
            "--stride-length",
            type=_WEIGHT,
            metavar="SECONDS",
            help="CTC, with --chunk-length: its overlap on either side; a sixth by default.",
        ),
        click.option("--language", help="Language of the recordings; the model has to know it."),
        click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Whisper."),
        click.option(
            "--temperature",
            multiple=True,
            type=_WEIGHT,
            callback=lambda ctx, param, given: given or None,  # (), where there is none
            help="Whisper: of the draws; again for each further try. 0, 0.2 ... 1 by default.",
        ),
        click.option("--seed", type=click.IntRange(0), help="Whisper: of the draws; 0."),
        click.option("--best-of", type=SIZE, help="Whisper: texts to draw."),
        click.option("--patience", type=_ABOVE_ZERO, help="Whisper: of the beam search."),
        click.option("--length-penalty", type=Number(0, 1), help="Whisper: of the beam search."),
        click.option("--initial-prompt", metavar="TEXT", help="Whisper: what came before."),
        click.option(
            "--carry-initial-prompt",
            is_flag=True,
            default=None,
            help="Whisper: put --initial-prompt before every window.",
        ),
        click.option("--prefix", metavar="TEXT", help="Whisper: how the text begins."),
        click.option("--without-timestamps", is_flag=True, default=None, help="Whisper."),
        click.option(
            "--max-initial-timestamp",
            type=_WEIGHT,
            help="Whisper: seconds, at most, to the first time stamp of a window; 1.",
        ),
        click.option(
            "--clip-timestamps",
            metavar="SECONDS",
            callback=_clips,
            help="Whisper: begin, end, begin, end ... of what to transcribe, parted by commas; "
            "a last end may be missing. 0, all of it, by default.",
        ),
        click.option("--word-timestamps", is_flag=True, default=None, help="Whisper: word times."),
        click.option(
            "--prepend-punctuations",
            metavar="MARKS",
            help="Whisper, with --word-timestamps: marks that belong to the word behind them.",
        ),
        click.option(
            "--append-punctuations",
            metavar="MARKS",
            help="Whisper, with --word-timestamps: marks that belong to the word before them.",
        ),
        click.option(
            "--hallucination-silence-threshold",
            type=_WEIGHT,
            help="Whisper, with --word-timestamps: skip silences of more seconds around a "
            "doubtful text.",
        ),
        click.option(
            "--window",
            type=click.Choice(["exact", "fit"]),
            help="Whisper: fit encodes no more than what is said; exact by default.",
        ),
        click.option(
            "--window-margin",
            type=_WEIGHT,
            help="Whisper, with --window fit: seconds of silence behind what is said; 1.",
        ),
        click.option(
            "--window-floor",
            type=_ABOVE_ZERO,
            help="Whisper, with --window fit: seconds, at least, in a window; 5.",
        ),
        click.option("--vad-filter", is_flag=True, default=None, help="Whisper: only speech."),
        click.option("--batch-size", type=SIZE, help="Whisper, with --vad-filter; 8."),
        click.option("--max-new-tokens", type=SIZE, help="Whisper: in a window."),
        click.option(
            "--suppress-tokens",
            metavar="NUMBERS",
            callback=_tokens,
            help="Whisper: tokens never to choose, parted by commas. -1, by default, stands for "
            "those of symbols that are not said.",
        ),
        click.option(
            "--suppress-blank/--no-suppress-blank",
            default=None,
            help="Whisper: a text neither begins with a space nor ends at once; so by default.",
        ),
        click.option(
            "--repetition-penalty",
            type=_ABOVE_ZERO,
            help="Whisper: above 1, tokens that are in the text already are less likely; 1.",
        ),
        click.option(
            "--no-repeat-ngram-size",
            type=click.IntRange(0, checks.MOST),
            help="Whisper: no sequence of so many tokens comes twice; 0, any may, by default.",
        ),
        click.option(
            "--condition-on-previous-text/--no-condition-on-previous-text",
            default=None,
            help="Whisper: tell each window what was heard before it; done by default.",
        ),
        click.option("--compression-ratio-threshold", type=_NUMBER, help="Whisper; 2.4."),
        click.option("--logprob-threshold", type=_NUMBER, help="Whisper; -1."),
        click.option("--no-speech-threshold", type=_NUMBER, help="Whisper; 0.6."),
    )
    for option in reversed(options):  # the help lists the last one applied first
        command = option(command)
    return command


def limited(threads: int | None) -> AbstractContextManager[Any]:
    """A context in which NumPy's products take no more threads; by themselves they take all."""
    if threads is None or threads >= processors():
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(threads)
    return limits


def decoder_options(model: Model, **options: Any) -> Any:
    """The decoder's options, of those that were given on the command line."""
    given = {name: value for name, value in options.items() if value is not None}
    return model.options(**given)
