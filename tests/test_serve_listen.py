"""Live text over a WebSocket: messages, dropped connections, damaged frames."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import tynda
from serving import HEADERS, KEY, serving, until
from tynda.serve import keys as api_keys
from tynda.serve.live import OpusDecoder
from tynda.sound import audio

DIGITS = Path(__file__).parents[1] / "demo" / "020070039.opus"
START = {"type": "start", "encoding": "pcm16", "sample_rate": 16_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), live_sessions=3) as running:
        yield running


@pytest.fixture(scope="module")
def pcm():
    """The digits as raw 16-bit audio, with a pause after them."""
    samples = np.concatenate([audio.load(DIGITS), np.zeros(16_000, np.float32)])
    return (samples * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def expected(pcm):
    """The changes that a live session of the library gives, as `tynda listen` prints them."""
    session = tynda.load("digits-en", threads=1).live()
    changes = session.feed(np.frombuffer(pcm, "<i2")) + session.finish()
    return [change.to_dict() for change in changes]


def dialling(server, headers=HEADERS, path="/v1/listen", **given):
    return connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers=headers, **given)


def say(socket, **message):
    socket.send(json.dumps(message))


def read(socket, *types):
    """Return all messages up to the first of one of these types."""
    found = [json.loads(socket.recv(60))]
    while found[-1]["type"] not in types:
        found.append(json.loads(socket.recv(60)))
    return found


def segments(messages):
    ours = ("type", "number")
    return [
        {name: value for name, value in message.items() if name not in ours}
        for message in messages
        if message["type"] == "segment"
    ]


def frames(data, size=32_000):
    return [data[i : i + size] for i in range(0, len(data), size)]


def test_segments_are_those_of_tynda_listen(server, pcm, expected):
    with dialling(server) as socket:
        say(socket, **START)
        (started,) = read(socket, "started")
        assert started["position"] == 0
        found, sent = [], 0
        for frame in frames(pcm):
            socket.send(frame)
            sent += len(frame)
            found += read(socket, "ack")
            assert found[-1]["position"] == sent
        say(socket, type="ping")
        read(socket, "pong")
        say(socket, type="stop")
        found += read(socket, "finished")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(60)
        assert caught.value.rcvd.code == 1000
    finals = [each for each in expected if each["final"]]
    assert [each for each in segments(found) if each["final"]] == finals
    assert finals[0]["words"]
    assert found[-1]["position"] == len(pcm)
    assert found[-1]["seconds"] == pytest.approx(len(pcm) / 32_000)
    # The server sends only the last of several partial changes in one frame.
    assert all(each in expected for each in segments(found))
    until(lambda: len(server.service.live_slots) == 0)


def test_a_dropped_connection_is_resumed_without_loss(server, pcm, expected):
    half = frames(pcm)[:2]
    with dialling(server) as first:
        say(first, **START)
        id_ = read(first, "started")[0]["session"]
        for frame in half:
            first.send(frame)
            read(first, "ack")
        first.socket.shutdown(2)  # as where the network is gone: nobody says good-bye
    _, stranger = api_keys.add(Path(server.service.settings.keys_file), "stranger")
    with dialling(server, {"Authorization": f"Bearer {stranger}"}) as other:
        say(other, type="resume", session=id_)
        assert read(other, "error")[0]["code"] == "no_session"
    with dialling(server) as second:
        say(second, type="resume", session=id_, after=0)
        resumed = read(second, "resumed")[0]
        assert resumed["position"] == sum(map(len, half))
        found = []
        for frame in frames(pcm[resumed["position"] :]):
            second.send(frame)
            found += read(second, "ack")
        say(second, type="stop")
        found += read(second, "finished")
    with dialling(server) as third:  # also what was finished is not lost
        say(third, type="resume", session=id_)
        again = read(third, "finished")
    finals = [each for each in expected if each["final"]]
    for messages in (found, again):
        assert [each for each in segments(messages) if each["final"]] == finals


@pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_dropped_session_is_lost(patient, count):
    silence = bytes(6400)
    for _ in range(count):
        with dialling(patient) as first:
            say(first, **START)
            id_ = read(first, "started")[0]["session"]
            first.send(silence)
            first.socket.shutdown(2)
        with dialling(patient) as second:
            say(second, type="resume", session=id_)
            position = read(second, "resumed")[-1]["position"]
            assert position in (0, 6400)  # the frame may have been lost with the connection
            second.send(silence[position:])
            say(second, type="stop")
            assert read(second, "finished")[-1]["position"] == 6400
    until(lambda: len(patient.service.live_slots) == 0)


@pytest.fixture
def patient(tmp_path):
    with serving(tmp_path, resume_seconds=10.0) as running:
        yield running


def test_a_connection_that_hangs_is_replaced(server, pcm):
    with dialling(server) as first, dialling(server) as second:
        say(first, **START)
        id_ = read(first, "started")[0]["session"]
        first.send(pcm[:32_000])
        read(first, "ack")
        say(second, type="resume", session=id_)
        assert read(second, "resumed")[0]["position"] == 32_000
        with pytest.raises(ConnectionClosed) as caught:
            first.recv(60)
        assert caught.value.rcvd.code == 4000
        say(second, type="stop")
        read(second, "finished")


def test_sessions_are_few_and_expire(tmp_path, pcm):
    with serving(tmp_path, live_sessions=1, resume_seconds=0.5) as server:
        with dialling(server) as first, dialling(server) as second:
            say(first, **START)
            id_ = read(first, "started")[0]["session"]
            say(second, **START)
            assert read(second, "error")[0]["code"] == "queue_full"
            with pytest.raises(ConnectionClosed) as caught:
                second.recv(60)
            assert caught.value.rcvd.code == 1013
        until(lambda: len(server.service.live_slots) == 0)
        with dialling(server) as third:
            say(third, type="resume", session=id_)
            assert read(third, "error")[0]["code"] == "no_session"


def test_opus_packets_are_decoded(server):
    import av

    with av.open(str(DIGITS)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    decoder = OpusDecoder()
    assert sum(len(decoder(packet)) for packet in packets) > 3 * 48_000
    with dialling(server) as socket:
        say(socket, type="start", encoding="opus")
        read(socket, "started")
        for packet in packets:
            socket.send(packet)
        say(socket, type="stop")
        found = read(socket, "finished")
        assert found[-1]["position"] == sum(map(len, packets))
    spoken = " ".join(each["text"] for each in segments(found) if each["final"])
    assert spoken == "six eight zero two"


def test_a_browser_gives_its_key_as_a_protocol(server):
    protocols = ["tynda", f"openai-insecure-api-key.{KEY}"]
    with dialling(server, {}, subprotocols=protocols) as socket:
        assert socket.subprotocol == "tynda"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(InvalidStatus) as caught:
            dialling(server, headers)
        assert caught.value.response.status_code == 401
        assert b"invalid_api_key" in caught.value.response.body


WRONG = [
    (["no json"], "invalid_message"),
    (["[1]"], "invalid_message"),
    ([json.dumps({"type": "stop"})], "invalid_message"),
    ([b"12"], "invalid_message"),
    ([json.dumps({**START, "encoding": "mp3"})], "invalid_value"),
    ([json.dumps({**START, "sample_rate": 1})], "invalid_value"),
    ([json.dumps({**START, "settings": {"step": -1}})], "invalid_value"),
    ([json.dumps({**START, "settings": {"stepp": 1}})], "invalid_value"),
    ([json.dumps({**START, "settings": 3})], "invalid_value"),
    ([json.dumps({**START, "prompt": "x"})], "unsupported_parameter"),
    ([json.dumps({**START, "language": ["en"]})], "invalid_value"),
    ([json.dumps({**START, "sample_rate": float("inf")})], "invalid_message"),
    *(
        ([json.dumps({**START, name: value})], "invalid_message")
        for name in ("prompt", "language", "keywords", "encoding", "\ud800")
        for value in ("\ud800", ["a\udc00b"])
    ),
    ([json.dumps({"type": "resume", "session": "\ud800"})], "invalid_message"),
    ([json.dumps(START), json.dumps({"type": "\ud800"})], "invalid_message"),
    ([json.dumps(START), b"123"], "invalid_audio"),
    ([json.dumps(START), json.dumps({"type": "dance"})], "invalid_message"),
    ([json.dumps({"type": "start", "encoding": "opus"}), b"\xff" * 20], "invalid_audio"),
    ([json.dumps({"type": "resume", "session": 3})], "no_session"),
]


@pytest.mark.parametrize(("messages", "code"), WRONG)
def test_mistakes_are_messages(fuzzed, messages, code):
    with dialling(fuzzed) as socket:
        for message in messages:
            socket.send(message)
        assert read(socket, "error")[-1]["code"] == code
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(60)
        assert caught.value.rcvd.code == 1008


def test_a_session_has_a_maximum_length(tmp_path, pcm):
    with serving(tmp_path, live_seconds=2.0) as server, dialling(server) as socket:
        say(socket, **START)
        socket.send(pcm[:64_000])
        socket.send(pcm[:32])
        assert read(socket, "error")[-1]["code"] == "audio_too_long"
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(60)
        assert caught.value.rcvd.code == 1009


MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50),
    st.dictionaries(
        st.sampled_from(["type", "encoding", "sample_rate", "settings", "session", "after"]),
        st.one_of(
            st.none(),
            st.integers(),
            st.floats(),
            st.sampled_from(["start", "resume", "stop", "ping", "pcm16", "opus", "x"]),
            st.lists(st.integers(), max_size=2),
        ),
    ).map(json.dumps),
    st.just(json.dumps(START)),
    st.just(json.dumps({"type": "start", "encoding": "opus"})),
    st.just(json.dumps({"type": "stop"})),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MESSAGES, min_size=1, max_size=6))
def test_any_messages_are_answered(fuzzed, messages):
    closed = None
    with dialling(fuzzed) as socket:
        try:
            for message in messages:
                socket.send(message)
            say(socket, type="ping")
            while json.loads(socket.recv(30))["type"] not in ("pong", "error"):
                pass
        except ConnectionClosed as error:
            closed = error
    assert closed is None or closed.rcvd is None or closed.rcvd.code in (1000, 1008, 1013)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A server whose sessions end at once, so that messages without sense hold no slot."""
    folder, before = tmp_path_factory.mktemp("fuzzed"), threading.active_count()
    with serving(folder, resume_seconds=0.0, live_sessions=100) as running:
        yield running
        until(lambda: len(running.service.live_slots) == 0)
        assert threading.active_count() < before + 30
