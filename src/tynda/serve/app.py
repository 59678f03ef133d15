"""The application: routes, the answers to mistakes, and what stands around them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import tynda
from tynda.errors import TyndaError
from tynda.serve import (
    admin,
    catalogue,
    commands,
    jobs,
    listen,
    realtime,
    speakers,
    transcriptions,
    web,
)
from tynda.serve.errors import ServeError, as_serve_error, invalid_value
from tynda.serve.observe import LimitedBody, Observed
from tynda.serve.service import Service
from tynda.serve.workers import Busy, Stopped
from tynda.serve.wyoming import serving_wyoming

__all__ = ["create_app"]

_FILE = "a recording is needed, as a part of multipart/form-data with a file name"
_MISSING = "this field is needed"
_UNKNOWN = "nothing is served at this path: /openapi.json lists the paths"


def create_app(service: Service, wyoming: socket.socket | None = None) -> FastAPI:
    """Return the application for a service, which is closed when the application ends.

    ``wyoming`` is the socket on which the Wyoming protocol is served.
    """
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with serving_wyoming(service, wyoming):
                yield
        finally:
            service.close()

    app = FastAPI(
        title="tynda",
        summary="Speech recognition that stays on this machine.",
        version=tynda.__version__,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.sessions = listen.Sessions(service)
    app.include_router(transcriptions.router)
    app.include_router(commands.router)
    app.include_router(speakers.uploads)
    app.include_router(speakers.router)
    app.include_router(jobs.uploads)
    app.include_router(jobs.router)
    app.include_router(jobs.exports)
    app.include_router(admin.router)
    app.include_router(catalogue.router)
    app.include_router(listen.router)
    app.include_router(realtime.router)
    app.include_router(web.router)
    app.add_api_websocket_route("/{path:path}", _unknown)
    for kind in (ServeError, TyndaError, Busy, Stopped, TimeoutError):
        app.add_exception_handler(kind, _mistake)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(LimitedBody, max_bytes=settings.max_bytes)
    if origins := [origin.strip() for origin in settings.cors.split(",") if origin.strip()]:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Observed, metrics=service.metrics)
    return app


def _answer(error: ServeError) -> Response:
    return JSONResponse(error.body(), error.status_code, error.headers)


async def _unknown(websocket: WebSocket) -> None:
    await websocket.send_denial_response(_answer(ServeError(404, _UNKNOWN)))


async def _mistake(request: Request, error: Exception) -> Response:
    known = as_serve_error(error)
    assert known is not None, "the handler is registered for these kinds alone"
    return _answer(known)


async def _refused(request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses: an unknown path, a wrong method, a form that is damaged."""
    assert isinstance(error, HTTPException)
    message = _UNKNOWN if error.status_code == 404 else error.detail
    return _answer(ServeError(error.status_code, message, headers=error.headers))


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a field that does not fit, in one line and without its value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The position in a list, or in the body, follows the name.
    param = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
    why = _FILE if param == "file" else _MISSING if first["type"] == "missing" else first["msg"]
    return _answer(invalid_value(f"{param}: {why}", param))


async def _bug(request: Request, error: Exception) -> Response:
    return _answer(ServeError(500, "internal error", code="internal_error"))
