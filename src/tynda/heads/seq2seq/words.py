"""Segments of text, and the rules for their words' times.

The rules, and their constants, are those of openai/whisper's ``timing.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tynda.heads.seq2seq.align import WordTiming
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import DecodingResult

__all__ = [
    "TimedSegment",
    "fit_to_segment",
    "is_anomalous",
    "last_word_end",
    "merge_punctuations",
    "shorten_at_sentence_ends",
]

_SENTENCE_ENDS = ".。!！?？"


@dataclass
class TimedSegment:
    """A segment of text; ``start`` and ``end`` are in seconds of the recording."""

    start: float
    end: float
    tokens: list[int]
    """The tokens, including timestamps."""
    text: str
    """The text, including its leading space."""
    result: DecodingResult
    """The result for the window that contains the segment."""
    words: list[WordTiming] = field(default_factory=list)
    language: str | None = None
    """Code of the language of the window; None for a model with one language."""
    seek: int = 0
    """The first frame of the window, of which a second has 100."""


def last_word_end(pieces: Sequence[TimedSegment]) -> float | None:
    """Return the end of the last word, or of the last segment if there are no words."""
    ends = [word.end for segment in pieces for word in segment.words]
    return ends[-1] if ends else pieces[-1].end if pieces else None


def is_anomalous(segment: TimedSegment) -> bool:
    """Return whether most of the segment's first words are unlikely, very short or very long."""
    marks = Options.prepend_punctuations + Options.append_punctuations
    words = [w for w in segment.words if w.word not in marks][:8]
    score = 0.0
    for word in words:
        seconds = word.end - word.start
        score += (
            (word.probability < 0.15) + max(0.0, 0.133 - seconds) * 15 + max(0.0, seconds - 2.0)
        )
    return score >= 3 or score + 0.01 >= len(words)


def shorten_at_sentence_ends(words: Sequence[WordTiming], max_duration: float) -> None:
    """Exclude pauses from the punctuation that ends a sentence and from the word that begins
    one."""
    for before, word in pairwise(words):
        if word.end - word.start > max_duration:
            if word.word in _SENTENCE_ENDS:
                word.end = word.start + max_duration
            elif before.word in _SENTENCE_ENDS:
                word.start = word.end - max_duration


def merge_punctuations(words: Sequence[WordTiming], prepended: str, appended: str) -> None:
    """Append punctuation to the words to which it belongs; merged entries become empty."""
    following = len(words) - 1
    for i in range(len(words) - 2, -1, -1):
        mark, word = words[i], words[following]
        if mark.word.startswith(" ") and mark.word.strip() in prepended:
            word.word, word.tokens = mark.word + word.word, mark.tokens + word.tokens
            mark.word, mark.tokens = "", []
        else:
            following = i
    previous = 0
    for i in range(1, len(words)):
        word, mark = words[previous], words[i]
        if not word.word.endswith(" ") and mark.word in appended:
            word.word, word.tokens = word.word + mark.word, word.tokens + mark.tokens
            mark.word, mark.tokens = "", []
        else:
            previous = i


def fit_to_segment(segment: TimedSegment, median_duration: float, last_speech_end: float) -> None:
    """Align the times of the segment and of its first and last word; shorten words at pauses."""
    first, last, max_duration = segment.words[0], segment.words[-1], 2 * median_duration
    second = segment.words[1] if len(segment.words) > 1 else None
    too_long = first.end - first.start > max_duration or (
        second is not None and second.end - first.start > 2 * max_duration
    )
    if first.end - last_speech_end > 4 * median_duration and too_long:
        if second is not None and second.end - second.start > max_duration:
            first.end = second.start = max(second.end / 2, second.end - max_duration)
        first.start = max(0.0, first.end - max_duration)
    if segment.start < first.end and segment.start - 0.5 > first.start:
        first.start = max(0.0, min(first.end - median_duration, segment.start))
    else:
        segment.start = first.start
    if segment.end > last.start and segment.end + 0.5 < last.end:
        last.end = max(last.start + median_duration, segment.end)
    else:
        segment.end = last.end
