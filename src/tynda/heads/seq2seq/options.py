"""The settings of the decoder of an encoder-decoder model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from tynda.checks import MAX_COUNT, Range, check, fits, setting
from tynda.errors import TyndaError
from tynda.heads.settings import (
    DOUBT,
    EXPECTED,
    LONG,
    SEARCH,
    TIMES,
    AboveZero,
    Count,
    NotNegative,
    Number,
    Words,
)

__all__ = ["Options"]

Time = Annotated[float, Range(0, 1e9)]
Token = Annotated[int, Range(-1, 1 << 32)]


@dataclass(frozen=True)
class Options:
    """How a recording becomes text.

    Names and defaults are those of openai/whisper's command, but that it searches with 5 beams;
    ``hotwords``, ``max_new_tokens``, ``repetition_penalty`` and ``no_repeat_ngram_size`` are
    faster-whisper's.
    """

    head: ClassVar[str] = "Seq2seq"
    about: ClassVar[str] = "models with a decoder that writes token by token, such as Whisper"

    language: str | None = setting(
        None,
        "Code of the spoken language, such as en; the model has to know it. By default that of "
        "the model, or detected where the model can do so.",
        heading=EXPECTED,
    )
    """``"kk"``; None: detected in the first window."""
    task: Literal["transcribe", "translate"] = setting(
        "transcribe", "Write what is said, or translate it into English.", heading=EXPECTED
    )
    temperature: Sequence[NotNegative] = setting(
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "Draw tokens at this temperature; 0 takes the likeliest. The next one is tried where a "
        "text fails the thresholds for doubtful text.",
        heading=SEARCH,
        repeat=True,
    )
    beam_size: Count | None = setting(
        None, "Width of the beam search at temperature 0; greedy by default.", heading=SEARCH
    )
    best_of: Count | None = setting(
        5, "Texts to draw above temperature 0, of which the likeliest is kept.", heading=SEARCH
    )
    """As in the command of openai/whisper; its function draws one."""
    patience: AboveZero = setting(
        1.0,
        "So many times `beam_size` finished texts end the beam search.",
        heading=SEARCH,
    )
    """Kasai et al. 2022, "A call for clarity in beam search"."""
    length_penalty: Annotated[float, Range(0, 1)] | None = setting(
        None,
        "Exponent by which the length of a text counts against its log-probability in the beam "
        "search. By default the mean log-probability of its tokens decides.",
        heading=SEARCH,
    )
    """Texts compete by log-probability over ``((5 + length) / 6) ** length_penalty`` (Wu et al.
    2016, equation 14); None: over their length."""
    max_new_tokens: Count | None = setting(
        None,
        "Maximum number of tokens in a window; half of the decoder's context by default.",
        heading=SEARCH,
    )
    suppress_tokens: Sequence[Token] = setting(
        (-1,),
        "Tokens that are never chosen, separated by commas; -1 stands for those of symbols that "
        "are not said.",
        heading=SEARCH,
        metavar="NUMBERS",
    )
    suppress_blank: bool = setting(
        True, "A text neither begins with a space nor ends at once.", heading=SEARCH
    )
    without_timestamps: bool = setting(
        False, "Decode without time stamps: a window is one segment.", heading=TIMES
    )
    max_initial_timestamp: NotNegative | None = setting(
        1.0,
        "Latest time of the first time stamp in a window.",
        heading=TIMES,
        metavar="SECONDS",
    )
    repetition_penalty: AboveZero = setting(
        1.0, "Above 1, tokens that are in the text already are less likely.", heading=SEARCH
    )
    """Their logits are divided by it, or multiplied below zero (Keskar et al. 2019)."""
    no_repeat_ngram_size: Annotated[int, Range(0, MAX_COUNT)] = setting(
        0, "No sequence of so many tokens comes twice; with 0 any may.", heading=SEARCH
    )
    prefix: str = setting(
        "", "Beginning of the text of the first window.", heading=EXPECTED, metavar="TEXT"
    )
    initial_prompt: str = setting(
        "",
        "Text to take for what was said before: names, spelling, style.",
        heading=EXPECTED,
        metavar="TEXT",
    )
    carry_initial_prompt: bool = setting(
        False,
        "Put `initial_prompt` before every window, not only before the first.",
        heading=EXPECTED,
    )
    hotwords: Words = setting(
        (), "Words or phrases to expect, separated by commas.", heading=EXPECTED, metavar="WORDS"
    )
    """They are put before every window that has no prefix."""
    condition_on_previous_text: bool = setting(
        True, "Give each window the text of the windows before it.", heading=LONG
    )
    compression_ratio_threshold: Number | None = setting(
        2.4,
        "A text that compresses by a higher ratio repeats itself: it fails.",
        heading=DOUBT,
    )
    logprob_threshold: Number | None = setting(
        -1.0, "A text whose tokens have a lower mean log-probability fails.", heading=DOUBT
    )
    no_speech_threshold: Number | None = setting(
        0.6,
        "A window that fails by its log-probability is silence where the probability of no "
        "speech is higher than this.",
        heading=DOUBT,
    )
    word_timestamps: bool = setting(False, "Find the time of each word.", heading=TIMES)
    prepend_punctuations: str = setting(
        "\"'“¿([{-",
        "Marks that belong to the word after them, with `word_timestamps`.",
        heading=TIMES,
        metavar="MARKS",
    )
    append_punctuations: str = setting(
        "\"'.。,，!！?？:：”)]}、",
        "Marks that belong to the word before them, with `word_timestamps`.",
        heading=TIMES,
        metavar="MARKS",
    )
    clip_timestamps: Sequence[Time] = setting(
        (0.0,),
        "Begin, end, begin, end ... of what to transcribe, separated by commas; the last end may "
        "be left out.",
        heading=LONG,
        metavar="SECONDS",
    )
    window: Literal["exact", "fit"] = setting(
        "exact",
        "Window that is encoded: exact fills it with silence up to its full length, as published; "
        "fit, which is faster, ends with the speech, and may change words.",
        heading=LONG,
    )
    """Published weights never saw a window that is not full."""
    window_margin: NotNegative = setting(
        1.0,
        "Silence after the speech, with `window` fit.",
        heading=LONG,
        metavar="SECONDS",
    )
    window_floor: AboveZero = setting(
        5.0, "Minimum length of a window, with `window` fit.", heading=LONG, metavar="SECONDS"
    )
    hallucination_silence_threshold: NotNegative | None = setting(
        None,
        "Skip longer silences around a doubtful text, with `word_timestamps`.",
        heading=DOUBT,
        metavar="SECONDS",
    )
    vad_filter: bool = setting(
        False,
        "Find speech first, and decode its windows side by side: faster, but no window knows the "
        "text of another. Needs tynda[vad].",
        heading=LONG,
    )
    batch_size: Count = setting(8, "Windows side by side, with `vad_filter`.", heading=LONG)
    seed: Annotated[int, Range(0)] = setting(
        0, "Seed of the random numbers by which tokens are drawn.", heading=SEARCH
    )

    def __post_init__(self) -> None:
        self._take_other_spellings()
        check(self)
        if not self.temperature:
            raise TyndaError("temperature must have at least one number")
        clips = self.clip_timestamps
        if any(begin >= end for begin, end in zip(clips[::2], clips[1::2], strict=False)):
            raise TyndaError(f"clip_timestamps must end after they begin, not {clips!r}")
        if self.hallucination_silence_threshold is not None:
            if not self.word_timestamps:
                raise TyndaError(
                    "hallucination_silence_threshold goes by word times: set word_timestamps too"
                )
            if self.vad_filter:
                raise TyndaError(
                    "hallucination_silence_threshold has no part in vad_filter, which leaves "
                    "silences out itself: leave one of them out"
                )
        if self.prefix and self.vad_filter:
            raise TyndaError(
                "prefix begins the first window, and with vad_filter there is no first one: "
                "leave one of them out"
            )

    def suppressed(self, tokenizer: Any, vocab: int) -> tuple[list[int], list[int]]:
        """The tokens below ``vocab`` that a text never has, and those that it does not begin
        with."""
        t, never = tokenizer, {x for x in self.suppress_tokens if x >= 0}
        if -1 in self.suppress_tokens:
            never |= t.non_speech
        if self.suppress_tokens:
            never |= {t.transcribe, t.translate, t.sot, t.sot_prev, t.sot_lm, t.no_speech}
        first = [*t.spell(" "), t.eot] if self.suppress_blank else []
        return sorted(x for x in never if x < vocab), first

    def _take_other_spellings(self) -> None:
        """openai/whisper takes a number or None, and lists as text, where this takes a list."""
        for name in ("temperature", "suppress_tokens", "clip_timestamps", "hotwords"):
            value = getattr(self, name)
            if value is None:
                value = ()
            elif isinstance(value, str) and name != "hotwords":
                kind = int if name == "suppress_tokens" else float
                try:
                    value = tuple(kind(part) for part in value.split(",") if part.strip())
                except ValueError:
                    raise TyndaError(f"{name} must be numbers, not {value!r}") from None
            elif fits(value, float):
                value = (value,)
            object.__setattr__(self, name, value)
        for name in ("prefix", "initial_prompt"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, "")
