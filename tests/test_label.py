"""Labels of recordings: what is kept and dropped, and runs that go on."""

import json
import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from helpers import noise, save_tiny, write_wav
from tynda import manifest
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.labelling import Labeller, LabelSettings, Sheet, recordings, run
from tynda.manifest import Utterance
from tynda.transcript import Segment, Transcript


class Recogniser:
    """A model that says the same of every recording."""

    def __init__(self, *segments, languages=("en",), language=None):
        self.header = SimpleNamespace(languages=list(languages), name="fake")
        self.bytes, self.calls = 1, 0
        self.segments, self.language = segments, language

    def normalize(self, text):
        return text.lower().strip(".")

    def options(self, language):
        self.asked = language

    def transcribe(self, samples, options):
        self.calls += 1
        segments = [Segment(0, 1, text, confidence=c) for text, c in self.segments]
        return Transcript(" ".join(text for text, _ in self.segments), segments, self.language)


@pytest.fixture
def wav(tmp_path):
    write_wav(tmp_path / "a.wav", noise(1, seed=1))
    return Utterance(tmp_path / "a.wav", "", None, "s", None, "x")


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([("Hello there.", 0.9)], None),
        ([("Hello there.", 0.4)], "low confidence"),
        ([("Hello", 0.9), ("there you", 0.2)], "low confidence"),  # (5 * 0.9 + 9 * 0.2) / 14
        ([("Hello", 0.2), ("there you all", 0.9)], None),
        ([], "no text"),
        ([(".", 0.9)], "no text"),
        ([("no no no no", 0.9)], "repetition"),
        ([("the quick brown fox jumps", 0.9)], None),
        ([("the quick brown fox jumps over", 0.9)], "too many characters in a second"),
    ],
)
def test_texts_of_a_teacher(wav, segments, reason):
    labeller = Labeller(Recogniser(*segments), None, LabelSettings())
    dropped, about = labeller.label(wav)
    assert dropped == reason
    assert about["duration"] == 1.0


@pytest.mark.parametrize(
    ("other", "disagreement", "reason"),
    [
        ("hello there", 0, None),
        ("hallo there", 1 / 11, None),
        ("hello", 6 / 11, "models disagree"),
        ("", 1, "models disagree"),
    ],
)
def test_two_models(wav, other, disagreement, reason):
    second = Recogniser((other, 0.1))
    labeller = Labeller(Recogniser(("Hello there.", 0.9)), second, LabelSettings())
    dropped, about = labeller.label(wav)
    assert dropped == reason
    assert about["disagreement"] == pytest.approx(disagreement, abs=1e-4)


def test_the_second_model_is_spared_where_the_first_is_in_doubt(wav):
    second = Recogniser(("a", 1.0))
    Labeller(Recogniser(("hello", 0.1)), second, LabelSettings()).label(wav)
    assert second.calls == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_seconds": 2}, "too short"),
        ({"max_seconds": 0.9}, "too long"),
        ({"min_words": 3}, "too few words"),
    ],
)
def test_lengths(wav, settings, reason):
    labeller = Labeller(Recogniser(("hello there", 0.9)), None, LabelSettings(**settings))
    assert labeller.label(wav)[0] == reason


def test_languages(wav):
    teacher = Recogniser(("hello", 0.9), languages=("en", "kk"), language="kk")
    assert Labeller(teacher, None, LabelSettings(), "kk").label(wav)[1]["language"] == "kk"
    assert teacher.asked == "kk"
    Labeller(teacher, None, LabelSettings(), "de").label(wav)
    assert teacher.asked is None


def test_recordings_of_a_folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.wav", "b/1.FLAC", "a.mp3", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    found = list(recordings(tmp_path))
    assert [str(u.audio.relative_to(tmp_path)) for u in found] == ["a.mp3", "b/1.FLAC", "b/2.wav"]
    assert found[0].source == tmp_path.name


