"""The store: each job finishes once, nothing is readable on a stolen disk, what is deleted is gone.

The tests run with SQLite, and with a real PostgreSQL server where one is installed.
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

pytest.importorskip("fastapi")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text, update

import postgresql
from tynda.errors import TyndaError
from tynda.serve.settings import ServeSettings
from tynda.serve.store.database import Database, StoreError
from tynda.serve.store.files import open_files
from tynda.serve.store.opening import open_store
from tynda.serve.store.store import Retention, Store, TooMany
from tynda.serve.store.tables import DONE, FAILED, RUNNING, WAITING, Recording, Table
from tynda.serve.vault import VaultError

AUDIO = b"the bytes of a recording that nobody else may read " * 40
SPOKEN = "what was said is a secret"
ASKED = {"options": {"initial_prompt": "a secret prompt"}, "task": "transcribe"}


@pytest.fixture(scope="module")
def server():
    with postgresql.server() as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return ""
    return request.getfixturevalue("server")()


def opened(folder, url="", **given):
    settings = ServeSettings(
        data=str(folder / "data"), database=url, master_key_file=str(folder / "master.key"), **given
    )
    return open_store(settings, {})


class Clock:
    """A time that stands still until it is set."""

    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, url, clock):
    """A store of which the recordings are kept for 100 s, or 1000 s with consent."""
    first = opened(tmp_path, url)
    vault = first.vault
    first.close()
    database = Database(url or f"sqlite:///{tmp_path}/data/store.sqlite3")
    files = open_files(str(tmp_path / "data" / "recordings"))
    made = Store(database, vault, files, Retention(100, 1000), 10.0, 10, clock)
    made.database, made.files = database, files
    yield made
    made.close()


def accept(store, owner="ann", audio=AUDIO, max_waiting=100):
    return store.accept(owner, audio, ASKED, max_waiting)


def done(store, owner="ann", seconds=2.0):
    accept(store, owner)
    row = store.claim()
    assert store.finish(row, {"transcript": {"text": SPOKEN}}, seconds)
    return store.find(owner, row.id)


def test_a_job_is_accepted_claimed_and_finished(store, clock):
    row = accept(store)
    assert store.find("ann", row.id).state == WAITING
    claimed = store.claim()
    assert claimed.id == row.id
    assert store.claim() is None
    assert store.audio(claimed) == AUDIO
    assert store.request(claimed) == ASKED
    assert store.result(claimed) is None
    clock.now += 5
    assert store.renew(claimed, 1.5, 3.0)
    shown = store.find("ann", row.id)
    assert (shown.state, shown.progress, shown.duration) == (RUNNING, 1.5, 3.0)
    assert store.finish(claimed, {"transcript": {"text": SPOKEN}}, 3.0)
    shown = store.find("ann", row.id)
    assert (shown.state, shown.progress, shown.finished) == (DONE, 3.0, clock.now)
    assert store.result(shown) == {"transcript": {"text": SPOKEN}}
    assert not store.finish(claimed, {"transcript": {"text": "again"}}, 3.0)
    assert store.counts() == {DONE: (1, len(AUDIO))}


def test_users_see_their_own_alone(store):
    rows = [accept(store, owner) for owner in ("ann", "bob", "ann", "ann")]
    own = [rows[i].id for i in (0, 2, 3)]
    for row in rows:
        for owner in ("ann", "bob", "eve"):
            assert (store.find(owner, row.id) is not None) == (row.owner == owner)
    assert store.find("ann", "x" * 32) is None
    assert store.find("ann", "\0") is None
    assert not store.cancel("bob", own[0])
    assert not store.delete("bob", own[0])
    first = store.list("ann", 2)
    rest = store.list("ann", 2, first[-1].id)
    assert {row.id for row in [*first, *rest]} == {*own}
    assert (len(first), len(rest)) == (2, 1)
    assert store.list("bob", 2, first[-1].id) == []
    with pytest.raises(TooMany):
        accept(store, max_waiting=3)
    accept(store, "bob", max_waiting=3)


def test_a_job_of_a_server_that_died_begins_again(store, clock):
    accept(store)
    first = store.claim()
    clock.now += 9
    assert store.renew(first, 0.0, None)
    clock.now += 9
    assert store.claim() is None
    clock.now += 2
    second = store.claim()
    assert (second.id, second.attempts) == (first.id, 2)
    assert not store.renew(first, 1.0, None)
    assert not store.release(first)
    assert not store.finish(first, {"transcript": {}})
    assert store.finish(second, {"transcript": {}})


def test_a_job_that_ends_the_server_each_time_fails_in_the_end(store, clock):
    accept(store)
    clock.now += 1
    later = accept(store)
    for _ in range(10):
        row = store.claim()
        assert row.id != later.id
        clock.now += 11
    assert store.claim().id == later.id
    shown = store.find("ann", row.id)
    assert shown.state == FAILED
    assert "begun too often" in store.result(shown)["error"]["message"]


def test_a_job_given_back_is_begun_by_another(store):
    accept(store)
    for _ in range(20):  # more often than a job may be begun
        row = store.claim()
        assert row.attempts == 1
        assert store.release(row)
    assert store.find("ann", row.id).state == WAITING


def test_a_cancelled_job_never_finishes(store):
    row, other = accept(store), accept(store)
    claimed = store.claim()
    assert store.cancel("ann", claimed.id)
    assert store.cancel("ann", other.id if claimed.id == row.id else row.id)
    assert not store.renew(claimed, 1.0, None)
    assert not store.finish(claimed, {"transcript": {}})
    assert store.claim() is None
    assert not store.cancel("ann", claimed.id)


def test_many_servers_share_one_queue(tmp_path, url):
    stores = [opened(tmp_path, url) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: accept(stores[i % 4], f"user{i % 3}"), range(40)))
    finished, lock = [], threading.Lock()

    def work(store):
        while (row := store.claim()) is not None:
            assert store.audio(row) == AUDIO
            assert store.finish(row, {"transcript": {"text": row.id}})
            with lock:
                finished.append(row.id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, stores * 2))
    assert sorted(finished) == sorted(row.id for row in rows)
    for store in stores:
        store.close()


# A stolen disk


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(folder, *needles):
    """Return which needles are in any file, the log of SQLite included."""
    return [needle for data in everything(folder).values() for needle in needles if needle in data]


def test_nothing_is_readable_on_a_stolen_disk(tmp_path):
    store = opened(tmp_path)
    rows = [done(store) for _ in range(3)]
    store.correct(rows[0], "a corrected secret", True)
    store.cancel("ann", accept(store).id)
    store.delete("ann", rows[1].id)
    needles = [SPOKEN, "secret", "prompt", "initial_prompt", "the bytes of", "corrected"]
    coded = [code for word in needles for code in (word.encode(), word.encode("utf-16-le"))]
    data = tmp_path / "data"
    assert any(path.name.endswith("-wal") for path in everything(data))
    assert found(data, *coded) == []
    master = (tmp_path / "master.key").read_text().strip()
    assert found(data, master.encode()) == []
    store.close()
    assert found(data, *coded) == []
    assert found(data, rows[0].id.encode())  # the search finds what is there


def test_deleted_keys_and_files_leave_nothing(tmp_path):
    store = opened(tmp_path)
    kept, gone = done(store), done(store)
    store.correct(gone, "x" * 3000, True)
    gone = store.find("ann", gone.id)
    parts = [gone.wrapped, gone.request, gone.result, gone.correction, gone.id.encode()]
    # Pages of SQLite hold long values in pieces.
    needles = [part[:400] for part in parts] + [gone.correction[-400:]]
    file = tmp_path / "data" / "recordings" / gone.id
    needles.append(file.read_bytes()[:64])
    data = tmp_path / "data"
    assert len(set(found(data, *needles))) == len(set(needles))
    assert store.delete("ann", gone.id)
    assert found(data, *needles) == []
    assert not file.exists()
    assert store.audio(store.find("ann", kept.id)) == AUDIO
    store.close()


def test_swapped_and_edited_ciphertexts_are_refused(store, tmp_path):
    own, other = done(store), done(store, "bob")
    folder = tmp_path / "data" / "recordings"

    def change(**values):
        with store.database.session() as session:
            session.execute(update(Recording).where(Recording.id == own.id).values(**values))

    change(result=other.result)
    with pytest.raises(VaultError, match=f"the result of the recording {own.id} was changed"):
        store.result(store.find("ann", own.id))
    change(result=own.request)
    with pytest.raises(VaultError):
        store.result(store.find("ann", own.id))
    change(result=other.result, wrapped=other.wrapped)
    with pytest.raises(VaultError):
        store.result(store.find("ann", own.id))
    change(result=own.result, wrapped=own.wrapped, owner="bob")
    with pytest.raises(VaultError):
        store.result(store.find("bob", own.id))
    change(owner="ann")
    assert store.result(store.find("ann", own.id)) == {"transcript": {"text": SPOKEN}}
    whole = (folder / own.id).read_bytes()
    (folder / own.id).write_bytes((folder / other.id).read_bytes())
    with pytest.raises(VaultError):
        store.audio(own)
    (folder / own.id).write_bytes(whole[:-1])
    with pytest.raises(VaultError):
        store.audio(own)
    (folder / own.id).unlink()
    with pytest.raises(StoreError, match="cannot read the recording"):
        store.audio(own)


def test_a_changed_key_fails_its_own_job_alone(store, clock):
    bad, good = accept(store), accept(store)
    with store.database.session() as session:
        session.execute(update(Recording).where(Recording.id == bad.id).values(wrapped=b"\1" * 61))
    rows = [store.claim(), store.claim()]
    for row in rows:
        assert store.finish(row, {"transcript": {}})
    assert store.find("ann", bad.id).state == FAILED
    assert store.result(store.find("ann", bad.id)) is None
    assert store.find("ann", good.id).state == DONE


# Retention and consent


def test_recordings_are_deleted_when_their_time_is_over(store, clock, tmp_path):
    plain, agreed, waiting = done(store), done(store), accept(store)
    assert store.correct(agreed, "right", True)
    clock.now += 99
    assert store.sweep() == 0
    clock.now += 2
    assert store.sweep() == 1
    assert store.find("ann", plain.id) is None
    assert store.correction(store.find("ann", agreed.id)) == {"text": "right", "consent": True}
    names = {path.name for path in (tmp_path / "data" / "recordings").iterdir()}
    assert names == {agreed.id, waiting.id}
    assert store.correct(store.find("ann", agreed.id), None, False)  # consent is taken back
    assert store.sweep() == 1
    assert store.find("ann", waiting.id).state == WAITING


def test_consent_that_came_before_the_end_counts(store, clock):
    row = accept(store)
    assert store.correct(row, None, True)
    claimed = store.claim()
    assert not store.correct(row, None, False)  # the job went on meanwhile
    assert store.finish(claimed, {"transcript": {}})
    clock.now += 200
    assert store.sweep() == 0
    assert [each.id for each in store.consented()] == [row.id]
    assert list(store.consented("bob")) == []


def test_consent_that_its_owner_did_not_give_does_not_count(store):
    row = done(store)
    store.correct(row, "text", False)
    with store.database.session() as session:
        session.execute(update(Recording).values(consented=1.0))
    assert list(store.consented()) == []


def test_what_a_crash_interrupted_is_removed(store, clock, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "recordings"

    class Crash(BaseException):
        pass

    def crash(*_, **__):
        raise Crash

    with monkeypatch.context() as patched:  # after the file, before the job is accepted
        patched.setattr(store, "_change", crash)
        with pytest.raises(Crash):
            accept(store)
    with monkeypatch.context() as patched:  # after the key was deleted, before the file is
        row = done(store)
        patched.setattr(store.files, "remove", crash)
        with pytest.raises(Crash):
            store.delete("ann", row.id)
    (folder / f"{row.id}.part").write_bytes(b"half")
    assert store.claim() is None
    assert store.list("ann", 9) == []
    assert len(list(folder.iterdir())) == 3
    clock.now += 11
    assert store.sweep() == 2
    assert list(folder.iterdir()) == []
    assert store.counts() == {}


# Opening


def test_migrations_make_the_tables_that_are_defined(store):
    with store.database.connection() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []


def test_a_store_of_a_newer_version_is_refused(store, url, tmp_path):
    with store.database.connection() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(TyndaError, match="of a newer tynda"):
        opened(tmp_path, url)


def test_a_store_needs_the_master_key_it_was_written_with(tmp_path):
    store = opened(tmp_path)
    row = done(store)
    store.close()
    other = tmp_path / "other"
    other.mkdir()
    (other / "data").symlink_to(tmp_path / "data")
    with pytest.raises(TyndaError, match="no master key at"):
        opened(other)
    assert not (other / "master.key").exists()
    opened(tmp_path / "third").close()
    (other / "master.key").write_text((tmp_path / "third" / "master.key").read_text())
    with pytest.raises(TyndaError, match=f"the store needs the master key {row.master}"):
        opened(other)


def test_a_master_key_is_rotated_while_a_server_runs(tmp_path, url):
    store, command = opened(tmp_path, url), opened(tmp_path, url)
    rows = [done(store), done(store)]
    old = store.vault.masters.current()
    command.vault.masters.rotate()
    assert command.rewrap() == 2
    command.vault.masters.retain(2)
    for row in rows:
        again = store.find("ann", row.id)
        assert again.master != old.id
        assert store.result(again) == {"transcript": {"text": SPOKEN}}
    assert done(store).master == store.vault.masters.current().id != old.id
    assert command.rewrap() == 0
    store.close()
    command.close()
    opened(tmp_path, url).close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"database": "nonsense"}, "database must be a URL"),
        ({"database": "mysql://x/y"}, "database must be a URL of postgresql://"),
        ({"database": "sqlite://"}, "database must be a URL of postgresql://"),
        ({"database": "sqlite:////no/such/folder/x"}, "cannot open the store's database (unable"),
        (
            {"recordings": "nonsense://x"},
            "cannot open the nonsense:// of the setting recordings (ValueError)",
        ),
        (
            {"data": "/dev/null/x"},
            "cannot create the folder /dev/null/x (a part of the path is no folder)",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line(tmp_path, given, message):
    values = {"data": str(tmp_path), "master_key_file": str(tmp_path / "key"), **given}
    with pytest.raises(TyndaError) as caught:
        open_store(ServeSettings(**values), {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg is not installed")
def test_a_postgresql_server_that_does_not_answer_is_one_line(tmp_path):
    with pytest.raises(TyndaError, match="cannot open the store's database") as caught:
        opened(tmp_path, "postgresql://nobody:a-password@127.0.0.1:1/x")
    assert "\n" not in str(caught.value)
    assert "a-password" not in str(caught.value)


def test_recordings_may_be_in_a_store_of_fsspec(tmp_path):
    import fsspec

    store = opened(tmp_path, recordings="memory://a/bucket")
    row = done(store)
    files = fsspec.filesystem("memory")
    assert [path.split("/")[-1] for path in files.ls("/a/bucket", detail=False)] == [row.id]
    assert AUDIO[:50] not in files.cat_file(f"/a/bucket/{row.id}")
    assert store.audio(row) == AUDIO
    store.delete("ann", row.id)
    assert files.ls("/a/bucket") == []
    with pytest.raises(StoreError):
        store.audio(row)
    store.close()


def test_ciphertexts_hold_plain_json(store):
    row = done(store)
    assert json.loads(store.key(row).open("request", row.request)) == ASKED
