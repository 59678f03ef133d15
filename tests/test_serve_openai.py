"""The server's OpenAI interface, with OpenAI's own client."""

import json
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from click.testing import CliRunner
from openai import OpenAI

import tynda
from serving import HEADERS, KEY, serving
from tynda import writers
from tynda.cli import main
from tynda.serve import answers

DEMO = Path(__file__).parents[1] / "demo"
DIGITS = DEMO / "020070039.opus"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def digits():
    return tynda.load("digits-en", threads=1).transcribe(DIGITS)


def create(client, path=DIGITS, **given):
    with path.open("rb") as file:
        return client.audio.transcriptions.create(file=file, model="digits-en", **given)


def printed(*args):
    """Return what the command line prints for the same recording."""
    result = CliRunner().invoke(main, ["transcribe", "--model", "digits-en", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.opus")), ids=lambda path: path.stem)
def test_every_recording_has_the_text_of_the_command_line(client, path):
    assert create(client, path, response_format="text") == printed(str(path))


def test_the_text_is_that_of_the_command_line(client):
    assert create(client).text + "\n" == printed(str(DIGITS)) == "six eight zero two\n"
    assert create(client, response_format="text") == printed(str(DIGITS))


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_captions_are_those_of_the_command_line(client, digits, format):
    assert create(client, response_format=format) == writers.write(digits, format)


def test_verbose_json_has_every_documented_key(client, digits):
    verbose = create(
        client, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (verbose.text, verbose.language, verbose.duration) == (digits.text, "en", 3.65)
    assert [(w.word, w.start, w.end) for w in verbose.words] == [
        (w.text, round(w.start, 3), round(w.end, 3)) for w in digits.segments[0].words
    ]
    (segment,) = verbose.segments
    assert type(segment).model_fields.keys() == segment.model_dump().keys()
    assert (segment.text, segment.start, segment.end) == (digits.text, 0.68, 3.0)
    assert segment.avg_logprob < 0
    only = create(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert only.segments is None
    assert create(client, response_format="verbose_json").words is None


def test_a_stream_has_the_text_in_parts(client, digits):
    events = list(create(client, stream=True))
    assert [e.type for e in events[-1:]] == ["transcript.text.done"]
    assert "".join(e.delta for e in events[:-1]) == events[-1].text == digits.text


def test_models_are_listed_under_each_name(client):
    assert [model.id for model in client.models.list()] == ["digits-en", "whisper-1"]
    assert client.models.retrieve("whisper-1").owned_by == "tynda"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another")
    assert caught.value.body["code"] == "no_model"


def test_a_key_is_needed(server):
    with OpenAI(api_key="sk-wrong", base_url=f"{server.url}/v1", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            create(stranger)
        assert caught.value.body["type"] == "authentication_error"
        assert caught.value.body["code"] == "invalid_api_key"
    assert httpx.get(f"{server.url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"response_format": "xml"}, "response_format", "must be one of"),
        ({"include": ["logprobs"]}, "include[]", "log-probabilities"),
        ({"temperature": 0.5}, "temperature", "digits-en does not support temperature"),
        ({"temperature": 2}, "temperature", "less than or equal to 1"),
        ({"prompt": "Names"}, "prompt", "does not support prompt"),
        ({"languages": ["en", "de"]}, "languages[]", "several languages"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[]", "verbose_json"),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy", "other than"),
        ({"stream": True, "response_format": "srt"}, "stream", "json or text"),
        ({"stream": True, "prompt": "Names"}, "prompt", "does not support prompt"),
        ({"known_speaker_names": ["A"]}, "known_speaker_references[]", "needs one of"),
        ({"language": "de"}, None, "does not know the language 'de'"),
    ],
)
def test_the_unsupported_is_refused_clearly(client, given, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **given)
    body = caught.value.body
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"
    assert body["param"] == param
    assert words in body["message"]


def test_options_that_fit_are_used(client, digits):
    given = {"language": "en", "temperature": 0, "keywords": ["six"], "chunking_strategy": "auto"}
    assert create(client, **given).text == digits.text


def test_another_model_does_not_exist(client):
    with DIGITS.open("rb") as file, pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(file=file, model="gpt-transcribe")
    assert caught.value.body["param"] == "model"


def test_what_cannot_translate_says_so(client):
    with (
        DIGITS.open("rb") as file,
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.audio.translations.create(file=file, model="digits-en")
    assert "digits-en does not support translation" in caught.value.body["message"]


def test_a_missing_file_and_a_wrong_type_of_body_are_mistakes(server):
    url = f"{server.url}/v1/audio/transcriptions"
    for given in ({"data": {"model": "digits-en"}}, {"json": {"model": "x"}}, {"content": b"x"}):
        answer = httpx.post(url, headers=HEADERS, **given)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "file"
    headers = {**HEADERS, "Content-Type": "multipart/form-data"}
    assert httpx.post(url, headers=headers, content=b"x").status_code == 400
    assert httpx.get(url, headers=HEADERS).status_code == 405
    missing = httpx.get(f"{server.url}/nothing").json()["error"]["message"]
    assert missing.startswith("nothing is served at this path")


def test_a_whisper_gives_words_prompts_and_translations(tmp_path):
    path = DEMO / "000030012.opus"
    with (
        serving(tmp_path, model="whisper-tiny.en") as server,
        OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as client,
        server.service.model.use() as model,
    ):
        with path.open("rb") as file:
            verbose = client.audio.transcriptions.create(
                file=file,
                model="whisper-1",
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
                prompt="Mark",
            )
        with (
            path.open("rb") as file,
            pytest.warns(DeprecationWarning, match="deprecated"),
        ):  # the client's own
            translated = client.audio.translations.create(file=file, model="whisper-1")
        expected = model.transcribe(path, word_timestamps=True, initial_prompt="Mark")
        assert translated.text == model.transcribe(path, task="translate").text
    assert verbose.text == expected.text
    assert [w.word for w in verbose.words] == [w.text for s in expected.segments for w in s.words]
    assert verbose.segments[0].tokens == list(expected.segments[0].details["tokens"])


def test_events_have_no_line_breaks_within():
    assert answers.event({"delta": "a\nb"}) == 'data: {"delta": "a\\nb"}\n\n'
    assert json.loads(answers.event({"delta": "é"})[6:]) == {"delta": "é"}
