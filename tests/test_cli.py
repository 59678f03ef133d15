"""The command line: its output and its exit codes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import tynda
from helpers import noise, save_tiny, write_manifest, write_wav
from tynda.cli import main
from tynda.heads.base import Session
from tynda.heads.seq2seq.head import Seq2SeqHead
from tynda.heads.seq2seq.options import Options
from tynda.model import Model
from tynda.store import library

KEYS = {"name", "bundled", "default", "bytes", "family", "languages", "licence", "scores"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two recordings and one file that is not a recording."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", noise(1, seed=1))
    write_wav(tmp_path / "b.wav", noise(1, seed=2))
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    return tmp_path


@pytest.fixture
def tynda_(tiny_file):
    """Run a command; transcribe uses the tiny model unless another is named."""

    def run(command, *args, **options):
        model = [] if command != "transcribe" or "--model" in args else ["--model", str(tiny_file)]
        return CliRunner().invoke(main, [command, *model, *map(str, args)], **options)

    return run


def ended(result, code):
    """Check the exit code, and that no exception escaped."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def one_usage_error(result, *words):
    """Check for a usage error, and exit code 2."""
    ended(result, 2)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def one_error(result, *words):
    """Check for one line on stderr, nothing on stdout, and exit code 1."""
    ended(result, 1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_recording_becomes_its_text_on_stdout(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav"), 0)
    assert result.stdout == tiny.transcribe("a.wav").text + "\n"
    assert result.stdout.strip()
    assert result.stderr == ""


@pytest.mark.parametrize("format", ["txt", "json", "srt", "vtt", "tsv"])
def test_every_format_to_stdout_and_to_a_folder(tynda_, folder, tiny, format):
    tiny.transcribe("a.wav").save(f"expected.{format}")
    expected = (folder / f"expected.{format}").read_text()
    assert ended(tynda_("transcribe", "a.wav", "--format", format), 0).stdout == expected
    args = ("a.wav", "b.wav", "--format", format, "--output-dir", "new/out")
    assert ended(tynda_("transcribe", *args), 0).stdout == ""
    assert (folder / "new/out" / f"a.{format}").read_text() == expected
    assert sorted(p.name for p in (folder / "new/out").iterdir()) == [f"a.{format}", f"b.{format}"]


def test_one_bad_file_does_not_stop_the_others(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav", "bad.wav", "absent.wav", "b.wav"), 1)
    assert result.stdout.splitlines() == [
        f"{name}: {tiny.transcribe(name).text}" for name in ("a.wav", "b.wav")
    ]
    bad, absent, total = result.stderr.splitlines()
    assert bad.startswith("error: bad.wav")
    assert absent.startswith("error: absent.wav")
    assert total == "2 of 4 files could not be transcribed"


def test_one_bad_file_alone_is_one_line(tynda_, folder):
    one_error(tynda_("transcribe", "bad.wav"), "bad.wav")


def test_several_files_as_json_are_json_lines(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav", "b.wav", "--format", "json"), 0)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == ["a.wav", "b.wav"]
    assert rows[1]["text"] == tiny.transcribe("b.wav").text


@pytest.mark.parametrize("format", ["srt", "vtt", "tsv"])
def test_several_subtitles_on_one_stdout_are_wrong_usage(tynda_, folder, format):
    result = ended(tynda_("transcribe", "a.wav", "b.wav", "--format", format), 2)
    assert result.stdout == ""
    assert "--output-dir" in result.stderr


def test_patterns_are_resolved_where_the_shell_did_not(tynda_, folder):
    (folder / "deep").mkdir()
    shutil.copy("a.wav", "deep/c.wav")
    shutil.copy("a.wav", "[x].wav")
    result = ended(tynda_("transcribe", "[ab].wav", "**/c.wav", "[x].wav", "a.wav"), 0)
    names = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert names == ["a.wav", "b.wav", "deep/c.wav", "[x].wav"]
    one_error(tynda_("transcribe", "nothing*.wav"), "nothing*.wav")


def test_a_pattern_selects_neither_pipes_nor_folders(tynda_, folder):
    os.mkfifo("pipe.wav")  # nobody writes to it: opening it would wait without end
    (folder / "deep").mkdir()
    shutil.copy("a.wav", "deep/c.wav")
    result = ended(tynda_("transcribe", "[ap]*.wav", "d**"), 1)
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["a.wav"]
    assert "d**: no such file" in result.stderr


def test_standard_input(tynda_, folder, tiny):
    sound = (folder / "a.wav").read_bytes()
    text = tiny.transcribe("a.wav").text
    assert ended(tynda_("transcribe", "-", input=sound), 0).stdout == text + "\n"
    ended(tynda_("transcribe", "-", "--output-dir", "out", input=sound), 0)
    assert (folder / "out/stdin.txt").read_text() == text + "\n"
    one_error(tynda_("transcribe", "-", input=b""), "standard input")


def test_two_files_of_one_name_are_not_written_over_each_other(tynda_, folder):
    (folder / "deep").mkdir()
    shutil.copy("b.wav", "deep/a.wav")
    result = ended(tynda_("transcribe", "a.wav", "deep/a.wav", "--output-dir", "out"), 2)
    assert "deep/a.wav" in result.stderr
    assert not (folder / "out").exists()
    ended(tynda_("transcribe", "a.wav", "a.wav", "--output-dir", "out"), 0)


def test_a_folder_that_cannot_be_made(tynda_, folder):
    one_error(tynda_("transcribe", "a.wav", "--output-dir", "bad.wav/out"), "bad.wav/out")


@pytest.mark.parametrize(
    "args",
    [
        ["transcribe", "a.wav", "--output-dir="],
        ["quantize", "m.safetensors", "--output="],
        ["train", "digits-en", "--data="],
        ["speakers", "list", "--profiles="],
        ["export", "digits-en", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(tynda_, folder, args):
    before = sorted(folder.rglob("*"))
    one_usage_error(tynda_(*args), "the name is empty")
    assert sorted(folder.rglob("*")) == before


def test_a_new_folder_without_a_text_is_removed(tynda_, folder):
    one_error(tynda_("transcribe", "bad.wav", "--output-dir", "new/out"), "bad.wav")
    assert not (folder / "new").exists()
    (folder / "old").mkdir()
    one_error(tynda_("transcribe", "bad.wav", "--output-dir", "old"), "bad.wav")
    assert (folder / "old").is_dir()


def test_a_folder_or_a_device_where_a_file_is_needed(tynda_, folder):
    (folder / "deep").mkdir()
    one_error(tynda_("transcribe", "a.wav", "--lm", "deep"), "deep is a folder, not a language")
    one_error(tynda_("transcribe", "a.wav", "--lm", os.devnull), "is a device or a pipe")


def test_an_unknown_recipe_is_refused_without_torch(folder):
    code = "import sys; from tynda.cli import main; sys.modules['torch'] = None; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "nobody"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no recipe 'nobody'")


def test_unknown_model_language_and_damaged_model(tynda_, folder):
    one_error(tynda_("transcribe", "a.wav", "--model", "nobody"), "'nobody'")
    one_error(tynda_("transcribe", "a.wav", "--model", "bad.wav"), "bad.wav")
    one_error(tynda_("transcribe", "a.wav", "--language", "xx"), "'xx'", "en")
    ended(tynda_("transcribe", "a.wav", "--language", "en"), 0)


def test_a_bad_language_model_is_said_once(tynda_, folder):
    one_error(tynda_("transcribe", "a.wav", "b.wav", "--lm", "bad.wav"), "bad.wav")
    one_error(tynda_("transcribe", "a.wav", "b.wav", "--lm", "absent.arpa"), "absent.arpa")


def test_a_beam_of_one_is_greedy(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav", "--beam-size", "1"), 0)
    assert result.stdout == tiny.transcribe("a.wav", tynda.CTCOptions(beam_size=1)).text + "\n"


def test_hot_words_and_n_best_reach_the_decoder(tynda_, folder, tiny):
    args = ("--hotwords", "Def, vv", "--hotword-boost", "50", "--format", "json")
    result = ended(tynda_("transcribe", "a.wav", *args), 0)
    decoding = tynda.CTCOptions(hotwords=["def", "vv"], hotword_boost=50)
    expected = tiny.transcribe("a.wav", decoding)
    assert json.loads(result.stdout) == expected.to_dict()
    assert "def" in expected.text.split()
    assert "def" not in tiny.transcribe("a.wav").text.split()


def test_other_readings_stand_in_the_json(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav", "--n-best", "3", "--format", "json"), 0)
    expected = tiny.transcribe("a.wav", tynda.CTCOptions(n_best=3))
    assert json.loads(result.stdout) == expected.to_dict()
    assert len(expected.segments[0].alternatives) == 2


class Silence(Session):
    def segments(self, blocks, on_progress=None):
        yield from ()


class Listener(Model):
    """Whisper without a model: it transcribes nothing, and stores its options."""

    def __init__(self):
        self.header = SimpleNamespace(name="nano", languages=["en", "kk"])
        self.head = Seq2SeqHead.__new__(Seq2SeqHead)

    def prepare(self, options=None):
        self.told = options

    def session(self, options=None, **given):
        assert options is self.told
        return Silence()


@pytest.fixture
def told(folder, monkeypatch):
    """Returns the options that Whisper's decoder gets from a command line."""
    listener = Listener()
    monkeypatch.setattr(tynda, "load", lambda *_, **__: listener, raising=False)

    def run(*args):
        ended(CliRunner().invoke(main, ["transcribe", "a.wav", *args]), 0)
        return listener.told

    return run


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {}),
        (["--language", "kk", "--hotwords", "a, b"], {"language": "kk", "hotwords": "a, b"}),
        (["--temperature", "0.5"], {"temperature": (0.5,)}),
        (["--temperature", "0", "--temperature", "1"], {"temperature": (0.0, 1.0)}),
        (["--seed", "7"], {"seed": 7}),
        (["--carry-initial-prompt"], {"carry_initial_prompt": True}),
        (["--max-initial-timestamp", "0.5"], {"max_initial_timestamp": 0.5}),
        (["--clip-timestamps", "1.5,4,4,5000"], {"clip_timestamps": (1.5, 4.0, 4.0, 5000.0)}),
        (["--clip-timestamps", " 2 "], {"clip_timestamps": (2.0,)}),
        (["--clip-timestamps", ""], {"clip_timestamps": ()}),
        (["--prepend-punctuations", "«("], {"prepend_punctuations": "«("}),
        (["--append-punctuations", ""], {"append_punctuations": ""}),
        (
            ["--word-timestamps", "--hallucination-silence-threshold", "2"],
            {"word_timestamps": True, "hallucination_silence_threshold": 2.0},
        ),
        (["--window-margin", "0"], {"window_margin": 0.0}),
        (["--window-floor", "2.5"], {"window_floor": 2.5}),
        (["--suppress-tokens", "-1"], {}),
        (["--suppress-tokens", "-1, 50257,0"], {"suppress_tokens": (-1, 50257, 0)}),
        (["--suppress-tokens", ""], {"suppress_tokens": ()}),
        (["--suppress-blank"], {}),
        (["--no-suppress-blank"], {"suppress_blank": False}),
        (["--repetition-penalty", "1.5"], {"repetition_penalty": 1.5}),
        (["--no-repeat-ngram-size", "3"], {"no_repeat_ngram_size": 3}),
    ],
)
def test_options_reach_whispers_decoder(told, args, expected):
    assert told(*args) == Options(**expected)


@pytest.mark.parametrize("kind", [Options, tynda.CTCOptions])
def test_every_option_of_a_decoder_is_on_the_command_line(kind):
    wanted = {field.name for field in fields(kind)}
    for command, without in (("transcribe", set()), ("evaluate", {"n_best"})):
        there = {param.name for param in main.get_command(None, command).params}
        assert wanted - there == wanted & without


def test_a_model_with_ctc_refuses_what_is_whispers(tynda_, folder):
    for option in ("--suppress-tokens", "--clip-timestamps"):
        name = option[2:].replace("-", "_")
        one_error(tynda_("transcribe", "a.wav", option, ""), f"no option {name}")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--seed", "-1", "-1 is not in the range x>=0"),
        ("--seed", "1.5", "'1.5' is not a valid"),
        ("--max-initial-timestamp", "-1", "0<=x<=1000"),
        ("--clip-timestamps", "1,x", "'1,x' is not seconds of 0 or more, separated by commas"),
        ("--clip-timestamps", "1,", "'1,' is not seconds"),
        ("--clip-timestamps", "-1", "'-1' is not seconds"),
        ("--clip-timestamps", "nan", "'nan' is not seconds"),
        ("--clip-timestamps", "0,inf", "'0,inf' is not seconds"),
        ("--hallucination-silence-threshold", "nan", "'nan' is not a number"),
        ("--window-margin", "-0.5", "0<=x<=1000"),
        ("--window-floor", "0", "0<x<=1000"),
        ("--suppress-tokens", "1.5", "'1.5' is not whole numbers of -1 or more"),
        ("--suppress-tokens", "3,-2", "'3,-2' is not whole numbers"),
        ("--suppress-tokens", ",", "',' is not whole numbers"),
        ("--repetition-penalty", "0", "0<x<=1000"),
        ("--no-repeat-ngram-size", "-1", "0<=x<=1024"),
        ("--no-repeat-ngram-size", "1025", "0<=x<=1024"),
    ],
)
@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["evaluate", "model", "m.jsonl"]])
def test_bad_values_of_whispers_options_are_one_line(command, option, value, says):
    result = ended(CliRunner().invoke(main, [*command, option, value]), 2)
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: Invalid value for '{option}': ")
    assert says in line
    assert result.stderr.count("Error") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["transcribe"],
        ["transcribe", "a.wav", "--format", "doc"],
        ["transcribe", "a.wav", "--beam-size", "0"],
        ["transcribe", "a.wav", "--beam-size", "1025", "--model", "absent"],
        ["transcribe", "a.wav", "--n-best", "1025", "--format", "json"],
        ["transcribe", "a.wav", "--n-best", "2"],
        ["transcribe", "a.wav", "--n-best", "2", "--format", "srt"],
        ["transcribe", "a.wav", "--hotword-boost", "-1"],
        *(
            ["transcribe", "a.wav", f"{option}={value}"]
            for option in ("--hotword-boost", "--alpha", "--beta", "--patience", "--temperature")
            for value in ("nan", "inf", "-inf")
        ),
        ["transcribe", "a.wav", "--threads", "0"],
        ["transcribe", "a.wav", "--backend", "tpu"],
        ["transcribe", "a.wav", "--audio-track", "0"],
        ["transcribe", "a.wav", "--raw", "16000"],
        ["transcribe", "-", "a.wav", "--raw", "16000"],
        ["transcribe", "-", "--raw", "16000", "--audio-track", "1"],
        ["transcribe", "-", "--raw", "20"],
        ["evaluate", "model"],
        ["train"],
        ["sing"],
    ],
)
def test_wrong_usage_ends_with_two(args):
    result = ended(CliRunner().invoke(main, args), 2)
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["a\rb"],
        ["--a\rb"],
        ["transcribe", "--a\x1bb"],
        ["transcribe", "a.wav", "--format", "a\x85b"],
        ["transcribe", "a.wav", "--beam-size", "a\rb"],
        ["quantize", "digits-en", "-o", "x", "--override", "a\rb"],
        ["profile", "digits-en", "--bits", "a\rb"],
    ],
)
def test_wrong_usage_is_quoted_without_control_characters(args):
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert not set("\r\x1b\x85") & set(result.stderr)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("args", [[], *([name] for name in main.list_commands(None))])
def test_every_command_has_help(args):
    assert "Usage:" in ended(CliRunner().invoke(main, [*args, "--help"]), 0).stdout


