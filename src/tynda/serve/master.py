"""The master keys of a store: in a file, an environment variable, or printed by a command."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.sealing import KEY_BYTES
from tynda.serve.configuration import MASTER_KEY
from tynda.serve.settings import ServeSettings

__all__ = ["MasterKey", "MasterKeys", "check_masters", "default_file", "find_masters"]

_COMMAND_SECONDS = 60


@dataclass(frozen=True)
class MasterKey:
    """One master key, and the public id that says which one a wrapped key needs."""

    id: str
    secret: bytes


class MasterKeys:
    """The master keys of a source; those of a file are read again when it has changed."""

    def __init__(self, text: str = "", file: Path | None = None, origin: str = "") -> None:
        """``text`` has the keys, unless they are in a ``file``; ``origin`` names their source in
        messages. Raises `TyndaError` where there is no valid key."""
        self.file, self._origin = file, origin
        self._lock = threading.Lock()
        self._stamp: Any = None
        self._keys: list[MasterKey] = []
        if file is None:
            self._keys = _parsed(text, origin)
        else:
            self._refresh()

    def current(self) -> MasterKey:
        """Return the key that wraps new keys."""
        self._refresh()
        return self._keys[0]

    def find(self, id_: str) -> MasterKey | None:
        """Return the key with an id, or None."""
        self._refresh()
        return next((key for key in self._keys if key.id == id_), None)

    def rotate(self) -> None:
        """Put a new key before those of the file. Raises `TyndaError` where there is no file."""
        self._write([_new(), *self._keys])

    def retain(self, count: int) -> None:
        """Remove all keys of the file but the first ``count``."""
        self._write(self._keys[:count])

    def _write(self, keys: Sequence[MasterKey]) -> None:
        if self.file is None:
            raise TyndaError(f"the master keys come from {self._origin}: change them there")
        text = "".join(base64.urlsafe_b64encode(key.secret).decode() + "\n" for key in keys)
        write_whole(self.file, text.encode(), mode=0o600)
        self._refresh()

    def _refresh(self) -> None:
        """Read the file again where it has changed."""
        if self.file is None:
            return
        with self._lock:
            try:
                about = self.file.stat()
                stamp = about.st_mtime_ns, about.st_size, about.st_ino
                if stamp != self._stamp:
                    self._keys = _parsed(self.file.read_text("ascii"), self._origin)
                    self._stamp = stamp
            except FileNotFoundError:
                raise TyndaError(
                    f"no master key at {self.file}: restore it; without it, the store cannot be "
                    "read"
                ) from None
            except (OSError, ValueError) as error:
                raise TyndaError(f"cannot read the master key {self.file} ({error})") from None


def default_file() -> Path:
    """Return the file of the master key where none is set."""
    import platformdirs

    return Path(platformdirs.user_config_dir("tynda")) / "serve-master.key"


def find_masters(
    settings: ServeSettings, environment: Mapping[str, str], *, may_create: bool
) -> MasterKeys:
    """Return the master keys that the settings name.

    A missing file is created with a new key where this is allowed: where no recording needs an
    older one. Raises `TyndaError` where there is no key, or more than one source.
    """
    check_masters(settings, environment)
    text, command = environment.get(MASTER_KEY, ""), settings.master_key_command
    if text:
        return MasterKeys(text, origin=MASTER_KEY)
    if command:
        return MasterKeys(_printed(command), origin="master_key_command")
    file = _file(settings)
    if may_create and not file.exists():
        _create(file)
    return MasterKeys(file=file, origin=str(file))


def check_masters(settings: ServeSettings, environment: Mapping[str, str]) -> None:
    """Raise `TyndaError` where a variable or a file has no valid key, or several sources are given.

    A file that is not there may still be made; a command is not run.
    """
    text, command = environment.get(MASTER_KEY, ""), settings.master_key_command
    if sum(map(bool, (text, command, settings.master_key_file))) > 1:
        raise TyndaError(
            f"give one of {MASTER_KEY}, master_key_command and master_key_file, not several"
        )
    if text:
        _parsed(text, MASTER_KEY)
    elif not command and (file := _file(settings)).exists():
        MasterKeys(file=file, origin=str(file))


def _file(settings: ServeSettings) -> Path:
    return Path(settings.master_key_file) if settings.master_key_file else default_file()


def _new() -> MasterKey:
    return _known(secrets.token_bytes(KEY_BYTES))


def _known(secret: bytes) -> MasterKey:
    return MasterKey(hashlib.sha256(b"tynda master key\0" + secret).hexdigest()[:16], secret)


def _parsed(text: str, origin: str) -> list[MasterKey]:
    """Return the keys of a text: 32 bytes each in base64, separated by spaces or line ends."""
    try:
        found = [
            base64.b64decode(part.translate(str.maketrans("-_", "+/")), validate=True)
            for part in text.split()
        ]
    except (binascii.Error, ValueError):
        found = []
    if not found or any(len(secret) != KEY_BYTES for secret in found):
        raise TyndaError(
            f"{origin} has no valid master key: it needs {KEY_BYTES} random bytes in base64, as "
            "'openssl rand -base64 32' prints them"
        )
    return [_known(secret) for secret in found]


def _printed(command: str) -> str:
    """Return the output of a command, which is not run by a shell."""
    try:
        done = subprocess.run(
            shlex.split(command), stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=True
        )
        return done.stdout.decode("ascii")
    except subprocess.CalledProcessError as error:
        why = f"exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no answer within {_COMMAND_SECONDS} s"
    except OSError as error:
        why = str(error.strerror)
    except ValueError:
        why = "it is not a command that prints text"
    raise TyndaError(f"master_key_command gave no key ({why}): run it by hand to see why")


def _create(file: Path) -> None:
    """Create a file with a new key, whole or not at all; another process may do so first."""
    partial = file.with_name(f".{secrets.token_hex(6)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(partial, base64.urlsafe_b64encode(_new().secret) + b"\n", mode=0o600)
        with suppress(FileExistsError):
            os.link(partial, file)
    except OSError as error:
        raise TyndaError(f"cannot create the master key {file} ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
