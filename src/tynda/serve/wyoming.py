"""The Wyoming protocol, by which Home Assistant's voice assistants ask for text.

Source: https://github.com/OHF-Voice/wyoming, README.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

import tynda
from tynda.checks import is_whole
from tynda.serve.errors import ServeError, as_serve_error, invalid_value
from tynda.serve.live import check_rate
from tynda.serve.logs import bracketed, log, log_error
from tynda.serve.service import Service
from tynda.serve.strict import read_json
from tynda.serve.texts import Texts
from tynda.serve.workers import Stopped, Ticket
from tynda.sound.samples import as_samples

__all__ = ["serving_wyoming"]

_MAX_HEADER = 1 << 16
"""Maximum number of bytes of an event's JSON."""
_MAX_PAYLOAD = 1 << 20
"""Maximum number of bytes of an event's audio."""
_MAX_CHANNELS = 8
_LINGER_SECONDS = 2.0
"""Seconds in which a client that made a mistake may end what it is sending."""
_WIDTHS: Mapping[int, Any] = {1: np.uint8, 2: np.int16, 4: np.int32}
"""Bytes of a sample -> its type."""


@asynccontextmanager
async def serving_wyoming(service: Service, bound: socket.socket | None) -> AsyncIterator[None]:
    """Serve the protocol on a socket until the block ends, if there is one."""
    if bound is None:
        yield
        return
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _Connection(service, reader, writer).run()
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, sock=bound, limit=_MAX_HEADER)
    host, port = bound.getsockname()[:2]
    service.wyoming_port = port
    log("started", url=f"tcp://{bracketed(host)}:{port}", protocol="wyoming")
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_event(reader: asyncio.StreamReader) -> Event | None:
    """Return the next event, or None where the client has left.

    The package's own reader would read events of any size. Raises `ServeError` for an event that
    is too large or no event.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        header = read_json(line)
        data, sizes = header.get("data") or {}, [header.get(x) or 0 for x in _LENGTHS]
        is_valid = isinstance(header["type"], str) and isinstance(data, dict)
        for size, limit in zip(sizes, (_MAX_HEADER, _MAX_PAYLOAD), strict=True):
            is_valid = is_valid and isinstance(size, int) and 0 <= size <= limit
        if not is_valid:
            raise ValueError
        if sizes[0]:
            data = {**data, **read_json(await reader.readexactly(sizes[0]))}
        payload = await reader.readexactly(sizes[1]) if sizes[1] else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        message = "this is no event of valid JSON and Unicode text, or a too large one"
        raise ServeError(400, message, code="no_event") from None
    return Event(header["type"], data, payload)


_LENGTHS = ("data_length", "payload_length")


class _Recording:
    """The audio of one request, as it comes; it holds a slot until it is transcribed."""

    def __init__(self, ticket: Ticket, data: Mapping[str, Any]) -> None:
        self.ticket, self._audio = ticket, bytearray()
        self._rate = check_rate(data.get("rate"))
        self._width: Any = data.get("width")
        self._channels: Any = data.get("channels")
        is_known = is_whole(self._width, 1) and self._width in _WIDTHS
        if not (is_known and is_whole(self._channels, 1, _MAX_CHANNELS)):
            message = f"audio needs a width of 1, 2 or 4 bytes and up to {_MAX_CHANNELS} channels"
            raise ServeError(400, message, code="invalid_audio")

    def add(self, payload: bytes, max_bytes: int) -> None:
        """Append audio. Raises `ServeError` where it is too much, `Stopped` where it is late."""
        self.ticket.check()
        if len(self._audio) + len(payload) > max_bytes:
            raise ServeError(413, "the recording is too large", code="file_too_large")
        self._audio += payload

    def samples(self) -> NDArray[np.float32]:
        """Return the whole audio, float32 mono ``[n]`` at 16 kHz."""
        frame = self._width * self._channels
        count = len(self._audio) // frame * self._channels
        whole = np.frombuffer(self._audio, _WIDTHS[self._width], count)
        if self._channels > 1 and count:
            return as_samples(whole.reshape(-1, self._channels), self._rate)
        return as_samples(whole, self._rate)


class _Connection:
    """One client, which may ask for several texts, one after the other."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._service, self._reader, self._writer = service, reader, writer
        self._options: dict[str, Any] = {}
        self._recording: _Recording | None = None

    async def run(self) -> None:
        """Answer events until the client leaves or makes a mistake."""
        try:
            while (event := await self._read()) is not None:
                await self._answer(event)
        except Exception as error:
            known = as_serve_error(error)
            if known is None:
                log_error(error)
                known = ServeError(500, "internal error", code="internal_error")
            with suppress(OSError, TimeoutError):
                await self._write(Error(known.detail, known.code))
                # A connection that is closed with unread bytes is reset, and the error is lost.
                self._writer.write_eof()
                async with asyncio.timeout(_LINGER_SECONDS):
                    while await self._reader.read(_MAX_HEADER):
                        pass
        finally:
            if self._recording is not None:
                self._recording.ticket.release()

    async def _read(self) -> Event | None:
        """Return the next event; audio has to come within the time of a request."""
        seconds = None if self._recording is None else self._recording.ticket.remaining
        async with asyncio.timeout(seconds):
            return await _read_event(self._reader)

    async def _write(self, event: Eventable) -> None:
        await async_write_event(event.event(), self._writer)

    async def _answer(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self._write(_info(self._service))
        elif Ping.is_type(event.type):
            await self._write(Pong(Ping.from_event(event).text))
        elif Transcribe.is_type(event.type):
            self._options = self._asked(Transcribe.from_event(event))
        elif AudioStart.is_type(event.type) or (
            AudioChunk.is_type(event.type) and self._recording is None
        ):
            self._begin(event)
        if AudioChunk.is_type(event.type) and self._recording is not None:
            self._recording.add(event.payload or b"", self._service.settings.max_bytes)
        elif AudioStop.is_type(event.type) and self._recording is not None:
            recording, self._recording = self._recording, None
            await self._transcribe(recording)

    def _asked(self, given: Transcribe) -> dict[str, Any]:
        """Return the options of a request; the names and terms to expect are hot words."""
        if given.name and given.name not in self._service.names:
            raise ServeError(404, "there is no such model", code="no_model")
        words: list[Any] = []
        for several in (given.transcript_names, given.transcript_terms):
            if not isinstance(several, list | None):
                raise invalid_value("words to expect must be a list")
            words += several or []
        options = {"language": given.language} if given.language else {}
        return {**options, **({"hotwords": tuple(words)} if words else {})}

    def _begin(self, event: Event) -> None:
        if self._recording is not None:
            self._recording.ticket.release()
            self._recording = None
        ticket = self._service.slots.admit(self._service.settings.request_seconds)
        try:
            self._recording = _Recording(ticket, event.data)
        except BaseException:
            ticket.release()
            raise

    async def _transcribe(self, recording: _Recording) -> None:
        """Answer with the text in parts, and as a whole for clients that know no parts."""
        texts, ticket = Texts(), recording.ticket
        try:
            samples = await asyncio.to_thread(recording.samples)
            future = self._service.submit(samples, self._options, ticket, texts.put)
        except BaseException:
            ticket.release()
            raise
        future.add_done_callback(lambda _: texts.put(None))
        left = asyncio.create_task(self._left())
        left.add_done_callback(lambda task: None if task.cancelled() else texts.put(None))
        try:
            is_started = False
            async with asyncio.timeout(ticket.remaining):
                while (text := await texts.get()) is not None:
                    if not is_started:
                        await self._write(TranscriptStart())
                    is_started = True
                    await self._write(TranscriptChunk(text))
            if not future.done():
                raise Stopped
            transcript = future.result()
        finally:
            ticket.stop()
            left.cancel()
        if not is_started:
            await self._write(TranscriptStart())
        await self._write(Transcript(transcript.text, language=transcript.language))
        await self._write(TranscriptStop())
        self._options = {}

    async def _left(self) -> None:
        """Wait until the client has left."""
        while not self._reader.at_eof():
            await asyncio.sleep(0.5)


def _info(service: Service) -> Info:
    """Return what the server offers."""
    about = Attribution("tynda", "")
    model = service.model
    described = AsrModel(
        name=model.name,
        attribution=about,
        installed=True,
        description=f"{model.name} by tynda",
        version=tynda.__version__,
        languages=list(model.languages),
    )
    program = AsrProgram(
        name="tynda",
        attribution=about,
        installed=True,
        description="Speech recognition that stays on this machine",
        version=tynda.__version__,
        models=[described],
        supports_transcript_streaming=True,
    )
    return Info(asr=[program])
