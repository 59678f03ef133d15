"""Models of the hub: the real client against a small hub on a local port."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from huggingface_hub import constants, file_download

import tynda
from helpers import noise
from hub_server import COMMIT, Hub
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.store import hub, library
from whisper_peer import write_folder

NAME = "someone/nano"
OPTIONS = {"temperature": (0.0,), "max_new_tokens": 20}
OPTIONS |= {"no_speech_threshold": None, "speech_threshold": 0.0}
CARD = "---\nlanguage: en\nlicense: apache-2.0  # as ever\ntags:\n- asr\n---\nlicense: none\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "nano"
    write_folder(folder, layers=1, frames=1500)
    (folder / "README.md").write_text(CARD)
    for other in ("pytorch_model.bin", "tf_model.h5", "training.log", "onnx/model.safetensors"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"not for us")
    return folder


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)


@pytest.fixture
def server(source, tmp_path, monkeypatch):
    """A hub that serves a folder which tests may change."""
    server = Hub(shutil.copytree(source, tmp_path / "served"))
    _use(server.url, monkeypatch)
    yield server
    server.close()


def _use(url, monkeypatch):
    """huggingface_hub reads the environment once, when it is imported."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def refused(match, name=NAME):
    with pytest.raises(TyndaError, match=match) as caught:
        hub.pull(name)
    assert "\n" not in str(caught.value)
    return caught.value


def same(folder, source):
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (source / "model.safetensors").read_bytes()


def run(*args):
    return CliRunner().invoke(main, ["models", *args])


