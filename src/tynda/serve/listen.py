"""Live text over a WebSocket, which may drop: ``docs/serve.md`` documents the messages."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from numpy.typing import NDArray
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketState

from tynda.checks import is_whole
from tynda.commands.recognizer import Answer
from tynda.live.session import LiveSegment
from tynda.serve.access import PROTOCOL_KEY, authorize
from tynda.serve.commands import live_commands
from tynda.serve.errors import ServeError, as_serve_error, invalid_value
from tynda.serve.fields import MAX_SPEAKERS
from tynda.serve.keys import Key
from tynda.serve.live import LiveFeed, OpusDecoder, check_rate, live_settings, live_text, pcm16
from tynda.serve.logs import log_error
from tynda.serve.people import diarizer_of
from tynda.serve.service import Service
from tynda.serve.strict import read_json
from tynda.serve.workers import Busy, Stopped
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.diarize import Diarizer

__all__ = ["Sessions", "accepted", "close_code", "parsed", "router"]

router = APIRouter()

_MAX_EVENTS = 1000
"""Number of the last final segments that a session can send again."""
_START_SECONDS = 30.0
"""Seconds in which a connection has to say what it wants."""
_REPLACED = 4000
"""The code with which a connection is closed whose session another one has resumed."""


class Session:
    """One live recording, which outlives its connection for some time."""

    def __init__(self, feed: LiveFeed[LiveSegment] | LiveFeed[Answer], key: str) -> None:
        """``key`` is the id of the key to which the session belongs."""
        self.id, self.key, self._feed = secrets.token_urlsafe(16), key, feed
        self.task: asyncio.Task[Any] | None = None
        """The task of the present connection."""
        self.expiry: asyncio.TimerHandle | None = None
        self.position = 0
        """Number of bytes of audio that were received and recognised."""
        self.is_finished = False
        self._lock = asyncio.Lock()
        self._number = 0
        self._finals: deque[dict[str, Any]] = deque(maxlen=_MAX_EVENTS)
        self._partial: dict[str, Any] | None = None

    async def audio(self, data: bytes) -> None:
        """Recognise a frame; it is finished even if the connection ends meanwhile."""
        await asyncio.shield(self._recognised(data))

    async def finish(self) -> None:
        """End the recording."""
        await asyncio.shield(self._finished())

    async def settled(self) -> None:
        """Wait until no frame is being recognised."""
        async with self._lock:
            pass

    def events(self, after: int) -> list[dict[str, Any]]:
        """Return the segments with a greater number, without partial ones that were replaced."""
        partial = [] if self._partial is None else [self._partial]
        return [event for event in [*self._finals, *partial] if event["number"] > after]

    def last(self) -> dict[str, Any]:
        """Return the message that ends a finished session."""
        return {"type": "finished", "position": self.position, "seconds": self._feed.seconds}

    def close(self) -> None:
        """Free everything that the session holds."""
        if self.expiry is not None:
            self.expiry.cancel()
        self._feed.close()

    async def _recognised(self, data: bytes) -> None:
        async with self._lock:
            if self.is_finished:
                raise ServeError(400, "the session is finished: start another one", code="finished")
            self._add(await self._feed.feed(data))
            self.position += len(data)

    async def _finished(self) -> None:
        async with self._lock:
            if not self.is_finished:
                self._add(await self._feed.finish())
                self.is_finished = True
                self._feed.close()

    def _add(self, events: Sequence[LiveSegment | Answer]) -> None:
        for each in events:
            self._number += 1
            kind = "answer" if isinstance(each, Answer) else "segment"
            event = {"type": kind, "number": self._number, **each.to_dict()}
            is_final = isinstance(each, Answer) or each.is_final
            self._partial = None if is_final else event
            if is_final:
                self._finals.append(event)


class Sessions:
    """The sessions that have a connection, or wait for one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: dict[str, Session] = {}

    async def start(self, given: dict[str, Any], key: str, owner: str) -> Session:
        """Open a session as a message of type start asks for it; ``owner`` is the key's user."""
        decode: Callable[[bytes], NDArray[Any]]
        match given.get("encoding", "pcm16"):
            case "pcm16":
                decode, rate = pcm16, check_rate(given.get("sample_rate", SAMPLE_RATE))
            case "opus":
                decode, rate = OpusDecoder(), OpusDecoder.rate
            case _:
                raise invalid_value("encoding must be pcm16 or opus")
        names = {"language": "language", "prompt": "initial_prompt", "keywords": "hotwords"}
        options = {names[x]: given[x] for x in names if given.get(x)}
        diarizer = self._diarizer(given.get("speakers", False), owner)
        feed: LiveFeed[LiveSegment] | LiveFeed[Answer]
        if "grammar" in given:
            if diarizer is not None:
                raise invalid_value(
                    "a session with a grammar does not tell speakers apart", "speakers"
                )
            opened = live_commands(given["grammar"], options, rate)
            feed = LiveFeed(self._service, rate, opened, decode)
        else:
            settings = live_settings(given.get("settings", {}))
            text = live_text(options, settings, rate, diarizer)
            feed = LiveFeed(self._service, rate, text, decode)
        await feed.start()
        session = Session(feed, key)
        self._sessions[session.id] = session
        return session

    def _diarizer(self, asked: Any, owner: str) -> Callable[[], Diarizer] | None:
        """Return the function that opens what tells speakers apart, where a client asks for it:
        ``asked`` is true, or their number."""
        if asked is False:
            return None
        if asked is not True and not is_whole(asked, 1, MAX_SPEAKERS):
            raise invalid_value(
                f"speakers must be true or their number, up to {MAX_SPEAKERS}", "speakers"
            )
        count = None if asked is True else int(asked)
        people, threads = self._service.store.people, self._service.settings.threads
        return lambda: diarizer_of(people, owner, threads, count)

    async def resume(self, id_: Any, key: str) -> Session:
        """Return a session that waits, or take it from its connection, which did not notice that
        it was dropped. Raises `ServeError` where the key has no such session."""
        session = self._sessions.get(id_) if isinstance(id_, str) else None
        if session is None or session.key != key:
            raise ServeError(404, "there is no such session: start one", code="no_session")
        if session.expiry is not None:
            session.expiry.cancel()
        before, session.task = session.task, asyncio.current_task()
        if before is not None:
            before.cancel()
        await session.settled()
        return session

    def detach(self, session: Session) -> None:
        """Let a session wait for another connection."""
        session.task = None
        loop, seconds = asyncio.get_running_loop(), self._service.settings.resume_seconds
        session.expiry = loop.call_later(seconds, self.drop, session)

    def drop(self, session: Session) -> None:
        """Forget a session."""
        self._sessions.pop(session.id, None)
        session.close()


