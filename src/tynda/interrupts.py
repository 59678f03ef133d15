"""Work that signals do not interrupt.

The handler of a signal may raise an exception anywhere. Within the initialisation of a module that
nanobind binds, it would end the process with an abort instead of running the code that cleans up;
within that code, it would leave the rest behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["held_back", "import_whole"]


def import_whole(name: str) -> Any:
    """Import a module; signals that come meanwhile are handled afterwards."""
    with held_back():
        return import_module(name)


@contextmanager
def held_back() -> Iterator[None]:
    """Handle signals that come while the block runs when it has ended."""
    if threading.current_thread() is not threading.main_thread():  # Handlers run in the main one.
        yield
        return
    came: list[tuple[int, Any]] = []
    handlers: dict[int, Any] = {}
    for each in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(each)):
            handlers[each] = handler
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in came:
        handlers[number](number, frame)
