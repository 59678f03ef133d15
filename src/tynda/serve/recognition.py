"""One recording, transcribed by a worker: limited, and stopped when nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.model import Model
from tynda.serve.errors import ServeError
from tynda.serve.workers import Ticket
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.attribution import attribute, heard
from tynda.speakers.diarize import Diarizer
from tynda.transcript import Segment, Transcript

__all__ = ["PARAMETERS", "Decode", "check_options", "limited", "transcribe"]

Floats = NDArray[np.float32]

Decode = Callable[[bytes, Ticket], Iterable[Floats]]
"""A function that decodes the bytes of a file to blocks of samples, while a ticket is wanted."""
PARAMETERS = {
    "language": "language",
    "initial_prompt": "prompt",
    "hotwords": "keywords",
    "temperature": "temperature",
    "word_timestamps": "timestamp_granularities[]",
    "task": "translation",
}
"""The decoder's options that requests set -> their names in OpenAI's API."""


def check_options(model: Model, options: Mapping[str, Any]) -> None:
    """Raise `ServeError` for an option that this kind of model does not have."""
    known = {field.name for field in fields(model.head.options_type)}
    for name in options:
        if name not in known:
            param = PARAMETERS[name]
            raise ServeError(
                400,
                f"{model.header.name} does not support {param}",
                param=param,
                code="unsupported_parameter",
            )


def transcribe(
    model: Model,
    source: bytes | Floats,
    options: Mapping[str, Any],
    ticket: Ticket,
    max_seconds: float,
    decode: Decode,
    on_text: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[float], None] = lambda seconds: None,
    diarizer: Diarizer | None = None,
) -> Transcript:
    """Transcribe the bytes of a file, or samples ``[n]`` at 16 kHz.

    ``decode`` decodes a file. ``on_text`` is called with what each segment adds to the text,
    ``on_progress`` with the number of seconds that were transcribed. With a ``diarizer``, words and
    segments have speakers, and words have times where the model can find them.

    Raises `ServeError` for audio longer than ``max_seconds`` and options that the model lacks,
    `TyndaError` for other mistakes, and `Stopped` between two windows of the model once the ticket
    is stopped.
    """
    ticket.check()
    check_options(model, options)
    chosen = model.options(**options)
    session = model.session(chosen if diarizer is None else model.head.with_word_times(chosen))
    voices = None if diarizer is None else diarizer.session()
    blocks: Iterable[Floats] = (
        decode(source, ticket)
        if isinstance(source, bytes)
        else (source[i : i + 30 * SAMPLE_RATE] for i in range(0, len(source), 30 * SAMPLE_RATE))
    )
    segments: list[Segment] = []
    shown = 0

    def advanced(seconds: float) -> None:
        ticket.check()
        on_progress(seconds)

    blocks = limited(blocks, ticket, max_seconds)
    try:
        for segment in session.segments(
            blocks if voices is None else heard(blocks, voices), advanced
        ):
            segments.append(segment)
            on_text(session.text[shown:])
            shown = len(session.text)
            ticket.check()
    except TyndaError:
        ticket.check()  # A stopped file ends early, which looks like damage.
        raise
    if voices is not None:
        segments = attribute(segments, voices.finish())
    return Transcript(session.text, segments, session.language, session.seconds)


def limited(blocks: Iterable[Floats], ticket: Ticket, max_seconds: float) -> Iterator[Floats]:
    """Yield the blocks while the ticket is wanted. Raises `ServeError` for too long audio."""
    count = 0
    for block in blocks:
        ticket.check()
        count += len(block)
        if count > max_seconds * SAMPLE_RATE:
            raise ServeError(
                413,
                f"the recording is longer than {max_seconds:g} s: send it in parts",
                param="file",
                code="audio_too_long",
            )
        yield block
    ticket.check()
