"""Encryption at rest: each recording has a key of its own, which a master key wraps; so have the
enrolled people of each user.

Everything is AES-256-GCM (NIST SP 800-38D) with random nonces of 96 bits. Its associated data bind
a ciphertext to its owner, its recording and its part, so that one that was edited, or moved to
another place, is refused.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tynda.errors import TyndaError
from tynda.sealing import KEY_BYTES, InvalidTag, open_sealed, seal
from tynda.serve.master import MasterKeys

__all__ = ["PEOPLE", "ObjectKey", "Vault", "VaultError", "Wrapped"]

_WRAPPING = "key"
"""The part of a recording that is its wrapped key."""
PEOPLE = "people"
"""The id that a user's enrolled people have; those of recordings are random."""


class VaultError(TyndaError):
    """A ciphertext that is refused."""


@dataclass(frozen=True)
class Wrapped:
    """The key of a recording, encrypted by the master key with this id."""

    master: str
    data: bytes


class ObjectKey:
    """The key of one recording, which encrypts the recording and its texts."""

    def __init__(self, secret: bytes, owner: str, id_: str) -> None:
        self._secret, self._owner, self._id = secret, owner, id_

    def seal(self, part: str, data: bytes) -> bytes:
        """Encrypt a part, such as ``audio``."""
        return seal(self._secret, data, self._bound(part))

    def open(self, part: str, sealed: bytes) -> bytes:
        """Decrypt a part. Raises `VaultError` where it is not what `seal` gave for this part of
        this recording."""
        try:
            return open_sealed(self._secret, sealed, self._bound(part))
        except InvalidTag:
            raise self._refused(part) from None

    def _bound(self, part: str) -> bytes:
        """Return the associated data; no field can hold the byte that separates them."""
        return b"\0".join(text.encode() for text in ("tynda", part, self._owner, self._id))

    def _refused(self, part: str) -> VaultError:
        return VaultError(
            f"the {part} of {_named(self._id)} was changed, or belongs elsewhere: restore it from "
            f"a backup, or delete {_named(self._id)}"
        )


class Vault:
    """Creates, wraps and unwraps the keys of recordings."""

    def __init__(self, masters: MasterKeys) -> None:
        self.masters = masters

    def create(self, owner: str, id_: str) -> tuple[ObjectKey, Wrapped]:
        """Return a new key for a recording, and the same wrapped by the current master key."""
        secret = secrets.token_bytes(KEY_BYTES)
        return ObjectKey(secret, owner, id_), self._wrap(secret, owner, id_)

    def unwrap(self, owner: str, id_: str, wrapped: Wrapped) -> ObjectKey:
        """Return the key of a recording. Raises `VaultError` where its wrapped key was changed,
        belongs to another one, or needs a master key that is not there."""
        return ObjectKey(self._unwrap(owner, id_, wrapped), owner, id_)

    def rewrap(self, owner: str, id_: str, wrapped: Wrapped) -> Wrapped:
        """Return the key of a recording wrapped by the current master key. Raises `VaultError` as
        `unwrap` does."""
        return self._wrap(self._unwrap(owner, id_, wrapped), owner, id_)

    def _wrap(self, secret: bytes, owner: str, id_: str) -> Wrapped:
        master = self.masters.current()
        return Wrapped(master.id, ObjectKey(master.secret, owner, id_).seal(_WRAPPING, secret))

    def _unwrap(self, owner: str, id_: str, wrapped: Wrapped) -> bytes:
        master = self.masters.find(wrapped.master)
        if master is None:
            raise VaultError(
                f"{_named(id_)} needs the master key {wrapped.master}, which is not there: "
                "add it after the current one"
            )
        return ObjectKey(master.secret, owner, id_).open(_WRAPPING, wrapped.data)


def _named(id_: str) -> str:
    return "the enrolled people" if id_ == PEOPLE else f"the recording {id_}"
