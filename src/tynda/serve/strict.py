"""JSON of strangers, by the letter: what is read can be written again."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_json"]


def read_json(data: str | bytes) -> Any:
    """Return the value of JSON (RFC 8259) in UTF-8.

    Raises ValueError for anything else, also for what Python's reader accepts: NaN, numbers that no
    float can hold, halves of surrogate pairs (which are no Unicode text), and values that are
    nested too deeply.
    """
    try:
        value = json.loads(data if isinstance(data, str) else data.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value
