"""OpenAI's realtime transcription, with OpenAI's own client."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from websockets.sync.client import connect

import tynda
from serving import HEADERS, KEY, serving, until
from tynda.live.session import LiveSegment
from tynda.serve.realtime import final_text
from tynda.sound import audio
from tynda.transcript import Segment, Word

DIGITS = Path(__file__).parents[1] / "demo" / "020070039.opus"
COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), live_sessions=50) as running:
        yield running
        until(lambda: len(running.service.live_slots) == 0)
        until(lambda: len(running.service.slots) == 0)


@pytest.fixture(scope="module")
def pcm():
    """The digits at 24 kHz, with a pause after them."""
    samples = soxr.resample(audio.load(DIGITS), 16_000, 24_000)
    samples = np.concatenate([samples, np.zeros(24_000, np.float32)])
    return (samples.clip(-1, 1) * 32767).astype("<i2")


def opened(server):
    client = OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0)
    return client.realtime.connect(extra_query={"intent": "transcription"}, max_retries=0)


def append(connection, pcm):
    for i in range(0, len(pcm), 12_000):
        data = pcm[i : i + 12_000].tobytes()
        connection.input_audio_buffer.append(audio=base64.b64encode(data).decode())


def until_event(connection, *types):
    found = [connection.recv()]
    while found[-1].type not in types:
        found.append(connection.recv())
    return found


def test_turns_are_items_whose_deltas_make_their_text(server, pcm):
    with opened(server) as connection:
        assert connection.recv().session.type == "transcription"
        turns = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 600}
        given = {"transcription": {"model": "whisper-1", "language": "en"}, "turn_detection": turns}
        connection.session.update(session={"type": "transcription", "audio": {"input": given}})
        updated = connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 600
        assert updated.session.audio.input.transcription.language == "en"
        append(connection, pcm)
        connection.input_audio_buffer.commit()
        events, spoken = [], []
        while " ".join(spoken) != "six eight zero two":
            events += until_event(connection, COMPLETED)
            spoken.append(events[-1].transcript)
        session = tynda.load("digits-en", threads=1).live(sample_rate=24_000)
    finals = [c.segment.text for c in session.feed(pcm) + session.finish() if c.is_final]
    assert " ".join(finals) == "six eight zero two"
    previous = None
    for done in [event for event in events if event.type == COMPLETED]:
        own = [event for event in events if getattr(event, "item_id", None) == done.item_id]
        assert "".join(event.delta for event in own if event.type == DELTA) == done.transcript
        kinds = [event.type for event in own if event.type != DELTA]
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert kinds[-3:] == [
            *("input_audio_buffer.speech_stopped", "input_audio_buffer.committed", COMPLETED)
        ]
        committed = next(e for e in own if e.type == "input_audio_buffer.committed")
        assert committed.previous_item_id == previous
        previous = done.item_id
        assert done.usage.type == "duration"


def test_without_turns_a_commit_is_transcribed_as_a_recording(server, pcm):
    with opened(server) as connection:
        connection.recv()
        given = {"turn_detection": None}
        connection.session.update(session={"type": "transcription", "audio": {"input": given}})
        assert connection.recv().session.audio.input.turn_detection is None
        connection.input_audio_buffer.commit()
        (error,) = until_event(connection, "error")
        assert error.error.message == "the buffer is empty"
        append(connection, pcm[:100])
        connection.input_audio_buffer.clear()
        until_event(connection, "input_audio_buffer.cleared")
        append(connection, pcm)
        connection.input_audio_buffer.commit()
        done = until_event(connection, COMPLETED)[-1]
    expected = tynda.load("digits-en", threads=1).transcribe(pcm, sample_rate=24_000)
    assert done.transcript == expected.text == "six eight zero two"
    assert done.usage.seconds == pytest.approx(expected.duration, abs=0.01)


TOO_LARGE = {"silence_duration_ms": 10**400}
WRONG = [
    {"type": "response.create"},
    {"type": "input_audio_buffer.append", "audio": "*"},
    {"type": "input_audio_buffer.append", "audio": 3},
    {"type": "input_audio_buffer.append", "audio": "YQ=="},
    {"type": "session.update", "session": []},
    *(
        {"type": "session.update", "session": session}
        for session in (
            {"type": "realtime"},
            {"include": ["item.input_audio_transcription.logprobs"]},
            {"audio": {"input": {"format": {"type": "audio/pcmu"}}}},
            {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": "x"}}}},
            {"audio": {"input": {"transcription": {"model": "another"}}}},
            {"audio": {"input": {"transcription": {"prompt": "Names"}}}},
            {"audio": {"input": {"turn_detection": {"type": "server_vad", **TOO_LARGE}}}},
        )
    ),
]


def test_mistakes_are_events_that_name_what_caused_them(server):
    with dialled(server) as socket:
        assert json.loads(socket.recv(60))["type"] == "session.created"
        for number, event in enumerate(WRONG):
            socket.send(json.dumps({**event, "event_id": str(number)}))
            answer = json.loads(socket.recv(60))
            assert answer["type"] == "error", event
            assert answer["error"]["event_id"] == str(number)
            assert answer["error"]["type"] == "invalid_request_error"
        transcription = [
            {"transcription": {name: value}}
            for name in ("prompt", "language", "keywords", "model", "\ud800")
            for value in ("\ud800", ["a\udc00b"], float("nan"), float("inf"))
        ]
        for given in ("no json", {"type": "\ud800"}, *transcription):
            update = {"type": "session.update", "session": {"audio": {"input": given}}}
            socket.send(given if isinstance(given, str) else json.dumps(update))
            answer = json.loads(socket.recv(60))
            assert answer["type"] == "error"
            assert answer["error"]["code"] == "invalid_message"


def dialled(server):
    url = f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription"
    return connect(url, additional_headers=HEADERS)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.dictionaries(
        st.sampled_from(
            [
                *("type", "audio", "input", "transcription", "turn_detection", "model", "format"),
                *("silence_duration_ms", "threshold", "language", "keywords", "session"),
            ]
        ),
        st.one_of(inner, st.just("server_vad"), st.just("transcription"), st.lists(inner)),
        max_size=4,
    ),
    max_leaves=12,
)
EVENTS = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20),
    VALUES.map(lambda value: json.dumps({"type": "session.update", "session": value})),
    st.binary(max_size=40).map(
        lambda data: json.dumps(
            {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
        )
    ),
    st.just(json.dumps({"type": "input_audio_buffer.commit"})),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=6))
def test_any_events_are_answered(server, events):
    with dialled(server) as socket:
        for event in events:
            socket.send(event)
        socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        answers = [json.loads(socket.recv(60))]
        while answers[-1]["type"] != "input_audio_buffer.cleared":
            answers.append(json.loads(socket.recv(60)))
        for answer in answers:
            assert answer["type"] != "error" or answer["error"]["code"] != "internal_error"


def test_final_text_ends_with_the_last_final_word():
    words = [Word(text, 0, 1) for text in ("a", "a,", "b")]
    segment = Segment(0, 1, "a a, b", words)
    assert [final_text(LiveSegment(segment, n, False)) for n in range(4)] == [
        *("", "a", "a a,", "a a, b")
    ]
    assert final_text(LiveSegment(segment, 1, True)) == "a a, b"
