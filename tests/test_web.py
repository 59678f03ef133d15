"""The engine in WebAssembly: in Node.js, and in a real browser where there is one."""

import base64
import functools
import gzip
import hashlib
import http.server
import io
import json
import re
import runpy
import shutil
import socket
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import tynda
from browsing import (
    BUILT,
    MODELS,
    ROOT,
    WEB,
    as_wavs,
    chromium,
    node_program,
    plain_kernels,
    python_texts,
    samples_file,
)
from building import SOURCE, program
from helpers import noise, write_wav
from test_export import timed
from tynda import manifest
from tynda.compile import native
from tynda.export import export_archive, export_model
from tynda.sound import audio, vad
from tynda.store import library

DEMO = ROOT / "demo" / "manifest.jsonl"
DATA = ROOT.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


def test_the_build_is_of_these_sources():
    built = (BUILT / "sources.txt").read_text("ascii").strip()
    now = runpy.run_path(str(WEB / "sources.py"))["digest"]()
    assert built == now, "src/tynda/serve/web is older than its sources: run `make web`"


def test_an_installed_page_notices_new_files():
    """The names of files stay the same: the service worker goes by their contents."""
    worker = (BUILT / "sw.js").read_text("utf-8")
    listed = dict(re.findall(r'{url:"([^"]+)",revision:("\w+"|null)}', worker))
    assert {"assets/app.js", "assets/engine.wasm", "index.html"} <= listed.keys()
    for name, revision in listed.items():
        assert revision == f'"{hashlib.md5((BUILT / name).read_bytes()).hexdigest()}"', name


def test_the_build_is_small():
    """It has two engines, of which a page runs one; what is installed has both."""
    sizes = [len(gzip.compress(path.read_bytes())) for path in BUILT.rglob("*") if path.is_file()]
    assert sum(sizes) < 600_000


# ---- archives


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """The bundled models as archives, by name."""
    folder = tmp_path_factory.mktemp("archives")
    for name in MODELS:
        export_archive(library.load(name), folder / f"{name}.tar.gz")
    return {name: folder / f"{name}.tar.gz" for name in MODELS}


def test_an_archive_has_the_files_of_the_export(archives, tmp_path):
    export_model(library.load("digits-en"), tmp_path / "m")
    with tarfile.open(archives["digits-en"]) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}


def test_equal_models_make_equal_archives_of_about_the_size_of_the_file(archives, tmp_path):
    export_archive(library.load("digits-en"), tmp_path / "m.tar.gz")
    assert (tmp_path / "m.tar.gz").read_bytes() == archives["digits-en"].read_bytes()
    for name, path in archives.items():
        assert path.stat().st_size < 1.25 * library.bundled()[name].stat().st_size


def test_the_command_writes_a_file_where_the_name_ends_so(run, tmp_path):
    result = run("export", "digits-en", tmp_path / "m.tar.gz")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'm.tar.gz'}\n")
    (tmp_path / "n.tar.gz").mkdir()
    result = run("export", "digits-en", tmp_path / "n.tar.gz")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'n.tar.gz'} is a folder: give a file\n"


@pytest.fixture
def run():
    from click.testing import CliRunner

    from tynda.cli import main

    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


# ---- the engine in Node.js


@pytest.fixture(scope="session")
def node():
    """A function that runs the engine on an archive and recordings; returns the ended process."""
    program = node_program("recognise")

    def run(archive, *files, timeout=300):
        command = [*program, archive, *files]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return as_wavs(tmp_path_factory.mktemp("recordings"), manifest.read(DEMO))


