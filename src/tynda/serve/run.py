"""Runs the server until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from tynda.errors import TyndaError
from tynda.files import check_readable
from tynda.serve.app import create_app
from tynda.serve.logs import configure, log
from tynda.serve.service import Service
from tynda.serve.settings import ServeSettings

__all__ = ["Server", "listening_socket", "serve"]

_MAX_MESSAGE = 1 << 20
"""Maximum number of bytes of a WebSocket's message."""
_MAX_MESSAGES = 8
"""Maximum number of a WebSocket's messages that wait to be read."""
_PING_SECONDS = 20.0
"""Seconds between two pings of a WebSocket, and after which a missing answer ends it."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's server, which a signal ends without raising the signal again."""

    was_interrupted = False
    """Whether Ctrl-C ended the server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals until the block ends, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down; a second signal does not wait for requests any more."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.was_interrupted = self.was_interrupted or sig == signal.SIGINT


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. Raises `TyndaError` where it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise TyndaError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another --port or "
            "--host"
        ) from None
    return bound


def create_server(service: Service) -> Server:
    """Return the server of a service; `Server.serve` runs it on sockets that are given to it."""
    settings = service.settings
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=_MAX_MESSAGE,
        ws_max_queue=_MAX_MESSAGES,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TyndaError(f"the TLS certificate or its key is not valid: {error}") from None
    return Server(config)


def serve(service: Service, on_start: Callable[[str], None] = lambda url: None) -> bool:
    """Serve until SIGTERM or Ctrl-C; return whether it was Ctrl-C.

    ``on_start`` is called with the address once it is bound. Raises `TyndaError` where an address
    is in use or a certificate is not valid.
    """
    settings = service.settings
    check_tls(settings)
    configure()
    warnings.simplefilter("always")  # The default notes each text that was shown, without end.
    warnings.showwarning = lambda message, *_, **__: log("warning", message=str(message))
    server = create_server(service)
    bound = listening_socket(settings.host, settings.port)
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    on_start(f"{'https' if settings.tls_certificate else 'http'}://{shown}:{port}")
    asyncio.run(server.serve([bound]))
    log("stopped")
    return server.was_interrupted


def check_tls(settings: ServeSettings) -> None:
    """Raise `TyndaError` where a file of the TLS certificate cannot be read."""
    if settings.tls_certificate:
        check_readable(Path(settings.tls_certificate), "certificate")
        check_readable(Path(settings.tls_key), "key of the certificate")
