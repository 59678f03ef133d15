"""The server's settings from its file, its environment and its flags; flags have precedence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tynda.checks import describe, schema, simple
from tynda.errors import TyndaError, listed
from tynda.files import check_readable
from tynda.serve.settings import ServeSettings

__all__ = ["CONFIG", "KEYS", "MASTER_KEY", "PREFIX", "read_settings"]

PREFIX = "TYNDA_SERVE_"
"""Prefix of the environment variables: that of the setting ``port`` is ``TYNDA_SERVE_PORT``."""
CONFIG = f"{PREFIX}CONFIG"
"""The environment variable with the name of the settings' file."""
KEYS = f"{PREFIX}KEYS"
"""The environment variable with API keys, separated by commas."""
MASTER_KEY = f"{PREFIX}MASTER_KEY"
"""The environment variable with the master keys of the store, the current one first."""


def read_settings(
    file: str | None, environment: Mapping[str, str], given: Mapping[str, Any]
) -> ServeSettings:
    """Return the settings of a TOML ``file``, the ``environment`` and the ``given`` flags.

    A flag replaces a variable of the environment, which replaces an entry of the file. Flags that
    are None were not given. Raises `TyndaError` for unknown names and invalid values.
    """
    file = file or environment.get(CONFIG)
    values = {
        **({} if file is None else _read_file(Path(file))),
        **_read_environment(environment),
        **{name: value for name, value in given.items() if value is not None},
    }
    return ServeSettings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    check_readable(path, "configuration")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TyndaError(f"{path} is not valid TOML: {error}") from None
    for name in values:
        if name not in schema(ServeSettings):
            raise TyndaError(f"{path} has an unknown setting {name}; {_known()}")
    return values


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    hints, values = schema(ServeSettings), {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in (CONFIG, KEYS, MASTER_KEY):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in hints:
            raise TyndaError(f"{variable} names no setting; {_known()}")
        values[name] = _parsed(variable, text, hints[name])
    return values


def _parsed(variable: str, text: str, hint: Any) -> Any:
    """Return the value of an environment variable; whether it is within its range is checked with
    all other settings."""
    kind, _ = simple(hint)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise TyndaError(f"{variable} must be {describe(hint)}, not {text!r}") from None


def _known() -> str:
    return f"the settings: {listed(list(schema(ServeSettings)), 40)}"
