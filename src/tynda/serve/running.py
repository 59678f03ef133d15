"""The threads that transcribe the jobs of the store, and keep their leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tynda.errors import TyndaError
from tynda.serve.decoding import Decoder
from tynda.serve.errors import ServeError, as_serve_error
from tynda.serve.logs import log, log_error
from tynda.serve.model import SharedModel
from tynda.serve.people import diarizer_of
from tynda.serve.recognition import transcribe
from tynda.serve.records import to_record
from tynda.serve.settings import ServeSettings
from tynda.serve.store.database import StoreError
from tynda.serve.store.store import Store
from tynda.serve.store.tables import Recording
from tynda.serve.vault import VaultError
from tynda.serve.workers import Slots, Stopped, Ticket

__all__ = ["Jobs"]

_POLL_SECONDS = 2.0
"""Seconds after which a server looks for jobs that another one has accepted or left."""
_SWEEP_SECONDS = 60.0
_SHOW_SECONDS = 5.0
"""Maximum number of seconds between two notes of how far a job is."""


class _Run:
    """One job that runs here, with how far it is."""

    def __init__(self, row: Recording, ticket: Ticket) -> None:
        self.row, self.ticket = row, ticket
        self.progress = 0.0
        self.duration: float | None = None

    def advance(self, seconds: float) -> None:
        """Note how many seconds were transcribed."""
        self.progress = seconds

    def know(self, seconds: float) -> None:
        """Note how many seconds the recording lasts."""
        self.duration = seconds


class Jobs:
    """Runs the jobs of a store until it is closed; then those that run go back to the store."""

    def __init__(
        self,
        store: Store,
        model: SharedModel,
        settings: ServeSettings,
        decoder: Decoder,
        on_audio: Callable[[float], None],
    ) -> None:
        """``on_audio`` is called with the seconds of audio of each finished job."""
        self._store, self._model, self._settings = store, model, settings
        self._decoder, self._on_audio = decoder, on_audio
        self._slots = Slots(settings.job_workers)
        self._runs: dict[str, _Run] = {}
        self._wake = threading.Condition()
        self._is_closing = False
        self._closing = threading.Event()
        threads = [("job", self._work)] * settings.job_workers + [("keeper", self._keep)]
        self._threads = [threading.Thread(target=f, name=name, daemon=True) for name, f in threads]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Number of jobs that run here."""
        return len(self._runs)

    def notify(self) -> None:
        """Let a thread look for a job that was accepted just now."""
        with self._wake:
            self._wake.notify()

    def stop(self, id_: str) -> None:
        """Stop a job that runs here, because it was cancelled or deleted."""
        run = self._runs.get(id_)
        if run is not None:
            run.ticket.stop()

    def close(self, seconds: float) -> None:
        """Stop what runs and give it back to the store, within so many seconds."""
        self._closing.set()
        self._slots.stop_all()
        with self._wake:
            self._wake.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while not self._closing.is_set():
            row = None
            try:
                row = self._store.claim()
                if row is not None:
                    self._run(row)
            except (StoreError, VaultError) as error:
                log("store", job=row and row.id, message=str(error))
                self._closing.wait(_POLL_SECONDS)
            except Exception as error:
                log_error(error)
                self._closing.wait(_POLL_SECONDS)
            if row is None:
                with self._wake:
                    if not self._closing.is_set():
                        self._wake.wait(_POLL_SECONDS)

    def _run(self, row: Recording) -> None:
        ticket = self._slots.admit(self._settings.job_seconds)
        run = self._runs[row.id] = _Run(row, ticket)
        try:
            result, seconds = self._result(run)
        except Stopped:
            # Whoever cancelled or deleted the job has taken the lease away.
            self._store.release(row)
            log("job", job=row.id, status="stopped")
            return
        finally:
            self._runs.pop(row.id)
            ticket.release()
        is_kept = self._store.finish(row, result, seconds)
        status = "lost" if not is_kept else "failed" if "error" in result else "done"
        log("job", job=row.id, status=status)

    def _result(self, run: _Run) -> tuple[dict[str, Any], float]:
        """Return the transcript of a job, or its error; and its seconds of audio."""
        row, ticket = run.row, run.ticket

        try:
            if self._closing.is_set():
                raise Stopped
            request = self._store.request(row)
            data = self._store.audio(row)
            diarizer = None
            if request.get("diarize"):
                diarizer = diarizer_of(
                    self._store.people, row.owner, self._settings.threads, request["speakers"]
                )
            with self._model.use() as model:
                transcript = transcribe(
                    model,
                    data,
                    request["options"],
                    ticket,
                    self._settings.max_seconds,
                    partial(self._decoder.decode, on_duration=run.know),
                    on_progress=run.advance,
                    diarizer=diarizer,
                )
        except Stopped:
            if ticket.remaining:
                raise
            return _failed(ServeError(504, "the job took too long", code="timeout")), 0.0
        except StoreError:
            raise
        except (ServeError, TyndaError) as error:
            known = as_serve_error(error)
            assert known is not None, "both kinds are mistakes of the client"
            return _failed(known), 0.0
        except Exception as error:
            log_error(error)
            return _failed(ServeError(500, "internal error", code="internal_error")), 0.0
        seconds = transcript.duration or 0.0
        self._on_audio(seconds)
        return {"transcript": to_record(transcript)}, seconds

    def _keep(self) -> None:
        """Extend the leases of what runs here, and delete what has expired."""
        interval = min(self._store.lease_seconds / 3, _SHOW_SECONDS)
        waited = _SWEEP_SECONDS
        while True:
            if waited >= _SWEEP_SECONDS:
                waited = 0.0
                with suppress(StoreError):
                    self._store.sweep()
            if self._closing.wait(interval):
                return
            waited += interval
            for run in list(self._runs.values()):
                try:
                    if not self._store.renew(run.row, run.progress, run.duration):
                        run.ticket.stop()
                except StoreError as error:
                    log("store", job=run.row.id, message=str(error))


def _failed(error: ServeError) -> dict[str, Any]:
    return {
        "error": {
            "status": error.status_code,
            "message": error.detail,
            "param": error.param,
            "code": error.code,
        }
    }