def test_version():
    assert tynda.__version__ in ended(CliRunner().invoke(main, ["--version"]), 0).stdout


def test_evaluate_as_json_and_as_a_table(tynda_, folder, tiny_file, tiny):
    long = "a-source-with-a-rather-long-name-that-no-terminal-of-eighty-columns-has-the-room-for"
    rows = [("a.wav", tiny.transcribe("a.wav").text), ("b.wav", "one :smile: [two]")]
    write_manifest(folder / "m.jsonl", [(*row, {"source": long}) for row in rows])
    result = ended(tynda_("evaluate", tiny_file, "m.jsonl", "--format", "json"), 0)
    data = json.loads(result.stdout)
    assert result.stderr == ""
    assert data["overall"]["wer"] == data["sources"][long]["wer"] > 0
    assert data["overall"]["cer"] > 0
    assert data["real_time_factor"] > 0
    table = ended(tynda_("evaluate", tiny_file, "m.jsonl"), 0).stdout
    line = next(line for line in table.splitlines() if line.strip().startswith(long))
    assert f"{data['overall']['wer']:.4f}" in line
    assert "reference  one smile two" in table
    assert "a.wav" not in table
    shown = ended(tynda_("evaluate", tiny_file, "m.jsonl", "--show"), 0).stdout
    assert "a.wav" in shown
    none = ended(tynda_("evaluate", tiny_file, "m.jsonl", "--worst", 0), 0).stdout
    assert "reference" not in none


