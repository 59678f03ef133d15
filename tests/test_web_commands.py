"""Commands in the engine of web pages and in the web app: those that Python finds."""

import json
import subprocess

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("hassil")

import httpx

import tynda
from browsing import (
    FAKE_MICROPHONE,
    READY,
    ROOT,
    app,
    kept,
    node_program,
    plain_kernels,
    samples_file,
    settle,
)
from helpers import noise, write_wav
from serving import serving
from tynda import manifest
from tynda.commands.export import export_commands, exported
from tynda.compile import native
from tynda.errors import TyndaError
from tynda.export import export_archive
from tynda.sound import audio
from tynda.store import library
from tynda.text.tokenlines import token_sum

DATA = ROOT.parent / "shared" / "data"
DIGITS = ROOT / "demo" / "digits.txt"
SPOKEN = ROOT / "demo" / "020070039.opus"
SENTENCE = "six eight zero two"
SLOTS = {"first": "six", "second": "eight", "third": "zero", "fourth": "two"}

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A function: model, grammar, recordings -> what Python and the engine find in each."""
    program = node_program("command")

    def run(name, grammar, recordings):
        folder = tmp_path_factory.mktemp("commands")
        export_archive(library.load(name), folder / "m.tar.gz", 8)
        with plain_kernels():
            recognizer = tynda.load(name, threads=1).commands(grammar)
            answers = [recognizer.recognize(x) for x in recordings]
        export_commands(recognizer, folder / "g.json")
        files = [samples_file(folder / f"{i}.f32", x) for i, x in enumerate(recordings)]
        command = [*program, folder / "m.tar.gz", folder / "g.json", *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (0, "")
        return answers, [json.loads(line) for line in done.stdout.splitlines()]

    return run


def assert_equal(answers, found, within=1e-6):
    assert len(answers) == len(found)
    for answer, whole in zip(answers, (each["whole"] for each in found), strict=True):
        known = answer.to_dict()
        for name in ("sentence", "intent", "slots"):
            assert whole[name] == known[name]
        assert whole["confidence"] == pytest.approx(answer.confidence, abs=within)


# ---- the engine in Node.js


def test_node_finds_what_python_finds(heard):
    recordings = [audio.load(u.audio) for u in manifest.read(ROOT / "demo" / "manifest.jsonl")]
    recordings += [np.zeros(0, np.float32), noise(1.0, level=0.1), noise(9.0, level=0.1)]
    answers, found = heard("digits-en", DIGITS, recordings)
    assert_equal(answers, found)
    assert {each.sentence for each in answers} == {None, SENTENCE}


def test_intents_and_slots_are_those_of_the_grammar(heard, tmp_path):
    (tmp_path / "g.yaml").write_text(
        """
language: en
intents:
  Call:
    data:
      - sentences: ["[please;] {first} {second} {third} {fourth}"]
        slots: {kind: phone}
lists:
  first: {values: [{in: six, out: 6}, seven]}
  second: {range: {from: 0, to: 9}}
  third: {values: ["zero"]}
  fourth: {range: {from: 0, to: 9}}
