"""A bounded number of requests, and the threads that compute them."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Busy", "Slots", "Stopped", "Ticket", "Workers"]

T = TypeVar("T")

_MAX_RETRY = 60
"""Maximum number of seconds after which a client is asked to come again."""
_NEW_SHARE = 0.2
"""The share of the newest duration in the mean of durations."""


class Busy(Exception):  # noqa: N818
    """No slot is free; ``retry_after`` is the number of seconds in which one may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"busy: try again in {retry_after} s")
        self.retry_after = retry_after


class Stopped(Exception):  # noqa: N818
    """A computation ended early, because nobody waits for it any more or its time was over."""


class Ticket:
    """The slot of one request, with its deadline; any thread may stop it."""

    def __init__(self, slots: Slots, seconds: float) -> None:
        self._slots = slots
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        self._stop = threading.Event()
        self._is_released = False

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def is_stopped(self) -> bool:
        """Whether the result is not needed any more."""
        return self._stop.is_set() or time.monotonic() >= self._deadline

    def stop(self) -> None:
        """Ask the computation to end at its next check."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Stopped` where the result is not needed any more."""
        if self.is_stopped:
            raise Stopped

    def release(self) -> None:
        """Free the slot; a second call does nothing."""
        self._slots.release(self, time.monotonic() - self._started)


class Slots:
    """How many requests are held at once, from the first byte until the computation has ended."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._tickets: set[Ticket] = set()
        self._mean_seconds = 1.0

    def __len__(self) -> int:
        """Return the number of slots that are taken."""
        return len(self._tickets)

    def admit(self, seconds: float) -> Ticket:
        """Take a slot for a request that may last for so many seconds. Raises `Busy`."""
        with self._lock:
            if len(self._tickets) >= self.limit:
                wait = math.ceil(self._mean_seconds / self.limit)
                raise Busy(min(max(wait, 1), _MAX_RETRY))
            ticket = Ticket(self, seconds)
            self._tickets.add(ticket)
            return ticket

    def release(self, ticket: Ticket, seconds: float) -> None:
        """Free the slot of a ticket that was held for so many seconds, if it has one."""
        with self._lock:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
                self._mean_seconds += _NEW_SHARE * (seconds - self._mean_seconds)

    def stop_all(self) -> None:
        """Stop every ticket."""
        with self._lock:
            for ticket in self._tickets:
                ticket.stop()


class Workers:
    """A few threads, which sleep while there is nothing to compute.

    They do not keep the process alive, as those of `concurrent.futures` do: damaged audio may keep
    a decoder busy for longer than a shutdown lasts.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self.running = 0
        """Number of threads that compute now."""
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Let a thread call a function; the future has its result or exception."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future

    def close(self, seconds: float = 0.0) -> None:
        """End the threads after what they compute; functions that wait are computed before.

        Wait so many seconds for their end.
        """
        end = time.monotonic() + seconds
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            # A future that was cancelled takes no result, but its slot has to be freed.
            is_wanted = future.set_running_or_notify_cancel()
            with self._lock:
                self.running += 1
            try:
                result = function()
            except BaseException as error:
                with self._lock:
                    self.running -= 1
                if is_wanted:
                    future.set_exception(error)
            else:
                with self._lock:
                    self.running -= 1
                if is_wanted:
                    future.set_result(result)
                del result
            # The last call must not keep its audio in memory while the thread sleeps.
            del call, future, function
