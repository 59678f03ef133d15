"""The file of enrolled people, encrypted with a key that stands in another file."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.files import write_whole

__all__ = [
    "Profile",
    "ProfileStore",
    "Profiles",
    "from_bytes",
    "is_stranger",
    "stranger",
    "to_bytes",
]

_BOUND = b"tynda\0speakers"
"""Associated data: a ciphertext of another kind is refused."""
_MAX_BYTES = 100_000_000


@dataclass(frozen=True)
class Profile:
    """An enrolled person."""

    name: str
    total: NDArray[np.float32]
    """``[size]``: the sum of the embeddings of all recordings, each of length 1."""
    recordings: int
    seconds: float
    """Duration of the speech in all recordings."""

    @property
    def voice(self) -> NDArray[np.float32]:
        """The mean embedding ``[size]`` with length 1."""
        voice: NDArray[np.float32] = self.total / max(float(np.linalg.norm(self.total)), 1e-9)
        return voice


class Profiles(Protocol):
    """Where people are kept whose voices one model has embedded.

    ``model`` is the fingerprint of the model in use. Both methods raise `TyndaError` where they
    fail; `read` also where the people belong to another model.
    """

    def read(self, model: str) -> dict[str, Profile]:
        """Return the people by name."""

    def write(self, model: str, people: Mapping[str, Profile]) -> None:
        """Replace all people."""


class ProfileStore:
    """Reads and writes the people whose voices one model has embedded.

    The file is a sealed JSON object (`tynda.sealing`). Both files are readable by their owner only,
    and written whole or not at all. The last of two processes that write at once wins.
    """

    def __init__(self, path: Path | None = None, key_file: Path | None = None) -> None:
        """The defaults are ``speakers.bin`` in the user's folder of data, and ``speakers.key`` in
        that of configuration, so that a copy of one folder does not have both."""
        from platformdirs import user_config_path, user_data_path  # slow, and often not needed

        self.path = user_data_path("tynda") / "speakers.bin" if path is None else path
        self.key_file = user_config_path("tynda") / "speakers.key" if key_file is None else key_file

    def read(self, model: str) -> dict[str, Profile]:
        """Return the people by name; ``model`` is the fingerprint of the model in use.

        Raises `TyndaError` where the file cannot be read or decrypted, is damaged, or belongs to
        another model.
        """
        try:
            with self.path.open("rb") as file:
                sealed = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise TyndaError(f"cannot read {self.path} ({error})") from None
        return from_bytes(self._open(sealed), model, str(self.path))

    def write(self, model: str, people: Mapping[str, Profile]) -> None:
        """Replace the file. Raises `TyndaError` where it cannot be written."""
        key = self._key(may_create=True)
        self._write(self.path, _sealing().seal(key, to_bytes(model, people), _BOUND))

    def _open(self, sealed: bytes) -> bytes:
        sealing, key = _sealing(), self._key(may_create=False)
        try:
            opened: bytes = sealing.open_sealed(key, sealed, _BOUND)
        except sealing.InvalidTag:
            raise TyndaError(
                f"{self.path} was changed, or belongs to another key than {self.key_file}: "
                "restore both from a backup, or delete the profiles"
            ) from None
        return opened

    def _key(self, *, may_create: bool) -> bytes:
        if may_create and not self.key_file.exists():
            key = base64.urlsafe_b64encode(secrets.token_bytes(_sealing().KEY_BYTES))
            self._write(self.key_file, key + b"\n")
        try:
            with self.key_file.open("rb") as file:
                secret = base64.b64decode(file.read(1000).strip(), altchars=b"-_", validate=True)
        except FileNotFoundError:
            raise TyndaError(
                f"no key at {self.key_file}: restore it; without it, {self.path} cannot be read"
            ) from None
        except (binascii.Error, ValueError, OSError) as error:
            raise TyndaError(f"cannot read the key {self.key_file} ({error})") from None
        if len(secret) != (size := _sealing().KEY_BYTES):
            raise TyndaError(f"{self.key_file} is no key: it needs {size} bytes in base64")
        return secret

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TyndaError(f"cannot create {path.parent} ({error.strerror})") from None
        write_whole(path, data, mode=0o600)


def stranger(number: int) -> str:
    """Return the name of a speaker who is not enrolled, counted from 1."""
    return f"speaker {number}"


def is_stranger(name: str | None) -> bool:
    """Return whether a speaker has a name of `stranger`, or none."""
    return name is None or re.fullmatch(r"speaker \d+", name) is not None


def to_bytes(model: str, people: Mapping[str, Profile]) -> bytes:
    """Return people, and the fingerprint of the model that embedded them, as a JSON object."""
    content = {
        "model": model,
        "people": {
            p.name: {
                "total": [round(float(x), 6) for x in p.total],
                "recordings": p.recordings,
                "seconds": round(p.seconds, 2),
            }
            for p in people.values()
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def from_bytes(content: bytes, model: str, where: str) -> dict[str, Profile]:
    """Return the people that `to_bytes` was given, by name.

    ``where`` names the place in messages. Raises `TyndaError` for other bytes, and for people of
    another model.
    """
    try:
        values = json.loads(content)
        found = {name: _profile(name, about) for name, about in values["people"].items()}
        of_model = values["model"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TyndaError(f"{where} is damaged: enrol the people again") from None
    if found and of_model != model:
        raise TyndaError(
            f"{where} is of another model of voices: use that one, or enrol the people elsewhere"
        )
    return found


def _sealing() -> ModuleType:
    """Return the module that seals files. Raises `TyndaError` without ``cryptography``."""
    try:
        from tynda import sealing
    except ImportError:
        raise TyndaError(f"profiles need cryptography: {install('speakers')}") from None
    return sealing


def _profile(name: str, about: Any) -> Profile:
    """Return a profile as `ProfileStore.write` stored it; raise ValueError where it is damaged."""
    total = np.array(about["total"], np.float32)
    recordings, seconds = int(about["recordings"]), float(about["seconds"])
    if total.ndim != 1 or not np.isfinite(total).all() or not math.isfinite(seconds):
        raise ValueError("no embedding")
    return Profile(name, total, recordings, seconds)
