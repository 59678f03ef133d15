"""Writes a transcript as a text file: txt, json, srt, vtt, tsv."""

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from tynda.errors import TyndaError

if TYPE_CHECKING:
    from tynda.transcript import Segment, Transcript

__all__ = ["FORMATS", "write"]

# Subtitling practice (Netflix Timed Text Style Guide; BBC Subtitle Guidelines): a caption has at
# most two lines of 42 characters, is shown for at most 7 seconds, and ends at a long pause.
LINE_CHARACTERS: Final = 42
CAPTION_LINES: Final = 2
CAPTION_SECONDS: Final = 7.0
PAUSE_SECONDS: Final = 2.0


class Cue(NamedTuple):
    """A caption on the screen; ``start`` < ``end``, in milliseconds."""

    start: int
    end: int
    text: str


def write(transcript: "Transcript", format: str) -> str:
    r"""Return the text of a file in ``format``, one of FORMATS; every line ends in ``\n``.

    txt has a line for each segment, json all data of the transcript, tsv the columns start, end
    (milliseconds) and text as openai/whisper writes them. srt and vtt split a segment with word
    times into captions between words, and do not split one without. All formats except json omit
    segments without text.

    Raises:
        TyndaError: the format is unknown.
    """
    if format not in FORMATS:
        raise TyndaError(f"{format}: unknown transcript format, choose from {' '.join(FORMATS)}")
    return FORMATS[format](transcript)


def _txt(transcript: "Transcript") -> str:
    return "".join(f"{segment.text}\n" for segment in _spoken(transcript))


def _json(transcript: "Transcript") -> str:
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2) + "\n"


def _tsv(transcript: "Transcript") -> str:
    rows = ["start\tend\ttext\n"]
    for segment in _spoken(transcript):
        start, end = _span(segment.start, segment.end)
        rows.append(f"{start}\t{end}\t{segment.text}\n")
    return "".join(rows)


def _srt(transcript: "Transcript") -> str:
    blocks = []
    for number, cue in enumerate(_cues(transcript), start=1):
        # SubRip has no escape sequences, and players search for its arrow in the text as well.
        text = re.sub("--+>", "->", cue.text)
        span = f"{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}"
        blocks.append(f"{number}\n{span}\n{text}\n")
    return "\n".join(blocks)


def _vtt(transcript: "Transcript") -> str:
    blocks = ["WEBVTT\n"]
    for cue in _cues(transcript):
        # Escaping ">" removes "-->", which a WebVTT cue may not contain (section 4.2.2).
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


FORMATS: Final[dict[str, Callable[["Transcript"], str]]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}


def _spoken(transcript: "Transcript") -> Iterator["Segment"]:
    """Yield segments with text, without tabs and line breaks, which would split a row or cue."""
    for segment in transcript.segments:
        if text := " ".join(segment.text.split()):
            yield replace(segment, text=text)


def _span(start: float, end: float) -> tuple[int, int]:
    """Convert seconds to milliseconds, not below 0 and not empty: WebVTT forbids both."""
    first = max(0, round(start * 1000))
    return first, max(first + 1, round(end * 1000))


def _stamp(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _cues(transcript: "Transcript") -> Iterator[Cue]:
    """Yield captions whose starts do not decrease, even where word times do."""
    latest = 0
    for segment in _spoken(transcript):
        for text, start, end in _captions(segment):
            first, last = _span(max(start, latest / 1000), end)
            yield Cue(first, last, "\n".join(_lines(text)))
            latest = first


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CHARACTERS, break_on_hyphens=False)


def _captions(segment: "Segment") -> Iterator[tuple[str, float, float]]:
    """Split a segment into captions (text, start, end), as few as the limits allow."""
    words = [word for word in segment.words if word.text.strip()]
    if not words:
        yield segment.text, segment.start, segment.end
        return
    pieces = _pieces(segment.text, [" ".join(word.text.split()) for word in words])
    first = 0
    for i in range(1, len(words)):
        too_long = len(_lines("".join(pieces[first : i + 1]))) > CAPTION_LINES
        too_slow = words[i].end - words[first].start > CAPTION_SECONDS
        pause = words[i].start - words[i - 1].end > PAUSE_SECONDS
        if too_long or too_slow or pause:
            yield "".join(pieces[first:i]), words[first].start, words[i - 1].end
            first = i
    yield "".join(pieces[first:]), words[first].start, words[-1].end


def _pieces(text: str, words: list[str]) -> list[str]:
    """Split ``text`` before each of its words, so that the concatenated pieces are the text.

    This preserves punctuation, and the spacing of scripts without spaces. Words that the text does
    not contain in this order are joined by spaces instead.
    """
    cuts, position = [0], 0
    for word in words:
        found = text.find(word, position)
        if found < 0:
            return [f"{word} " for word in words]
        cuts.append(found)
        position = found + len(word)
    del cuts[1]  # text before the first word belongs to its piece
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
