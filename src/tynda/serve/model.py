"""The one model in memory, which all requests share; it may be unloaded while nobody uses it."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields

from tynda.errors import TyndaError
from tynda.model import Model
from tynda.serve.errors import ServeError

__all__ = ["SharedModel"]


class SharedModel:
    """A model that is loaded when it is used, and unloaded when it was idle for some time.

    Loading it at first, to check it, fails with `TyndaError`.
    """

    def __init__(self, load: Callable[[], Model], unload_seconds: float = 0.0) -> None:
        """``unload_seconds`` is the idle time after which the model is unloaded; 0 is never."""
        self._load, self._unload_seconds = load, unload_seconds
        self._lock = threading.Lock()
        self._model: Model | None = load()
        header = self._model.header
        self.name: str = header.name
        self.languages: tuple[str, ...] = tuple(header.languages)
        self._options = frozenset(f.name for f in fields(self._model.head.options_type))
        self.loaded_at = int(time.time())
        self._users = 0
        self._idle_since = time.monotonic()
        self._timer: threading.Timer | None = None
        with self._lock:
            self._watch()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def has(self, option: str) -> bool:
        """Return whether the model's decoder has an option."""
        return option in self._options

    def acquire(self) -> Model:
        """Return the model, which stays in memory until `release` is called as often.

        Raises `ServeError` where it cannot be loaded again.
        """
        with self._lock:
            if self._model is None:
                try:
                    self._model = self._load()
                except TyndaError:
                    raise ServeError(
                        503, "the model cannot be loaded", kind="server_error", code="no_model"
                    ) from None
            self._users += 1
            return self._model

    def release(self) -> None:
        """End a use of the model."""
        with self._lock:
            self._users -= 1
            self._idle_since = time.monotonic()
            self._watch()

    @contextmanager
    def use(self) -> Iterator[Model]:
        """The model, as `acquire` returns it, until the block ends."""
        model = self.acquire()
        try:
            yield model
        finally:
            self.release()

    def close(self) -> None:
        """Unload the model no more."""
        with self._lock:
            self._unload_seconds = 0.0
            if self._timer is not None:
                self._timer.cancel()

    def _watch(self) -> None:
        """Start the one timer that unloads the model, if it is needed and not running."""
        if self._unload_seconds and not self._users and self._timer is None:
            idle = time.monotonic() - self._idle_since
            self._timer = threading.Timer(max(0.0, self._unload_seconds - idle), self._unload)
            self._timer.daemon = True
            self._timer.start()

    def _unload(self) -> None:
        with self._lock:
            self._timer = None
            idle = time.monotonic() - self._idle_since
            if self._users or not self._unload_seconds:
                return  # The last release starts the timer again.
            if idle < self._unload_seconds:
                self._watch()
                return
            self._model = None
            gc.collect()
        _trim()


def _trim() -> None:
    """Return freed memory to the system, where the C library can do so (glibc)."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
