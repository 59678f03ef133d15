"""HTTP as uvicorn reads it, with errors in the form of all others."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tynda.serve.errors import ServeError

__all__ = ["Http"]


class Http(HttpToolsProtocol):
    """A connection; what is no HTTP is answered in OpenAI's form of an error."""

    def send_400_response(self, msg: str) -> None:
        """Answer that a request cannot be read, and close the connection."""
        body = json.dumps(ServeError(400, msg, code="invalid_request").body()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
