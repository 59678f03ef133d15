"""The engine in WebAssembly and the web app: in Node.js, and in a real browser where there is one."""

import base64
import functools
import gzip
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
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

import httpx

import tynda
from building import SOURCE, program
from helpers import write_wav
from serving import serving
from test_export import greedy
from tynda import manifest
from tynda.compile import native
from tynda.export import export_archive, export_model
from tynda.sound import audio
from tynda.store import library

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
BUILT = ROOT / "src" / "tynda" / "serve" / "web"
DEMO = ROOT / "demo" / "manifest.jsonl"
DATA = ROOT.parent / "shared" / "data"
MODELS = ["digits-en", "sentences-en", "whisper-tiny.en"]

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


def test_the_build_is_of_these_sources():
    built = (BUILT / "sources.txt").read_text("ascii").strip()
    now = runpy.run_path(str(WEB / "sources.py"))["digest"]()
    assert built == now, "src/tynda/serve/web is older than its sources: run `make web`"


def test_the_build_is_small():
    sizes = [len(gzip.compress(path.read_bytes())) for path in BUILT.rglob("*") if path.is_file()]
    assert sum(sizes) < 400_000


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
    node = program("node")
    compiler = WEB / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip("needs web/node_modules: run `npm --prefix web ci`")
    subprocess.run([compiler, "-p", WEB / "engine" / "tsconfig.node.json"], check=True)
    script = WEB / "build" / "test" / "recognise.js"

    def run(archive, *files, timeout=300):
        command = [node, script, BUILT / "assets" / "engine.wasm", archive, *files]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    return run


def samples_file(path, samples):
    samples.astype("<f4").tofile(path)
    return path


def as_wavs(folder, utterances):
    """The recordings as WAV files, so that every reader gets the same samples."""
    return [write_wav(folder / f"{i}.wav", audio.load(u.audio)) for i, u in enumerate(utterances)]


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return as_wavs(tmp_path_factory.mktemp("recordings"), manifest.read(DEMO))


@pytest.fixture
def python(monkeypatch):
    """A function that returns the greedy texts of Python for a model and recordings.

    The kernels are those in plain C++. Like WebAssembly, and unlike AVX2, they have four lanes and
    round each product before it is added; where a score is close, either text is right.
    """
    monkeypatch.setattr(tynda._native, "instruction_sets", lambda: ["scalar"])

    def texts(name, wavs):
        model = tynda.load(name, threads=1)
        return [greedy(model, wav) for wav in wavs]

    return texts


