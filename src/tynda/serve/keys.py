"""API keys: random, stored as hashes, with scopes and a rate, revocable while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tynda.checks import Range, Rule, check
from tynda.errors import TyndaError
from tynda.files import read_json, write_whole

__all__ = ["SCOPES", "Key", "Keys", "RateLimit", "add", "default_file", "read", "revoke"]

SCOPES = ("transcribe", "listen", "metrics", "admin")
"""The rights that a key may have: to send recordings and jobs, to open live sessions, to read
/metrics, to see the page /admin."""

_PREFIX = "tynda"
_MIN_LENGTH = 16
"""Minimum number of characters of a key from the environment."""

_MAX_USER = 80


def _is_user(name: str) -> bool:
    return len(name) <= _MAX_USER and name.isprintable()


Name = Annotated[
    str, Rule("1 to 100 printable characters", lambda x: 0 < len(x) <= 100 and x.isprintable())
]
Scopes = Annotated[
    tuple[str, ...],
    Rule(f"one or more of {', '.join(SCOPES)}", lambda x: len(x) > 0 and {*x} <= {*SCOPES}),
]


@dataclass(frozen=True)
class Key:
    """One key, without its secret. Raises `TyndaError` for invalid values."""

    id: Annotated[str, Rule("the key's id", lambda x: 0 < len(x) <= 32 and x.isalnum())]
    """Public name of the key, which logs have."""
    name: Name
    """Whose key it is, in words of its owner."""
    hash: Annotated[str, Rule("a SHA-256 in hexadecimal digits", lambda x: len(x) == 64)]
    """SHA-256 of the whole key. A key has 256 random bits: no slow hash is needed to protect it."""
    scopes: Scopes = SCOPES
    rate: Annotated[int, Range(0, 1_000_000)] = 0
    """Maximum number of requests in a minute; 0 is no limit."""
    created: int = 0
    """Seconds since 1970."""
    revoked: bool = False
    user: Annotated[str, Rule(f"a name of at most {_MAX_USER} printable characters", _is_user)] = ""
    """Whose recordings the key reaches: keys with the same name share them."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def owner(self) -> str:
        """The owner of recordings that come with this key: its user, else the key itself."""
        return f"user:{self.user}" if self.user else f"key:{self.id}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _new(name: str, scopes: Sequence[str], rate: int, user: str = "") -> tuple[Key, str]:
    """Return a new key and its secret, which is known only now."""
    id_ = secrets.token_hex(4)
    secret = f"{_PREFIX}_{id_}_{secrets.token_urlsafe(32)}"
    key = Key(id_, name, _hash(secret), tuple(scopes), rate, int(time.time()), user=user)
    return key, secret


def default_file() -> Path:
    """Return the file of keys where none is set."""
    import platformdirs

    return Path(platformdirs.user_config_dir("tynda")) / "serve-keys.json"


def read(path: Path) -> list[Key]:
    """Return the keys of a file; none where it is missing. Raises `TyndaError` where it is damaged
    or cannot be read."""
    try:
        entries = read_json(path).get("keys")
        if not isinstance(entries, list):
            raise TyndaError("there is no list of keys")
        return [Key(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in entries]
    except FileNotFoundError:
        return []
    except (TypeError, KeyError):
        raise TyndaError(f"{path} is damaged: an entry is not a key") from None


def _write(path: Path, keys: Sequence[Key]) -> None:
    import json

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TyndaError(f"cannot create {path.parent} ({error.strerror})") from None
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
    write_whole(path, text.encode("utf-8"), mode=0o600)


def add(
    path: Path, name: str, scopes: Sequence[str] = SCOPES, rate: int = 0, user: str = ""
) -> tuple[Key, str]:
    """Add a key to a file; return it and its secret, which is not stored.

    Keys with the same ``user`` reach the same recordings.
    """
    key, secret = _new(name, scopes, rate, user)
    _write(path, [*read(path), key])
    return key, secret


def revoke(path: Path, id_: str) -> None:
    """Revoke a key of a file; a running server refuses it from now on. Raises `TyndaError` where
    the file has no such key."""
    keys = read(path)
    if id_ not in [key.id for key in keys]:
        raise TyndaError(f"no key {id_} in {path}: tynda serve keys list shows them")
    _write(path, [replace(key, revoked=key.revoked or key.id == id_) for key in keys])


class Keys:
    """The keys that a running server accepts: those of a file, which may change meanwhile, and
    those of the environment."""

    def __init__(self, path: Path, environment: str = "") -> None:
        """``environment`` are whole keys, separated by commas. Raises `TyndaError` for a file that
        is damaged and for keys that are too short."""
        self._path = path
        self._stamp: Any = None
        self._lock = threading.Lock()
        self._of_file: list[Key] = []
        given = [part.strip() for part in environment.split(",") if part.strip()]
        if any(len(secret) < _MIN_LENGTH for secret in given):
            raise TyndaError(f"API keys of the environment need {_MIN_LENGTH} characters or more")
        self._fixed = [
            # The user is the key itself, since its number changes when others are added.
            Key(f"env{i}", "environment", _hash(x), user=f"environment {_hash(x)[:16]}")
            for i, x in enumerate(given, 1)
        ]
        self._refresh()

    def is_empty(self) -> bool:
        """Return whether nobody could be let in."""
        return not any(not key.revoked for key in [*self._fixed, *self._of_file])

    def generate(self) -> str:
        """Add a key that is valid until the server ends; return its secret."""
        key, secret = _new("generated", SCOPES, 0)
        self._fixed.append(key)
        return secret

    def find(self, secret: str) -> Key | None:
        """Return the valid key with a secret, or None.

        The secret's hash is compared with that of every key in constant time.
        """
        hashed, found = _hash(secret).encode(), None
        try:
            self._refresh()
        except TyndaError:  # Nobody is let in by a file that cannot be read any more.
            self._stamp, self._of_file = None, []
        for key in [*self._fixed, *self._of_file]:
            if hmac.compare_digest(hashed, key.hash.encode()) and not key.revoked:
                found = key
        return found

    def _refresh(self) -> None:
        """Read the file again where it has changed."""
        with self._lock:
            try:
                about = self._path.stat()
            except OSError:
                self._stamp, self._of_file = None, []
                return
            stamp = about.st_mtime_ns, about.st_size, about.st_ino
            if stamp != self._stamp:
                self._of_file = read(self._path)
                self._stamp = stamp


class RateLimit:
    """The rates of keys: each has a bucket of tokens for a minute, which fills steadily."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, key: Key, now: float | None = None) -> float:
        """Count a request of a key; return 0, or the seconds after which the next is allowed.

        ``now`` is the time of a monotonic clock, by default the present.
        """
        if not key.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        per_second = key.rate / 60
        with self._lock:
            tokens, at = self._buckets.get(key.id, (float(key.rate), now))
            tokens = min(float(key.rate), tokens + (now - at) * per_second)
            allowed = tokens >= 1
            self._buckets[key.id] = (tokens - allowed, now)
        return 0.0 if allowed else (1 - tokens) / per_second
