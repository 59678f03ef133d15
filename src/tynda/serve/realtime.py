"""OpenAI's realtime transcription: its events, over a WebSocket.

Source: OpenAI's API reference, "Realtime", client and server events of transcription sessions.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from numpy.typing import NDArray
from starlette.websockets import WebSocketState

from tynda.checks import is_number
from tynda.errors import TyndaError
from tynda.live.session import LiveSegment
from tynda.live.settings import LiveSettings
from tynda.serve.access import service_of
from tynda.serve.answers import usage
from tynda.serve.errors import ServeError, as_serve_error, invalid_value
from tynda.serve.listen import accepted, close_code, parsed
from tynda.serve.live import LiveFeed, live_text, pcm16
from tynda.serve.logs import log_error
from tynda.serve.service import Service
from tynda.serve.workers import Busy, Stopped
from tynda.sound.samples import as_samples

__all__ = ["router"]

router = APIRouter()

_RATE = 24_000
"""The only sample rate of OpenAI's PCM audio."""
_INPUT = "session.audio.input"


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """Serve one connection of a transcription session."""
    if await accepted(websocket) is None:
        return
    session = _Realtime(websocket, service_of(websocket))
    try:
        await session.run()
    except WebSocketDisconnect:
        pass
    except Exception as error:
        known = as_serve_error(error)
        if known is None:
            log_error(error)
            known = ServeError(500, "internal error", code="internal_error")
        if websocket.application_state is WebSocketState.CONNECTED:
            with suppress(RuntimeError, OSError, WebSocketDisconnect):
                await session.send("error", error={**known.body()["error"], "event_id": None})
                await websocket.close(close_code(error))
    finally:
        session.close()


class _Item:
    """One utterance: its id, and the text that was sent of it."""

    def __init__(self, previous: str | None) -> None:
        self.id, self.previous = f"item_{secrets.token_hex(8)}", previous
        self.sent = ""


def final_text(change: LiveSegment) -> str:
    """Return the beginning of a segment's text that will not change any more."""
    segment = change.segment
    if change.is_final:
        return segment.text
    end = 0
    for word in segment.words[: change.final_words]:
        end = segment.text.index(word.text, end) + len(word.text)
    return segment.text[:end]


