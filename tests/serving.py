"""A real server on a free port, in a thread of the tests."""

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager

from tynda.serve.keys import Keys
from tynda.serve.run import create_server, listening
from tynda.serve.service import Service
from tynda.serve.settings import ServeSettings
from tynda.serve.store.opening import open_store

KEY = "a-key-for-the-tests-alone"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Running:
    """A running server: its service, and the address that clients use."""

    def __init__(self, service, server, url, port):
        self.service, self.server, self.url, self.port = service, server, url, port


@contextmanager
def serving(folder, **given):
    """Serve digits-en, or another model, until the block ends."""
    values = {"model": "digits-en", "threads": 1, "shutdown_seconds": 5.0, **given}
    settings = ServeSettings(
        keys_file=str(folder / "keys.json"),
        data=str(folder / "data"),
        **{"master_key_file": str(folder / "master.key"), **values},
    )
    with ExitStack() as stack:
        bound = stack.enter_context(listening("127.0.0.1", 0))
        wyoming = None
        if settings.wyoming_port is not None:
            wyoming = stack.enter_context(listening("127.0.0.1", settings.wyoming_port))
        keys = Keys(folder / "keys.json", KEY)
        service = Service(settings, keys, lambda: open_store(settings, {}))
        server = create_server(service, wyoming)
        port = bound.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        scheme = "https" if settings.tls_certificate else "http"
        try:
            until(lambda: server.started)
            yield Running(service, server, f"{scheme}://127.0.0.1:{port}", port)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server does not end"


def until(condition, seconds=30.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