def test_recordings_of_a_manifest_without_texts(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav"}\n\n{"audio_filepath": "b.wav"}')
    assert [u.audio.name for u in recordings(tmp_path / "m.jsonl")] == ["a.wav", "b.wav"]
    with pytest.raises(TyndaError, match='no "text"'):
        manifest.read(tmp_path / "m.jsonl")


def sheet(tmp_path, **settings):
    return Sheet(tmp_path / "out.jsonl", {"settings": settings})


def test_a_run_goes_on_where_another_stopped(tmp_path):
    for name in "abcd":
        write_wav(tmp_path / f"{name}.wav", noise(1, seed=1))
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    teacher = Recogniser(("hello there", 0.9))
    labeller = Labeller(teacher, None, LabelSettings())
    first = sheet(tmp_path)

    class StoppedError(Exception):
        pass

    def stop(count):
        if count == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(labeller, first, recordings(tmp_path), stop)
    first.close()
    journal = tmp_path / "out.jsonl.journal.jsonl"
    assert journal.read_text().count("\n") == 4
    with journal.open("a") as file:  # The computer was switched off while it wrote.
        file.write('{"file": "/x')
    (tmp_path / "out.jsonl").write_text("half a line")
    second = sheet(tmp_path)
    calls = teacher.calls
    assert run(labeller, second, recordings(tmp_path), lambda _: None) == 5
    second.close()
    assert teacher.calls == calls + 2
    utterances = manifest.read(tmp_path / "out.jsonl")
    assert sorted(u.audio.name for u in utterances) == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert all(u.text == "hello there" for u in utterances)
    assert dict(second.counts) == {"unreadable": 1}
    assert second.kept == 4
    assert "cannot" in journal.read_text() or "audio" in journal.read_text()


def test_other_settings_need_another_name(tmp_path):
    sheet(tmp_path, a=1).close()
    with pytest.raises(TyndaError, match="other models or settings"):
        sheet(tmp_path, a=2)
    (tmp_path / "mine.jsonl").write_text("{}")
    with pytest.raises(TyndaError, match="has no journal"):
        Sheet(tmp_path / "mine.jsonl", {})
    assert (tmp_path / "mine.jsonl").read_text() == "{}"
    with pytest.raises(TyndaError, match="cannot write"):
        Sheet(tmp_path / "none" / "x", {})


def test_names_with_any_bytes(tmp_path):
    if os.name != "posix":
        pytest.skip("names are Unicode here")
    name = os.fsdecode(b"\xff.wav")
    write_wav(tmp_path / "a.wav", noise(1, seed=1))
    os.rename(tmp_path / "a.wav", tmp_path / name)
    labeller = Labeller(Recogniser(("hello", 0.9)), None, LabelSettings())
    opened = sheet(tmp_path)
    run(labeller, opened, recordings(tmp_path), lambda _: None)
    opened.close()
    (found,) = manifest.read(tmp_path / "out.jsonl")
    assert found.audio == tmp_path / name


def test_the_command(tmp_path):
    model = tmp_path / "tiny.safetensors"
    save_tiny(model)
    (tmp_path / "audio").mkdir()
    write_wav(tmp_path / "audio" / "a.wav", noise(1, seed=1))
    (tmp_path / "audio" / "b.wav").write_bytes(b"nothing")
    command = ["label", str(tmp_path / "audio"), "-o", str(tmp_path / "out.jsonl")]
    command += ["--model", str(model), "--second", str(model), "--min-confidence", "0"]
    command += ["--max-rate", "1000"]
    for _ in range(2):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / 'out.jsonl'}\n"
        assert "dropped: " in result.stderr
        journal = (tmp_path / "out.jsonl.journal.jsonl").read_text().splitlines()
        assert len(journal) == 3
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        assert json.loads(line)["disagreement"] == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [("none", "no folder or manifest"), (".", "has no recordings")],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny.safetensors")
    result = CliRunner().invoke(
        main, ["label", source, "-o", "out.jsonl", "--model", "tiny.safetensors"]
    )
    assert result.exit_code == 1
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
