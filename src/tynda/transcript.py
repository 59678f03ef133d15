"""What a recogniser heard: text, times and confidences, as plain data."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tynda import writers
from tynda.errors import TyndaError
from tynda.files import write_whole

__all__ = ["Segment", "Transcript", "Word"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word; ``start`` and ``end`` in seconds, ``confidence`` in 0..1 where it is known."""

    text: str
    start: float
    end: float
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The word as JSON-able data, times to the millisecond."""
        return {
            "text": self.text,
            "start": round(float(self.start), 3),
            "end": round(float(self.end), 3),
            "confidence": _confidence(self.confidence),
        }


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech; ``start`` and ``end`` in seconds.

    ``words`` is empty where word times were not asked for. ``alternatives`` holds the
    hypotheses that came after ``text`` in the search, best first.
    """

    start: float
    end: float
    text: str
    words: Sequence[Word] = ()
    confidence: float | None = None
    alternatives: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the decoder knows besides, ready for JSON; it joins the segment's own keys there."""

    def to_dict(self) -> dict[str, Any]:
        """The segment as JSON-able data, times to the millisecond."""
        return {
            "start": round(float(self.start), 3),
            "end": round(float(self.end), 3),
            "text": self.text,
            "confidence": _confidence(self.confidence),
            "words": [word.to_dict() for word in self.words],
            "alternatives": list(self.alternatives),
            **self.details,
        }


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recording's text: ``segments`` in the order of time, ``duration`` in seconds."""

    text: str
    segments: Sequence[Segment] = ()
    language: str | None = None
    duration: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The transcript as JSON-able data, times to the millisecond."""
        return {
            "text": self.text,
            "language": self.language,
            "duration": None if self.duration is None else round(float(self.duration), 3),
            "segments": [segment.to_dict() for segment in self.segments],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the transcript in the format that the suffix names, whole or not at all.

        The suffix is one of .txt .json .srt .vtt .tsv, in either case.

        Raises:
            TyndaError: the suffix is unknown, or the file cannot be written.
        """
        path = Path(path)
        format = path.suffix.lower().removeprefix(".")
        if format not in writers.FORMATS:
            known = " ".join(f".{name}" for name in writers.FORMATS)
            raise TyndaError(f"{path}: unknown transcript format, end the name in one of {known}")
        content = writers.write(self, format)
        write_whole(path, content.encode("utf-8"))


def _confidence(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
