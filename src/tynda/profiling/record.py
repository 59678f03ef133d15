"""The record of a report's runs, ``record.json``, stored with the rows in ``rows.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tynda.errors import TyndaError
from tynda.files import read_json

__all__ = ["RECORD", "ROWS", "begin", "read"]

ROWS, RECORD = "rows.jsonl", "record.json"
"""File names in a report's folder."""


def begin() -> dict[str, Any]:
    """Return an empty record.

    ``runs``: each with its ``plan``, when it ``started``, its ``environment``, the machine's
    ``load`` and the ``seed``. ``environments``: digest -> `environment.describe`, with the source
    of ``energy``. ``models`` and ``manifests``: name -> description, with a ``digest``.
    """
    return {"runs": [], "environments": {}, "models": {}, "manifests": {}}


def read(path: Path) -> dict[str, Any]:
    """Read a record. Raises FileNotFoundError where there is none, `TyndaError` where it is
    damaged or not a record."""
    wrong = TyndaError(
        f"{path} is damaged, or not a record of a profile: give a report's record.json, or remove "
        "it to start a new one; its rows are kept"
    )
    try:
        record = {"manifests": {}} | read_json(path)  # old records have no manifests
    except TyndaError:
        raise wrong from None
    for name, empty in begin().items():
        found: Any = record.get(name)
        every = found.values() if isinstance(found, dict) else found
        if type(found) is not type(empty) or not all(isinstance(x, dict) for x in every):
            raise wrong
    return record
