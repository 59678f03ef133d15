"""A live session of the model in the server: fed by connections, computed by the live workers."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tynda.checks import is_whole, schema
from tynda.errors import TyndaError, listed
from tynda.live.session import LiveSession
from tynda.live.settings import LiveSettings
from tynda.model import Model
from tynda.serve.errors import ServeError, invalid_value
from tynda.serve.recognition import check_options
from tynda.serve.service import Service
from tynda.serve.workers import Stopped
from tynda.speakers.diarize import Diarizer

__all__ = ["LiveFeed", "OpusDecoder", "check_rate", "live_settings", "live_text", "pcm16"]

T = TypeVar("T")
Event = TypeVar("Event")

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Bounds of a sample rate in hertz: one second at a far lower one would become minutes of work."""
_OPUS_RATE = 48_000
"""The rate at which Opus is decoded (RFC 6716, section 2)."""


def check_rate(rate: Any) -> int:
    """Return a sample rate. Raises `ServeError` where it is out of range."""
    if not is_whole(rate, MIN_RATE, MAX_RATE):
        raise invalid_value(
            f"sample_rate must be a whole number from {MIN_RATE} to {MAX_RATE}", "sample_rate"
        )
    return int(rate)


def live_settings(given: Any) -> LiveSettings:
    """Return the settings of live recognition from JSON data, whose names are their names.

    Raises `TyndaError` for unknown names and invalid values.
    """
    known = schema(LiveSettings)
    if not isinstance(given, dict) or not given.keys() <= known.keys():
        raise TyndaError(f"settings must be an object with names of {listed(list(known))}")
    return LiveSettings(**given)


def pcm16(data: bytes) -> NDArray[np.int16]:
    """Return the samples ``[n]`` of raw 16-bit little-endian mono audio."""
    if len(data) % 2:
        raise ServeError(
            400, "a frame of pcm16 must have an even number of bytes", code="invalid_audio"
        )
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)


class OpusDecoder:
    """Decodes packets of Opus (RFC 6716), one for each frame, to float32 mono at 48 kHz."""

    rate = _OPUS_RATE

    def __init__(self) -> None:
        import av
        from av.audio.codeccontext import AudioCodecContext

        context = av.CodecContext.create("opus", "r")
        assert isinstance(context, AudioCodecContext)
        self._context = context

    def __call__(self, data: bytes) -> NDArray[np.float32]:
        """Return the samples ``[n]`` of a packet. Raises `ServeError` for a damaged one."""
        import av

        if not data:  # An empty packet would end the decoder.
            return np.zeros(0, np.float32)
        try:
            frames = self._context.decode(av.Packet(data))
        except av.FFmpegError:
            raise ServeError(400, "a packet is not Opus", code="invalid_audio") from None
        mono = [frame.to_ndarray().mean(0, dtype=np.float32) for frame in frames]
        return np.concatenate(mono) if mono else np.zeros(0, np.float32)


class LiveSource(Protocol[Event]):
    """A session of a model that is fed with samples, as `LiveSession` and `CommandSession`."""

    def feed(self, samples: Any) -> list[Event]:
        """Take samples; return what has changed."""

    def finish(self) -> list[Event]:
        """End the audio; return what has changed."""


def live_text(
    options: Mapping[str, Any],
    settings: LiveSettings,
    rate: int,
    diarizer: Callable[[], Diarizer] | None = None,
) -> Callable[[Model], LiveSession]:
    """Return the function that opens a session of live text at ``rate`` hertz, with the speakers
    that a ``diarizer`` tells apart."""

    def opened(model: Model) -> LiveSession:
        check_options(model, options)
        return model.live(
            model.options(**options),
            settings=settings,
            sample_rate=rate,
            speakers=False if diarizer is None else diarizer(),
        )

    return opened


class LiveFeed(Generic[Event]):
    """One live session, which holds a slot and the model until it is closed.

    Its methods are called from the event loop, one after the other.
    """

    def __init__(
        self,
        service: Service,
        rate: int,
        opens: Callable[[Model], LiveSource[Event]],
        decode: Callable[[bytes], NDArray[Any]] = pcm16,
    ) -> None:
        """``opens`` returns the session; ``decode`` converts the bytes of a frame to samples at
        ``rate`` hertz.

        Raises `Busy` where no further session is allowed.
        """
        self._service, self._rate, self._opens, self._decode = service, rate, opens, decode
        self._ticket = service.live_slots.admit(math.inf)
        self._session: LiveSource[Event] | None = None
        self._lock = threading.Lock()
        self._is_closed = self._holds_model = False
        self.seconds = 0.0
        """Seconds of audio that were fed."""

    async def start(self) -> None:
        """Open the session. Raises `TyndaError` where it does not fit the model."""

        def opened() -> LiveSource[Event]:
            model = self._service.model.acquire()
            with self._lock:
                if self._is_closed:  # The client left while the model was loaded.
                    self._service.model.release()
                    raise Stopped
                self._holds_model = True
            return self._opens(model)

        try:
            self._session = await self._computed(opened)
        except BaseException:
            self.close()
            raise

    async def feed(self, data: bytes) -> list[Event]:
        """Take the bytes of a frame; return what has changed.

        Raises `ServeError` for a damaged frame and for a session that is too long.
        """

        def fed() -> list[Event]:
            samples = self._decode(data)
            limit = self._service.settings.live_seconds
            if self.seconds + len(samples) / self._rate > limit:
                message = f"a live session has at most {limit:g} s of audio: open another one"
                raise ServeError(413, message, code="audio_too_long")
            found: list[Event] = []
            for i in range(0, len(samples), self._rate):  # a second at a time
                self._ticket.check()
                found += session.feed(samples[i : i + self._rate])
            self.seconds += len(samples) / self._rate
            self._service.metrics.audio.inc(len(samples) / self._rate)
            return found

        session = self._opened
        return await self._computed(fed)

    async def finish(self) -> list[Event]:
        """End the audio; return the last segments."""
        return await self._computed(self._opened.finish)

    @property
    def _opened(self) -> LiveSource[Event]:
        assert self._session is not None, "the session is started before it is fed"
        return self._session

    async def _computed(self, function: Callable[[], T]) -> T:
        """Return what a live worker computes."""
        return await asyncio.wrap_future(self._service.live_workers.submit(function))

    def close(self) -> None:
        """Free the slot and the session's memory; a second call does nothing."""
        with self._lock:
            if self._holds_model:
                self._service.model.release()
            self._is_closed, self._holds_model = True, False
        self._ticket.stop()
        self._ticket.release()
        self._session = None
