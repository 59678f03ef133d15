"""The bodies of OpenAI's answers to a recording.

Source: OpenAI's API reference, "Create transcription" and "Create translation".
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection, Iterator
from itertools import count, product
from string import ascii_uppercase
from typing import Any, Literal, get_args

from tynda import writers
from tynda.speakers.profiles import is_stranger
from tynda.transcript import Segment, Transcript

__all__ = ["FORMATS", "MEDIA_TYPES", "Format", "answer", "event", "usage"]

Format = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
FORMATS: tuple[Format, ...] = get_args(Format)

MEDIA_TYPES = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "verbose_json": "application/json",
    "vtt": "text/vtt; charset=utf-8",
    "diarized_json": "application/json",
}
"""Format -> the content type of an answer."""


def answer(
    transcript: Transcript, format_: Format, granularities: Collection[str], task: str
) -> str:
    """Return the body of an answer.

    ``text``, ``srt`` and ``vtt`` are what ``tynda transcribe`` writes. The ``granularities`` of
    times, ``segment`` and ``word``, are for ``verbose_json``.
    """
    match format_:
        case "text":
            return transcript.text + "\n"
        case "srt" | "vtt":
            return writers.write(transcript, format_)
        case "json":
            return _json({"text": transcript.text, "usage": usage(transcript.duration)})
        case "verbose_json":
            return _json(_verbose(transcript, granularities, task))
        case "diarized_json":
            return _json(_diarized(transcript))


def usage(seconds: float | None) -> dict[str, Any]:
    """Return OpenAI's usage of a model that counts seconds of audio."""
    return {"type": "duration", "seconds": round(seconds or 0.0, 3)}


def event(data: dict[str, Any]) -> str:
    """Return a server-sent event (HTML, section 9.2) with JSON data, which has no line breaks."""
    return f"data: {_json(data)}\n\n"


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def _verbose(transcript: Transcript, granularities: Collection[str], task: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": task,
        "language": transcript.language or "",
        "duration": round(transcript.duration or 0.0, 3),
        "text": transcript.text,
        "usage": usage(transcript.duration),
    }
    if "word" in granularities:
        body["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in transcript.segments
            for word in segment.words
        ]
    if "segment" in granularities:
        body["segments"] = [_segment(i, each) for i, each in enumerate(transcript.segments)]
    return body


def _diarized(transcript: Transcript) -> dict[str, Any]:
    """Return segments with speakers; those who are not known are A, B, C, ... as OpenAI has it."""
    labels: dict[str | None, str] = {}
    known = {each.speaker for each in transcript.segments if not is_stranger(each.speaker)}
    letters = (name for name in _letters() if name not in known)
    for segment in transcript.segments:
        if segment.speaker not in labels:
            is_known = segment.speaker in known
            labels[segment.speaker] = str(segment.speaker) if is_known else next(letters)
    return {
        "task": "transcribe",
        "duration": round(transcript.duration or 0.0, 3),
        "text": transcript.text,
        "segments": [
            {
                "type": "transcript.text.segment",
                "id": f"seg_{i:03d}",
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "speaker": labels[segment.speaker],
            }
            for i, segment in enumerate(transcript.segments)
        ],
        "usage": usage(transcript.duration),
    }


def _letters() -> Iterator[str]:
    """Yield A to Z, AA to ZZ, and so on."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """Return a segment with all keys of OpenAI's, since clients with types need them.

    A model without a decoder has no tokens, samples nothing, and gives no probability of silence;
    the logarithm of its confidence is the nearest to a mean log-probability.
    """
    text = segment.text.encode("utf-8")
    confidence = segment.confidence
    body: dict[str, Any] = {
        "id": number,
        "seek": round(segment.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(confidence, 1e-10)), 4) if confidence else 0.0,
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }
    return {**body, **{key: value for key, value in segment.details.items() if key in body}}
