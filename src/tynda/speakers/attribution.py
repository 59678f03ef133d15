"""Says of each word who spoke it, and transcribes with speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tynda.captions import text_of_words
from tynda.heads.base import Session
from tynda.speakers.diarize import Diarization, Diarizer, Turn
from tynda.transcript import Segment, Transcript, Word

__all__ = ["attribute", "by_speaker", "heard", "named", "transcribe"]

Floats = NDArray[np.float32]


def transcribe(
    session: Session,
    blocks: Iterable[Floats],
    diarizer: Diarizer,
    on_progress: Callable[[float], None] | None = None,
) -> Transcript:
    """Return the transcript of a recording whose words and segments have speakers.

    ``blocks`` are read once: each goes to the voices before it goes to ``session``, so that memory
    holds no more of the recording than without speakers. Other arguments are those of
    `Session.transcribe`.
    """
    voices = diarizer.session()
    found = session.transcribe(heard(blocks, voices), on_progress)
    return replace(found, segments=attribute(found.segments, voices.finish()))


def heard(blocks: Iterable[Floats], voices: Diarization) -> Iterator[Floats]:
    """Yield the blocks of a recording, each after ``voices`` got it."""
    for block in blocks:
        voices.add(block)
        yield block


def attribute(segments: Sequence[Segment], turns: Sequence[Turn]) -> list[Segment]:
    """Return ``segments`` with the speakers of ``turns``.

    A word has the speaker of the turns that it overlaps most, or of the nearest one; where two
    people speak at once, the words are of whoever has the turn. A segment is
    split where the speaker changes; its alternatives are then dropped, since they are of the whole.
    A segment without words has the speaker who speaks most in it. Without turns, nothing changes.
    """
    return [part for segment in named(segments, turns) for part in by_speaker(segment)]


def named(segments: Sequence[Segment], turns: Sequence[Turn]) -> list[Segment]:
    """Return ``segments`` whose words have speakers as in `attribute`; one that has several
    speakers has None itself."""
    turns = [turn for turn in turns if not turn.is_second]
    if not turns:
        return list(segments)
    speakers = _Speakers(turns)
    return [_named(segment, speakers) for segment in segments]


class _Speakers:
    """Who speaks in a span."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._starts = np.array([turn.start for turn in turns])
        self._ends = np.array([turn.end for turn in turns])
        self._names = sorted({turn.speaker for turn in turns})
        self._owners = np.array([self._names.index(turn.speaker) for turn in turns])

    def __call__(self, start: float, end: float) -> str:
        # The overlap of a turn beside the span is negative: its distance.
        overlap = np.minimum(self._ends, end) - np.maximum(self._starts, start)
        seconds = np.bincount(self._owners, np.maximum(overlap, 0), len(self._names))
        most = seconds.argmax() if seconds.any() else self._owners[overlap.argmax()]
        return self._names[int(most)]


def _named(segment: Segment, speakers: _Speakers) -> Segment:
    words = [
        replace(word, speaker=speakers(word.start, word.end))
        for word in segment.words
        if word.text.strip()
    ]
    found = {word.speaker for word in words} or {speakers(segment.start, segment.end)}
    return replace(segment, words=words, speaker=found.pop() if len(found) == 1 else None)


def by_speaker(segment: Segment) -> Iterator[Segment]:
    """Yield the parts of a segment with several speakers, or the segment itself."""
    words = segment.words
    if len({word.speaker for word in words}) < 2:
        yield segment
        return
    texts = zip(text_of_words(segment.text, words), words, strict=True)
    groups = [list(group) for _, group in groupby(texts, lambda pair: pair[1].speaker)]
    for group in groups:
        own: list[Word] = [word for _, word in group]
        yield replace(
            segment,
            start=segment.start if group is groups[0] else own[0].start,
            end=segment.end if group is groups[-1] else own[-1].end,
            text="".join(text for text, _ in group).strip(),
            words=own,
            alternatives=(),
            speaker=own[0].speaker,
        )