def test_evaluate_reports_what_it_could_not_score(tynda_, folder, tiny_file):
    write_manifest(folder / "m.jsonl", [("a.wav", "one"), ("bad.wav", "two")])
    result = ended(tynda_("evaluate", tiny_file, "m.jsonl", "--format", "json"), 1)
    assert json.loads(result.stdout)["overall"]["utterances"] == 1
    (line,) = result.stderr.splitlines()
    assert "not scored" in line
    assert "bad.wav" in line


def test_missing_and_bad_manifests(tynda_, folder, tiny_file):
    one_error(tynda_("evaluate", tiny_file, "absent.jsonl"), "absent.jsonl")
    (folder / "m.jsonl").write_text('{"audio_filepath": "a.wav", "text": "one"}\n{"text": 1}\n')
    one_error(tynda_("evaluate", tiny_file, "m.jsonl"), "m.jsonl:2")
    write_manifest(folder / "none.jsonl", [("bad.wav", "one")])
    one_error(tynda_("evaluate", tiny_file, "none.jsonl"), "bad.wav")


def test_models_list_names_what_is_bundled_and_cached(tmp_path, monkeypatch, tiny_file):
    cache = tmp_path / "tynda" / "models"
    cache.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    save_tiny(cache / "mine.safetensors", scores={"dev": {"wer": 0.25, "cer": None}})
    save_tiny(cache / "odd.safetensors", scores={"dev": {"wer": None}})
    (cache / "damaged.safetensors").write_bytes(b"half a fi")
    result = ended(CliRunner().invoke(main, ["models", "list", "--format", "json"]), 0)
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert "damaged.safetensors" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "damaged" not in rows
    assert rows["mine"] == {
        "name": "mine",
        "bundled": False,
        "default": False,
        "bytes": (cache / "mine.safetensors").stat().st_size,
        "family": "conformer",
        "languages": ["en"],
        "licence": "Apache-2.0",
        "scores": {"dev": {"wer": 0.25, "cer": None}},
    }
    table = ended(CliRunner().invoke(main, ["models", "list"]), 0).stdout
    line = next(line for line in table.splitlines() if line.strip().startswith("mine"))
    assert "cached" in line
    assert "dev WER 0.2500" in line


