"""Everything that requests share, whichever protocol they come by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import tynda
from tynda.model import Model
from tynda.serve.decoding import Decoder
from tynda.serve.grammar import PageGrammar
from tynda.serve.keys import Keys, RateLimit
from tynda.serve.metrics import Metrics
from tynda.serve.model import SharedModel
from tynda.serve.recognition import transcribe
from tynda.serve.running import Jobs
from tynda.serve.settings import ServeSettings
from tynda.serve.store.store import Store
from tynda.serve.workers import Slots, Ticket, Workers
from tynda.speakers.diarize import Diarizer
from tynda.transcript import Transcript

__all__ = ["Service"]

T = TypeVar("T")


class Service:
    """Settings, keys, the model, the queue and the counters of one server."""

    def __init__(
        self, settings: ServeSettings, keys: Keys, open_store: Callable[[], Store]
    ) -> None:
        """Load the model, open the store, and start the threads.

        The store is closed with the service. Raises `TyndaError` where there is no model or no
        grammar, and what ``open_store`` raises.
        """
        self.settings, self.keys = settings, keys
        self.rates, self.metrics = RateLimit(), Metrics()
        self.page_grammar = PageGrammar(settings.grammar)
        self.model = SharedModel(
            lambda: tynda.load(settings.model, threads=settings.threads), settings.unload_seconds
        )
        try:
            self.store = open_store()
        except BaseException:
            self.model.close()
            raise
        aliases = [name.strip() for name in settings.aliases.split(",")]
        self.names = [self.model.name, *(name for name in aliases if name)]
        """The names under which requests may ask for the model, its own first."""
        self.slots = Slots(settings.workers + settings.queue)
        self.workers = Workers(settings.workers, "transcribe")
        self.live_slots = Slots(settings.live_sessions)
        self.live_workers = Workers(settings.workers, "live")
        self.decoder = Decoder(settings.decode_seconds, settings.decode_memory)
        self.jobs = Jobs(self.store, self.model, settings, self.decoder, self.metrics.audio.inc)
        self.wyoming_port: int | None = None
        """The port of the Wyoming protocol, once it is served."""
        self.is_closing = False
        gauge = self.metrics.gauge
        gauge("requests_held", "Recordings that wait or run.", lambda: len(self.slots))
        gauge("requests_running", "Recordings that run.", lambda: self.workers.running)
        gauge("jobs_running", "Jobs that run here.", lambda: self.jobs.running)
        gauge("live_sessions", "Live sessions that are open.", lambda: len(self.live_slots))
        gauge("model_loaded", "1 if the model is in memory.", lambda: self.model.is_loaded)

    def submit(
        self,
        source: bytes | NDArray[np.float32],
        options: Mapping[str, Any],
        ticket: Ticket,
        on_text: Callable[[str], None] = lambda text: None,
        diarizer: Callable[[], Diarizer | None] = lambda: None,
    ) -> Future[Transcript]:
        """Let a worker transcribe a recording, see `recognition.transcribe` and `run`; it calls
        ``diarizer``."""

        def compute(model: Model) -> Transcript:
            limit, decode = self.settings.max_seconds, self.decoder.decode
            result = transcribe(
                model, source, options, ticket, limit, decode, on_text, diarizer=diarizer()
            )
            self.metrics.audio.inc(result.duration or 0.0)
            return result

        return self.run(compute, ticket)

    def run(self, function: Callable[[Model], T], ticket: Ticket) -> Future[T]:
        """Let a worker compute with the model; the ticket is released when the worker has ended."""

        def compute() -> T:
            with self.model.use() as model:
                return function(model)

        return self.work(compute, ticket)

    def work(self, function: Callable[[], T], ticket: Ticket) -> Future[T]:
        """Let a worker compute without the model, and otherwise as `run` does."""

        def compute() -> T:
            try:
                ticket.check()
                return function()
            finally:
                ticket.release()

        return self.workers.submit(compute)

    def close(self) -> None:
        """Stop what still runs, and end the threads."""
        self.is_closing = True
        self.slots.stop_all()
        self.live_slots.stop_all()
        seconds = self.settings.shutdown_seconds
        self.workers.close(seconds)
        self.live_workers.close(seconds)
        self.jobs.close(seconds)
        self.decoder.close()
        self.model.close()
        self.store.close()
