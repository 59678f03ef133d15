"""Transcripts as JSON that is read back without any loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tynda.transcript import Segment, Transcript, Word

__all__ = ["from_record", "to_record"]


def to_record(transcript: Transcript) -> dict[str, Any]:
    """Return a transcript as JSON-able data; times are not rounded."""
    record: dict[str, Any] = _plain(asdict(transcript))
    return record


def from_record(record: Mapping[str, Any]) -> Transcript:
    """Return the transcript that `to_record` was given."""
    segments = [
        Segment(**{**segment, "words": [Word(**word) for word in segment["words"]]})
        for segment in record["segments"]
    ]
    return Transcript(**{**record, "segments": segments})


def _plain(value: Any) -> Any:
    """Return data with Python's own types; `asdict` leaves the numbers of NumPy."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value
