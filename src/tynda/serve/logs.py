"""The server's log: one JSON object on each line of standard error, without audio or text."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

__all__ = ["bracketed", "configure", "log", "log_error"]

_MAX_TEXT = 200
"""Maximum number of characters of a value."""
_LOCK = threading.Lock()


def log(event: str, **values: Any) -> None:
    """Write one line: the time, the event and the values, of which long texts are cut."""
    now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "event": event, **{name: _short(x) for name, x in values.items()}}
    with _LOCK, suppress(OSError, ValueError):  # nobody reads standard error any more
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def log_error(error: BaseException) -> None:
    """Write where a bug showed itself. Its message is left out: it may quote what was spoken."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    log("error", error=type(error).__name__, where=where)


class _Handler(logging.Handler):
    """Writes the warnings of libraries as lines of the log, without the values in them: these may
    be of a request."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            log_error(record.exc_info[1])
        else:
            text = (str(record.msg).splitlines() or [""])[0]
            log("server", level=record.levelname.lower(), source=record.name, message=text)


def configure() -> None:
    """Let everything that this process reports be lines of the log: warnings and errors of
    libraries, Python's warnings for users, and exceptions that nobody catches."""
    root = logging.getLogger()
    root.handlers = [_Handler()]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "asyncio", "websockets"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)
    # The default notes each text that was shown, without end. Other kinds are for developers.
    warnings.filterwarnings("always", category=UserWarning)
    for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.showwarning = lambda message, *_, **__: log("warning", message=str(message))
    threading.excepthook = _uncaught
    sys.unraisablehook = _uncaught


def _uncaught(given: Any) -> None:
    if given.exc_value is not None:
        log_error(given.exc_value)


def bracketed(host: str) -> str:
    """Return an address as URLs have it (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= _MAX_TEXT else value[:_MAX_TEXT]