async def accepted(websocket: WebSocket) -> Key | None:
    """Accept a WebSocket whose key may listen, and return the key; others are answered as requests
    are, and the result is None."""
    try:
        key = authorize(websocket, "listen")
    except ServeError as error:
        refusal = JSONResponse(error.body(), error.status_code, error.headers)
        await websocket.send_denial_response(refusal)
        return None
    offered = websocket.headers.get("sec-websocket-protocol", "").split(",")
    protocols = [x.strip() for x in offered if x.strip() and PROTOCOL_KEY not in x]
    await websocket.accept(protocols[0] if protocols else None)
    return key


def parsed(text: str) -> dict[str, Any]:
    """Return the object of a JSON message. Raises `ServeError` for anything else."""
    try:
        message = read_json(text)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ServeError(
            400, "a message must be a JSON object of valid Unicode text", code="invalid_message"
        )
    return message


def close_code(error: Exception) -> int:
    """Return the code with which an error closes a WebSocket (RFC 6455, section 7.4)."""
    match error:
        case Busy():
            return 1013  # try again later
        case Stopped():
            return 1012  # the service restarts
        case ServeError(status_code=413):
            return 1009  # too big
    return 1011 if as_serve_error(error) is None else 1008  # a bug, or the client's mistake


@router.websocket("/v1/listen")
async def listen(websocket: WebSocket) -> None:
    """Serve one connection, from its first message to its end."""
    key = await accepted(websocket)
    if key is None:
        return
    sessions: Sessions = websocket.app.state.sessions
    connection = _Connection(websocket, sessions, key)
    try:
        await connection.run()
    except WebSocketDisconnect:
        pass
    except asyncio.CancelledError:
        if not connection.is_replaced:
            raise
        with suppress(RuntimeError, OSError, WebSocketDisconnect):
            await websocket.close(_REPLACED, "another connection has resumed the session")
    except Exception as error:
        await _failed(websocket, error)
    finally:
        connection.end()