def rows(*args):
    result = run(*args, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_a_pulled_model_is_the_folder_it_came_from(server, source):
    model = tynda.load(NAME)
    samples = noise(2)
    expected = tynda.load(source).transcribe(samples, **OPTIONS)
    assert model.transcribe(samples, **OPTIONS).text == expected.text != ""
    assert (model.header.name, model.header.licence) == (NAME, "apache-2.0")
    folder = hub.cached(NAME)
    wanted = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(p.name for p in folder.iterdir()) == wanted
    for name in wanted:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert server.got() == wanted


def test_the_second_time_nothing_is_asked(server, monkeypatch):
    folder = library.find(NAME)
    server.requests.clear()
    assert library.find(NAME) == folder
    assert tynda.load(NAME).header.name == NAME
    assert server.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert library.find(NAME) == folder


def test_a_revision_is_a_model_of_its_own(server):
    folder = hub.pull(f"{NAME}@v1")
    assert folder.name == COMMIT
    assert hub.cached(f"{NAME}@v1") == folder
    assert hub.cached(NAME) is None
    assert hub.pull(f"{NAME}@{COMMIT}") == folder
    assert server.got().count("model.safetensors") == 1
    refused("someone/nano has no revision v9", f"{NAME}@v9")


def test_pulling_again_gets_what_is_missing(server):
    folder = hub.pull(NAME)
    (folder / "config.json").resolve().unlink()
    (folder / "config.json").unlink()
    assert hub.cached(NAME) is None
    server.requests.clear()
    assert library.find(NAME) == folder
    assert server.got() == ["config.json"]


def test_a_cut_connection_is_taken_up_where_it_broke(server, source):
    server.cut, server.dies = [3_000_000], True
    assert isinstance(refused("HTTP 503"), hub.UnreachableError)
    assert hub.cached(NAME) is None
    server.status = {}
    server.requests.clear()
    folder = hub.pull(NAME)
    (asked,) = [where for how, path, where in server.requests if path.startswith("/cdn/")]
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    assert 3_000_000 - (1 << 16) <= start <= 3_000_000
    same(folder, source)
    assert not list((folder.parents[1] / "blobs").glob("*.incomplete"))


def test_a_short_break_is_not_even_noticed(server, source):
    server.cut = [2_000_000, 1_000_000]
    folder = hub.pull(NAME)
    same(folder, source)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_spoiled_bytes_are_noticed(server, file):
    server.spoiled = {file}
    refused(f"{file} of {NAME} arrived damaged.*tynda models pull {NAME}")
    assert hub.cached(NAME) is None
    server.spoiled = set()
    server.requests.clear()
    assert hub.cached(NAME) is None
    folder = hub.pull(NAME)
    assert server.got() == [file]  # the rest had arrived undamaged
    assert hub.cached(NAME) == folder


def test_who_has_no_access_is_told_what_to_do(server):
    refused(
        "neither a file nor a model .* someone/else; if it is private, set HF_TOKEN", "someone/else"
    )
    server.status = {"/resolve/": (403, "GatedRepo")}
    refused(f"is gated: accept its terms at http.*{NAME} and set HF_TOKEN")
    server.status = {"/api/": (403, None)}
    refused(r"not open to you \(HTTP 403\): set HF_TOKEN")
    server.status = {"/api/": (500, None)}
    assert isinstance(refused("HTTP 500"), hub.UnreachableError)


@pytest.mark.parametrize(
    "name",
    ["nano", "a/b/c", "a/b@", "a/b@../x", "a--b/c", "a/b.git", "a/b@x y", "../a", "a/ü", "a/"],
)
def test_malformed_names(server, name):
    refused("not a name on the hub: owner/name or owner/name@revision", name)
    assert server.requests == []


def test_pickled_weights_are_refused_before_they_are_fetched(server):
    (server.folder / "model.safetensors").unlink()
    refused(f"pickled.*hf download {NAME} --local-dir nano && python -c .*save_pretrained.* nano$")
    assert server.got() == []


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_repository_without_a_model(server, missing):
    (server.folder / missing).unlink()
    (server.folder / "pytorch_model.bin").unlink()
    refused(r"no files that tynda reads: config\.json and model\.safetensors")
    assert server.got() == []


def test_other_kinds_of_models_are_refused_before_they_are_fetched(server):
    (server.folder / "config.json").write_text('{"model_type": "bert"}')
    known = "moonshine, moonshine_streaming, parakeet_ctc, wav2vec2, hubert, whisper"
    refused(f"{NAME}: models of type 'bert' are not known; known: {known}")
    assert server.got() == []


def test_shards_are_left_where_the_whole_is(server):
    index, shard = "model.safetensors.index.json", "model-00001-of-00001.safetensors"
    (server.folder / index).write_text(json.dumps({"weight_map": {"x": shard}}))
    shutil.copy(server.folder / "model.safetensors", server.folder / shard)
    hub.pull(NAME)
    assert not {index, shard} & set(server.got())
    hub.remove(NAME)
    (server.folder / "model.safetensors").unlink()
    assert {index, shard} <= {path.name for path in hub.pull(NAME).iterdir()}


def test_adapters_come_when_they_are_asked_for(server):
    for language in ("deu", "kaz"):
        (server.folder / f"adapter.{language}.safetensors").write_bytes(language.encode())
    folder = hub.pull(NAME)
    assert not list(folder.glob("adapter*"))
    run = CliRunner().invoke(main, ["models", "pull", NAME, "--language", "kaz"])
    assert run.exit_code == 0, run.output
    assert [path.name for path in folder.glob("adapter*")] == ["adapter.kaz.safetensors"]
    hub.pull(NAME)  # without a language, the known ones are kept
    assert hub.cached(NAME) == folder
    (folder / "adapter.kaz.safetensors").unlink()
    assert hub.cached(NAME) is None
    with pytest.raises(TyndaError, match=r"no adapter.xyz.safetensors"):
        hub.pull(NAME, ["xyz"])


def test_no_room(server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(rf"{NAME} needs [\d,]+ bytes more in .*; 1,000 are free")
    assert server.got() == []


def test_a_disk_that_fills_up_on_the_way(server, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(file_download, "http_get", Mock(side_effect=full))
    refused(f"no disk space for {NAME} in .*: free some")


def test_without_a_network(server, monkeypatch):
    server.close()
    assert isinstance(refused("cannot be reached .*: check the network"), hub.UnreachableError)
    says = f"{NAME} is not on this machine, and .*`tynda models pull {NAME}`.*{library.DEFAULT}"
    with pytest.raises(TyndaError, match=says):
        tynda.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TyndaError, match="HF_HUB_OFFLINE is set"):
        tynda.load(NAME)


def test_paths_come_first_and_model_files_are_never_asked_for(server, tmp_path, monkeypatch):
    for name in ("runs/best.safetensors", "nano", "./someone/nano"):
        with pytest.raises(TyndaError, match="no model"):
            library.find(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert library.find(NAME) == Path(NAME)
    assert server.requests == []


def test_the_commands(server, tmp_path):
    result = run("pull", NAME)
    assert result.exit_code == 0, result.output
    folder = result.stdout.strip()
    assert folder == str(hub.cached(NAME))
    listed, warned = rows("list")
    (row,) = [row for row in listed if row["name"] == NAME]
    assert warned == ""
    shown, _ = rows("show", NAME)
    assert shown.items() >= row.items()
    assert row == {
        "name": NAME,
        "bundled": False,
        "default": False,
        "bytes": (server.folder / "model.safetensors").stat().st_size,
        "family": "whisper",
        "languages": row["languages"],
        "licence": "apache-2.0",
        "scores": {},
    }
    assert len(row["languages"]) == 99
    assert shown["path"] == folder
    assert shown["config"]["channels"] == 32
    assert "apache-2.0" in run("show", NAME).stdout
    assert NAME in run("list").stdout
    assert run("remove", NAME).exit_code == 0
    assert not os.path.exists(folder)
    assert not list((tmp_path / "hf" / "hub").glob("models--*"))
    assert NAME not in run("list").output
    result = run("show", NAME)
    says = f"error: {NAME} is not on this machine: get it with `tynda models pull {NAME}`\n"
    assert result.stderr == says
    assert "no cached or pulled model" in run("remove", NAME).stderr


def test_one_revision_is_removed_and_another_stays(server):
    first = hub.pull(f"{NAME}@v1")
    other = shutil.copytree(first, first.with_name("f" * 40), symlinks=True)
    hub.remove(f"{NAME}@v1")
    assert not first.exists()
    assert (other / "model.safetensors").exists()


def test_bundled_models_stay_and_cached_ones_go(tiny_file, tmp_path):
    if library.bundled():
        result = run("remove", next(iter(library.bundled())))
        assert result.exit_code == 1
        assert "is bundled with tynda" in result.stderr
    mine = tmp_path / "xdg" / "tynda" / "models" / "mine.safetensors"
    mine.parent.mkdir(parents=True)
    shutil.copy(tiny_file, mine)
    shown, _ = rows("show", "mine")
    assert (shown["family"], shown["config"]["channels"]) == ("conformer", 16)
    assert run("remove", "mine").exit_code == 0
    assert not mine.exists()


def test_a_damaged_pull_is_passed_over_with_a_warning(server):
    blob = (hub.pull(NAME) / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-5])
    listed, warned = rows("list")
    assert NAME not in [row["name"] for row in listed]
    assert f"warning: {NAME} is damaged: get it with `tynda models pull {NAME}`\n" == warned
    refused("arrived damaged")
    hub.pull(NAME)
    assert rows("list")[1] == ""


def test_damaged_notes_and_lost_folders_are_as_good_as_none(server, tmp_path):
    folder = hub.pull(NAME)
    (note,) = (tmp_path / "xdg" / "tynda" / "hub").iterdir()
    for text in ("", "[]", "{}", '{"name": 1, "folder": 2, "files": 3}'):
        note.write_text(text)
        assert hub.cached(NAME) is None
        assert hub.pulled() == {}
    hub.pull(NAME)
    shutil.rmtree(folder.parents[1])
    assert hub.cached(NAME) is None
    assert hub.pulled() == {}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("", ""),
        ("license: mit", ""),
        ("---\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlicense:\n- mit\n---\n", ""),
        ("---\nlanguage: en\n---\nlicense: mit\n", ""),
    ],
)
def test_licences(server, card, licence):
    (server.folder / "README.md").write_text(card)
    hub.pull(NAME)
    assert rows("show", NAME)[0]["licence"] == licence


def python(code, **environment):
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_real_processes(server):
    """The hub is found through the environment alone, as for users."""
    pull = [sys.executable, "-m", "tynda", "models", "pull", NAME]
    done = subprocess.run(pull, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(hub.cached(NAME))
    server.close()
    load = f"import sys, tynda; tynda.load('{NAME}'); print('huggingface_hub' in sys.modules)"
    assert python(load) == python(load, HF_HUB_OFFLINE="1") == "False\n"
