"""Errors of a request, in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from tynda.errors import TyndaError
from tynda.serve.store.database import StoreError
from tynda.serve.vault import VaultError
from tynda.serve.workers import Busy, Stopped

__all__ = ["ServeError", "as_serve_error", "error_body", "invalid_value"]

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ServeError(HTTPException):
    """A request that is refused, with the status and the body of the answer.

    It is an `HTTPException` because FastAPI hides other exceptions of reading a body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``kind`` is OpenAI's type of an error, by default that of the ``status``."""
        super().__init__(status, message, dict(headers or {}))
        if kind is None:
            kind = "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
        self.kind, self.param, self.code = kind, param, code

    def body(self) -> dict[str, Any]:
        """Return the answer as JSON-able data."""
        return error_body(self.detail, self.kind, self.param, self.code)


def invalid_value(message: str, param: str | None = None) -> ServeError:
    """Return the answer to a value that the service cannot use, of the field ``param``."""
    return ServeError(400, message, param=param, code="invalid_value")


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """Return OpenAI's body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_serve_error(error: Exception) -> ServeError | None:
    """Return the answer to a mistake of the client or to an overload; None for a bug."""
    match error:
        case ServeError():
            return error
        case StoreError():
            return ServeError(503, "the store does not answer: try again", code="store_failed")
        case VaultError():
            return ServeError(500, str(error), code="damaged")
        case TyndaError():
            return invalid_value(str(error))
        case Busy():
            message = f"too many requests wait: try again in {error.retry_after} s"
            headers = {"Retry-After": str(error.retry_after)}
            return ServeError(429, message, code="queue_full", headers=headers)
        case Stopped() | TimeoutError():
            message = "the request took too long and was stopped: send a shorter recording"
            # OpenAI's client would send the same recording again.
            headers = {"X-Should-Retry": "false"}
            return ServeError(504, message, code="timeout", headers=headers)
    return None
