"""Jobs: accepted at once, the same text as a request, cancelled, deleted, and never lost."""

import io
import json
import random
import signal
import sqlite3
import threading
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")

from click.testing import CliRunner

import tynda
from helpers import noise, write_wav
from serving import HEADERS, serving, until
from test_serve import process
from tynda import manifest
from tynda.cli import main
from tynda.serve import keys as api_keys
from tynda.serve import recognition, running
from tynda.serve.settings import ServeSettings
from tynda.serve.store.database import StoreError
from tynda.serve.store.opening import open_store
from tynda.sound import audio

DEMO = Path(__file__).parents[1] / "demo"
DIGITS = DEMO / "020070039.opus"
SPOKEN = "six eight zero two"


class Client:
    """A client of the jobs of one key."""

    def __init__(self, server, headers=HEADERS):
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=60)

    def post(self, data=None, **fields):
        return self.client.post(
            "/v1/jobs",
            files={"file": ("a", DIGITS.read_bytes() if data is None else data)},
            data={"model": "whisper-1", **fields},
        )

    def create(self, *args, **fields):
        answer = self.post(*args, **fields)
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
        return answer.json()["id"]

    def get(self, path="", **params):
        return self.client.get(f"/v1/jobs{path}", params=params)

    def status(self, id_):
        return self.get(f"/{id_}").json()["status"]

    def finished(self, id_):
        until(lambda: self.status(id_) not in ("waiting", "running"), 60)
        return self.get(f"/{id_}").json()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("jobs")) as running_server:
        yield running_server


@pytest.fixture
def client(server):
    return Client(server)


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_a_job_gives_the_answer_of_a_request(server, client):
    fields = {"timestamp_granularities[]": ["word", "segment"]}
    id_ = client.create(**fields)
    shown = client.finished(id_)
    assert (shown["status"], shown["error"], shown["seconds"]) == ("done", None, 3.65)
    assert shown["seconds_done"] == shown["seconds"]
    assert shown["expires_at"] - shown["finished_at"] == 7 * 86_400
    for wanted in ("json", "text", "srt", "vtt", "verbose_json"):
        given = {"response_format": wanted, **(fields if wanted == "verbose_json" else {})}
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            headers=HEADERS,
            files={"file": DIGITS.read_bytes()},
            data={"model": "whisper-1", **given},
            timeout=60,
        )
        result = client.get(f"/{id_}/result", **given)
        assert result.status_code == answer.status_code == 200
        assert result.content == answer.content
        assert result.headers["Content-Type"] == answer.headers["Content-Type"]
    assert client.get(f"/{id_}/recording").content == DIGITS.read_bytes()
    assert code(client.get(f"/{id_}/result", response_format="x")) == (400, "invalid_value")


def test_wrong_jobs_are_refused_at_once_or_fail_with_the_answer_of_a_request(server, client):
    assert code(client.post(model="x")) == (404, "no_model")
    assert code(client.post(prompt="x")) == (400, "unsupported_parameter")
    assert code(client.post(temperature=2)) == (400, "invalid_value")
    assert code(client.post(task="sing")) == (400, "invalid_value")
    assert client.client.post("/v1/jobs", headers={"Authorization": "no"}).status_code == 401
    id_ = client.create(b"not audio at all")
    shown = client.finished(id_)
    assert shown["status"] == "failed"
    assert "is not an audio file" in shown["error"]["message"]
    assert code(client.get(f"/{id_}/result")) == (400, "invalid_value")


