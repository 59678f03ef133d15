"""Numbers about the server, in the form of Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "tynda_requests",
            "Requests and connections that have ended.",
            ["protocol", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tynda_request_seconds",
            "Time from the beginning of a request to its end.",
            ["protocol", "route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.latencies: deque[float] = deque(maxlen=1000)
        """Seconds that the last recordings needed which were answered with their text."""
        self.audio = Counter(
            "tynda_audio_seconds", "Seconds of audio that were transcribed.", registry=registry
        )

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(f"tynda_{name}", about, registry=self._registry).set_function(read)

    def memory(self) -> int:
        """Return the bytes of resident memory; 0 where the system does not tell."""
        return int(self._registry.get_sample_value("process_resident_memory_bytes") or 0)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's text format."""
        return generate_latest(self._registry)
