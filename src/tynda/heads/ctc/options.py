"""The decoding options of CTC models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tynda.checks import MAX_NUMBER, Range, check, setting
from tynda.errors import TyndaError
from tynda.heads.settings import (
    DOUBT,
    EXPECTED,
    LONG,
    SEARCH,
    TIMES,
    Count,
    FileName,
    NotNegative,
    Number,
    Words,
)

__all__ = ["CTCOptions"]


@dataclass(frozen=True)
class CTCOptions:
    """The decoding options of CTC models; None means the value in the model file."""

    head: ClassVar[str] = "CTC"
    about: ClassVar[str] = "models that give letters for each frame, such as wav2vec 2.0"

    beam_size: Count | None = setting(
        None,
        "Width of the prefix beam search, by default that of the model file. 1 is greedy, without "
        "n-gram, hot words and n-best.",
        heading=SEARCH,
    )
    lm: FileName | None = setting(
        None,
        "N-gram language model in place of the model's own, an ARPA file; 'none' for none.",
        heading=EXPECTED,
        metavar="FILE",
    )
    alpha: NotNegative | None = setting(
        None, "Weight of the n-gram, by default that of the model file.", heading=EXPECTED
    )
    beta: Number | None = setting(
        None,
        "Bonus for each word with an n-gram, by default that of the model file.",
        heading=EXPECTED,
    )
    hotwords: Words = setting(
        (), "Words or phrases to expect, separated by commas.", heading=EXPECTED, metavar="WORDS"
    )
    """Spellings are normalised."""
    hotword_boost: NotNegative = setting(
        1.0, "Bonus for each letter of a hot word, in nats.", heading=EXPECTED
    )
    n_best: Count = setting(1, "Number of hypotheses for each segment.", heading=SEARCH)
    language: str | None = setting(
        None,
        "Code of the spoken language, such as en; the model has to know it. By default that of "
        "the model, or detected where the model can do so.",
        heading=EXPECTED,
    )
    """The language of a model that has several (MMS); None means that of its own output layer."""
    chunk_length: Annotated[float, Range(1, MAX_NUMBER)] | None = setting(
        None,
        "Encode overlapping chunks of this length. By default, chunks of 3 s to 8 s are cut at the "
        "quietest points.",
        heading=LONG,
        metavar="SECONDS",
    )
    stride_length: NotNegative | None = setting(
        None,
        "Overlap on either side of a chunk, with `chunk_length`; a sixth of it by default.",
        heading=LONG,
        metavar="SECONDS",
    )
    """Both sides of a chunk are only context: their text is not used."""
    look_ahead: Annotated[float, Range(0, MAX_NUMBER)] | None = setting(
        None,
        "Audio that a model for live text waits for before it writes, by default that of the model "
        "file; the nearest that the model was trained for.",
        heading=LONG,
        metavar="SECONDS",
    )
    speech_threshold: Annotated[float, Range(0, 1)] | None = setting(
        None,
        "Probability of speech, by Silero VAD, that words must reach, by default that of the model "
        "file, or 0.1; 0 allows any text for noise.",
        heading=DOUBT,
    )
    """That of a word is the greatest within half a second of it."""
    word_timestamps: bool = setting(
        False, "Nothing changes: words always have their times.", heading=TIMES
    )

    def __post_init__(self) -> None:
        check(self)
        if self.stride_length is None:
            return
        if self.chunk_length is None:
            raise TyndaError("stride_length needs chunk_length: set it as well")
        if 2 * self.stride_length >= self.chunk_length:
            raise TyndaError(
                f"chunk_length ({self.chunk_length:g}) must be more than twice the "
                f"stride_length ({self.stride_length:g}): both sides of a chunk are only context"
            )