def texts(done):
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_node_writes_the_text_that_python_writes(node, archives, recordings, tmp_path, name):
    files = [samples_file(tmp_path / f"{w.stem}.f32", audio.load(w)) for w in recordings]
    found = texts(node(archives[name], *files))
    assert found == python_texts(name, recordings)
    assert len(found) > 5
    assert all(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_node_writes_the_text_of_python_on_200_recordings(node, archives, tmp_path, name):
    if not (DATA / "dev.jsonl").exists():
        pytest.skip("needs the recordings in ../shared/data")
    wavs = as_wavs(tmp_path, manifest.read(DATA / "dev.jsonl")[::6][:200])
    files = [samples_file(w.with_suffix(".f32"), audio.load(w)) for w in wavs]
    assert texts(node(archives[name], *files, timeout=3600)) == python_texts(name, wavs)


def gzipped(change):
    """Return the function that changes an archive's contents and compresses the result."""
    return lambda data: gzip.compress(change(gzip.decompress(data)), 1)


def tar_of(**files):
    """An archive of other files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name.replace("_", "."))
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return gzip.compress(buffer.getvalue())


DAMAGES = {
    "cut off": (gzipped(lambda data: data[: len(data) // 2]), "cut off"),
    "other bytes": (lambda _: gzip.compress(b"<!doctype html>" * 100), "no model"),
    "empty": (lambda _: gzip.compress(b""), "no model"),
    "another archive": (lambda _: tar_of(notes_txt=b"mine"), "no model"),
    "another manifest": (
        lambda _: tar_of(weights_bin=b"x", tokens_txt=b"a\n", manifest_txt=b"mine"),
        "manifest",
    ),
    "a file is missing": (
        lambda _: tar_of(manifest_txt=b"tynda-export 1\n"),
        "no file weights.bin",
    ),
    "a number": (gzipped(lambda data: data.replace(b" hop=", b" hop=9", 1)), ""),
    "a header": (gzipped(lambda data: b"x" + data[1:]), "no model"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line(node, archives, tmp_path, name):
    change, said = DAMAGES[name]
    (tmp_path / "m.tar.gz").write_bytes(change(archives["digits-en"].read_bytes()))
    done = node(tmp_path / "m.tar.gz", samples_file(tmp_path / "a.f32", np.zeros(16000)))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_recordings_that_cannot_be(node, archives, tmp_path):
    broken = samples_file(tmp_path / "a.f32", np.array([0, np.nan] * 8000))
    assert "a sample is not finite" in node(archives["digits-en"], broken).stderr
    found = texts(node(archives["digits-en"], samples_file(tmp_path / "a.f32", np.zeros(0))))
    assert found == [""]


def two_minutes(folder, recordings):
    """Recordings one after the other, with pauses of some lengths: samples."""
    parts = []
    for i in range(4 * len(recordings)):
        parts += [
            audio.load(recordings[i % len(recordings)]),
            noise(0.2 + 0.1 * (i % 4), level=0.001),
        ]
    samples = audio.load(write_wav(folder / "long.wav", np.concatenate(parts)[: 120 * 16000]))
    assert len(samples) == 120 * 16000
    return samples


def test_long_recordings_are_cut_as_python_cuts_them(node, recordings, tmp_path):
    name, window = "sentences-en", 8
    export_archive(library.load(name), tmp_path / "m.tar.gz", window)
    samples = two_minutes(tmp_path, recordings)
    done = node(tmp_path / "m.tar.gz", samples_file(tmp_path / "a.f32", samples))
    found = json.loads(done.stdout)
    pieces = [piece for _, piece in vad.split([samples], window, window * 3 / 8)]
    assert len(pieces) > 4
    # `write_wav` multiplies by 32767, and a reader divides by 32768.
    wavs = [write_wav(tmp_path / f"{i}.wav", x * 32768 / 32767) for i, x in enumerate(pieces)]
    expected = python_texts(name, wavs)
    assert found["text"] == " ".join(filter(None, expected))
    ends = np.cumsum([len(piece) for piece in pieces]) / 16000
    spoken = [(end, text) for end, text in zip(ends, expected, strict=True) if text]
    assert [(s["end"], s["text"]) for s in found["segments"]] == spoken
    assert 0 < found["confidence"] < 1


def test_windows_of_whisper_begin_where_python_begins_them(node, archives, recordings, tmp_path):
    """Segments with Whisper's own times, of recordings in windows of each length and of more."""
    name = "whisper-tiny.en"
    heard = [audio.load(wav) for wav in recordings]
    heard = [heard[0][: 16000 * n] for n in (1, 2, 5)] + heard + [np.concatenate(heard[:4])]
    heard.append(two_minutes(tmp_path, recordings))
    files = [samples_file(tmp_path / f"{i}.f32", x) for i, x in enumerate(heard)]
    done = node(archives[name], *files)
    assert (done.returncode, done.stderr) == (0, "")
    with plain_kernels():
        model = tynda.load(name, threads=1)
        expected = [timed(model, samples) for samples in heard]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for each, segments in zip(found, expected, strict=True):
        assert each["text"] == "".join(text for *_, text in segments).strip()
        got = [(s["start"], s["end"], s["text"]) for s in each["segments"]]
        assert got == [(pytest.approx(a), pytest.approx(b), t.strip()) for a, b, t in segments]
    assert len(found[-1]["segments"]) > 12
    assert max(s["end"] - s["start"] for s in found[-1]["segments"]) < 15


def test_confidence_is_the_mean_probability_of_the_tokens(node, archives, recordings, tmp_path):
    files = [samples_file(tmp_path / f"{w.stem}.f32", audio.load(w)) for w in recordings]
    files.append(samples_file(tmp_path / "silence.f32", np.zeros(16000)))
    lines = map(json.loads, node(archives["digits-en"], *files).stdout.splitlines())
    found = [line["confidence"] for line in lines]
    model = tynda.load("digits-en", threads=1)
    blank = model.checkpoint.tokenizer.blank
    for wav, confidence in zip(recordings, found, strict=False):
        log_probs = model.encode(audio.load(wav))
        best = log_probs.argmax(1)
        starts = np.flatnonzero(np.r_[True, best[1:] != best[:-1]])
        highest = np.maximum.reduceat(log_probs.max(1), starts)
        mean = highest[best[starts] != blank].mean()
        assert confidence == pytest.approx(np.exp(mean), abs=0.02)
    assert found[-1] == 1


@pytest.mark.slow
def test_kernels_of_webassembly(tmp_path):
    node, cmake = program("node"), [program("emcmake"), program("cmake")]
    configure = [*cmake, "-S", SOURCE, "-B", tmp_path, "-DTYNDA_TESTS=ON"]
    for command in (configure, [cmake[1], "--build", tmp_path, "--target", "tynda_tests"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    command = [node, "--no-warnings", SOURCE / "tests" / "run.mjs", tmp_path / "tynda_tests.wasm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("wasm, scalar, ")
    assert done.stdout.endswith(" 0 failed\n")


# ---- the engine in a browser


class Static(NamedTuple):
    """A plain server of the engine's files and of models."""

    folder: Path
    url: str
    seen: list[str]  # the paths of requests
    server: http.server.ThreadingHTTPServer


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    shutil.copytree(BUILT / "assets", folder / "assets")
    (folder / "index.html").write_text("<!doctype html><title>test</title>")
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            seen.append(self.path)

        def log_error(self, *_):
            pass

        def end_headers(self):
            if self.server.isolates:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.isolates = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Static(folder, f"http://127.0.0.1:{server.server_port}", seen, server)
    server.shutdown()
    thread.join()
    server.server_close()


LOAD = """async url => {
  const { Recogniser } = await import("/assets/engine.js");
  window.progress = [];
  try {
    window.model = await Recogniser.load(url, { onProgress: (...p) => window.progress.push(p) });
  } catch (error) { return error.message; }
  return null;
}"""
LOAD_WITH = """async ([url, threads]) => {
  const { Recogniser } = await import("/assets/engine.js");
  try {
    window.model = await Recogniser.load(url, { threads });
  } catch (error) { return error.message; }
  return null;
}"""
TRANSCRIBE = """async encoded => {
  const bytes = Uint8Array.from(atob(encoded), c => c.charCodeAt(0));
  try {
    return await window.model.transcribe(new Float32Array(bytes.buffer));
  } catch (error) { return { message: error.message, code: error.code }; }
}"""


def encoded(samples):
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


@pytest.mark.parametrize("name", MODELS)
def test_a_browser_writes_the_text_that_python_writes(static, archives, recordings, name):
    folder, url, seen, _ = static
    shutil.copy(archives[name], folder / "model.tar.gz")
    expected = python_texts(name, recordings)
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        assert page.evaluate(LOAD, "model.tar.gz") is None
        size = archives[name].stat().st_size
        assert page.evaluate("window.progress.at(-1)") == [size, size]
        samples = [encoded(audio.load(wav)) for wav in recordings]
        assert [page.evaluate(TRANSCRIBE, each) for each in samples] == expected
        broken = page.evaluate(TRANSCRIBE, encoded(np.full(16000, np.nan)))
        assert broken == {"message": "a sample is not finite", "code": "finite"}

        # It is in the cache now, and is not downloaded again.
        page.reload()
        seen.clear()
        assert page.evaluate(LOAD, "model.tar.gz") is None
        assert not any("model" in path for path in seen)
        assert page.evaluate(TRANSCRIBE, samples[0]) == expected[0]


@pytest.fixture
def isolated(static):
    """Pages of the server are isolated from others, so that they may have threads."""
    static.server.isolates = True
    yield static
    static.server.isolates = False


@pytest.mark.parametrize("name", MODELS)
def test_threads_write_the_text_that_python_writes(isolated, archives, recordings, name):
    folder, url, seen, _ = isolated
    shutil.copy(archives[name], folder / "model.tar.gz")
    expected = python_texts(name, recordings)
    samples = [encoded(audio.load(wav)) for wav in recordings]
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        for count, engine in ((3, "engine-threads.wasm"), (1, "engine.wasm")):
            seen.clear()
            assert page.evaluate(LOAD_WITH, ["model.tar.gz", count]) is None
            assert f"/assets/{engine}" in seen
            assert [page.evaluate(TRANSCRIBE, each) for each in samples] == expected
            broken = page.evaluate(TRANSCRIBE, encoded(np.full(16000, np.nan)))
            assert broken == {"message": "a sample is not finite", "code": "finite"}
            page.evaluate("window.model.close()")
        (folder / "unweighted.tar.gz").write_bytes(tar_of(manifest_txt=b"mine", tokens_txt=b"a"))
        assert "weights.bin" in page.evaluate(LOAD_WITH, ["unweighted.tar.gz", 2])


STREAM = """async encoded => {
  const bytes = Uint8Array.from(atob(encoded), c => c.charCodeAt(0));
  const samples = new Float32Array(bytes.buffer);
  const seen = [], partial = [];
  const whole = await window.model.transcribed(samples, { onSegment: s => seen.push(s) });
  const stream = window.model.stream(text => partial.push(text));
  for (let at = 0; at < samples.length; at += 1000) {
    stream.feed(samples.slice(at, at + 1000));
    if (at % 8000 == 0) await new Promise(resolve => setTimeout(resolve, 10));
  }
  const streamed = await stream.finish();
  const of = ({ text, segments, confidence }) => ({ text, segments, confidence });
  return { whole: of(whole), streamed: of(streamed), seen, partial };
}"""


def test_long_and_live_recordings_in_a_browser(static, recordings):
    folder, url, *_ = static
    export_archive(library.load("digits-en"), folder / "short.tar.gz", 8)
    samples = np.concatenate([audio.load(wav) for wav in recordings])
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        assert page.evaluate(LOAD, "short.tar.gz") is None
        found = page.evaluate(STREAM, encoded(samples))
        assert found["streamed"] == found["whole"]
        assert found["whole"]["segments"] == found["seen"]
        assert len(found["seen"]) > 3
        assert found["whole"]["text"] == " ".join(s["text"] for s in found["seen"])
        # What is whole does not change any more.
        assert len(found["partial"]) > 3
        assert found["partial"][-1].startswith(found["seen"][0]["text"])
        assert page.evaluate(STREAM, encoded(np.zeros(0)))["streamed"]["text"] == ""


def test_models_that_cannot_be_loaded_in_a_browser(static, archives):
    folder, url, *_ = static
    whole = archives["digits-en"].read_bytes()
    (folder / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    (folder / "flipped.tar.gz").write_bytes(flipped)
    (folder / "foreign.tar.gz").write_bytes(tar_of(notes_txt=b"mine"))
    (folder / "plain.tar").write_bytes(gzip.decompress(whole))
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        for name, said in (
            ("none.tar.gz", f"the model cannot be downloaded: 404 from {url}/none.tar.gz"),
            ("cut.tar.gz", "the download of the model was interrupted, or it is damaged"),
            ("flipped.tar.gz", "the download of the model was interrupted, or it is damaged"),
            ("foreign.tar.gz", "the file is no model of tynda"),
            ("index.html", "the file is no model of tynda"),
        ):
            assert page.evaluate(LOAD, name) == said
            assert page.evaluate(LOAD, name) == said  # It was not cached.
        with socket.socket() as closed:  # A port on which nobody listens.
            closed.bind(("127.0.0.1", 0))
            nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/m"
            assert "no answer from" in page.evaluate(LOAD, nowhere)
        assert page.evaluate(LOAD, "plain.tar") is None  # Servers may decompress.

        # A copy in the cache that is damaged is downloaded again.
        shutil.copy(archives["digits-en"], folder / "again.tar.gz")
        page.evaluate(
            """async url => (await caches.open("tynda-models"))
            .put(url, new Response(new Uint8Array(4096)))""",
            f"{url}/again.tar.gz",
        )
        assert page.evaluate(LOAD, "again.tar.gz") is None
