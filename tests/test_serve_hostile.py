"""The server against damaged and hostile requests: no 500, no hang, nothing opened."""

import http.server
import random
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
