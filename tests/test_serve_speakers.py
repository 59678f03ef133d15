"""Speakers by HTTP: people who are enrolled, whose voice it is, and who said what."""

import base64
import io
import json
import sqlite3
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("scipy")

import openai
from websockets.sync.client import connect

import tynda
from helpers import write_wav
from serving import HEADERS, KEY, serving, until
from tynda.errors import TyndaError
from tynda.serve import keys
from tynda.serve.answers import answer
from tynda.serve.errors import ServeError
from tynda.serve.people import StoredProfiles, known_speakers
from tynda.serve.settings import ServeSettings
from tynda.serve.store.opening import open_store
from tynda.serve.vault import VaultError
from tynda.sound import audio
from tynda.speakers.diarize import Diarizer
from tynda.speakers.profiles import Profile, ProfileStore
from tynda.speakers.voices import Speakers
from tynda.transcript import Segment, Transcript

DEMO = Path(__file__).parents[1] / "demo"
JACK, LEARNER = DEMO / "jfk.flac", DEMO / "020070039.opus"


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as running:
        yield running


class Client:
    """A client of the people of one key."""

    def __init__(self, server, headers=HEADERS):
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=60)

    def post(self, path="", *files, **fields):
        parts = [
            ("file", ("a", each if isinstance(each, bytes) else each.read_bytes()))
            for each in files
        ]
        return self.client.post(f"/v1/speakers{path}", files=parts, data=fields)

    def remove(self, name):
        (id_,) = [each["id"] for each in self.get() if each["name"] == name]
        return self.client.delete(f"/v1/speakers/{id_}")

    def get(self):
        return self.client.get("/v1/speakers").json()["data"]


def code(found):
    return found.status_code, found.json()["error"]["code"]


@pytest.fixture
def wav(tmp_path):
    def written(start, stop):
        path = tmp_path / f"{start}-{stop}.wav"
        write_wav(path, audio.load(JACK)[int(start * 16_000) : int(stop * 16_000)])
        return path

    return written


def test_people_are_enrolled_identified_verified_and_removed(server, wav):
    client = Client(server)
    assert client.get() == []
    assert code(client.post("/identify", JACK)) == (400, "invalid_value")
    first = client.post("", wav(0, 4), name="Jack Kennedy").json()
    assert (first["name"], first["recordings"], first["same_voice_as"]) == ("Jack Kennedy", 1, None)
    second = client.post("", wav(4, 8), name="Jack Kennedy").json()
    assert second["recordings"] == 2
    assert second["seconds"] > first["seconds"]
    assert client.post("", wav(0, 4), name="John").json()["same_voice_as"] == "Jack Kennedy"
    assert client.remove("John").json()["deleted"]
    assert [each["name"] for each in client.get()] == ["Jack Kennedy"]
    found = client.post("/identify", wav(8, 11)).json()
    assert (found["answer"], found["name"]) == ("known", "Jack Kennedy")
    found = client.post("/identify", LEARNER).json()
    assert (found["answer"], found["name"]) == ("unknown", None)
    assert client.post("/verify", wav(8, 11), name="Jack Kennedy").json()["answer"] == "known"
    assert code(client.post("/verify", JACK, name="Serik")) == (404, "no_speaker")
    assert code(client.client.delete("/v1/speakers/Serik")) == (404, "no_speaker")
    assert client.remove("Jack Kennedy").status_code == 200
    assert client.get() == []


def test_answers_are_those_of_the_library(server, wav, tmp_path):
    client = Client(server)
    client.post("", wav(0, 4), name="Jack")
    local = Speakers(store=ProfileStore(tmp_path / "speakers.bin", tmp_path / "speakers.key"))
    local.enrol("Jack", [wav(0, 4)])
    for recording in (wav(8, 11), LEARNER, JACK):
        expected = local.identify(recording)
        found = client.post("/identify", recording).json()
        assert (found["answer"], found["name"]) == (expected.kind, expected.name)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)


def exported(server):
    found = httpx.get(f"{server.url}/v1/export", headers=HEADERS, timeout=60)
    return zipfile.ZipFile(io.BytesIO(found.content))


def test_an_export_has_the_people(server, wav):
    assert exported(server).namelist() == []
    Client(server).post("", wav(0, 5), name="Jack")
    archive = exported(server)
    assert archive.namelist() == ["people.json"]
    (name, about), *others = json.loads(archive.read("people.json"))["people"].items()
    assert (name, about["recordings"], others) == ("Jack", 1, [])
    Client(server).remove("Jack")
    assert b"Jack" not in b"".join(map(exported(server).read, exported(server).namelist()))


