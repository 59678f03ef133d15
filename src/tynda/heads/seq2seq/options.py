"""The decoding options of encoder-decoder models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

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
    check_text,
)

__all__ = ["Options"]

Time = Annotated[float, Range(0, 1e9)]
Token = Annotated[int, Range(-1, 1 << 32)]


@dataclass(frozen=True)
class Options:
    """The decoding options of encoder-decoder models.

    Names and defaults are those of openai/whisper's command, except ``beam_size`` (5 there).
    ``hotwords``, ``max_new_tokens``, ``repetition_penalty`` and ``no_repeat_ngram_size`` and
    ``multilingual`` are those of faster-whisper.
    """

    head: ClassVar[str] = "Seq2seq"
    about: ClassVar[str] = "models with a decoder that writes token by token, such as Whisper"

    language: str | None = setting(
        None,
        "Code of the spoken language, such as en; the model has to know it. By default that of "
        "the model, or detected where the model can do so.",
        heading=EXPECTED,
    )
    """For example ``"kk"``; None means that the language is detected in the first window."""
    multilingual: bool = setting(
        False,
        "Detect the language of every window, for a recording in several languages.",
        heading=EXPECTED,
    )
    task: Literal["transcribe", "translate"] = setting(
        "transcribe", "Transcribe the speech, or translate it into English.", heading=EXPECTED
    )
    temperature: Sequence[NotNegative] = setting(
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "Sample tokens at this temperature; 0 selects the most likely. The next temperature is "
        "tried where a text fails the thresholds for doubtful text.",
        heading=SEARCH,
        repeat=True,
    )
    beam_size: Count | None = setting(
        None, "Width of the beam search at temperature 0; greedy by default.", heading=SEARCH
    )
    best_of: Count | None = setting(
        5, "Texts to sample above temperature 0; the most likely one is used.", heading=SEARCH
    )
    """The default is that of openai/whisper's command; its Python function samples one text."""
    patience: AboveZero = setting(
        1.0,
        "The beam search ends after this number times `beam_size` finished texts.",
        heading=SEARCH,
    )
    """Source: Kasai et al. 2022, "A call for clarity in beam search"."""
    length_penalty: Annotated[float, Range(0, 1)] | None = setting(
        None,
        "Exponent by which the length of a text counts against its log-probability in the beam "
        "search. By default the mean log-probability of its tokens decides.",
        heading=SEARCH,
    )
    """Texts are ranked by log-probability over ``((5 + length) / 6) ** length_penalty`` (Wu et al.
    2016, equation 14), or over their length where it is None."""
    max_new_tokens: Count | None = setting(
        None,
        "Maximum number of tokens in a window; half of the decoder's context by default.",
        heading=SEARCH,
    )
    suppress_tokens: Sequence[Token] = setting(
        (-1,),
        "Tokens that are never generated, separated by commas; -1 means those of symbols that are "
        "not spoken.",
        heading=SEARCH,
        metavar="NUMBERS",
    )
    suppress_blank: bool = setting(
        True, "Suppress a space, or the end, as first token of a text.", heading=SEARCH
    )
    without_timestamps: bool = setting(
        False, "Decode without timestamps: a window is one segment.", heading=TIMES
    )
    max_initial_timestamp: NotNegative | None = setting(
        1.0,
        "Maximum of the first timestamp in a window.",
        heading=TIMES,
        metavar="SECONDS",
    )
    repetition_penalty: AboveZero = setting(
        1.0, "Above 1, tokens that are in the text already become less likely.", heading=SEARCH
    )
    """Their positive logits are divided by it, negative ones multiplied (Keskar et al. 2019)."""
    no_repeat_ngram_size: Annotated[int, Range(0, MAX_COUNT)] = setting(
        0, "Do not repeat sequences of this number of tokens; 0 for no limit.", heading=SEARCH
    )
    prefix: str = setting(
        "", "Beginning of the text of the first window.", heading=EXPECTED, metavar="TEXT"
    )
    initial_prompt: str = setting(
        "",
        "Text that is treated as previous speech: names, spelling, style.",
        heading=EXPECTED,
        metavar="TEXT",
    )
    carry_initial_prompt: bool = setting(
        False,
        "Use `initial_prompt` for every window, not only for the first.",
        heading=EXPECTED,
    )
    hotwords: Words = setting(
        (), "Words or phrases to expect, separated by commas.", heading=EXPECTED, metavar="WORDS"
    )
    """They precede every window that has no prefix."""
    condition_on_previous_text: bool = setting(
        True, "Use the text of the previous windows as prompt.", heading=LONG
    )
    compression_ratio_threshold: Number | None = setting(
        2.4,
        "A text with a higher compression ratio repeats itself: it fails.",
        heading=DOUBT,
    )
    logprob_threshold: Number | None = setting(
        -1.0, "A text whose tokens have a lower mean log-probability fails.", heading=DOUBT
    )
    no_speech_threshold: Number | None = setting(
        0.6,
        "A window that fails by its log-probability is silence if its probability of no speech "
        "is higher than this.",
        heading=DOUBT,
    )
    speech_threshold: Annotated[float, Range(0, 1)] | None = setting(
        None,
        "Probability of speech, by Silero VAD, below which there is no text, by default that of "
        "the model file, or 0.4; 0 decodes silence and noise too, as published.",
        heading=DOUBT,
    )
    """Text in a window where less than 0.13 s reach it must pass all thresholds for doubtful text;
    where nothing reaches half of it, there is none."""
    word_timestamps: bool = setting(False, "Find the time of each word.", heading=TIMES)
    prepend_punctuations: str = setting(
        "\"'“¿([{-",
        "Punctuation that belongs to the next word, with `word_timestamps`.",
        heading=TIMES,
        metavar="MARKS",
    )
    append_punctuations: str = setting(
        "\"'.。,，!！?？:：”)]}、",
        "Punctuation that belongs to the previous word, with `word_timestamps`.",
        heading=TIMES,
        metavar="MARKS",
    )
    clip_timestamps: Sequence[Time] = setting(
        (0.0,),
        "Begin, end, begin, end ... of the parts to transcribe, separated by commas; the last end "
        "may be omitted.",
        heading=LONG,
        metavar="SECONDS",
    )
    window: Literal["exact", "merged", "fit"] = setting(
        "merged",
        "Window that is encoded: exact pads it with silence to its full length, as published; "
        "merged, which is faster, represents the silence by a few frames; fit ends with the "
        "speech, for models that were trained so.",
        heading=LONG,
    )
    """Published weights were trained on full windows only: with them, fit gives a warning."""
    window_margin: NotNegative = setting(
        1.0,
        "Silence after the speech, with `window` fit.",
        heading=LONG,
        metavar="SECONDS",
    )
    window_floor: AboveZero = setting(
        15.0, "Minimum length of a window, with `window` fit.", heading=LONG, metavar="SECONDS"
    )
    """In shorter windows, published weights lose whole texts."""
    hallucination_silence_threshold: NotNegative | None = setting(
        None,
        "Skip longer silences around a doubtful text, with `word_timestamps`.",
        heading=DOUBT,
        metavar="SECONDS",
    )
    vad_filter: bool = setting(
        False,
        "Detect speech first, and decode its windows in batches: faster, but no window has the "
        "text of another as context.",
        heading=LONG,
    )
    batch_size: Count = setting(
        8, "Number of windows that are decoded together, with `vad_filter`.", heading=LONG
    )
    seed: Annotated[int, Range(0)] = setting(
        0, "Seed of the random numbers with which tokens are sampled.", heading=SEARCH
    )

    def __post_init__(self) -> None:
        self._normalize_values()
        check(self)
        for name in ("prefix", "initial_prompt", "prepend_punctuations", "append_punctuations"):
            check_text(name, getattr(self, name))
        if not self.temperature:
            raise TyndaError("temperature must have at least one number")
        clips = self.clip_timestamps
        if any(begin >= end for begin, end in zip(clips[::2], clips[1::2], strict=False)):
            raise TyndaError(f"clip_timestamps must end after they begin, not {clips!r}")
        if self.hallucination_silence_threshold is not None:
            if not self.word_timestamps:
                raise TyndaError(
                    "hallucination_silence_threshold needs word times: set word_timestamps too"
                )
            if self.vad_filter:
                raise TyndaError(
                    "hallucination_silence_threshold does not apply with vad_filter, which "
                    "removes silences itself: omit one of them"
                )
        if self.multilingual and self.language is not None:
            raise TyndaError(
                "multilingual detects the language of every window: omit it, or the language"
            )
        if self.prefix and self.vad_filter:
            raise TyndaError(
                "prefix applies to the first window, and with vad_filter there is no first one: "
                "omit one of them"
            )

    def _normalize_values(self) -> None:
        """Convert a number, None or a text to a list, since openai/whisper accepts these too."""
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
