"""The command line: what is printed where, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from importlib import resources

import pytest
from click.testing import CliRunner

import tynda
from helpers import noise, save_tiny, write_manifest, write_wav
from tynda import library
from tynda.cli import main

KEYS = {"name", "bundled", "default", "bytes", "family", "languages", "licence", "scores"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two recordings and one file that is none."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", noise(1, seed=1))
    write_wav(tmp_path / "b.wav", noise(1, seed=2))
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    return tmp_path


@pytest.fixture
def tynda_(tiny_file):
    """Run a command; transcribe takes the tiny model unless another is named."""

    def run(command, *args, **options):
        model = [] if command != "transcribe" or "--model" in args else ["--model", str(tiny_file)]
        return CliRunner().invoke(main, [command, *model, *map(str, args)], **options)

    return run


def ended(result, code):
    """The command ended so, and by its own will: no exception escaped."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def one_error(result, *words):
    """One line on stderr, nothing on stdout, exit code 1."""
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
    assert result.stdout == tiny.transcribe("a.wav", tynda.Decoding(beam_size=1)).text + "\n"


def test_hot_words_and_n_best_reach_the_decoder(tynda_, folder, tiny):
    args = ("--hotwords", "Def, vv", "--hotword-boost", "50", "--format", "json")
    result = ended(tynda_("transcribe", "a.wav", *args), 0)
    decoding = tynda.Decoding(hotwords=["def", "vv"], hotword_boost=50)
    expected = tiny.transcribe("a.wav", decoding)
    assert json.loads(result.stdout) == expected.to_dict()
    assert "def" in expected.text.split()
    assert "def" not in tiny.transcribe("a.wav").text.split()


def test_other_readings_stand_in_the_json(tynda_, folder, tiny):
    result = ended(tynda_("transcribe", "a.wav", "--n-best", "3", "--format", "json"), 0)
    expected = tiny.transcribe("a.wav", tynda.Decoding(n_best=3))
    assert json.loads(result.stdout) == expected.to_dict()
    assert len(expected.segments[0].alternatives) == 2


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["transcribe"],
        ["transcribe", "a.wav", "--format", "doc"],
        ["transcribe", "a.wav", "--beam-size", "0"],
        ["transcribe", "a.wav", "--hotword-boost", "-1"],
        ["transcribe", "a.wav", "--threads", "0"],
        ["transcribe", "a.wav", "--backend", "tpu"],
        ["evaluate", "model"],
        ["train"],
        ["sing"],
    ],
)
def test_wrong_usage_ends_with_two(args):
    result = ended(CliRunner().invoke(main, args), 2)
    assert "Usage:" in result.output


@pytest.mark.parametrize("args", [[], ["transcribe"], ["evaluate"], ["train"], ["models"]])
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
    assert "said  one smile two" in table
    assert "a.wav" not in table
    shown = ended(tynda_("evaluate", tiny_file, "m.jsonl", "--show"), 0).stdout
    assert "a.wav" in shown
    assert "said" not in ended(tynda_("evaluate", tiny_file, "m.jsonl", "--worst", 0), 0).stdout


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
    assert sum(sizes.values()) <= 4_000_000
    assert sizes.get("digits-en.safetensors", 0) <= 300_000


def run(*args, **options):
    """``python -m tynda`` in a process of its own."""
    command = [sys.executable, "-m", "tynda", *map(str, args)]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def test_a_real_process_reads_stdin_and_writes_stdout(folder, tiny_file, tiny):
    done = run("transcribe", "-", "--model", tiny_file, input=(folder / "a.wav").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip() == tiny.transcribe("a.wav").text


def test_a_real_process_reports_errors_without_a_traceback(folder, tiny_file):
    strange = b"\xff[/x] :smile:.wav"  # no character, no markup, no emoji
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
