"""Commands by HTTP and by a WebSocket: the answers are those of the library."""

import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("hassil")

import httpx
from websockets.exceptions import ConnectionClosed

import tynda
from serving import HEADERS, serving
from test_serve_listen import DIGITS, START, dialling, read, say
from tynda.commands.read import parse
from tynda.commands.session import CommandSession
from tynda.sound import audio

LIST = """
{d} = zero|one|two|three|four|five|six|seven|eight|nine
{d:first} {d:second} {d:third} {d:fourth}
"""
INTENTS = """
language: en
intents:
  Code:
    data:
      - sentences: ["{d:first} {d:second} {d:third} {d:fourth}"]
lists:
  d: {values: [zero, one, two, three, four, five, six, seven, eight, nine]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


def answers(samples, grammar=LIST):
    model = tynda.load("digits-en", threads=1)
    session = CommandSession(model.commands(parse(grammar, is_yaml=grammar == INTENTS)))
    return [each.to_dict() for each in session.feed(samples) + session.finish()]


def asked(server, grammar, **fields):
    return httpx.post(
        f"{server.url}/v1/commands",
        headers=HEADERS,
        data={"model": "digits-en", "grammar": grammar, **fields},
        files={"file": DIGITS.read_bytes()},
        timeout=60,
    )


@pytest.mark.parametrize("grammar", [LIST, INTENTS])
def test_the_answers_to_a_recording_are_those_of_the_library(server, grammar):
    answer = asked(server, grammar)
    assert answer.status_code == 200
    (found,) = answer.json()["answers"]
    assert [found] == answers(audio.load(DIGITS), grammar)
    assert (found["command"], found["sentence"]) == (True, "six eight zero two")
    assert found["intent"] == ("Code" if grammar == INTENTS else None)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("", "grammar"),
        ("# nothing", "no sentence"),
        ("go {nowhere}", "no list {nowhere}"),
        ("intents: 3\n", "does not have the form"),
        ("x" * 1_000_001, "grammar"),
        ("go \ud800", "valid Unicode text"),
        (3, "grammar must be a text"),
    ],
)
def test_a_wrong_grammar_is_the_mistake_of_the_client(server, grammar, message):
    with dialling(server) as socket:
        say(socket, **START, grammar=grammar)
        (error,) = read(socket, "error")
        assert message in error["message"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd.code == 1008
    if isinstance(grammar, str) and grammar.isascii():  # A form cannot hold others.
        answer = asked(server, grammar)
        assert answer.status_code in (400, 413)
        assert message in answer.json()["error"]["message"]


def test_live_answers_are_those_of_the_library(server):
    pause = np.zeros(16_000, np.float32)
    samples = np.concatenate([audio.load(DIGITS), pause, audio.load(DIGITS), pause])
    pcm = (samples * 32767).astype("<i2")
    with dialling(server) as socket:
        say(socket, **START, grammar=LIST)
        read(socket, "started")
        found = []
        for at in range(0, len(pcm), 4000):
            socket.send(pcm[at : at + 4000].tobytes())
            found += read(socket, "ack")
        say(socket, type="stop")
        found += read(socket, "finished")
    events = [message for message in found if message["type"] == "answer"]
    numbers = [event.pop("number") for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert [{**event} for event in events] == [{"type": "answer", **each} for each in answers(pcm)]
    assert sum(event["command"] for event in events) == 2


def test_a_session_of_commands_is_resumed(server):
    pcm = (np.concatenate([audio.load(DIGITS), np.zeros(16_000)]) * 32767).astype("<i2").tobytes()
    with dialling(server) as socket:
        say(socket, **START, grammar=LIST)
        (started,) = read(socket, "started")
        socket.send(pcm)
        read(socket, "ack")
    with dialling(server) as socket:
        say(socket, type="resume", session=started["session"], after=0)
        found = read(socket, "answer")
        assert json.loads(json.dumps(found[-1]))["sentence"] == "six eight zero two"