def texts(done):
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_node_writes_the_text_that_python_writes(
    node, archives, recordings, python, tmp_path, name
):
    files = [samples_file(tmp_path / f"{w.stem}.f32", audio.load(w)) for w in recordings]
    found = texts(node(archives[name], *files))
    assert found == python(name, recordings)
    assert len(found) > 5
    assert all(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_node_writes_the_text_of_python_on_200_recordings(node, archives, python, tmp_path, name):
    if not (DATA / "dev.jsonl").exists():
        pytest.skip("needs the recordings in ../shared/data")
    wavs = as_wavs(tmp_path, manifest.read(DATA / "dev.jsonl")[::6][:200])
    files = [samples_file(w.with_suffix(".f32"), audio.load(w)) for w in wavs]
    assert texts(node(archives[name], *files, timeout=3600)) == python(name, wavs)


def gzipped(change):
    """What changes an archive's contents, and compresses the result."""
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
    for samples, said in (
        (np.zeros(31 * 16000), "the maximum is 480000"),
        (np.array([0, np.nan] * 8000), "a sample is not finite"),
    ):
        done = node(archives["digits-en"], samples_file(tmp_path / "a.f32", samples))
        assert said in done.stderr
    found = texts(node(archives["digits-en"], samples_file(tmp_path / "a.f32", np.zeros(0))))
    assert found == [""]


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


@contextmanager
def chromium(*arguments):
    """A browser, or the test is skipped."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    arguments = ["--no-sandbox", *arguments]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """A plain server of the engine's files and of models: its folder, address and requests."""
    folder = tmp_path_factory.mktemp("static")
    shutil.copytree(BUILT / "assets", folder / "assets")
    (folder / "index.html").write_text("<!doctype html><title>test</title>")
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            seen.append(self.path)

        def log_error(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}", seen
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
TRANSCRIBE = """async encoded => {
  const bytes = Uint8Array.from(atob(encoded), c => c.charCodeAt(0));
  try {
    return await window.model.transcribe(new Float32Array(bytes.buffer));
  } catch (error) { return { message: error.message }; }
}"""


def encoded(samples):
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


@pytest.mark.parametrize("name", MODELS)
def test_a_browser_writes_the_text_that_python_writes(static, archives, recordings, python, name):
    folder, url, seen = static
    shutil.copy(archives[name], folder / "model.tar.gz")
    expected = python(name, recordings)
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        assert page.evaluate(LOAD, "model.tar.gz") is None
        size = archives[name].stat().st_size
        assert page.evaluate("window.progress.at(-1)") == [size, size]
        samples = [encoded(audio.load(wav)) for wav in recordings]
        assert [page.evaluate(TRANSCRIBE, each) for each in samples] == expected
        too_long = page.evaluate(TRANSCRIBE, encoded(np.zeros(31 * 16000)))
        assert "the maximum is 480000" in too_long["message"]

        # It is in the cache now, and is not downloaded again.
        page.reload()
        seen.clear()
        assert page.evaluate(LOAD, "model.tar.gz") is None
        assert not any("model" in path for path in seen)
        assert page.evaluate(TRANSCRIBE, samples[0]) == expected[0]


def test_models_that_cannot_be_loaded_in_a_browser(static, archives):
    folder, url, _ = static
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


# ---- the server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


def test_the_page_and_its_files_need_no_key(server):
    page = httpx.get(server.url)
    assert page.status_code == 200
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"]
    names = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(names) > 4
    for name in [*names, "/sw.js", "/assets/engine.js", "/assets/engine.wasm"]:
        answer = httpx.get(server.url + name)
        assert answer.status_code == 200, name
        assert answer.content == (BUILT / name[1:]).read_bytes()
        again = httpx.get(server.url + name, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    plain = httpx.get(f"{server.url}/assets/engine.wasm", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Content-Type"] == "application/wasm"
    for name in ("/assets/none.js", "/sources.txt", "/assets/../web.py", "/web/models/none.tar.gz"):
        answer = httpx.get(server.url + name)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]


def test_models_are_downloaded_without_a_key(server, archives):
    listed = httpx.get(f"{server.url}/web/models.json").json()
    assert {model["name"] for model in listed} == set(MODELS)
    found = next(model for model in listed if model["name"] == "digits-en")
    answer = httpx.get(server.url + found["url"], timeout=60)
    assert answer.content == archives["digits-en"].read_bytes()
    assert "immutable" in answer.headers["Cache-Control"]
    part = httpx.get(server.url + found["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, answer.content[10:20])


# ---- the app

FAKE_MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
READY = "button.record:not([disabled])"
STORED = """() => new Promise((resolve, reject) => {
  const request = indexedDB.open("tynda");
  request.onsuccess = () => {
    const all = request.result.transaction("entries").objectStore("entries").getAll();
    all.onsuccess = async () => {
      const last = all.result.at(-1);
      const bytes = new Uint8Array(await last.wav.arrayBuffer());
      resolve({ text: last.text, wav: btoa(Array.from(bytes, c => String.fromCharCode(c)).join("")) });
    };
  };
})"""


@contextmanager
def app(url, *arguments, **screen):
    """The page of the app in a browser, whose model is loaded. Problems fail the test."""
    problems = []
    with chromium(*arguments) as browser:
        context = browser.new_context(**{**PHONE, **screen})
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        page.locator(READY).wait_for(timeout=60_000)
        yield page
    assert problems == []


def record(page, seconds):
    """Record for some seconds; returns the text that is shown."""
    page.locator(READY).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_timeout(1000 * seconds)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Record").wait_for(timeout=60_000)
    return page.locator("#text").text_content()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recorded_becomes_the_text_that_python_writes(
    server, recordings, python, tmp_path, name
):
    spoken = recordings[-1]
    microphone = [*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={spoken}%noloop"]
    with app(server.url, *microphone) as page:
        page.get_by_label("Model").select_option(name)
        page.locator(READY).wait_for(timeout=60_000)
        sent = []
        page.context.on("request", lambda request: sent.append(request.url))
        text = record(page, 5)
        stored = page.evaluate(STORED)
        assert [url for url in sent if not url.endswith("/capture.js")] == []
        (tmp_path / "a.wav").write_bytes(base64.b64decode(stored["wav"]))
        assert [text] == [stored["text"]] == python(name, [tmp_path / "a.wav"])
        if name == "whisper-tiny.en":
            assert "fellow Americans" in text
        samples = audio.load(tmp_path / "a.wav")
        assert 4 < len(samples) / 16000 < 8
        assert np.abs(samples).max() > 0.05

        # The history survives a reload, and can be played and deleted.
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("No recordings yet.").wait_for()
        page.reload()
        page.get_by_text("No recordings yet.").wait_for()


def test_the_app_works_without_a_network(server):
    with app(server.url, *FAKE_MICROPHONE) as page:
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.context.set_offline(True)
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        record(page, 1)
        page.get_by_role("button", name="Delete").wait_for()


def test_a_microphone_that_is_refused_is_one_line(server):
    with app(server.url) as page:
        page.locator(READY).click()
        error = page.get_by_role("alert")
        error.filter(has_text="microphone").wait_for()
        assert error.text_content().count("\n") == 0
        page.locator(READY).wait_for()


def test_a_server_without_models_is_one_line(server):
    with chromium() as browser:
        page = browser.new_page()
        page.route("**/web/models/*", lambda route: route.abort())
        page.route("**/web/models.json", lambda route: route.fulfill(status=500))
        page.goto(server.url)
        page.get_by_role("alert").filter(has_text="the server does not answer").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(server, scheme):
    axe = WEB / "node_modules" / "axe-core" / "axe.min.js"
    narrow = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme}
    with app(server.url, *FAKE_MICROPHONE, **narrow) as page:
        record(page, 1)
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1] == 320
        # By keyboard: each control is reached by Tab, and Enter presses it.
        page.locator(READY).focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").wait_for()
        page.keyboard.press("Enter")
        page.locator(READY).wait_for()
        page.locator(READY).focus()
        reached = []
        for _ in range(4):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent.slice(0, 6)"))
        assert reached[:3] == ["Play", "Copy", "Delete"]
        if not axe.exists():
            pytest.skip("needs web/node_modules for axe: run `npm --prefix web ci`")
        page.evaluate(axe.read_text("utf-8"))
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
