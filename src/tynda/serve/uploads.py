"""Requests with a recording: let in before their body is read, and held in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from tynda.serve.access import authorize, service_of
from tynda.serve.errors import ServeError, invalid_value
from tynda.serve.workers import Stopped, Ticket

__all__ = ["KeyedRoute", "UploadRoute", "disconnected", "result_of", "ticket_of"]

T = TypeVar("T")

_LEFT = 499
"""The status in the log for a client that left, as nginx has it; nobody receives it."""


class KeyedRoute(APIRoute):
    """A route whose requests need a key before anything of them is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of `APIRoute`, with a check before it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            authorize(request, "transcribe")
            return await handle(request)

        return guarded


class UploadRoute(APIRoute):
    """A route whose requests need a key and a free slot before anything of them is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of `APIRoute`, with checks before it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            service = service_of(request)
            authorize(request, "transcribe")
            ticket = service.slots.admit(service.settings.request_seconds)
            request.state.ticket = ticket
            request.state.is_submitted = False
            try:
                async with asyncio.timeout(ticket.remaining):
                    return await handle(_MemoryRequest(request.scope, request.receive))
            finally:
                if not request.state.is_submitted:  # else the worker does so
                    ticket.release()

        return guarded


class _Parser(MultiPartParser):
    """A parser that never writes a recording to the disk, where others could find it."""

    spool_max_size = 1 << 62

    def on_part_end(self) -> None:
        """Keep a field. Raises `ServeError` where its text is not UTF-8, for which Starlette would
        put other characters."""
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode()
            except UnicodeDecodeError:
                name = part.field_name
                message = f"{name}: the text is not valid UTF-8"
                raise invalid_value(message, name) from None
        super().on_part_end()


class _MemoryRequest(Request):
    """A request whose form stays in memory; `LimitedBody` bounds its size."""

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]
        """Return the form. Raises `ServeError` for what is no form with files, in UTF-8."""
        kind, options = parse_options_header(self.headers.get("content-type", ""))
        if kind.lower() != b"multipart/form-data":
            raise invalid_value(
                "the body must be multipart/form-data, with the recording as file", "file"
            )
        if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
            raise invalid_value("the charset of multipart/form-data must be utf-8", "file")
        try:
            return await _Parser(self.headers, self.stream(), **limits).parse()
        except MultiPartException as error:
            raise ServeError(400, error.message) from None


def ticket_of(request: Request) -> Ticket:
    """Return the ticket of a request to an `UploadRoute`, which the caller hands to a worker."""
    request.state.is_submitted = True
    ticket: Ticket = request.state.ticket
    return ticket


async def disconnected(request: Request) -> None:
    """Wait until the client leaves; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def result_of(request: Request, ticket: Ticket, future: Future[T]) -> T:
    """Return a worker's result; the worker is stopped when the client leaves or time is over."""
    result = asyncio.wrap_future(future)
    left = asyncio.create_task(disconnected(request))
    try:
        waited: set[asyncio.Future[Any]] = {result, left}
        await asyncio.wait(waited, timeout=ticket.remaining, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if left.done():
            raise ServeError(_LEFT, "the client left")
        raise Stopped
    finally:
        left.cancel()
        if not result.done():
            ticket.stop()
            result.cancel()
