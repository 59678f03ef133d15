"""The report of a profile: tables, figures, and a page that recommends what to choose.

``read`` reads a folder of rows, ``tables`` flattens them, ``choose`` selects the best, ``figures``
and ``network`` draw, ``sections`` and ``page`` write one file, ``diff`` compares two folders.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["check", "write"]


def check() -> None:
    """Raise `TyndaError` where a library for tables or figures is missing."""
    wanted = [name for name in ("pandas", "pyarrow", "matplotlib") if find_spec(name) is None]
    if wanted:
        raise TyndaError(f"a report needs {', '.join(wanted)}: {install('profile')}")


def write(folder: Path, edge: float | None = None) -> Path:
    """Write tables, figures and the page of the rows in ``folder``; return the page's path.

    ``edge`` is the memory in bytes of the device to choose for; None means some common sizes.
    Raises `TyndaError` where there are no rows, or the record is damaged.
    """
    check()
    from tynda.profiling.report import tables
    from tynda.profiling.report.page import write as write_page
    from tynda.profiling.report.read import read

    report = read(folder)
    tables.write(report)
    return write_page(report, edge)
