"""Who may: the key of a request or of a WebSocket."""

from __future__ import annotations

import math

from starlette.requests import HTTPConnection

from tynda.serve.errors import ServeError
from tynda.serve.keys import Key
from tynda.serve.service import Service

__all__ = ["PROTOCOL_KEY", "authorize", "service_of"]

PROTOCOL_KEY = "openai-insecure-api-key."
"""Prefix of a WebSocket's subprotocol that holds the key, since browsers can set no header."""


def service_of(connection: HTTPConnection) -> Service:
    """Return the service of a request or a WebSocket."""
    service: Service = connection.app.state.service
    return service


def authorize(
    connection: HTTPConnection, scope: str | None = None, *, is_counted: bool = True
) -> Key:
    """Return the key of a request, and note its id for the log.

    A second look at the key of the same request is not ``is_counted`` for its rate. Raises
    `ServeError` where there is none, where it lacks the ``scope`` (None: any key may), and where
    its rate is exceeded.
    """
    service = service_of(connection)
    key = service.keys.find(_secret(connection))
    if key is None:
        raise ServeError(
            401,
            "no valid API key: send the header 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    connection.state.key = key.id
    if is_counted and (wait := service.rates.wait(key)):
        seconds = math.ceil(wait)
        raise ServeError(
            429,
            f"this key's rate is exceeded: try again in {seconds} s",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(seconds)},
        )
    if scope is not None and scope not in key.scopes:
        raise ServeError(403, f"this key lacks the scope {scope!r}", code="missing_scope")
    return key


def _secret(connection: HTTPConnection) -> str:
    kind, _, secret = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    for name in connection.headers.get("sec-websocket-protocol", "").split(","):
        if name.strip().startswith(PROTOCOL_KEY):
            return name.strip().removeprefix(PROTOCOL_KEY)
    return ""
