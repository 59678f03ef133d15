"""Resident memory of this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["forget", "peak", "resident"]


def resident() -> int:
    """Return the current resident bytes."""
    return int(psutil.Process().memory_info().rss)


def forget() -> None:
    """Reset `peak`, where the system supports it: on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the maximum resident bytes so far.

    On Linux the value is that of this program alone: ``ru_maxrss`` would include the memory that
    the process had before it executed this program.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