def test_mistakes_of_the_client(server, tmp_path):
    client = Client(server)
    silence = tmp_path / "silence.wav"
    write_wav(silence, np.zeros(32_000, np.float32))
    assert code(client.post("", silence, name="Jack")) == (400, "invalid_value")
    assert code(client.post("", b"no sound", name="Jack")) == (400, "invalid_value")
    assert code(client.post("", JACK, name="")) == (400, "invalid_value")
    assert code(client.post("", JACK, name="a\nb")) == (400, "invalid_value")
    assert code(client.post("", JACK, name="speaker 2")) == (400, "invalid_value")
    assert code(client.post("", name="Jack")) == (400, "invalid_value")
    long = tmp_path / "long.wav"
    write_wav(long, np.zeros(61 * 16_000, np.float32))
    assert code(client.post("", long, name="Jack")) == (400, "invalid_value")
    assert client.get() == []
    assert client.client.get("/v1/speakers", headers={"Authorization": "no"}).status_code == 401


def test_a_user_sees_nobody_elses_people(server, wav, tmp_path):
    _, other = keys.add(tmp_path / "keys.json", "other", user="somebody")
    mine, theirs = Client(server), Client(server, {"Authorization": f"Bearer {other}"})
    mine.post("", wav(0, 4), name="Jack")
    assert theirs.get() == []
    id_ = mine.get()[0]["id"]
    assert theirs.client.delete(f"/v1/speakers/{id_}").status_code == 404
    assert [each["name"] for each in mine.get()] == ["Jack"]


def conversation():
    """Return two voices, one after the other, and the second at which they change."""
    jack, learner = audio.load(JACK)[: 5 * 16_000], audio.load(LEARNER)
    pause = np.zeros(8_000, np.float32)
    return np.concatenate([jack, pause, learner]), 5.25


def as_data_url(path):
    return "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def meeting(tmp_path):
    path = tmp_path / "meeting.wav"
    write_wav(path, conversation()[0])
    return path


def test_openais_client_is_told_who_said_what(server, meeting, wav):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    plain = client.audio.transcriptions.create(
        model="whisper-1",
        file=meeting,
        response_format="diarized_json",
        extra_body={"speakers": 2},
    )
    change = conversation()[1]
    assert [each.speaker for each in plain.segments] == [
        "A" if (each.start + each.end) / 2 < change else "B" for each in plain.segments
    ]
    assert {each.speaker for each in plain.segments} == {"A", "B"}
    assert plain.task == "transcribe"
    assert plain.text
    known = client.audio.transcriptions.create(
        model="whisper-1",
        file=meeting,
        response_format="diarized_json",
        extra_body={"speakers": 2},
        known_speaker_names=["Jack"],
        known_speaker_references=[as_data_url(wav(5, 11))],
    )
    assert [each.speaker for each in known.segments] == [
        "Jack" if each.speaker == "A" else "A" for each in plain.segments
    ]
    assert Client(server).get() == [], "who comes with a request is not enrolled"


def test_enrolled_people_are_named(server, meeting, wav):
    Client(server).post("", wav(5, 11), name="Jack")
    with meeting.open("rb") as file:
        found = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            headers=HEADERS,
            data={"model": "whisper-1", "response_format": "diarized_json", "speakers": 2},
            files={"file": file},
            timeout=60,
        ).json()
    assert found["segments"][0]["speaker"] == "Jack"
    model = tynda.load("digits-en", threads=1)
    store = StoredProfiles(server.service.store.people, server.service.keys.find(KEY).owner)
    local = model.transcribe(meeting, speakers=Diarizer(Speakers(store=store), 2))
    assert found == json.loads(answer(local, "diarized_json", (), "transcribe"))


def test_a_job_finds_who_said_what(server, meeting):
    jobs = httpx.Client(base_url=server.url, headers=HEADERS, timeout=60)

    def finished(**fields):
        data = {"model": "whisper-1", **fields}
        id_ = jobs.post("/v1/jobs", data=data, files={"file": meeting.read_bytes()}).json()["id"]
        until(lambda: jobs.get(f"/v1/jobs/{id_}").json()["status"] == "done", 60)
        return id_

    told = finished(diarize=True, speakers=2)
    result = f"/v1/jobs/{told}/result"
    found = jobs.get(result, params={"response_format": "diarized_json"}).json()
    assert {each["speaker"] for each in found["segments"]} == {"A", "B"}
    assert "<v speaker 1>" in jobs.get(result, params={"response_format": "vtt"}).text
    plain = finished()
    asked = jobs.get(f"/v1/jobs/{plain}/result", params={"response_format": "diarized_json"})
    assert code(asked) == (400, "invalid_value")


def listened(server, samples, **start):
    """Return the final segments of a live session, or the message that refuses it."""
    address = server.url.replace("http", "ws") + "/v1/listen"
    with connect(address, additional_headers=HEADERS, max_size=None) as socket:
        socket.send(json.dumps({"type": "start", **start}))
        first = json.loads(socket.recv(timeout=60))
        if first["type"] == "error":
            return first
        socket.send((samples * 32767).astype("<i2").tobytes())
        socket.send('{"type": "stop"}')
        found = []
        while (message := json.loads(socket.recv(timeout=120)))["type"] != "finished":
            found += [message] if message.get("final") else []
        return found


