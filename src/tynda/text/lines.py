"""Lines of text in and out: plain ones, or JSON objects with a ``text``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tynda.errors import TyndaError

__all__ = ["MAX_LINE", "Line", "encode", "read"]

MAX_LINE = 1_000_000
"""The maximum number of bytes of a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``text`` is None where it could not be read, for the reason ``problem``."""

    text: str | None
    entry: Mapping[str, Any] | None = None
    """The object of a line of JSON, None for a plain line."""
    problem: str = ""


def read(paths: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of files in UTF-8, of which "-" is standard input; empty lines are left out.

    A line that begins with a brace is a JSON object. Memory is that of one line. Raises
    `TyndaError` for a file that cannot be read.
    """
    for path in paths:
        if path == "-":
            yield from _lines(sys.stdin.buffer)
            continue
        try:
            with open(path, "rb") as file:
                yield from _lines(file)
        except OSError as error:
            raise TyndaError(f"{path}: cannot read the text ({error.strerror})") from None
        except ValueError:
            raise TyndaError("the name of a text has a null character: correct it") from None


def _lines(file: BinaryIO) -> Iterator[Line]:
    first = True
    while data := file.readline(MAX_LINE + 1):
        if first:
            data, first = data.removeprefix(b"\xef\xbb\xbf"), False
        if len(data) > MAX_LINE:
            while data and not data.endswith(b"\n"):
                data = file.readline(MAX_LINE)
            yield Line(None, problem="too long")
        elif data.strip():
            yield _line(data)


def _line(data: bytes) -> Line:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return Line(None, problem="not UTF-8")
    if not text.startswith("{"):
        return Line(text)
    try:
        entry = json.loads(text)
        found = entry["text"]
        found.encode()  # JSON may have half of a character.
    except (ValueError, RecursionError):
        return Line(None, problem="not JSON")
    except (KeyError, AttributeError):
        return Line(None, problem="no text in the JSON")
    return Line(found, entry)


def encode(text: str, entry: Mapping[str, Any] | None, **more: Any) -> str:
    """Return a line of JSON with ``text`` in place of the one of ``entry``."""
    return json.dumps({**(entry or {}), "text": text, **more}, ensure_ascii=False)
