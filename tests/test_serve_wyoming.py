"""The Wyoming protocol, with the package `wyoming` as the client."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("wyoming")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

import tynda
from helpers import write_wav
from serving import serving, until
from tynda.sound import audio

DIGITS = Path(__file__).parents[1] / "demo" / "020070039.opus"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), wyoming_port=0, queue=0, workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def pcm(tmp_path_factory):
    """The digits as 16-bit samples, and the text that the command line gives for their WAV."""
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    write_wav(path, audio.load(DIGITS))
    return path.read_bytes()[44:], tynda.load("digits-en", threads=1).transcribe(path).text


def talk(server, events, count):
    """Send events, and return that many answers."""

    async def talked():
        client, answers = AsyncTcpClient("127.0.0.1", server.service.wyoming_port, 10, 60), []
        # After a mistake, the server leaves while the client may still be sending.
        with suppress(ConnectionError):
            async with client:
                for event in events:
                    await client.write_event(event if isinstance(event, Event) else event.event())
                answers += [await client.read_event() for _ in range(count)]
        return answers

    return asyncio.run(talked())


def whole_text(server, data):
    """Return the text of a recording; a long one comes in several chunks before."""

    async def talked():
        async with AsyncTcpClient("127.0.0.1", server.service.wyoming_port, 10, 600) as client:
            for event in recording(data):
                await client.write_event(event.event())
            while not Transcript.is_type((event := await client.read_event()).type):
                pass
            return Transcript.from_event(event).text

    return asyncio.run(talked())


def recording(data, rate=16_000, width=2, channels=1):
    form = {"rate": rate, "width": width, "channels": channels}
    chunks = [AudioChunk(audio=data[i : i + 4096], **form) for i in range(0, len(data), 4096)]
    return [AudioStart(**form), *chunks, AudioStop()]


def test_the_server_describes_itself(server):
    (event,) = talk(server, [Describe()], 1)
    (program,) = Info.from_event(event).asr
    assert [(m.name, m.languages, m.installed) for m in program.models] == [
        ("digits-en", ["en"], True)
    ]
    assert program.supports_transcript_streaming
    (event,) = talk(server, [Ping("hello")], 1)
    assert Pong.is_type(event.type)
    assert event.data == {"text": "hello"}


def test_the_text_is_that_of_the_command_line_in_parts_and_as_a_whole(server, pcm):
    data, expected = pcm
    asked = [Transcribe(name="digits-en", language="en"), *recording(data)]
    first, *chunks, whole, last = talk(server, asked, 4)
    assert TranscriptStart.is_type(first.type)
    assert "".join(TranscriptChunk.from_event(event).text for event in chunks) == expected
    assert Transcript.from_event(whole) == Transcript(expected, language="en")
    assert TranscriptStop.is_type(last.type)
    assert expected == "six eight zero two"
    until(lambda: len(server.service.slots) == 0)


def test_other_forms_of_audio_are_understood(server, pcm):
    mono = np.frombuffer(pcm[0], "<i2")
    stereo = np.stack([mono, mono], 1)
    wide = stereo.astype("<i4") * 65_536
    for data, width, channels in ((stereo, 2, 2), (wide, 4, 2), (wide[:, 0], 4, 1)):
        events = recording(data.tobytes(), width=width, channels=channels)
        assert talk(server, events, 3)[2].data["text"] == pcm[1]
    silence = talk(server, recording(bytes(3200)), 3)
    assert [event.type for event in silence] == [
        *("transcript-start", "transcript", "transcript-stop")
    ]
    assert silence[1].data["text"] == ""


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([Transcribe(name="another")], "no_model"),
        ([Transcribe(language="de"), *recording(bytes(32_000))], "invalid_value"),
        ([AudioStart(rate=1, width=2, channels=1)], "invalid_value"),
        ([AudioStart(rate=16_000, width=3, channels=1)], "invalid_audio"),
        ([Event("audio-start")], "invalid_value"),
        ([Event("audio-chunk", {"rate": 16_000}, b"12")], "invalid_audio"),
        ([AudioChunk(16_000, 2, 1, bytes(2_000_000))], "no_event"),
        ([Event("describe", {"x": "y" * 100_000})], "no_event"),
    ],
)
def test_mistakes_are_events(server, events, code):
    (event,) = talk(server, events, 1)
    assert Error.from_event(event).code == code
    until(lambda: len(server.service.slots) == 0)


def test_junk_and_clients_that_leave_free_their_slots(server, pcm):
    async def junk(data, expected=b'"error"'):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.service.wyoming_port)
        writer.write(data)
        await writer.drain()
        if data.endswith(b"\n"):
            assert expected in await reader.readline() + await reader.readline()
        writer.close()

    halves = (
        json.dumps({"type": kind, "data": {name: value}}).encode() + b"\n"
        for kind, name in (
            *(("ping", "text"), ("transcribe", "name"), ("transcribe", "language")),
            *(("transcribe", "transcript_names"), ("transcribe", "transcript_terms")),
        )
        for value in ("\ud800", ["a\udc00b"], float("nan"))
    )
    for data in (*halves, b'{"type": "\\ud800"}\n'):
        asyncio.run(junk(data, b"no_event"))
    for data in (b"[]\n", b"{}\n", b'{"type": 3}\n', b"x" * 100_000 + b"\n", b'{"type": "x"'):
        asyncio.run(junk(data))
    talk(server, recording(pcm[0])[:-1], 0)
    until(lambda: len(server.service.slots) == 0)


VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2), st.floats()
)
EVENTS = st.builds(
    Event,
    st.sampled_from(["transcribe", "audio-start", "audio-chunk", "audio-stop", "ping", "x"]),
    st.dictionaries(
        st.sampled_from(
            ["name", "language", "rate", "width", "channels", "transcript_names", "text"]
        ),
        st.one_of(VALUES, st.sampled_from([16_000, 2, 1])),
    ),
    st.one_of(st.none(), st.binary(max_size=50)),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=6))
def test_any_events_are_answered(server, events):
    async def talked():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.service.wyoming_port)
        for event in events:
            await async_write_event(event, writer)
        writer.write_eof()
        answers = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answers

    assert b"internal_error" not in asyncio.run(talked())
    until(lambda: len(server.service.slots) == 0)


def test_audio_that_does_not_come_frees_its_slot(tmp_path):
    with serving(tmp_path, wyoming_port=0, request_seconds=0.5) as server:
        (event,) = talk(server, [AudioStart(rate=16_000, width=2, channels=1)], 1)
        assert Error.from_event(event).code == "timeout"
        until(lambda: len(server.service.slots) == 0)


def test_a_full_queue_is_an_error(server):
    ticket = server.service.slots.admit(60)
    (event,) = talk(server, [AudioStart(rate=16_000, width=2, channels=1)], 1)
    assert Error.from_event(event).code == "queue_full"
    ticket.release()
