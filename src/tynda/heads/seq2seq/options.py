"""What can be asked of Whisper's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tynda.checks import is_number, is_whole, number, whole
from tynda.errors import TyndaError

__all__ = ["Options"]

_FLOATS = (
    *("patience", "repetition_penalty", "compression_ratio_threshold", "logprob_threshold"),
    "no_speech_threshold",
)


@dataclass(frozen=True)
class Options:
    """How a recording becomes text.

    Names and defaults are those of openai/whisper's ``transcribe``; ``hotwords``,
    ``max_new_tokens``, ``repetition_penalty`` and ``no_repeat_ngram_size`` are faster-whisper's.
    """

    language: str | None = None
    """Its code, ``"kk"``; None: detected in the first window."""
    task: str = "transcribe"
    """``transcribe``, or ``translate`` into English."""
    temperature: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tokens are drawn at this temperature; 0 takes the best. The next one is tried where a
    text fails the tests below."""
    beam_size: int | None = None
    """Width of the beam search; None: greedy. Only at temperature 0."""
    best_of: int | None = None
    """Texts to draw, of which the likeliest is kept. Only above temperature 0."""
    patience: float = 1.0
    """So many times ``beam_size`` texts end the search (Kasai et al. 2022)."""
    length_penalty: float | None = None
    """Texts compete by log-probability over ``((5 + length) / 6) ** length_penalty`` (Wu et al.
    2016, equation 14); None: over their length."""
    max_new_tokens: int | None = None
    """None: half of the decoder's context."""
    suppress_tokens: Sequence[int] = (-1,)
    """Tokens that are never chosen; -1: those of symbols that are not said."""
    suppress_blank: bool = True
    """A text does not begin with a space, nor end at once."""
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0
    """The first time stamp, at most, in seconds."""
    repetition_penalty: float = 1.0
    """Logits of tokens already in the text are divided by it, or multiplied below zero (Keskar
    et al. 2019)."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice; 0: any may."""
    prefix: str = ""
    """The text of the first window begins with it."""
    initial_prompt: str = ""
    """A text to take for what was said before: names, spelling, style."""
    carry_initial_prompt: bool = False
    """The initial prompt stands before every window, not the first alone."""
    hotwords: str | Sequence[str] = ()
    """Words to expect, put before every window that has no prefix."""
    condition_on_previous_text: bool = True
    """Each window is told what was heard before it."""
    compression_ratio_threshold: float | None = 2.4
    """A text that deflates better repeats itself: it fails."""
    logprob_threshold: float | None = -1.0
    """A text whose tokens have a lower mean log-probability fails."""
    no_speech_threshold: float | None = 0.6
    """A window that fails by its log-probability is silence where that of no speech is higher."""
    word_timestamps: bool = False
    prepend_punctuations: str = "\"'“¿([{-"
    """Marks that belong to the word behind them."""
    append_punctuations: str = "\"'.。,，!！?？:：”)]}、"
    """Marks that belong to the word before them."""
    clip_timestamps: Sequence[float] = (0.0,)
    """Begin and end of each stretch to transcribe, in seconds; a last end may be missing."""
    window: str = "exact"
    """``exact``: as published, every window is encoded with silence up to its full length.
    ``fit``: no longer than what is left to hear. Published weights never saw that, and may
    hear other words."""
    window_margin: float = 1.0
    """Silence behind what is left, with ``fit``, in seconds."""
    window_floor: float = 5.0
    """Least length of a window, with ``fit``, in seconds."""
    hallucination_silence_threshold: float | None = None
    """Longer silences around a doubtful text are skipped, in seconds. Needs word times."""
    vad_filter: bool = False
    """Hear only speech, cut at silences into windows that are decoded side by side: faster,
    and no window knows of another. Needs the ``vad`` extra."""
    batch_size: int = 8
    """Windows side by side, with ``vad_filter``."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if self.window not in ("exact", "fit"):
            raise TyndaError(f"the window is exact or fit, not {self.window!r}")
        if self.task not in ("transcribe", "translate"):
            raise TyndaError(f"the task is transcribe or translate, not {self.task!r}")
        self._take_other_spellings()
        if not self.temperature or not all(is_number(t, 0) for t in self.temperature):
            raise TyndaError(f"temperatures must be numbers of 0 or more, not {self.temperature!r}")
        if self.length_penalty is not None:
            number("length_penalty", self.length_penalty, 0, 1)
        for name in ("prefix", "initial_prompt"):
            if not isinstance(getattr(self, name), str):
                raise TyndaError(f"{name} is a text, not {getattr(self, name)!r}")
        if not all(isinstance(word, str) for word in self.hotwords):
            raise TyndaError(f"hotwords are words, not {self.hotwords!r}")
        for name in ("beam_size", "best_of", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                whole(name, value)
        whole("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        whole("seed", self.seed, 0, 2**63)
        if not all(is_whole(token, -1, 1 << 32) for token in self.suppress_tokens):
            raise TyndaError(f"suppress_tokens must be tokens or -1, not {self.suppress_tokens!r}")
        if not all(is_number(time, 0, 1e9) for time in self.clip_timestamps):
            raise TyndaError(f"clip_timestamps must be seconds, not {self.clip_timestamps!r}")
        clips = self.clip_timestamps
        if any(begin >= end for begin, end in zip(clips[::2], clips[1::2], strict=False)):
            raise TyndaError(f"clip_timestamps must end after they begin, not {clips!r}")
        for name in ("max_initial_timestamp", "hallucination_silence_threshold"):
            if (seconds := getattr(self, name)) is not None:
                number(name, seconds, 0)
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
        for name in ("window_margin", "window_floor"):
            number(name, getattr(self, name), 0)
        for name in _FLOATS:
            if (value := getattr(self, name)) is not None:
                number(name, value)
        for name in ("patience", "repetition_penalty", "window_floor"):
            if getattr(self, name) <= 0:
                raise TyndaError(f"{name} must be above 0")

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
            elif is_number(value):
                value = (value,)
            if not isinstance(value, Sequence):
                raise TyndaError(f"{name} must be a list, not {value!r}")
            object.__setattr__(self, name, value)
        for name in ("prefix", "initial_prompt"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, "")
