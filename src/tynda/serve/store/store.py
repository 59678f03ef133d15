"""The store: it keeps recordings, gives each job to one server, and deletes without a trace."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from tynda.serve.store.database import Database, StoreError
from tynda.serve.store.files import Files
from tynda.serve.store.people import PeopleStore
from tynda.serve.store.tables import (
    ARRIVING,
    CANCELLED,
    DELETED,
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    Recording,
)
from tynda.serve.vault import ObjectKey, Vault, VaultError, Wrapped

__all__ = ["Arriving", "Retention", "Store", "TooMany"]

_HIDDEN = (ARRIVING, DELETED)
_OPEN = (WAITING, RUNNING)
_GAVE_UP = {
    "status": 500,
    "message": "the job was begun too often and never finished",
    "param": None,
    "code": "internal_error",
}


class TooMany(Exception):  # noqa: N818
    """The maximum number of jobs of this owner wait already."""


class Arriving(Exception):  # noqa: N818
    """A recording with this id arrives just now, or is being deleted."""


@dataclass(frozen=True)
class Retention:
    """How many seconds a recording is kept after its job has finished; 0 is for ever."""

    seconds: float
    consented_seconds: float
    """The same for a recording from which models may learn."""

    def expires(self, since: float, consented: bool) -> float | None:
        """Return the time at which a recording is deleted."""
        seconds = self.consented_seconds if consented else self.seconds
        return since + seconds if seconds else None


class Store:
    """Recordings with their texts, encrypted; safe to use from several threads and servers.

    Each method raises `StoreError` where the database or the files fail, and `VaultError` where
    something was changed that is encrypted.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        files: Files,
        retention: Retention,
        lease_seconds: float = 60.0,
        max_attempts: int = 10,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``lease_seconds`` is the time after which a server that reports nothing is taken for
        dead. A job fails that was begun ``max_attempts`` times, since a recording that ends the
        server must not do so for ever. ``clock`` returns seconds since 1970."""
        self.vault, self.lease_seconds, self._max_attempts = vault, lease_seconds, max_attempts
        self._database, self._files = database, files
        self.people = PeopleStore(database, vault)
        self._retention, self._clock = retention, clock

    # Methods for owners

    def accept(
        self, owner: str, data: bytes, request: Mapping[str, Any], max_waiting: int, id_: str = ""
    ) -> Recording:
        """Keep a recording as a job that waits.

        ``id_`` is chosen by a client that cannot know whether an earlier attempt arrived: where it
        did, the job is returned that there is. Raises `Arriving` where that attempt has not ended,
        or the id is another owner's, and `TooMany` where ``max_waiting`` jobs wait.
        """
        if id_ and (known := self.find(owner, id_)) is not None:
            return known
        id_, now = id_ or secrets.token_hex(16), self._clock()
        key, wrapped = self.vault.create(owner, id_)
        row = Recording(
            id=id_,
            owner=owner,
            state=ARRIVING,
            created=now,
            size=len(data),
            master=wrapped.master,
            wrapped=wrapped.data,
            request=key.seal("request", json.dumps(request).encode()),
            progress=0.0,
            lease="",
            lease_until=now + self.lease_seconds,
            attempts=0,
        )
        waiting = and_(Recording.owner == owner, Recording.state.in_((*_OPEN, ARRIVING)))
        with self._database.session() as session:
            if session.get(Recording, id_) is not None:
                raise Arriving
            count = session.scalar(select(func.count()).where(waiting)) or 0
            if count >= max_waiting:
                raise TooMany
            session.add(row)
        try:
            self._files.write(id_, key.seal("audio", data))
            if not self._change(id_, Recording.state == ARRIVING, state=WAITING, lease_until=0.0):
                raise StoreError("the recording was written too slowly: send it again")
        except BaseException:
            with suppress(StoreError):  # the next sweep removes it
                self._erase(id_)
            raise
        row.state = WAITING
        return row

    def find(self, owner: str, id_: str) -> Recording | None:
        """Return a recording of an owner; None where it has no such one."""
        if not re.fullmatch("[0-9a-f]{32}", id_):
            return None
        with self._database.session() as session:
            return session.scalar(
                select(Recording).where(
                    Recording.id == id_, Recording.owner == owner, Recording.state.not_in(_HIDDEN)
                )
            )

    def list(self, owner: str, limit: int, after: str = "") -> Sequence[Recording]:
        """Return recordings of an owner, the newest first, that follow the one with the id
        ``after``."""
        wanted = select(Recording).where(Recording.owner == owner, Recording.state.not_in(_HIDDEN))
        if after:
            last = self.find(owner, after)
            if last is None:
                return []
            older = and_(Recording.created == last.created, Recording.id < last.id)
            wanted = wanted.where(or_(Recording.created < last.created, older))
        wanted = wanted.order_by(Recording.created.desc(), Recording.id.desc()).limit(limit)
        with self._database.session() as session:
            return session.scalars(wanted).all()

    def cancel(self, owner: str, id_: str) -> bool:
        """Let a job that waits or runs never finish; return whether it did not finish before."""
        now = self._clock()
        return self._change(
            id_,
            and_(Recording.owner == owner, Recording.state.in_(_OPEN)),
            state=CANCELLED,
            lease="",
            finished=now,
            expires=self._retention.expires(now, False),
        )

    def delete(self, owner: str, id_: str) -> bool:
        """Delete a recording and all that belongs to it; return whether the owner had it."""
        row = self.find(owner, id_)
        if row is not None:
            self._erase(id_)
        return row is not None

    def correct(self, row: Recording, text: str | None, consent: bool | None) -> bool:
        """Keep a corrected text and the consent that models may learn from a recording.

        None leaves what was there. Return False where the job went on meanwhile.
        """
        before = self.correction(row)
        agreed = bool(row.consented) if consent is None else consent
        kept = {"text": before["text"] if text is None else text, "consent": agreed}
        consented = (row.consented or self._clock()) if agreed else None
        since = row.finished or row.created
        expires = None if row.state in _OPEN else self._retention.expires(since, agreed)
        sealed = self.key(row).seal("correction", json.dumps(kept).encode())
        row.correction, row.consented, row.expires = sealed, consented, expires
        values = {"correction": sealed, "consented": consented, "expires": expires}
        return self._change(row.id, Recording.state == row.state, **values)

    # Parts of a recording

    def key(self, row: Recording) -> ObjectKey:
        """Return the key of a recording."""
        return self.vault.unwrap(row.owner, row.id, Wrapped(row.master, row.wrapped))

    def audio(self, row: Recording) -> bytes:
        """Return the recording as it was sent."""
        return self.key(row).open("audio", self._files.read(row.id))

    def request(self, row: Recording) -> dict[str, Any]:
        """Return how a recording is to be transcribed."""
        return self._object(row, "request", row.request)

    def result(self, row: Recording) -> dict[str, Any] | None:
        """Return what `finish` was given; None where the job has not finished."""
        return None if row.result is None else self._object(row, "result", row.result)

    def correction(self, row: Recording) -> dict[str, Any]:
        """Return the corrected ``text``, or None, and the ``consent``, as `correct` got them."""
        if row.correction is None:
            return {"text": None, "consent": False}
        return self._object(row, "correction", row.correction)

    def _object(self, row: Recording, part: str, sealed: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.key(row).open(part, sealed))
        return found

    # Methods for servers

    def claim(self) -> Recording | None:
        """Lease the oldest job that waits, or whose server has died; None where there is none.

        Any number of servers may ask at the same time; each job is given to one of them.
        """
        now, failed = self._clock(), None
        is_free = or_(
            Recording.state == WAITING,
            and_(Recording.state == RUNNING, Recording.lease_until < now),
        )
        oldest = (
            select(Recording)
            .where(is_free)
            .order_by(Recording.created, Recording.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has none: its transactions are one by one
        )
        with self._database.session() as session:
            row = session.scalar(oldest)
            if row is None:
                return None
            if row.attempts >= self._max_attempts:
                failed = row
            row.state, row.attempts = RUNNING, row.attempts + 1
            row.lease, row.lease_until = secrets.token_hex(16), now + self.lease_seconds
        if failed is not None:
            self.finish(failed, {"error": _GAVE_UP})
            return self.claim()
        return row

    def renew(self, row: Recording, progress: float, duration: float | None) -> bool:
        """Extend the lease of a job; return False where it was cancelled, deleted or lost."""
        until = self._clock() + self.lease_seconds
        return self._change(
            row.id, _held(row), lease_until=until, progress=progress, duration=duration
        )

    def finish(self, row: Recording, result: Mapping[str, Any], seconds: float = 0.0) -> bool:
        """Keep the result of a job, or its ``error``; return False where the lease was lost.

        A job whose key cannot be opened has failed, without a result.
        """
        now, is_failed = self._clock(), "error" in result
        try:
            sealed = self.key(row).seal("result", json.dumps(result).encode())
        except VaultError:  # A wrapped key that was changed must not occupy the queue for ever.
            sealed, is_failed = None, True
        with self._database.session() as session:
            consented = session.scalar(select(Recording.consented).where(Recording.id == row.id))
            expires = self._retention.expires(now, consented is not None)
            values = {"state": FAILED if is_failed else DONE, "result": sealed, "lease": ""}
            times = {"finished": now, "expires": expires}
            known = {} if is_failed else {"progress": seconds, "duration": seconds}
            return _changed(session, row.id, _held(row), {**values, **times, **known})

    def release(self, row: Recording) -> bool:
        """Give a job back that was not finished: it waits as if it had not begun."""
        attempts = max(0, row.attempts - 1)
        return self._change(
            row.id, _held(row), state=WAITING, lease="", progress=0.0, attempts=attempts
        )

    def sweep(self) -> int:
        """Delete what has expired, and finish what a crash has interrupted; return the number of
        recordings that are gone."""
        now = self._clock()
        is_over = or_(
            Recording.state == DELETED,
            and_(Recording.state == ARRIVING, Recording.lease_until < now),
            and_(Recording.state.in_((DONE, FAILED, CANCELLED)), Recording.expires < now),
        )
        with self._database.session() as session:
            ids = session.scalars(select(Recording.id).where(is_over)).all()
        for id_ in ids:
            self._erase(id_, purge=False)
        if ids:
            self._database.purge()
        return len(ids)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the number of recordings and of their bytes for each state."""
        wanted = select(Recording.state, func.count(), func.coalesce(func.sum(Recording.size), 0))
        with self._database.session() as session:
            rows = session.execute(wanted.group_by(Recording.state)).all()
        return {state: (count, int(size)) for state, count, size in rows}

    def latest(self, limit: int) -> Sequence[Recording]:
        """Return recordings of all owners, the newest first."""
        newest = select(Recording).order_by(Recording.created.desc(), Recording.id.desc())
        with self._database.session() as session:
            return session.scalars(newest.limit(limit)).all()

    def consented(self, owner: str | None = None) -> Iterator[Recording]:
        """Yield the recordings whose owners agreed that models learn from them, oldest first."""
        wanted = select(Recording).where(Recording.consented.is_not(None), Recording.state == DONE)
        if owner is not None:
            wanted = wanted.where(Recording.owner == owner)
        with self._database.session() as session:
            rows = session.scalars(wanted.order_by(Recording.created, Recording.id)).all()
        yield from (row for row in rows if self.correction(row)["consent"])

    # Keys

    def rewrap(self) -> int:
        """Wrap each key by the current master key; return how many were wrapped by others."""
        current, count = self.vault.masters.current().id, 0
        is_old = and_(Recording.state != DELETED, Recording.master != current)
        while True:
            with self._database.session() as session:
                row = session.scalar(select(Recording).where(is_old).limit(1).with_for_update())
                if row is None:
                    break
                old = Wrapped(row.master, row.wrapped)
                new = self.vault.rewrap(row.owner, row.id, old)
                row.master, row.wrapped, count = new.master, new.data, count + 1
        count += self.people.rewrap()
        self._database.purge()
        return count

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _erase(self, id_: str, purge: bool = True) -> None:
        """Delete the key and the texts, then the file, then the row: a crash in between leaves
        nothing that can be read, and the next sweep goes on."""
        empty = {"wrapped": b"", "request": b"", "result": None, "correction": None}
        self._change(id_, Recording.id == id_, state=DELETED, lease="", consented=None, **empty)
        self._files.remove(id_)
        with self._database.session() as session:
            row = session.get(Recording, id_)
            if row is not None:
                session.delete(row)
        if purge:
            self._database.purge()

    def _change(self, id_: str, condition: ColumnElement[bool], **values: Any) -> bool:
        with self._database.session() as session:
            return _changed(session, id_, condition, values)


def _changed(
    session: Session, id_: str, condition: ColumnElement[bool], values: Mapping[str, Any]
) -> bool:
    """Change a row where a condition holds; return whether it did."""
    changed = session.execute(
        update(Recording)
        .where(Recording.id == id_, condition)
        .values(values)
        .returning(Recording.id),
        execution_options={"synchronize_session": False},
    )
    return changed.first() is not None


def _held(row: Recording) -> ColumnElement[bool]:
    """Return the condition that the lease of an attempt still holds."""
    return and_(Recording.state == RUNNING, Recording.lease == row.lease)
