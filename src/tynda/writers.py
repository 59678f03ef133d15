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

    Where segments have speakers, each line of txt begins with one, as does each caption of srt
    whose speaker is another than that of the caption before; vtt has voice tags, and tsv a column
    before the text.

    Raises:
        TyndaError: the format is unknown.
    """
    if format not in FORMATS:
        raise TyndaError(f"{format}: unknown transcript format, choose from {' '.join(FORMATS)}")
    return FORMATS[format](transcript)


def _txt(transcript: "Transcript") -> str:
    return "".join(f"{_said_by(s.speaker)}{s.text}\n" for s in _spoken(transcript))


def _json(transcript: "Transcript") -> str:
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2) + "\n"


def _tsv(transcript: "Transcript") -> str:
    has_speakers = any(segment.speaker is not None for segment in transcript.segments)
    rows = ["start\tend\tspeaker\ttext\n" if has_speakers else "start\tend\ttext\n"]
    for segment in _spoken(transcript):
        start, end = milliseconds(segment.start, segment.end)
        speaker = f"{segment.speaker or ''}\t" if has_speakers else ""
        rows.append(f"{start}\t{end}\t{speaker}{segment.text}\n")
    return "".join(rows)


def _srt(transcript: "Transcript") -> str:
    blocks = []
    before = None
    for number, cue in enumerate(_cues(transcript), start=1):
        named = _said_by(cue.speaker) if cue.speaker != before else ""
        before = cue.speaker
        # SubRip has no escape sequences, and players search for its arrow in the text as well.
        text = re.sub("--+>", "->", named + cue.text)
        span = f"{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}"
        blocks.append(f"{number}\n{span}\n{text}\n")
    return "\n".join(blocks)


def _vtt(transcript: "Transcript") -> str:
    blocks = ["WEBVTT\n"]
    for cue in _cues(transcript):
        # Escaping ">" removes "-->", which a WebVTT cue may not contain (section 4.2.2).
        text = _escaped(cue.text)
        if cue.speaker is not None:
            text = f"<v {_escaped(cue.speaker)}>{text}"
        blocks.append(f"{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


FORMATS: Final[dict[str, Callable[["Transcript"], str]]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _said_by(speaker: str | None) -> str:
    return "" if speaker is None else f"{speaker}: "


def _spoken(transcript: "Transcript") -> Iterator["Segment"]:
    """Yield segments with text; neither that nor the speaker has tabs and line breaks, which would
    split a row or cue."""
    for segment in transcript.segments:
        if text := " ".join(segment.text.split()):
            speaker = " ".join((segment.speaker or "").split())
            yield replace(segment, text=text, speaker=speaker or None)


def _stamp(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _cues(transcript: "Transcript") -> list[Cue]:
    return cues(_spoken(transcript), transcript.duration)
