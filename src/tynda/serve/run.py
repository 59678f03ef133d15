"""Runs the server until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from tynda.errors import TyndaError
from tynda.files import check_readable
from tynda.serve.app import create_app
from tynda.serve.http import Http
from tynda.serve.keys import Keys
from tynda.serve.logs import bracketed, configure, log
from tynda.serve.service import Service
from tynda.serve.settings import ServeSettings
from tynda.serve.store.opening import open_store

__all__ = ["Server", "check_tls", "create_server", "listening", "serve"]

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


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address, until the block ends.

    Raises `TyndaError` where the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no address"
        raise TyndaError(
            f"cannot listen on {host} port {port} ({why}): choose another port or host"
        ) from None
    with bound:
        yield bound


def create_server(service: Service, wyoming: socket.socket | None = None) -> Server:
    """Return the server of a service; `Server.serve` runs it on sockets that are given to it.

    ``wyoming`` is the socket of the Wyoming protocol.
    """
    settings = service.settings
    config = uvicorn.Config(
        create_app(service, wyoming),
        http=Http,
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
    config.load()
    return Server(config)


def serve(
    settings: ServeSettings,
    keys: Keys,
    environment: Mapping[str, str],
    on_start: Callable[[str, str], None] = lambda url, model: None,
) -> bool:
    """Serve until SIGTERM or Ctrl-C; return whether it was Ctrl-C.

    ``on_start`` is called with the address and the model's name once both are there. Raises
    `TyndaError` where an address is in use, and where a certificate, the model or the store cannot
    be used. Nothing is written before all but the store are known to be usable.
    """
    check_tls(settings)
    with ExitStack() as stack:
        bound = stack.enter_context(listening(settings.host, settings.port))
        wyoming = None
        if settings.wyoming_port is not None:
            wyoming = stack.enter_context(listening(settings.wyoming_host, settings.wyoming_port))
        service = Service(settings, keys, lambda: open_store(settings, environment))
        # The model's native objects must be freed before Python's end, also after an error.
        stack.callback(service.close)
        configure()
        server = create_server(service, wyoming)
        host, port = bound.getsockname()[:2]
        scheme = "https" if settings.tls_certificate else "http"
        on_start(f"{scheme}://{bracketed(host)}:{port}", service.model.name)
        asyncio.run(server.serve([bound]))
    log("stopped")
    return server.was_interrupted


def check_tls(settings: ServeSettings) -> None:
    """Raise `TyndaError` where the TLS certificate and its key cannot be used."""
    if not settings.tls_certificate:
        return
    check_readable(Path(settings.tls_certificate), "certificate")
    check_readable(Path(settings.tls_key), "key of the certificate")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise TyndaError(
            f"the TLS certificate or its key is not valid ({why}): give PEM files without password"
        ) from None


def _no_password() -> str:
    """Refuse keys with a password, for which OpenSSL would ask at the terminal."""
    raise ValueError("the key needs a password")
