"""Divides segments into captions that can be read.

Subtitling practice (Netflix Timed Text Style Guide; BBC Subtitle Guidelines): a caption has at most
two lines of 42 characters of about equal length, is shown for at most 7 seconds and not for a
moment only, ends at a long pause, and rather where a sentence or clause does.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tynda.transcript import Segment, Word

__all__ = ["Cue", "cues", "milliseconds", "text_of_words"]

LINE_CHARACTERS: Final = 42
MAX_SECONDS: Final = 7.0
MIN_SECONDS: Final = 0.7
PAUSE_SECONDS: Final = 2.0
"""Seconds of a pause at which a caption ends."""
JOINED_SECONDS: Final = 0.5
"""Maximum seconds between captions that become one."""
ORPHAN_WORDS, ORPHAN_CHARACTERS = 2, 14
"""Maximum size of a caption that is rather joined to the one before it."""

_SENTENCE_ENDS = ".!?…。！？"
_CLAUSE_ENDS = ",;:，、；："
_CLOSING = "\"'”’»)]」"
_CAPTION_COST = 1e6
"""The cost of a caption, which makes their number minimal. To it the square of its characters is
added, so that captions have about equal lengths; one that ends with a sentence or a clause may be
longer or shorter for it."""
_SENTENCE_BONUS, _CLAUSE_BONUS = 1200.0, 600.0


@dataclass(slots=True)
class Cue:
    """A caption on the screen; ``start`` < ``end``, in milliseconds."""

    start: int
    end: int
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text that is not divided, with the space after it; times are in seconds."""

    text: str
    start: float
    end: float


def cues(segments: Iterable[Segment], duration: float | None) -> list[Cue]:
    """Return the captions of ``segments``, whose texts have no line breaks, tabs or double spaces.

    A segment with word times is divided between words. One without them is divided only where its
    text is longer than a caption: its time is then shared out by the number of characters. No cue
    begins before the end of the one before it. A short one is shown for `MIN_SECONDS` where the
    next one and ``duration``, that of the recording in seconds, allow it. The last cue is not
    prolonged where ``duration`` is None.
    """
    found: list[Cue] = []
    for segment in segments:
        for cue in _captions(segment):
            # Word times may go back.
            cue.start = max(cue.start, found[-1].start + 1) if found else cue.start
            cue.end = max(cue.end, cue.start + 1)
            if found and _belong_together(found[-1], cue):
                text = f"{found[-1].text} {cue.text}"
                found[-1] = Cue(found[-1].start, cue.end, text, cue.speaker)
            else:
                found.append(cue)
    for cue, following in pairwise(found):
        cue.end = min(max(cue.end, cue.start + _MIN), following.start)
    if found and duration is not None:
        last = found[-1]
        last.end = max(last.end, min(last.start + _MIN, round(duration * 1000)))
    for cue in found:
        cue.text = "\n".join(_lines(cue.text))
    return found


def milliseconds(start: float, end: float) -> tuple[int, int]:
    """Convert seconds to milliseconds, not below 0 and not empty: WebVTT forbids both."""
    first = max(0, round(start * 1000))
    return first, max(first + 1, round(end * 1000))


_MIN = round(MIN_SECONDS * 1000)


def _belong_together(before: Cue, cue: Cue) -> bool:
    """Return whether two cues become one: the first would be shown for a moment only, or the second
    is the rest of its sentence."""
    if (
        cue.speaker != before.speaker
        or cue.start - before.end > JOINED_SECONDS * 1000
        or cue.end - before.start > MAX_SECONDS * 1000
        or not _fits(f"{before.text} {cue.text}")
    ):
        return False
    is_orphan = (
        len(cue.text) <= ORPHAN_CHARACTERS
        and len(cue.text.split()) <= ORPHAN_WORDS
        and not _ends_in(before.text, _SENTENCE_ENDS)
    )
    return is_orphan or cue.start - before.start < _MIN


def _ends_in(text: str, marks: str) -> bool:
    return text.rstrip(_CLOSING + " ").endswith(tuple(marks))