async def _failed(websocket: WebSocket, error: Exception) -> None:
    """Say what was wrong, and close the connection."""
    known = as_serve_error(error)
    if known is None:
        log_error(error)
        known = ServeError(500, "internal error", code="internal_error")
    if websocket.application_state is WebSocketState.CONNECTED:
        with suppress(RuntimeError, OSError, WebSocketDisconnect):  # the client has gone
            await websocket.send_json(
                {"type": "error", "code": known.code, "message": known.detail}
            )
            await websocket.close(close_code(error))


class _Connection:
    """One connection of a session."""

    def __init__(self, websocket: WebSocket, sessions: Sessions, key: Key) -> None:
        self._websocket, self._sessions, self._key = websocket, sessions, key
        self._session: Session | None = None
        self._sent = 0

    @property
    def is_replaced(self) -> bool:
        """Whether another connection has taken the session."""
        return self._session is not None and self._session.task is not asyncio.current_task()

    def end(self) -> None:
        """Let the session wait for another connection."""
        if self._session is not None and not self.is_replaced:
            self._sessions.detach(self._session)

    async def run(self) -> None:
        """Answer messages until the client leaves or the session is finished."""
        async with asyncio.timeout(_START_SECONDS):
            first = await self._receive()
        if first is None:
            return
        session = self._session = await self._begin(first)
        while not session.is_finished and (message := await self._receive()) is not None:
            if isinstance(message, bytes):
                await session.audio(message)
                await self._send_events()
                await self._send({"type": "ack", "position": session.position})
                continue
            match message.get("type"):
                case "ping":
                    await self._send({"type": "pong"})
                case "stop":
                    await session.finish()
                case _:
                    raise ServeError(400, "unknown type of message", code="invalid_message")
        if session.is_finished:
            await self._send_events()
            await self._send(session.last())
            await self._websocket.close(1000)

    async def _begin(self, first: bytes | dict[str, Any]) -> Session:
        if isinstance(first, bytes) or first.get("type") not in ("start", "resume"):
            raise ServeError(
                400, "the first message must be of type start or resume", code="invalid_message"
            )
        if first["type"] == "start":
            session = await self._sessions.start(first, self._key.id, self._key.owner)
            answer = {"type": "started", "session": session.id, "position": 0}
        else:
            session = await self._sessions.resume(first.get("session"), self._key.id)
            after = first.get("after", 0)
            self._sent = after if isinstance(after, int) else 0
            answer = {"type": "resumed", "session": session.id, "position": session.position}
        session.task = asyncio.current_task()
        self._session = session
        await self._send(answer)
        await self._send_events()
        return session

    async def _receive(self) -> bytes | dict[str, Any] | None:
        """Return the next message, or None when the client has left."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        data: bytes | None = message.get("bytes")
        return parsed(message.get("text") or "") if data is None else data

    async def _send(self, message: dict[str, Any]) -> None:
        await self._websocket.send_text(json.dumps(message, ensure_ascii=False))

    async def _send_events(self) -> None:
        assert self._session is not None
        for event in self._session.events(self._sent):
            await self._send(event)
            self._sent = event["number"]