def test_live_text_has_speakers(server, wav):
    Client(server).post("", wav(5, 11), name="Jack")
    samples, change = conversation()
    found = listened(server, samples, speakers=2)
    assert {each["speaker"] for each in found} == {"Jack", "speaker 1"}
    for each in found:
        middle = (each["start"] + each["end"]) / 2
        assert each["speaker"] == ("Jack" if middle < change else "speaker 1")
    assert all("speaker" not in each for each in listened(server, samples))
    assert listened(server, samples, speakers=0)["code"] == "invalid_value"
    assert listened(server, samples, speakers="two")["code"] == "invalid_value"
    refused = listened(server, samples, speakers=True, grammar="one")
    assert "grammar" in refused["message"]


@pytest.mark.parametrize(
    ("names", "references", "message"),
    [
        (["a"], [], "needs one of"),
        (["a", "a"], ["data:;base64,AA==", "data:;base64,AA=="], "once"),
        (["a"], ["https://host/a.wav"], "data URL"),
        (["a"], ["data:audio/wav,AA"], "data URL"),
        (["a"], ["data:audio/wav;base64,A"], "base64"),
        (["a"], ["data:audio/wav;base64,Ü"], "base64"),
        ([str(i) for i in range(17)], ["data:;base64,AA=="] * 17, "at most 16"),
    ],
)
def test_known_speakers_that_are_not_valid(names, references, message):
    with pytest.raises(ServeError, match=message.replace("[", r"\[")):
        known_speakers(names, references)


def test_speakers_need_their_format(server, meeting):
    for path, fields in (
        ("transcriptions", {"speakers": 2}),
        (
            "transcriptions",
            {"known_speaker_names[]": "a", "known_speaker_references[]": "data:;base64,AA=="},
        ),
        ("transcriptions", {"response_format": "diarized_json", "stream": "true"}),
        ("translations", {"response_format": "diarized_json"}),
    ):
        found = httpx.post(
            f"{server.url}/v1/audio/{path}",
            headers=HEADERS,
            data={"model": "whisper-1", **fields},
            files={"file": meeting.read_bytes()},
        )
        assert found.status_code == 400, found.text


def test_letters_of_strangers_are_not_those_of_known_people():
    names = ["speaker 2", "B", None, "speaker 1", "speaker 2"]
    segments = [Segment(i, i + 1, "x", speaker=name) for i, name in enumerate(names)]
    found = json.loads(answer(Transcript("x", segments), "diarized_json", (), "transcribe"))
    assert [each["speaker"] for each in found["segments"]] == ["A", "B", "C", "D", "A"]


SECRET = "somebody whose name is a secret"


def profile(name=SECRET):
    return Profile(name, np.arange(4, dtype=np.float32), 1, 2.0)


@pytest.fixture
def store(tmp_path):
    settings = ServeSettings(
        data=str(tmp_path / "data"), master_key_file=str(tmp_path / "master.key")
    )
    with_people = open_store(settings, {})
    yield with_people
    with_people.close()


def test_nothing_of_people_is_readable_on_the_disk(store, tmp_path):
    mine = StoredProfiles(store.people, "me")
    assert mine.read("model") == {}
    mine.write("model", {SECRET: profile()})
    assert StoredProfiles(store.people, "me").read("model")[SECRET].seconds == 2.0
    assert StoredProfiles(store.people, "you").read("model") == {}
    with pytest.raises(TyndaError, match="another model"):
        StoredProfiles(store.people, "me").read("other")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    again = StoredProfiles(store.people, "me")
    again.read("model")
    again.write("model", {})
    assert StoredProfiles(store.people, "me").read("other") == {}


def test_people_of_another_user_or_edited_ones_are_refused(store, tmp_path):
    for owner in ("me", "you"):
        profiles = StoredProfiles(store.people, owner)
        profiles.read("model")
        profiles.write("model", {owner: profile(owner)})
    with sqlite3.connect(tmp_path / "data" / "store.sqlite3") as database:
        (sealed,) = database.execute("SELECT profiles FROM people WHERE owner = 'you'").fetchone()
        database.execute("UPDATE people SET profiles = ? WHERE owner = 'me'", (sealed,))
    with pytest.raises(VaultError, match="the list of the enrolled people was changed"):
        StoredProfiles(store.people, "me").read("model")


def test_a_change_in_between_is_not_lost(store):
    first, second = (StoredProfiles(store.people, "me") for _ in range(2))
    first.read("model")
    second.read("model")
    first.write("model", {"a": profile("a")})
    with pytest.raises(ServeError, match="meanwhile") as caught:
        second.write("model", {"b": profile("b")})
    assert caught.value.status_code == 409
    assert list(second.read("model")) == ["a"]
    second.write("model", {**second.read("model"), "b": profile("b")})
    assert sorted(first.read("model")) == ["a", "b"]


def test_the_master_key_of_people_is_changed(store):
    mine = StoredProfiles(store.people, "me")
    mine.read("model")
    mine.write("model", {SECRET: profile()})
    store.vault.masters.rotate()
    assert store.rewrap() == 1
    store.vault.masters.retain(1)
    assert list(StoredProfiles(store.people, "me").read("model")) == [SECRET]
