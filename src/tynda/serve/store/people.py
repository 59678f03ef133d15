"""The enrolled people of each user: read and replaced as a whole, encrypted by a new key each time,
so that nothing of who was removed can be read again."""

from __future__ import annotations

from sqlalchemy import select

from tynda.serve.store.database import Database
from tynda.serve.store.tables import People
from tynda.serve.vault import PEOPLE, Vault, Wrapped

__all__ = ["PeopleStore"]

_PART = "list"


class PeopleStore:
    """Keeps bytes for each user; raises `StoreError` and `VaultError` as `Store` does."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def read(self, owner: str) -> tuple[bytes, int]:
        """Return what was written last, empty where nothing was, and its version."""
        with self._database.session() as session:
            row = session.get(People, owner)
        if row is None:
            return b"", 0
        key = self._vault.unwrap(owner, PEOPLE, Wrapped(row.master, row.wrapped))
        return key.open(_PART, row.profiles), row.version

    def write(self, owner: str, data: bytes, version: int) -> bool:
        """Replace the ``version`` that was read; return False where another one is there now."""
        key, wrapped = self._vault.create(owner, PEOPLE)
        values = {
            "version": version + 1,
            "master": wrapped.master,
            "wrapped": wrapped.data,
            "profiles": key.seal(_PART, data),
        }
        with self._database.session() as session:
            row = session.get(People, owner, with_for_update=True)
            if (0 if row is None else row.version) != version:
                return False
            session.merge(People(owner=owner, **values))
        self._database.purge()
        return True

    def rewrap(self) -> int:
        """Wrap each key by the current master key; return how many were wrapped by others."""
        current, count = self._vault.masters.current().id, 0
        others = select(People).where(People.master != current).limit(1).with_for_update()
        while True:
            with self._database.session() as session:
                row = session.scalar(others)
                if row is None:
                    return count
                new = self._vault.rewrap(row.owner, PEOPLE, Wrapped(row.master, row.wrapped))
                row.master, row.wrapped, count = new.master, new.data, count + 1
