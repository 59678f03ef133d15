"""The command ``tynda serve``: a server of OpenAI's audio API, WebSockets and Wyoming."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from tynda.cli.console import print_table, print_text, say
from tynda.cli.options import Sections, setting_options
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.serve import keys as api_keys
from tynda.serve.configuration import CONFIG, KEYS, read_settings
from tynda.serve.settings import ServeSettings

__all__ = ["serve"]

_NEEDED = (
    *("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client", "wyoming"),
    *("sqlalchemy", "alembic", "cryptography"),
)


class _Sections(Sections, click.Group):
    """A group with sections of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, then the commands of the group."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Sections, invoke_without_command=True)
@click.option(
    "--config",
    metavar="FILE",
    help=f"Settings in TOML: the options' names with _ for -. Default: that of {CONFIG}.",
)
@setting_options(ServeSettings)
@click.pass_context
def serve(ctx: click.Context, /, config: str | None, **given: Any) -> None:
    """Serve a model by OpenAI's audio API, WebSockets and the Wyoming protocol.

    Each option is also a setting of the file and an environment variable, such as
    TYNDA_SERVE_PORT. Without keys, one is generated and printed. SIGTERM ends the server.
    """
    settings = read_settings(config, os.environ, given)
    path = Path(settings.keys_file) if settings.keys_file else api_keys.default_file()
    ctx.obj = path
    if ctx.invoked_subcommand is not None:
        return
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise TyndaError(f"the server needs {', '.join(missing)}: {install('serve')}")
    from tynda.serve import run  # The commands of keys need none of its packages.
    from tynda.serve.logs import log

    keys = api_keys.Keys(path, os.environ.get(KEYS, ""))

    def started(url: str, model: str) -> None:
        if keys.is_empty():
            say(f"API key, valid until the server ends, and shown only now: {keys.generate()}")
        if not (settings.tls_certificate or _is_local(settings.host)):
            say("warning: others in the network can read along: set --tls-certificate, or a proxy")
        log("started", url=url, model=model)

    if run.serve(settings, keys, os.environ, started):
        raise KeyboardInterrupt


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


@serve.group()
def keys() -> None:
    """Add, list and revoke API keys; a running server notices it."""


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(api_keys.SCOPES),
    multiple=True,
    help="What the key may do; may be repeated.  [default: everything]",
)
@click.option(
    "--rate",
    type=click.IntRange(0, 1_000_000),
    default=0,
    metavar="NUMBER",
    help="Maximum number of requests in a minute; 0 is no limit.",
)
@click.option(
    "--user",
    default="",
    metavar="USER",
    help="Whose jobs the key reaches. Default: only those that were sent with it.",
)
@click.pass_obj
def add_key(path: Path, name: str, scopes: Sequence[str], rate: int, user: str) -> None:
    """Add a key for somebody or something called NAME, and print it: it is shown only now."""
    _, secret = api_keys.add(path, name, scopes or api_keys.SCOPES, rate, user)
    print_text(secret)


@keys.command("list")
@click.pass_obj
def list_keys(path: Path) -> None:
    """List the keys without their secrets."""
    from datetime import UTC, datetime

    from rich.table import Table

    table = Table("id", "name", "scopes", "rate", "created", "", box=None)
    for key in api_keys.read(path):
        created = datetime.fromtimestamp(key.created, UTC).date().isoformat()
        rate = str(key.rate) if key.rate else "-"
        revoked = "revoked" if key.revoked else ""
        table.add_row(key.id, key.name, " ".join(key.scopes), rate, created, revoked)
    print_table(table)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@click.pass_obj
def revoke_key(path: Path, key_id: str) -> None:
    """Revoke the key with this ID of the list."""
    api_keys.revoke(path, key_id)
