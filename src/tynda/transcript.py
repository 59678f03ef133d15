"""The result of recognition: text, times and confidences, as plain data."""

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
    """One word; ``start`` and ``end`` are in seconds, ``confidence`` is from 0 to 1 or None."""

    text: str
    start: float
    end: float
    confidence: float | None = None
    speaker: str | None = None
    """Who spoke it; None unless speakers were requested."""

    def to_dict(self) -> dict[str, Any]:
        """Return the word as JSON-able data, with times rounded to milliseconds.

        There is a ``speaker`` where it is known.
        """
        return {
            "text": self.text,
            "start": round(float(self.start), 3),
            "end": round(float(self.end), 3),
            "confidence": _confidence(self.confidence),
            **({} if self.speaker is None else {"speaker": self.speaker}),
        }


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of speech; ``start`` and ``end`` are in seconds.

    ``words`` is empty unless word times were requested. ``alternatives`` are the hypotheses that
    the search ranked after ``text``, best first.
    """

    start: float
    end: float
    text: str
    words: Sequence[Word] = ()
    confidence: float | None = None
    alternatives: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-able values of the decoder, which `to_dict` adds to the segment's keys."""
    speaker: str | None = None
    """Who speaks; None unless speakers were requested."""

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as JSON-able data, with times rounded to milliseconds.

        There is a ``speaker`` where it is known.
        """
        return {
            "start": round(float(self.start), 3),
            "end": round(float(self.end), 3),
            "text": self.text,
            **({} if self.speaker is None else {"speaker": self.speaker}),
            "confidence": _confidence(self.confidence),
            "words": [word.to_dict() for word in self.words],
            "alternatives": list(self.alternatives),
            **self.details,
        }


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of one recording; ``segments`` are ordered by time, ``duration`` is in seconds."""

    text: str
    segments: Sequence[Segment] = ()
    language: str | None = None
    duration: float | None = None
    language_probability: float | None = None
    """Probability of a language that was detected, from 0 to 1; None where none was."""

    def to_dict(self) -> dict[str, Any]:
        """Return the transcript as JSON-able data, with times rounded to milliseconds.

        Segments have their number, from 0 on, as ``id``.
        """
        return {
            "text": self.text,
            "language": self.language,
            "language_probability": _confidence(self.language_probability),
            "duration": None if self.duration is None else round(float(self.duration), 3),
            "segments": [{"id": i} | s.to_dict() for i, s in enumerate(self.segments)],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the transcript atomically, in the format that the suffix names.

        The suffix is one of .txt .json .srt .vtt .tsv, in upper or lower case.

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
