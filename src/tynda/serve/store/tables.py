"""The tables of the store."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, Index, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "ARRIVING",
    "CANCELLED",
    "DELETED",
    "DONE",
    "FAILED",
    "RUNNING",
    "WAITING",
    "People",
    "Recording",
    "Table",
]

ARRIVING, WAITING, RUNNING = "arriving", "waiting", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
DELETED = "deleted"
"""The key is gone; the file and the row follow."""


class Table(DeclarativeBase):
    """The base of all tables."""


class Recording(Table):
    """A recording, the job that transcribes it, and the texts that belong to it.

    Whatever was said, or is asked about it, is encrypted; states, times and sizes are not. Times
    are seconds since 1970. The recording itself is a file, which has the row's id as its name.
    """

    __tablename__ = "recordings"
    __table_args__ = (
        Index("ix_recordings_owner_created", "owner", "created"),
        Index("ix_recordings_state_created", "state", "created"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(16))
    created: Mapped[float] = mapped_column(Double)
    finished: Mapped[float | None] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    """When it is deleted; None is never."""
    size: Mapped[int] = mapped_column(BigInteger)
    """Number of bytes of the recording."""
    master: Mapped[str] = mapped_column(String(16), index=True)
    """Id of the master key that wraps the recording's key."""
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    """The recording's key, encrypted by the master key."""
    request: Mapped[bytes] = mapped_column(LargeBinary)
    """How it is to be transcribed: encrypted JSON."""
    result: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The transcript, or the error of a job that failed: encrypted JSON."""
    correction: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The corrected text and the consent: encrypted JSON."""
    consented: Mapped[float | None] = mapped_column(Double)
    """When its owner agreed that models learn from it; None without consent."""
    progress: Mapped[float] = mapped_column(Double)
    """Seconds of audio that were transcribed."""
    duration: Mapped[float | None] = mapped_column(Double)
    """Seconds of audio in all, where they are known."""
    lease: Mapped[str] = mapped_column(String(32))
    """A random name of the attempt that runs; only who knows it may finish the job."""
    lease_until: Mapped[float] = mapped_column(Double)
    """When another server may begin the job again."""
    attempts: Mapped[int]
    """How often the job was begun."""


class People(Table):
    """The people whom one user has enrolled; their names and voices are encrypted together."""

    __tablename__ = "people"

    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int]
    """How often they were changed."""
    master: Mapped[str] = mapped_column(String(16), index=True)
    """Id of the master key that wraps the key of this version."""
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    """The key of this version, encrypted by the master key."""
    profiles: Mapped[bytes] = mapped_column(LargeBinary)
    """Encrypted JSON of `tynda.speakers.profiles`."""
