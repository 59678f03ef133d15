"""Opening the store that the settings describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import URL

from tynda.errors import TyndaError
from tynda.serve.master import check_masters, find_masters
from tynda.serve.settings import ServeSettings
from tynda.serve.store.database import Database
from tynda.serve.store.files import make_folder, open_files
from tynda.serve.store.store import Retention, Store
from tynda.serve.store.tables import DELETED, People, Recording
from tynda.serve.vault import Vault

__all__ = ["open_store"]

_DAY = 86_400.0


def open_store(settings: ServeSettings, environment: Mapping[str, str]) -> Store:
    """Open the store, which is created where there is none.

    Raises `TyndaError` where its database or folders cannot be opened, and where a master key that
    its content needs is not there.
    """
    folder = Path(settings.data) if settings.data else _default_folder()
    recordings = settings.recordings or str(folder / "recordings")
    check_masters(settings, environment)
    with _undone(folder, *([] if "://" in recordings else [Path(recordings)])):
        make_folder(folder, "data")
        files = open_files(recordings)
        database = Database(
            settings.database or URL.create("sqlite", database=str(folder / "store.sqlite3"))
        )
    try:
        needed = _needed(database)
        masters = find_masters(settings, environment, may_create=not needed)
        for id_ in needed:
            if masters.find(id_) is None:
                raise TyndaError(
                    f"the store needs the master key {id_}, which is not there: give the key with "
                    "which it was written, after the current one"
                )
    except BaseException:
        database.close()
        raise
    retention = Retention(settings.keep_days * _DAY, settings.keep_consented_days * _DAY)
    return Store(
        database, Vault(masters), files, retention, settings.lease_seconds, settings.job_attempts
    )


@contextmanager
def _undone(*folders: Path) -> Iterator[None]:
    """Remove folders that the block has made and that are still empty, where it fails."""
    made = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("tynda")) / "serve"


def _needed(database: Database) -> list[str]:
    """Return the ids of the master keys that recordings and enrolled people need."""
    recordings = select(Recording.master).where(Recording.state != DELETED)
    with database.session() as session:
        return sorted(session.scalars(recordings.union(select(People.master))))
