"""Writes a transcript as a text file: txt, json, srt, vtt, tsv."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tynda.captions import Cue, cues, milliseconds
from tynda.errors import TyndaError

if TYPE_CHECKING:
    from tynda.transcript import Segment, Transcript

__all__ = ["FORMATS", "write"]


def write(transcript: "Transcript", format: str) -> str:
    r"""Return the text of a file in ``format``, one of FORMATS; every line ends in ``\n``.

    txt has a line for each segment, json all data of the transcript, tsv the columns start, end
    (milliseconds) and text as openai/whisper writes them. srt and vtt have captions of at most two
    lines of 42 characters, into which `captions.cues` divides the segments. All formats except json
    omit segments without text.

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
        start, end = milliseconds(segment.start, segment.end)
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


def _stamp(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _cues(transcript: "Transcript") -> list[Cue]:
    return cues(_spoken(transcript), transcript.duration)
