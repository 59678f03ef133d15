"""What a report's folder says of its runs: ``record.json``, beside the rows in ``rows.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tynda.errors import TyndaError
from tynda.files import read_json

__all__ = ["RECORD", "ROWS", "begin", "read"]

ROWS, RECORD = "rows.jsonl", "record.json"
"""In a report's folder."""


def begin() -> dict[str, Any]:
    """A record of nothing yet.

    ``runs``: each with its ``plan``, when it ``started``, its ``environment``, the machine's
    ``load`` and the ``seed``. ``environments``: digest -> `environment.describe`, with the source
    of ``energy``. ``models`` and ``manifests``: name -> what is known of them, with a ``digest``.
    """
    return {"runs": [], "environments": {}, "models": {}, "manifests": {}}


def read(path: Path) -> dict[str, Any]:
    """A record, whole. Raises FileNotFoundError where there is none, `TyndaError` where it is
    damaged, or no record."""
    wrong = TyndaError(
        f"{path} is damaged, or no record of a profile: take a report's record.json, or remove it "
        "to begin another; the rows beside it stay"
    )
    try:
        record = {"manifests": {}} | read_json(path)  # which are not in the oldest
    except TyndaError:
        raise wrong from None
    for name, empty in begin().items():
        found: Any = record.get(name)
        every = found.values() if isinstance(found, dict) else found
        if type(found) is not type(empty) or not all(isinstance(x, dict) for x in every):
            raise wrong
    return record