def test_a_job_that_is_sent_again_is_the_same(server, client):
    before = client.get(limit=100).json()["data"]
    id_ = f"{random.getrandbits(128):032x}"
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(Client(server).post(id=id_)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert {*accepted} == {id_}
    refused = [code(answer) for answer in answers if answer.status_code != 202]
    assert {*refused} <= {(409, "job_arriving")}
    assert client.finished(id_)["status"] == "done"
    assert client.create(id=id_) == id_
    assert client.status(id_) == "done"
    assert len(client.get(limit=100).json()["data"]) == len(before) + 1

    # It does not show another user's job.
    file = Path(server.service.settings.keys_file)
    other = Client(server, {"Authorization": f"Bearer {api_keys.add(file, 'd')[1]}"})
    assert code(other.post(id=id_)) == (409, "job_arriving")
    for wrong in ("x", id_.upper().replace("0", "A"), f"{id_}\n", f"{id_}0"):
        assert code(client.post(id=wrong)) == (400, "invalid_value")


def test_another_users_jobs_are_not_there(server, client):
    id_ = client.create()
    client.finished(id_)
    file = Path(server.service.settings.keys_file)
    keys = [api_keys.add(file, name, user="eve" if name else "")[1] for name in ("a", "b")]
    keys.append(api_keys.add(file, "c")[1])
    eve, also_eve, other = (Client(server, {"Authorization": f"Bearer {key}"}) for key in keys)
    for stranger in (eve, other):
        for missing in (id_, "0" * 32, "x", "%00"):
            answers = [
                stranger.get(f"/{missing}"),
                stranger.get(f"/{missing}/result"),
                stranger.get(f"/{missing}/recording"),
                stranger.client.patch(f"/v1/jobs/{missing}", json={"consent": True}),
                stranger.client.post(f"/v1/jobs/{missing}/cancel"),
                stranger.client.delete(f"/v1/jobs/{missing}"),
            ]
            assert {code(answer) for answer in answers} == {(404, "no_job")}
        assert stranger.get().json()["data"] == []
        assert stranger.get(after=id_).json()["data"] == []
    assert client.status(id_) == "done"
    own = eve.create()
    assert [job["id"] for job in also_eve.get().json()["data"]] == [own]
    _, limited = api_keys.add(file, "d", ["listen"])
    answer = Client(server, {"Authorization": f"Bearer {limited}"}).get()
    assert code(answer) == (403, "missing_scope")


def test_jobs_are_listed_in_pages(tmp_path):
    with serving(tmp_path) as server:
        client = Client(server)
        ids = [client.create() for _ in range(5)]
        page = client.get(limit=3).json()
        assert page["has_more"]
        rest = client.get(limit=3, after=page["data"][-1]["id"]).json()
        assert not rest["has_more"]
        assert [job["id"] for job in [*page["data"], *rest["data"]]] == ids[::-1]
        assert client.get(limit=0).status_code == 400


def test_corrections_and_consent_are_kept(client):
    id_ = client.create()
    client.finished(id_)

    def patch(**given):
        return client.client.patch(f"/v1/jobs/{id_}", json=given)

    shown = patch(correction="six eight zero too", consent=True).json()
    assert (shown["correction"], shown["consent"]) == ("six eight zero too", True)
    assert shown["expires_at"] - shown["finished_at"] == 365 * 86_400
    assert patch(consent=False).json()["correction"] == "six eight zero too"
    shown = client.get(f"/{id_}").json()
    assert (shown["corrected"], shown["consent"]) == (True, False)
    for wrong in ("two\nlines", "two\u2028lines", "\0"):
        assert patch(correction=wrong).status_code == 400
    other = "نمی\u200cخواهم l’«\u202ffois\u202f»"  # printable, but not for Python
    assert patch(correction=other).json()["correction"] == other
    patch(correction="six eight zero too")
    wrong_consents = ({"consent": x} for x in ("yes", 1, 0, ""))
    for wrong in ({"unknown": 1}, {"correction": 3}, *wrong_consents):
        assert patch(**wrong).status_code == 400
    path = f"/v1/jobs/{id_}"
    for body in (b'{"correction": "\\ud800"}', b'{"\\ud800": "x"}', b'{"correction": "\xff"}'):
        assert client.client.patch(path, content=body).status_code == 400
    assert code(httpx.patch(f"{client.client.base_url}{path}", content=b"no JSON")) == (
        401,
        "invalid_api_key",
    )
    assert client.get(f"/{id_}").json()["correction"] == "six eight zero too"


def test_corrected_is_what_has_a_correction(client):
    id_ = client.create()
    client.finished(id_)
    for given, corrected, text in (
        ({}, False, None),
        ({"consent": True}, False, None),
        ({"consent": False}, False, None),
        ({"correction": ""}, True, ""),  # nothing was spoken
        ({"consent": True}, True, ""),
        ({"correction": "six"}, True, "six"),
    ):
        shown = client.client.patch(f"/v1/jobs/{id_}", json=given).json()
        assert (shown["corrected"], shown["correction"]) == (corrected, text)
        assert client.get(f"/{id_}").json()["corrected"] is corrected
        (first, *_) = client.get().json()["data"]
        assert first["corrected"] is corrected


@pytest.fixture
def endless(monkeypatch):
    """Let recordings never end: only who stops their transcription ends it."""

    def transcribe(model, source, options, ticket, max_seconds, decode, on_progress, diarizer):
        seconds = 0
        next(iter(decode(source, ticket)))
        while True:
            time.sleep(0.01)
            ticket.check()
            seconds += 1
            on_progress(seconds)

    monkeypatch.setattr(running, "transcribe", transcribe)


def test_a_job_shows_progress_and_is_cancelled(tmp_path, endless):
    with serving(tmp_path, lease_seconds=1.0) as server:
        client = Client(server)
        first, second, third = (client.create() for _ in range(3))
        until(lambda: client.get(f"/{first}").json()["seconds_done"] > 0)
        assert client.get(f"/{first}").json()["seconds"] == 3.656  # Opus has whole packets
        assert (client.status(first), client.status(second)) == ("running", "waiting")
        assert code(client.get(f"/{first}/result")) == (409, "job_not_finished")
        assert client.client.post(f"/v1/jobs/{first}/cancel").json()["status"] == "cancelled"
        assert code(client.client.post(f"/v1/jobs/{first}/cancel")) == (409, "job_finished")
        assert code(client.get(f"/{first}/result")) == (409, "job_cancelled")
        until(lambda: client.status(second) == "running")
        assert client.client.delete(f"/v1/jobs/{second}").json()["deleted"]
        assert code(client.get(f"/{second}")) == (404, "no_job")
        until(lambda: client.status(third) == "running")
        names = {path.name for path in (tmp_path / "data" / "recordings").iterdir()}
        assert names == {first, third}


def test_a_job_has_a_maximum_time_and_a_user_a_maximum_of_jobs(tmp_path, endless):
    with serving(tmp_path, job_seconds=0.5, max_jobs=2) as server:
        client = Client(server)
        ids = [client.create() for _ in range(2)]
        answer = client.post()
        assert code(answer) == (429, "queue_full")
        assert answer.headers["Retry-After"] == "60"
        assert client.finished(ids[0])["error"]["code"] == "timeout"
        client.create()


def test_a_shutdown_gives_jobs_back(tmp_path, endless, monkeypatch):
    with serving(tmp_path) as server:
        id_ = Client(server).create()
        until(lambda: Client(server).status(id_) == "running")
    monkeypatch.undo()
    with serving(tmp_path) as server:
        assert Client(server).finished(id_)["status"] == "done"


def test_a_store_that_fails_is_503_and_the_server_goes_on(tmp_path, monkeypatch):
    with serving(tmp_path) as server:
        client = Client(server)

        def fail(*_):
            raise StoreError("a secret path")

        with monkeypatch.context() as patched:
            patched.setattr(server.service.store, "find", fail)
            answer = client.get("/x")
        assert code(answer) == (503, "store_failed")
        assert "secret" not in answer.text
        recordings = tmp_path / "data" / "recordings"
        recordings.rmdir()
        assert code(client.post()) == (503, "store_failed")
        recordings.mkdir()
        assert client.finished(client.create())["status"] == "done"


def test_a_long_recording_is_limited(tmp_path):
    write_wav(tmp_path / "a.wav", noise(5, seed=1))
    with serving(tmp_path, max_seconds=4.0, max_upload=0.2) as server:
        client = Client(server)
        shown = client.finished(client.create((tmp_path / "a.wav").read_bytes()))
        assert shown["error"]["code"] == "audio_too_long"
        assert code(client.post(bytes(300_000))) == (413, "file_too_large")


def test_requests_and_the_log_never_show_texts(tmp_path, capfd):
    with serving(tmp_path) as server:
        client = Client(server)
        id_ = client.create()
        client.finished(id_)
        client.client.patch(f"/v1/jobs/{id_}", json={"correction": "a secret correction"})
    log = capfd.readouterr().err
    assert '"event": "job"' in log
    assert SPOKEN not in log
    assert "secret" not in log


# Export


def test_a_user_gets_all_its_recordings(tmp_path):
    with serving(tmp_path) as server:
        client = Client(server)
        ids = [client.create() for _ in range(2)]
        for id_ in ids:
            client.finished(id_)
        client.client.patch(f"/v1/jobs/{ids[0]}", json={"correction": "ünïcode", "consent": True})
        other = api_keys.add(tmp_path / "keys.json", "other")[1]
        Client(server, {"Authorization": f"Bearer {other}"}).create()
        answer = client.client.get("/v1/export")
        (tmp_path / "data" / "recordings" / ids[1]).write_bytes(b"damaged")
        damaged = client.client.get("/v1/export")
    with zipfile.ZipFile(io.BytesIO(damaged.content)) as packed:
        assert f"{ids[0]}/recording" in packed.namelist()
        assert b"was changed" in packed.read(f"{ids[1]}/error.txt")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        names = {f"{id_}/{name}" for id_ in ids for name in ("recording", "job.json")}
        assert {*packed.namelist()} == names
        assert packed.read(f"{ids[1]}/recording") == DIGITS.read_bytes()
        about = json.loads(packed.read(f"{ids[0]}/job.json"))
    assert about["correction"] == "ünïcode"
    assert about["consented_at"] > about["created_at"]
    assert about["result"]["transcript"]["text"] == SPOKEN
    assert about["request"]["task"] == "transcribe"


def test_corrected_recordings_with_consent_are_training_data(tmp_path, monkeypatch):
    said = [("six eight zero too", True), (None, True), ("no consent", False)]
    with serving(tmp_path) as server:
        client = Client(server)
        for text, consent in said:
            id_ = client.create()
            client.finished(id_)
            given = {"consent": consent, **({} if text is None else {"correction": text})}
            assert client.client.patch(f"/v1/jobs/{id_}", json=given).status_code == 200
    monkeypatch.setenv("TYNDA_SERVE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TYNDA_SERVE_MASTER_KEY_FILE", str(tmp_path / "master.key"))

    def run(*args):
        done = CliRunner().invoke(main, ["data", *args])
        return done.exit_code, done.output

    folder = tmp_path / "corrected"
    assert run("export", str(folder)) == (0, f"{folder}/manifest.jsonl\n")
    assert run("rotate-key")[1].startswith("3 keys are wrapped by the new master key ")
    assert len((tmp_path / "master.key").read_text().split()) == 2
    assert run("export", str(folder))[0] == 0  # again, with the new key
    assert folder.stat().st_mode & 0o077 == 0
    (utterance,) = manifest.read(folder / "manifest.jsonl")
    assert (utterance.text, utterance.duration, utterance.language) == (said[0][0], 3.65, "en")
    assert tynda.load("digits-en").transcribe(utterance.audio).text == SPOKEN
    assert np.abs(audio.load(utterance.audio) - audio.load(DIGITS)).max() < 1e-4
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("something else")
    code, message = run("export", str(tmp_path / "full"))
    assert code == 1
    assert "holds something else" in message
    monkeypatch.setenv("TYNDA_SERVE_DATA", str(tmp_path / "empty"))
    code, message = run("export", str(tmp_path / "none"))
    assert (code, message.count("\n")) == (1, 1)
    assert "no recording has a correction and the consent" in message
    assert not (tmp_path / "none").exists()


# kill -9


def send_until_it_ends(server, accepted, count):
    """Send jobs until the server is killed, and note those that it accepted."""
    client = Client(server)
    with suppress(httpx.TransportError):
        for _ in range(count):
            answer = client.post()
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_jobs_outlive_kill_9(tmp_path, kills):
    randomness = random.Random(1)
    accepted, lines = [], []

    def start():
        given = ("--lease-seconds", "1", "--job-workers", "2", "--job-attempts", "1000")
        given = (*given, "--max-jobs", "100000")
        return process(tmp_path, *given)

    for _ in range(kills):
        server_process = start()
        server, child = server_process.__enter__()
        wanted = len(accepted) + randomness.randint(0, 4)
        senders = [
            threading.Thread(target=send_until_it_ends, args=(server, accepted, 4))
            for _ in range(2)
        ]
        for sender in senders:
            sender.start()
        until(lambda: len(accepted) >= wanted, 60)  # noqa: B023
        time.sleep(randomness.uniform(0, 0.5))
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        for thread in (*senders, server_process.thread):
            thread.join(60)
        lines += server_process.lines
    assert len(accepted) >= kills
    time.sleep(1.1)  # The leases of what was interrupted end.
    with start() as (server, _):
        client = Client(server)
        for id_ in accepted:
            assert client.finished(id_)["status"] == "done"
            assert client.get(f"/{id_}/result").json()["text"] == SPOKEN
    events = [json.loads(line) for line in lines if line.startswith("{")]
    done = Counter(each["job"] for each in events if each.get("status") == "done")
    assert set(done.values()) <= {1}
    assert not [each for each in events if each["event"] == "error"]
    with sqlite3.connect(tmp_path / "data" / "store.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = dict(database.execute("SELECT id, owner FROM recordings").fetchall())
    store = open_store(
        ServeSettings(data=str(tmp_path / "data"), master_key_file=str(tmp_path / "master.key")),
        {},
    )
    files = {path.name for path in (tmp_path / "data" / "recordings").iterdir()}
    assert files == rows.keys() >= {*accepted}
    for id_, owner in rows.items():
        assert store.audio(store.find(owner, id_)) == DIGITS.read_bytes()
    store.close()


def test_recognition_is_shared_with_requests():
    assert running.transcribe is recognition.transcribe
