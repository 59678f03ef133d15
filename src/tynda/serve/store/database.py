"""The database: SQLite in a file, or PostgreSQL; its tables are brought up to date when opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["Database", "StoreError"]

_WAIT_SECONDS = 30
"""Seconds for which a transaction waits for others."""
_MIGRATIONS = 0x74796E6461
"""The number of PostgreSQL's lock under which one server at a time changes the tables."""
_MIGRATING = threading.Lock()
"""Alembic's context is global."""


class StoreError(TyndaError):
    """The store cannot do its work now; the request is not to blame."""


class Database:
    """The connections to a database, with the newest tables."""

    def __init__(self, url: str | URL) -> None:
        """Open a database. Raises `TyndaError` where it cannot be opened."""
        self._engine = _engine(url)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        self._session = sessionmaker(self._engine, expire_on_commit=False)
        try:
            self._migrate()
        except SQLAlchemyError as error:
            self.close()
            raise TyndaError(
                f"cannot open the store's database ({_why(error)}): check the setting database"
            ) from None
        except CommandError:
            self.close()
            raise TyndaError(
                "the store's database is of a newer tynda: update this one, or choose another "
                "database"
            ) from None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction, which is committed where the block ends without an error.

        Those of SQLite run one after the other. Raises `StoreError` where the database fails.
        """
        try:
            with self._session.begin() as session:
                yield session
        except SQLAlchemyError as error:
            raise StoreError(f"the store's database fails ({_why(error)})") from None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A transaction without objects, for comparing the tables with their definition."""
        with self._engine.begin() as connection:
            yield connection

    def purge(self) -> None:
        """Let nothing that was deleted remain in SQLite's log, where nobody reads it just now."""
        if not self.is_sqlite:
            return
        try:
            with closing(self._engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        except SQLAlchemyError as error:
            raise StoreError(f"the store's database fails ({_why(error)})") from None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", "tynda.serve.store:migrations")
        config.set_main_option("path_separator", "os")
        with _MIGRATING, self._engine.begin() as connection:
            if not self.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATIONS})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _engine(url: str | URL) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        elif parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
            raise TyndaError("database must be a URL of postgresql://, or of a file of sqlite:///")
        options: dict[str, Any] = (
            {"connect_args": {"timeout": _WAIT_SECONDS}}
            if parsed.get_backend_name() == "sqlite"
            else {"pool_pre_ping": True}
        )
        engine = create_engine(parsed, hide_parameters=True, **options)
    except (ArgumentError, NoSuchModuleError):
        raise TyndaError("database must be a URL such as postgresql://user@host/name") from None
    except ModuleNotFoundError:
        raise TyndaError(f"PostgreSQL needs psycopg: {install('postgresql')}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, record: Any) -> None:
    """Set up a connection to SQLite: durable commits, and deleted bytes that are overwritten.

    Transactions are begun by `_begin` and not by Python's module, which would begin them late.
    """
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite that may write: one that begins to write later could fail."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _why(error: SQLAlchemyError) -> str:
    """Return the first line of what the driver reports, without statements and their values."""
    lines = str(getattr(error, "orig", None) or type(error).__name__).splitlines()
    return lines[0] if lines else type(error).__name__
