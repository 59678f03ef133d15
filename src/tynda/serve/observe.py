"""Counts and logs every request, and limits the size of its body."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tynda.serve.errors import ServeError
from tynda.serve.logs import log
from tynda.serve.metrics import Metrics

__all__ = ["LimitedBody", "Observed"]

_FORM_BYTES = 1_000_000
"""Bytes that a form may need in addition to its recording."""


class Observed:
    """An ASGI application around another one, which writes one line of the log for each request
    and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            match message["type"]:
                case "http.response.start" | "websocket.http.response.start":
                    status = message["status"]
                case "websocket.accept":
                    status = 101
                case "websocket.close" if status == 500:
                    status = 403
            await send(message)

        state: dict[str, Any] = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.monotonic() - started
            protocol = scope["type"]
            # A path that nobody serves would be a new label for each name that somebody tries.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(protocol, route, status).inc()
            self._metrics.seconds.labels(protocol, route).observe(seconds)
            if status == 200 and route.startswith("/v1/audio/"):
                self._metrics.latencies.append(seconds)
            method = scope.get("method", "WEBSOCKET")
            ms, key = round(seconds * 1000), state.get("key")
            log("request", method=method, path=scope["path"], status=status, ms=ms, key=key)


class LimitedBody:
    """An ASGI application around another one, which refuses bodies that are too long."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A body that states its length is refused before anything of it is read.
        stated = dict(scope["headers"]).get(b"content-length", b"")
        ahead = int(stated) if stated.isdigit() else 0
        count, limit = 0, self._max_bytes + _FORM_BYTES

        async def limited() -> Message:
            nonlocal count
            message: Message = {}
            if ahead <= limit:
                message = await receive()
                count += len(message.get("body", b""))
            if max(ahead, count) > limit:
                raise ServeError(
                    413,
                    f"the body is longer than {limit} bytes: send the recording in parts, or "
                    "compressed",
                    param="file",
                    code="file_too_large",
                )
            return message

        await self._app(scope, limited, send)
