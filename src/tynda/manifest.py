"""Manifests: lists of recordings with their texts, as JSON lines in NVIDIA NeMo's format."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tynda.errors import TyndaError

__all__ = ["MAX_TEXT", "Utterance", "entries", "line", "name_in", "read", "stream"]

MAX_TEXT = 200_000
"""The maximum number of characters of a text: those of about four hours of speech."""

_MAX_LINE = 4_000_000
"""The maximum number of bytes of a line, in which each character of a text may be escaped."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its reference text; ``duration`` is in seconds."""

    audio: Path
    text: str
    duration: float | None
    speaker: str | None
    language: str | None
    source: str
    offset: float = 0.0
    """Where the utterance begins in the recording, in seconds."""


def read(path: str | os.PathLike[str], *, parts: bool = False) -> list[Utterance]:
    """Read a manifest with one JSON object on each line, in UTF-8.

    ``audio_filepath`` (relative to the manifest's folder) and ``text`` are required;
    ``duration``, ``speaker`` and ``language`` are None where absent, and the default of
    ``source`` is the manifest's stem. Each line has a whole file, so that ``offset`` must be 0,
    unless lines may name ``parts`` of recordings. Other keys and blank lines are ignored. The
    existence of audio files is not checked.

    Raises:
        TyndaError: the file cannot be read, has no utterance, or has an invalid line; the
            message names the file and the line.
    """
    utterances = list(stream(path, parts=parts))
    if not utterances:
        raise TyndaError(f"{path}: empty manifest, write one JSON object per line and recording")
    return utterances


def stream(
    path: str | os.PathLike[str], *, parts: bool = False, texts: bool = True
) -> Iterator[Utterance]:
    """Yield the utterances of a manifest line by line; see `read`, whose other arguments and errors
    are the same. Without ``texts``, a line need not have one, and "" stands for it.

    An empty manifest yields nothing.
    """
    if not os.fspath(path):
        raise TyndaError("the name of the manifest is empty: give a file")
    path = Path(path)
    for number, text in enumerate(_lines(path), start=1):
        try:
            if len(text) > _MAX_LINE:
                raise _LineError(f"the line has more than {_MAX_LINE:,} bytes, shorten it")
            if text.strip():
                yield _utterance(path, text, parts, texts)
        except _LineError as error:
            raise TyndaError(f"{path}:{number}: {error}") from error


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a manifest that `stream` accepts, with all of their keys."""
    for text in _lines(path):
        if text.strip():
            yield json.loads(text.decode())


def line(entry: dict[str, Any]) -> bytes:
    """Return an object as a line of a manifest, in UTF-8."""
    try:
        return (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # A file's name may have any bytes.
        return (json.dumps(entry) + "\n").encode()


def name_in(folder: Path, audio: Path) -> str:
    """Return the name of a recording for a manifest in ``folder``: relative where it is inside."""
    path, base = os.path.abspath(audio), os.path.abspath(folder)
    is_inside = os.name == "posix" and os.path.commonpath([path, base]) == base
    return os.path.relpath(path, base) if is_inside else path


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest; of one that is too long, no more than shows that."""
    try:
        with path.open("rb") as file:
            first = file.readline(_MAX_LINE + 1)
            yield first.removeprefix(b"\xef\xbb\xbf")
            while line := file.readline(_MAX_LINE + 1):
                yield line
    except OSError as error:
        raise TyndaError(f"{path}: cannot read the manifest ({error.strerror})") from error


class _LineError(Exception):
    """An error in a line of a manifest."""


def _utterance(path: Path, line: bytes, parts: bool, texts: bool) -> Utterance:
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise _LineError("not JSON in UTF-8, write one JSON object per line") from error
    if not isinstance(entry, dict):
        raise _LineError("not a JSON object, write {...} with audio_filepath and text")
    audio = _string(entry, "audio_filepath")
    text = _string(entry, "text")
    if text is None and not texts:
        text = ""
    if audio is None or text is None:
        missing = "audio_filepath" if audio is None else "text"
        raise _LineError(f'no "{missing}", each line needs audio_filepath and text')
    if not parts and entry.get("offset") not in (None, 0):
        raise _LineError('"offset" is not supported, cut the recording into one file for each line')
    if not audio or "\0" in audio:
        raise _LineError('"audio_filepath" is not a file name, give one')
    if len(text) > MAX_TEXT:
        raise _LineError(f'"text" has more than {MAX_TEXT:,} characters, cut the recording')
    return Utterance(
        audio=path.parent / audio,
        text=text,
        duration=_seconds(entry, "duration"),
        speaker=_string(entry, "speaker"),
        language=_string(entry, "language"),
        source=_string(entry, "source") or path.stem,
        offset=_seconds(entry, "offset") or 0.0,
    )


def _string(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if isinstance(value, str) and key != "audio_filepath":  # file names may have any bytes
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _LineError(f'"{key}" has an incomplete character, write it again') from None
    if value is None or isinstance(value, str):
        return value
    raise _LineError(f'"{key}" is not a string, put it in quotes')


def _seconds(entry: dict[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    # The comparison also rejects NaN, infinity and integers too large for a float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= sys.float_info.max:
        raise _LineError(f'"{key}" is not a number of seconds, give one or leave it out')
    return float(value)