class _Realtime:
    """One session. Its audio is fed to the model while it comes where turns are detected; without
    turns, each commit is transcribed as a recording."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service
        self._id = f"sess_{secrets.token_hex(8)}"
        self._settings: LiveSettings | None = LiveSettings(silence=0.5)
        self._transcription: dict[str, Any] = {"model": service.model.name}
        self._turns: dict[str, Any] | None = {"type": "server_vad", "silence_duration_ms": 500}
        self._options: dict[str, Any] = {}
        self._feed: LiveFeed[LiveSegment] | None = None
        self._item: _Item | None = None
        self._last_id: str | None = None
        self._ended = 0.0
        """Seconds at which the audio of the next item begins."""
        self._buffer = bytearray()

    def close(self) -> None:
        """Free what the session holds."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    async def send(self, type_: str, **values: Any) -> None:
        """Send an event with an id of its own."""
        id_ = f"event_{secrets.token_hex(8)}"
        await self._websocket.send_json({"type": type_, "event_id": id_, **values})

    async def run(self) -> None:
        """Answer events until the client leaves; its mistakes are events, too."""
        await self.send("session.created", session=self._described())
        while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
            event: dict[str, Any] = {}
            try:
                event = parsed(message.get("text") or "")
                await self._answer(event)
            except (ServeError, TyndaError, Busy) as error:
                if isinstance(error, ServeError) and error.status_code in (413, 503):
                    raise
                known = as_serve_error(error)
                assert known is not None
                id_ = event.get("event_id")
                await self.send("error", error={**known.body()["error"], "event_id": id_})

    async def _answer(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "session.update" | "transcription_session.update":
                await self._update(event.get("session"))
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit":
                await self._commit()
            case "input_audio_buffer.clear":
                self._buffer.clear()
                self.close()
                self._item = None
                await self.send("input_audio_buffer.cleared")
            case _:
                raise invalid_value("unknown type of event", "type")

    async def _update(self, given: Any) -> None:
        """Apply what a session.update changes; what it does not name stays."""
        session = _table(given, "session")
        audio = _table(_table(session.get("audio"), "session.audio").get("input"), _INPUT)
        if session.get("type", "transcription") != "transcription":
            raise invalid_value("transcription is the only type of session", "session.type")
        if session.get("include"):
            raise invalid_value("this server has no log-probabilities of tokens", "session.include")
        form = _table(audio.get("format"), f"{_INPUT}.format")
        if {"type": "audio/pcm", "rate": _RATE, **form} != {"type": "audio/pcm", "rate": _RATE}:
            raise invalid_value(f"only audio/pcm at {_RATE} Hz is known", f"{_INPUT}.format")
        if audio.get("noise_reduction"):
            raise invalid_value("this server has no noise reduction", f"{_INPUT}.noise_reduction")
        if self._feed is not None or self._buffer:
            raise invalid_value("settings cannot change while audio is being recognised", "session")
        settings, turns = self._settings, self._turns
        if "turn_detection" in audio:
            turns = audio["turn_detection"]
            settings = None if turns is None else _settings_of(turns)
        transcription, options = self._transcription, self._options
        if "transcription" in audio:
            transcription = _table(audio["transcription"], f"{_INPUT}.transcription")
            options = self._options_of(transcription)
        self._settings, self._turns = settings, turns
        self._transcription, self._options = transcription, options
        await self.send("session.updated", session=self._described())

    def _options_of(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the decoder's options of a transcription's settings."""
        if given.get("model") not in (None, *self._service.names):
            raise ServeError(404, "there is no such model", param="model", code="no_model")
        names = {"language": "language", "prompt": "initial_prompt", "keywords": "hotwords"}
        options = {names[x]: given[x] for x in names if given.get(x)}
        for name in options:
            if not self._service.model.has(name):
                raise invalid_value("this model has no such setting", f"{_INPUT}.transcription")
        return options

    def _described(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "expires_at": int(time.time() + self._service.settings.live_seconds),
            "include": None,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": _RATE},
                    "transcription": self._transcription,
                    "noise_reduction": None,
                    "turn_detection": self._turns,
                }
            },
        }

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise invalid_value("audio must be base64", "audio") from None
        if len(data) % 2:
            raise invalid_value("audio must have an even number of bytes", "audio")
        if self._settings is None:
            limit = self._service.settings.max_bytes
            if len(self._buffer) + len(data) > limit:
                raise ServeError(413, f"the buffer is larger than {limit} bytes: commit earlier")
            self._buffer += data
            return
        if self._feed is None:
            feed = LiveFeed(self._service, _RATE, live_text(self._options, self._settings, _RATE))
            await feed.start()
            self._feed, self._ended = feed, 0.0
        await self._report(await self._feed.feed(data))

    async def _commit(self) -> None:
        """End the present item: that of the live session, or the buffer as a whole."""
        if self._settings is None:
            data, self._buffer = bytes(self._buffer), bytearray()
            if not data:
                raise invalid_value("the buffer is empty", "input_audio_buffer")
            await self._transcribe(pcm16(data))
            return
        if self._feed is None:
            raise invalid_value("the buffer is empty", "input_audio_buffer")
        feed, self._feed = self._feed, None
        try:
            await self._report(await feed.finish())
        finally:
            feed.close()

    async def _report(self, changes: list[LiveSegment]) -> None:
        """Send the events of changes: an item's beginning, its new words, and its end."""
        for change in changes:
            segment = change.segment
            if self._item is None:
                self._item = _Item(self._last_id)
                await self.send(
                    "input_audio_buffer.speech_started",
                    item_id=self._item.id,
                    audio_start_ms=round(segment.start * 1000),
                )
            item, text = self._item, final_text(change)
            if change.is_final:
                await self.send(
                    "input_audio_buffer.speech_stopped",
                    item_id=item.id,
                    audio_end_ms=round(segment.end * 1000),
                )
                await self._commit_item(item)
            await self._delta(item, text)
            if change.is_final:
                await self._complete(item, text, segment.end - max(segment.start, self._ended))
                self._item, self._ended = None, segment.end

    async def _transcribe(self, samples: NDArray[np.int16]) -> None:
        item = _Item(self._last_id)
        ticket = self._service.slots.admit(self._service.settings.request_seconds)
        await self._commit_item(item)
        try:
            future = self._service.submit(as_samples(samples, _RATE), self._options, ticket)
        except BaseException:
            ticket.release()
            raise
        try:
            async with asyncio.timeout(ticket.remaining):
                transcript = await asyncio.wrap_future(future)
        except (ServeError, TyndaError, Stopped, TimeoutError) as error:
            known = as_serve_error(error)
            assert known is not None
            await self.send(
                "conversation.item.input_audio_transcription.failed",
                item_id=item.id,
                content_index=0,
                error=known.body()["error"],
            )
            return
        finally:
            ticket.stop()
        await self._delta(item, transcript.text)
        await self._complete(item, transcript.text, transcript.duration or 0.0)

    async def _commit_item(self, item: _Item) -> None:
        self._last_id = item.id
        await self.send(
            "input_audio_buffer.committed", item_id=item.id, previous_item_id=item.previous
        )
        content = [{"type": "input_audio", "transcript": None}]
        described = {"id": item.id, "type": "message", "role": "user", "status": "completed"}
        await self.send(
            "conversation.item.added",
            previous_item_id=item.previous,
            item={**described, "object": "realtime.item", "content": content},
        )

    async def _delta(self, item: _Item, text: str) -> None:
        """Send what a text adds to the text that was sent of an item."""
        if not text.startswith(item.sent) or text == item.sent:
            return
        delta, item.sent = text[len(item.sent) :], text
        await self.send(
            "conversation.item.input_audio_transcription.delta",
            item_id=item.id,
            content_index=0,
            delta=delta,
        )

    async def _complete(self, item: _Item, text: str, seconds: float) -> None:
        await self.send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item.id,
            content_index=0,
            transcript=text,
            usage=usage(seconds),
        )


def _table(value: Any, name: str) -> dict[str, Any]:
    """Return an object of JSON, empty where it is missing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_value(f"{name} must be an object", name)
    return value


def _settings_of(turns: Any) -> LiveSettings:
    """Return the settings of live recognition for a detection of turns, by OpenAI's defaults."""
    given = _table(turns, f"{_INPUT}.turn_detection")
    if given.get("type") != "server_vad":
        raise invalid_value("server_vad is the only detection of turns", f"{_INPUT}.turn_detection")
    settings, silence = LiveSettings(silence=0.5), given.get("silence_duration_ms", 500)
    if not is_number(silence):
        raise invalid_value("silence_duration_ms must be a number", f"{_INPUT}.turn_detection")
    return replace(settings, silence=silence / 1000, speech=given.get("threshold", 0.4))