def test_bundled_models_are_described_and_one_is_the_default():
    rows = json.loads(
        ended(CliRunner().invoke(main, ["models", "list", "--format", "json"]), 0).stdout
    )
    assert all(row.keys() == KEYS and row["bundled"] for row in rows)
    assert sorted(row["name"] for row in rows) == sorted(library.bundled())
    assert sum(row["default"] for row in rows) == (1 if rows else 0)


def test_bundled_files_keep_to_their_bytes():
    folder = resources.files("tynda") / "bundled"
    sizes = {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= 28_000_000
    assert sizes["whisper-tiny.en.safetensors"] <= 20_000_000
    assert sizes.get("digits-en.safetensors", 0) <= 300_000
    assert sizes.get("speakers.safetensors", 0) <= 1_500_000


def run(*args, **options):
    """Run ``python -m tynda`` in a process of its own."""
    command = [sys.executable, "-m", "tynda", *map(str, args)]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def test_a_real_process_reads_stdin_and_writes_stdout(folder, tiny_file, tiny):
    done = run("transcribe", "-", "--model", tiny_file, input=(folder / "a.wav").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip() == tiny.transcribe("a.wav").text


def test_a_real_process_reports_errors_without_a_traceback(folder, tiny_file):
    strange = b"\xff[/x] :smile:.wav"  # neither a valid character, markup nor emoji
    os.mkdir(b"\xff[")
    os.rename(b"a.wav", strange)
    command = [sys.executable, "-m", "tynda", "transcribe", "--model", str(tiny_file)]
    done = subprocess.run(
        [*command, strange, b"bad.wav", b"b:smile:.wav"],
        capture_output=True,
        timeout=60,
        env=os.environ | {"FORCE_COLOR": "1", "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 1
    assert b"[/x] :smile:.wav: " in done.stdout
    assert b"b:smile:.wav: no such file" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_one_line(folder, tiny_file):
    command = [sys.executable, "-m", "tynda", "transcribe", "a.wav", "--model", str(tiny_file)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode != 0
    assert b"error: cannot write the result" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def shell(line, **options):
    """Run a shell command line in a process of its own, in which ``tynda`` is the command."""
    line = line.replace("tynda", f"{sys.executable} -m tynda", 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, **options)


def test_a_recording_is_never_overwritten(tynda_, folder):
    sound = (folder / "a.wav").read_bytes()
    (folder / "talk.txt").write_bytes(sound)
    (folder / "out").mkdir()
    os.symlink("../a.wav", "out/b.txt")
    for args in (["talk.txt", "--output-dir", "."], ["a.wav", "b.wav", "--output-dir", "out"]):
        result = ended(tynda_("transcribe", *args), 2)
        assert "would replace" in result.stderr
    assert (folder / "talk.txt").read_bytes() == (folder / "a.wav").read_bytes() == sound
    ended(tynda_("transcribe", "a.wav", "--output-dir", "."), 0)
    ended(tynda_("transcribe", "a.wav", "--output-dir", "."), 0)  # older texts are replaced


def test_a_file_that_is_named_twice_is_read_once(tynda_, folder):
    os.symlink("a.wav", "link.wav")
    args = ("a.wav", "./a.wav", folder / "a.wav", "link.wav")
    ended(tynda_("transcribe", *args, "--output-dir", "out"), 0)
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["a.txt", "link.txt"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "x.arpa"), "error: x.arpa: Permission denied"),
        (OSError(28, "No space left", None), "error: cannot write the result (No space left)"),
        (OSError(24, "Too many open files"), "error: Too many open files"),
    ],
)
def test_room_is_asked_for_where_it_is_missing(tynda_, folder, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tynda, "load", fail, raising=False)
    one_error(tynda_("transcribe", "a.wav"), line)


def test_an_interrupt_ends_with_130(tynda_, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tynda, "load", interrupt, raising=False)
    result = ended(tynda_("transcribe", "a.wav"), 130)
    assert (result.stdout, result.stderr) == ("", "interrupted\n")


@pytest.mark.parametrize(
    ("imported", "without"),
    [
        ("tynda.cli", {"numpy"}),
        ("tynda.cli.transcribe, tynda.heads.seq2seq.head", {"tynda.heads.ctc.head"}),
    ],
)
def test_what_starts_quickly_imports_little(imported, without):
    """Each of these imports takes at least as long as transcribing a second of audio."""
    slow = {"av", "soxr", "rich", "num2words", "huggingface_hub", "tokenizers", "torch", "kenlm"}
    slow |= {"platformdirs", "threadpoolctl", "hashlib", "numpy.random", "tynda.store.huggingface"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {imported}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert not (slow | without) & {*done.stdout.split()}


def test_an_interrupt_while_modules_are_imported_ends_with_130(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run("--help", env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_closed_and_full_streams(folder, tiny_file):
    for line, words in (
        (f"tynda transcribe - --model {tiny_file} <&-", b"standard input is closed"),
        (f"tynda transcribe a.wav --model {tiny_file} >&-", b"standard output is closed"),
        ("tynda --help >&-", b"standard output is closed"),
        ("tynda --help >/dev/full", b"cannot write the result"),
        (f"tynda quantize {tiny_file} -o m.st >/dev/full", b"m.st is finished, but"),
    ):
        done = shell(line)
        assert done.returncode == 1, line
        (error,) = done.stderr.splitlines()
        assert error.startswith(b"error: ")
        assert words in error


@pytest.mark.parametrize("size", ["9" * 5000, "²", "0", "-1", "", "x", "120"])
def test_any_size_of_a_terminal(folder, tiny_file, size):
    env = os.environ | {"COLUMNS": size, "LINES": size}
    done = run("models", "show", tiny_file, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert run("transcribe", "--help", env=env).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_texts_beyond_the_encoding_of_stdout(folder, tiny_file, encoding):
    os.rename("a.wav", "а.wav")
    write_manifest(folder / "m.jsonl", [("а.wav", "one")])
    env = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    done = run("evaluate", tiny_file, "m.jsonl", "--show", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "а.wav".encode() in done.stdout  # a file has any text, whatever a terminal could show


def test_control_characters_in_names_are_spelled_out(tynda_, folder, tiny_file):
    name = "a\x1b[31m\n\x9b.wav"
    spelled = "a\\u001b[31m\\u000a\\u009b.wav"
    os.rename("a.wav", name)
    result = ended(tynda_("transcribe", name, "b.wav", "no\x1b.wav"), 1)
    assert result.stdout.startswith(f"{spelled}: ")
    assert "no\\u001b.wav" in result.stderr
    result = ended(tynda_("transcribe", name, "b.wav", "--format", "json"), 0)
    assert "\x9b" not in result.stdout
    assert json.loads(result.stdout.splitlines()[0])["file"] == name
    write_manifest(folder / "m.jsonl", [(name, "one")])
    assert spelled in ended(tynda_("evaluate", tiny_file, "m.jsonl", "--show"), 0).stdout


def test_show_as_json_lists_every_utterance(tynda_, folder, tiny_file, tiny):
    text = tiny.transcribe("a.wav").text
    write_manifest(folder / "m.jsonl", [("a.wav", text), ("b.wav", "one"), ("no.wav", "two")])
    args = (tiny_file, "m.jsonl", "--format", "json")
    result = ended(tynda_("evaluate", *args, "--show"), 1)
    rows = json.loads(result.stdout)["utterances"]
    assert [row["audio"] for row in rows] == ["a.wav", "b.wav"]
    assert rows[0]["hypothesis"] == text
    assert result.stderr.startswith("error: not scored: no.wav: no such file")
    assert "utterances" not in json.loads(tynda_("evaluate", *args).stdout)


def test_names_that_are_empty(tynda_, folder):
    one_error(tynda_("transcribe", "a.wav", "--lm", ""), "lm must be the name of a file")
    one_error(tynda_("transcribe", ""), "name of the recording is empty")


def test_help_names_defaults_and_standard_input():
    text = ended(CliRunner().invoke(main, ["transcribe", "--help"]), 0).stdout
    assert "standard input" in text
    for default in ("[default: txt]", "[default: 1; 1<=x<=1024]"):
        assert default in text
    assert "[default: table]" in CliRunner().invoke(main, ["evaluate", "--help"]).stdout


@pytest.mark.parametrize("option", ["--initial-prompt", "--prefix", "--hotwords"])
def test_options_with_bytes_that_are_no_text(option):
    demo = Path(__file__).parents[1] / "demo" / "020070039.opus"
    done = run("transcribe", demo, option, os.fsdecode(b"a \xff\xfe"), text=True)
    assert (done.returncode, done.stderr) == (0, "")