def _lines(text: str) -> list[str]:
    """Return one line, two of about equal length, or as many as a word without spaces needs."""
    if len(text) <= LINE_CHARACTERS:
        return [text]
    spaces = [found.start() for found in re.finditer(" ", text)]
    halves = [(text[:i], text[i + 1 :]) for i in spaces]
    halves = [pair for pair in halves if max(map(len, pair)) <= LINE_CHARACTERS]
    if halves:
        first, second = min(halves, key=lambda pair: abs(len(pair[0]) - len(pair[1])))
        return [first, second]
    return textwrap.wrap(text, LINE_CHARACTERS, break_on_hyphens=False)


def _fits(text: str) -> bool:
    """Return whether a text fits two lines."""
    if len(text) <= LINE_CHARACTERS:
        return True
    space = text.rfind(" ", 0, LINE_CHARACTERS + 1)
    return len(text) - (space + 1 if space > 0 else LINE_CHARACTERS) <= LINE_CHARACTERS


def _captions(segment: Segment) -> Iterator[Cue]:
    """Divide a segment into captions, as few as the limits allow."""
    words = [word for word in segment.words if word.text.strip()]
    if words:
        texts = text_of_words(segment.text, words)
        parts = [_Piece(t, w.start, w.end) for t, w in zip(texts, words, strict=True)]
        divided = _divided(parts, MAX_SECONDS, PAUSE_SECONDS)
    else:
        fits = _fits(segment.text)
        divided = [[_Piece(segment.text, segment.start, segment.end)]]
        if not fits:
            divided = _divided(_shared_out(segment), math.inf, math.inf)
    for group in divided:
        text = "".join(piece.text for piece in group).strip()
        yield Cue(*milliseconds(group[0].start, group[-1].end), text, segment.speaker)


def _shared_out(segment: Segment) -> list[_Piece]:
    """Return the words of a segment, with times by the number of their characters."""
    rate = (segment.end - segment.start) / len(segment.text)
    return [
        _Piece(found[0], segment.start + found.start() * rate, segment.start + found.end() * rate)
        for found in re.finditer(rf"\S{{1,{LINE_CHARACTERS}}}\s*", segment.text)
    ]


def _divided(pieces: Sequence[_Piece], max_seconds: float, pause: float) -> list[list[_Piece]]:
    """Divide pieces into groups of the lowest cost, by dynamic programming over the last group."""
    best, begins = [0.0], [0]
    for end in range(1, len(pieces) + 1):
        cost, begin = math.inf, end - 1
        text = ""
        for first in range(end - 1, -1, -1):
            text = pieces[first].text + text
            if first < end - 1 and not (
                pieces[end - 1].end - pieces[first].start <= max_seconds
                and pieces[first + 1].start - pieces[first].end <= pause
                and _fits(text.strip())
            ):
                break
            total = best[first] + _cost(text.strip(), is_last=end == len(pieces))
            if total < cost:
                cost, begin = total, first
        best.append(cost)
        begins.append(begin)
    groups: list[list[_Piece]] = []
    end = len(pieces)
    while end:
        groups.append(list(pieces[begins[end] : end]))
        end = begins[end]
    return groups[::-1]


def _cost(text: str, *, is_last: bool) -> float:
    bonus = 0.0
    if not is_last and _ends_in(text, _SENTENCE_ENDS):
        bonus = _SENTENCE_BONUS
    elif not is_last and _ends_in(text, _CLAUSE_ENDS):
        bonus = _CLAUSE_BONUS
    return _CAPTION_COST + len(text) ** 2 - bonus


def text_of_words(text: str, words: Sequence[Word]) -> list[str]:
    """Split ``text`` before each of its words, so that the concatenated pieces are the text.

    This preserves punctuation, and the spacing of scripts without spaces. Words that the text does
    not contain in this order are joined by spaces instead. There is at least one word, and none is
    empty.
    """
    spellings = [" ".join(word.text.split()) for word in words]
    cuts, position = [0], 0
    for word in spellings:
        found = text.find(word, position)
        if found < 0:
            return [f"{word} " for word in spellings]
        cuts.append(found)
        position = found + len(word)
    del cuts[1]  # text before the first word belongs to its piece
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
