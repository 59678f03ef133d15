"""Writes an alignment as Praat's TextGrid, CTM or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tynda.alignment.run import Alignment
from tynda.heads.base import AlignedWord

__all__ = ["FORMATS", "write"]


def write(alignment: Alignment, format: str, name: str) -> str:
    """Return the text of a file in ``format``, one of FORMATS; ``name`` is that of the recording.

    textgrid has an interval tier "words", and "letters" (or "phones") where they are known, which
    fill the whole recording: pauses are intervals without a text. ctm has, for each word, the
    recording, channel 1, start, duration, word and confidence (NIST's time-marked conversation).
    json has words with their letters. Times are seconds, rounded to milliseconds.
    """
    return FORMATS[format](alignment, name)


def _textgrid(alignment: Alignment, name: str) -> str:
    letters = [letter for word in alignment.words for letter in word.letters]
    tiers = [("words", alignment.words), *([(alignment.parts, letters)] if letters else [])]
    end = round(alignment.duration, 3)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (title, items) in enumerate(tiers, 1):
        intervals = _filled(items, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{title}"',
            "        xmin = 0",
            f"        xmax = {end}",
            f"        intervals: size = {len(intervals)}",
        ]
        for i, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{i}]:",
                f"            xmin = {start}",
                f"            xmax = {stop}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _filled(items: Sequence[AlignedWord], end: float) -> list[tuple[float, float, str]]:
    """Return intervals from 0 to ``end`` without gaps. Praat allows none that is empty, so that an
    item of no length gets a millisecond where there is one."""
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for item in items:
        start, stop = round(max(item.start, at), 3), round(min(item.end, end), 3)
        stop = round(max(stop, min(start + 0.001, end)), 3)
        if start > at:
            intervals.append((at, start, ""))
        if stop > start:
            intervals.append((start, stop, item.text))
            at = stop
    if end > at:
        intervals.append((at, end, ""))
    return intervals


def _ctm(alignment: Alignment, name: str) -> str:
    # Columns are separated by spaces, which names must not have.
    recording = "_".join(Path(name).stem.split()) or "-"
    return "".join(
        f"{recording} 1 {w.start:.3f} {max(0.0, w.end - w.start):.3f} {w.text} {w.confidence:.3f}\n"
        for w in alignment.words
    )


def _json(alignment: Alignment, name: str) -> str:
    data = {
        "duration": round(alignment.duration, 3),
        "confidence": round(alignment.confidence, 4),
        "words": [
            {**_item(word), alignment.parts: [_item(letter) for letter in word.letters]}
            for word in alignment.words
        ],
    }
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def _item(item: AlignedWord) -> dict[str, str | float]:
    return {
        "text": item.text,
        "start": round(item.start, 3),
        "end": round(item.end, 3),
        "confidence": round(item.confidence, 4),
    }


FORMATS: Final[Mapping[str, Callable[[Alignment, str], str]]] = {
    "textgrid": _textgrid,
    "ctm": _ctm,
    "json": _json,
}
"""The formats of alignments, by name."""