"""
    )
    answers, found = heard("digits-en", tmp_path / "g.yaml", [audio.load(SPOKEN)])
    assert_equal(answers, found)
    assert answers[0].intent == "Call"
    assert found[0]["whole"]["slots"]["kind"] == "phone"


def test_utterances_are_found_while_they_come(heard):
    silence = noise(1.0, level=0.0005)
    spoken = np.concatenate([silence, audio.load(SPOKEN), silence, audio.load(SPOKEN), silence])
    _, (found,) = heard("digits-en", DIGITS, [spoken])
    assert [each["sentence"] for each in found["heard"]] == [SENTENCE, SENTENCE]
    assert found["heard"][1]["slots"] == SLOTS
    assert found["heard"][0]["end"] < found["heard"][1]["start"] + 0.6
    # Nothing longer begins with four digits, so that there is no wait for the long silence.
    assert found["heard"][1]["end"] < len(spoken) / 16000 - 0.5


@pytest.mark.slow
def test_node_finds_what_python_finds_in_200_recordings(heard, tmp_path):
    if not (DATA / "commands.jsonl").exists():
        pytest.skip("needs the recordings in ../shared/data")
    utterances = manifest.read(DATA / "commands.jsonl")
    (tmp_path / "g.txt").write_text("\n".join(sorted({u.text for u in utterances})))
    recordings = [audio.load(u.audio) for u in utterances[::7][:200]]
    for name in ("digits-en", "sentences-en"):
        pairs = list(zip(*heard(name, tmp_path / "g.txt", recordings), strict=True))
        # Between fewer than 16 frames, attention is in 32 bits where they are not padded.
        short = [len(x) < 1.3 * audio.SAMPLE_RATE for x in recordings]
        for is_short, within in ((False, 1e-6), (True, 0.05)):
            chosen = [pair for pair, each in zip(pairs, short, strict=True) if each == is_short]
            assert_equal(*zip(*chosen, strict=True), within)


def test_files_that_are_no_commands_are_one_line(tmp_path):
    program = node_program("command")
    export_archive(library.load("digits-en"), tmp_path / "m.tar.gz", 8)
    known = json.loads(exported(tynda.load("digits-en", threads=1).commands(DIGITS)))
    older = json.dumps(known | {"format": "tynda-commands 1"})
    # A model with as many tokens, of which one is another one.
    pieces = tynda.load("digits-en", threads=1).checkpoint.tokenizer.token_bytes()
    assert known["search"]["tokens"] == token_sum(pieces, len(pieces))
    known["search"]["tokens"] = token_sum([*pieces[:-1], b"?"], len(pieces))
    none = "the file has no commands of tynda, or those of another version"
    for text, said in (
        (b"mine", none),
        (b'{"format": "tynda-commands 2"}', none),
        (older.encode(), none),
        (json.dumps(known).encode(), "the commands were exported for another model"),
    ):
        (tmp_path / "g.json").write_bytes(text)
        samples = samples_file(tmp_path / "a.f32", audio.load(SPOKEN))
        command = [*program, tmp_path / "m.tar.gz", tmp_path / "g.json", samples]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, f"error: {said}\n")


def test_models_with_a_decoder_have_no_such_search():
    recognizer = tynda.load("whisper-tiny.en", threads=1).commands(DIGITS)
    with pytest.raises(TyndaError, match="need a CTC model"):
        exported(recognizer)


# ---- the app


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), grammar=str(DIGITS)) as running:
        yield running


def test_the_server_has_the_commands_of_each_ctc_model(server):
    listed = httpx.get(f"{server.url}/web/models.json").json()
    found = {each["name"]: each["commands"] for each in listed}
    assert found.pop("whisper-tiny.en") is None
    for name, url in found.items():
        answer = httpx.get(server.url + url, timeout=60)
        recognizer = tynda.load(name, threads=1).commands(DIGITS)
        assert answer.content == exported(recognizer)
        assert "immutable" in answer.headers["Cache-Control"]
    for name, status in (("whisper-tiny.en.json", 400), ("none.json", 404), ("digits-en", 404)):
        assert httpx.get(f"{server.url}/web/commands/{name}").status_code == status


def test_a_grammar_that_is_none_stops_the_server(tmp_path):
    (tmp_path / "g.txt").write_text("turn [on")
    with (
        pytest.raises(TyndaError, match=r"g\.txt: line 1"),
        serving(tmp_path, grammar=str(tmp_path / "g.txt")),
    ):
        pass


def test_a_spoken_command_is_the_one_that_python_finds(server, tmp_path):
    silence = noise(1.0, level=0.0005)
    spoken = np.concatenate([silence, audio.load(SPOKEN), silence])
    answer = tynda.load("digits-en", threads=1).commands(DIGITS).recognize(spoken)
    assert (answer.sentence, answer.slots) == (SENTENCE, SLOTS)
    # It is said again and again: a busy machine loses some of it.
    wav = write_wav(tmp_path / "spoken.wav", spoken)
    heard = [*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={wav}"]
    with app(server.url, *heard) as page:
        page.get_by_label("Model").select_option("digits-en")
        page.wait_for_timeout(200)
        settle(page)
        sent = []
        page.context.on("request", lambda request: sent.append(request.url))
        page.get_by_role("button", name="Listen for commands").click()
        command = page.locator("#heard li", has_text=SENTENCE).first
        command.wait_for(timeout=60_000)
        assert page.locator("button.record").is_disabled()
        shown = command.locator(".when").text_content()
        assert shown.startswith(", ".join(f"{name} = {value}" for name, value in SLOTS.items()))
        page.get_by_role("button", name="Stop listening").click()
        page.locator(READY).wait_for()
        assert [url for url in sent if not url.endswith("/capture.js")] == []
        assert kept(page)["entries"] == []  # Nothing is recorded.

        # It works without a network.
        page.context.set_offline(True)
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        page.get_by_role("button", name="Listen for commands").click()
        page.locator("#heard li", has_text=SENTENCE).first.wait_for(timeout=60_000)
