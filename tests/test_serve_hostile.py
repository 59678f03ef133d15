"""The server against damaged and hostile requests: no 500, no hang, nothing opened."""

import http.client
import http.server
import json
import random
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import write_wav
from serving import HEADERS, serving, until
from tynda.errors import TyndaError
from tynda.sound import audio

DEMO = Path(__file__).parents[1] / "demo"
DIGITS = DEMO / "020070039.opus"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_file):
    folder = tmp_path_factory.mktemp("serve")
    with serving(folder, model=str(tiny_file), request_seconds=60.0) as running:
        yield running
        until(lambda: len(running.service.slots) == 0)
        assert running.service.workers.running == 0


def send(server, data, **fields):
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers=HEADERS,
        files={"file": ("../../etc/passwd", data)},
        data={"model": "whisper-1", **fields},
        timeout=120,
    )


def refused(answer):
    """Check that an answer is a mistake of the client, in OpenAI's form."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    return answer


@contextmanager
def trap():
    """A web server that counts who calls it."""
    calls = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            calls.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", calls
        listening.shutdown()


def test_playlists_scripts_and_urls_open_nothing(server, tmp_path):
    write_wav(tmp_path / "secret.wav", np.zeros(16_000, np.float32))
    with trap() as (url, calls):
        for target in (f"{url}/a.wav", f"file://{tmp_path}/secret.wav", f"{tmp_path}/secret.wav"):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                f"#EXTM3U\n{target}\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
                f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
                f"<Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL>"
                f"</Representation></AdaptationSet></Period></MPD>",
                f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                f"m=audio {url.rpartition(':')[2]} RTP/AVP 0\n",
                f"<ASX><ENTRY><REF HREF='{target}'/></ENTRY></ASX>",
                f"RTSPtextRTSP://{target}\n",
                target,
                f"concat:{target}|{target}",
            ):
                answer = refused(send(server, text.encode()))
                assert "not an audio file" in answer.json()["error"]["message"]
                assert str(tmp_path) not in answer.text
        assert calls == []


def test_only_plain_containers_are_read(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(16_000, np.float32))
    data = (tmp_path / "a.wav").read_bytes()
    # A plain WAV is read without FFmpeg; one with another header is not.
    odd = data[:20] + b"\x07\x00" + data[22:]
    assert list(audio.stream(odd, formats="wav"))
    with pytest.raises(TyndaError, match="not an audio file"):
        list(audio.stream(odd, formats="flac,mp3"))


@pytest.mark.parametrize("name", ["a.m3u8", "a.exe", "", "a.wav"])
def test_names_and_types_do_not_matter(server, name):
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers=HEADERS,
        files={"file": (name or "x", DIGITS.read_bytes(), "application/x-evil")},
        data={"model": "whisper-1"},
        timeout=60,
    )
    assert answer.status_code == 200


def damaged(seed):
    """Return one of the demo recordings with some bytes changed, removed or repeated."""
    rng = random.Random(seed)
    paths = sorted([*DEMO.glob("*.opus"), *DEMO.glob("*.flac")])
    data = bytearray(rng.choice(paths).read_bytes()[: rng.randint(20, 60_000)])
    for _ in range(rng.randint(1, 30)):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(50)]
            case 2:
                data[at:at] = data[: rng.randrange(100)]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_recordings_are_mistakes_or_give_what_is_left(server, count):
    codes = {send(server, damaged(seed)).status_code for seed in range(count)}
    assert codes <= {200, 400}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.binary(max_size=300),
    fields=st.dictionaries(
        st.sampled_from(
            [
                *("model", "language", "prompt", "temperature", "response_format", "stream"),
                *("timestamp_granularities[]", "include[]", "keywords[]", "chunking_strategy"),
            ]
        ),
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(["whisper-1", "en", "word", "true", "nan", "inf", "1e999", "json"]),
        ),
    ),
)
def test_any_upload_is_answered(server, data, fields):
    answer = send(server, data, **fields)
    assert answer.status_code == 200 or refused(answer)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        ["multipart/form-data; boundary=b", "multipart/form-data", "application/json", "x", ""]
    ),
)
def test_any_body_is_answered(server, body, kind):
    if body[:1] == b"!":
        body = b"--b\r\n" + body + b"\r\n--b--\r\n"
    refused(
        httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            headers={**HEADERS, "Content-Type": kind},
            content=body,
            timeout=60,
        )
    )


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"timestamp_granularities[]": ["word", "x"]}, {}, "timestamp_granularities[]"),
        ({}, {"keywords[]": b"a file"}, "keywords[]"),
        ({"temperature": "x"}, {}, "temperature"),
        ({"model": []}, {}, "model"),
        ({}, {"file": None}, "file"),
        ({"file": "a text"}, {"file": None, "other": b"x"}, "file"),
        ({"prompt": b"\xff"}, {}, "prompt"),
        ({"keywords[]": b"\xff"}, {}, "keywords[]"),
        ({"language": b"\xed\xa0\x80"}, {}, "language"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/jobs"])
def test_a_field_that_is_wrong_is_named(server, path, fields, files, param):
    given = {"file": ("a", b"x"), **files}
    answer = refused(
        httpx.post(
            f"{server.url}{path}",
            headers=HEADERS,
            data={"model": "whisper-1", **fields},
            files={name: file for name, file in given.items() if file is not None},
        )
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}: ") or "multipart" in error["message"]


@pytest.mark.parametrize("charset", ["utf-7", "raw_unicode_escape", "undefined", "utf-16", "x"])
def test_forms_are_utf_8(server, charset):
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n\\ud800+2AA-\r\n--b--\r\n'
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    answer = refused(
        httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            headers={**HEADERS, "Content-Type": kind},
            content=body,
        )
    )
    assert "charset" in answer.json()["error"]["message"]


def exchange(server, data):
    """Send bytes, and return the status and the body of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


KEYED = b"Host: x\r\nAuthorization: " + HEADERS["Authorization"].encode() + b"\r\n"


def test_a_body_that_states_its_length_is_refused_before_it_is_read(server):
    for path in (b"/v1/audio/transcriptions", b"/v1/audio/translations", b"/v1/jobs"):
        status, body = exchange(
            server,
            b"POST " + path + b" HTTP/1.1\r\n" + KEYED + b"Content-Length: 26000001\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n",
        )
        assert (status, body["error"]["code"]) == (413, "file_too_large")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"junk\r\n\r\n", 400),
        (b"GET foo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /v1/jobs/ HTTP/1.1\r\n" + KEYED + b"\r\n", 404),
        (b"GET /v1/jobs/ HTTP/1.1\r\n" + KEYED + b"\r\n", 404),
        (b"PUT /v1/jobs HTTP/1.1\r\n" + KEYED + b"\r\n", 405),
        (
            b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            404,
        ),
    ],
)
def test_what_is_no_request_is_answered_as_errors_are(server, request_, status):
    found, body = exchange(server, request_)
    assert found == status
    assert body["error"].keys() == {"message", "type", "param", "code"}


def test_the_openapi_page_describes_what_happens(server):
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    failures = []

    def check(operation):
        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def run(case):
            response = case.call(headers=HEADERS, timeout=60)
            if response.status_code >= 500:
                failures.append((operation.label, response.status_code))

        run()

    labels = []
    for result in schema.get_all_operations():
        operation = result.ok()
        labels.append(operation.label)
        check(operation)
    assert failures == []
    assert {"POST /v1/audio/transcriptions", "POST /v1/audio/translations", "GET /metrics"} <= {
        *labels
    }
