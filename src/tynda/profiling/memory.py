"""Resident memory of this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["forget", "peak", "resident"]


def resident() -> int:
    """Bytes now."""
    return int(psutil.Process().memory_info().rss)


def forget() -> None:
    """Let `peak` begin anew, where the system can do that: on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes so far.

    On Linux of this program alone: ``ru_maxrss`` would count what the process held before it
    became this program.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
