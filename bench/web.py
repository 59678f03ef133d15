"""The engine in a browser: bytes of a model, time to load it, real-time factor, memory.

    python bench/web.py RECORDING [MODEL ...]

Chromium runs the engine of ``src/tynda/serve/web`` in a worker, on one thread and on two. Times are
the median and the minimum of RUNS runs. The memory is what the page's process has to itself (USS)
beyond an empty page, at its maximum while the recording is recognised.
"""

import functools
import http.server
import shutil
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

from tynda.serve.web import export_for_page
from tynda.sound import audio
from tynda.store import library

BUILT = Path(__file__).parents[1] / "src" / "tynda" / "serve" / "web"
RUNS = 7
LOAD = """async threads => {
  const { Recogniser } = await import("/assets/engine.js");
  const started = performance.now();
  window.model = await Recogniser.load("model.tar.gz", { threads });
  return (performance.now() - started) / 1000;
}"""
TRANSCRIBE = """async () => {
  const response = await fetch("samples.f32");
  return await window.model.transcribed(new Float32Array(await response.arrayBuffer()));
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def served(folder):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def renderers():
    """The processes that render pages."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "--type=renderer" in process.cmdline():
                found.append(process)
    return found


def renderer_bytes():
    """The memory of the largest process that renders a page."""
    found = []
    for process in renderers():
        with suppress(psutil.Error):
            found.append(process.memory_full_info().uss)
    return max(found, default=0)


@contextmanager
def largest():
    """The maximum of `renderer_bytes` until the block ends, in a list."""
    found, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.02):
            found[0] = max(found[0], renderer_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    ended.set()
    thread.join()


def main():
    recording, *names = sys.argv[1:]
    samples = audio.load(Path(recording))[: 10 * 16_000]
    seconds = len(samples) / 16_000
    print(f"{seconds:.1f} s of {recording}")
    chromium = shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        shutil.copytree(BUILT / "assets", folder / "assets")
        (folder / "index.html").write_text("<!doctype html><title>bench</title>")
        samples.astype("<f4").tofile(folder / "samples.f32")
        for name in names or ["digits-en", "sentences-en", "whisper-tiny.en"]:
            export_for_page(library.load(name), folder / "model.tar.gz")
            print(f"{name}: {(folder / 'model.tar.gz').stat().st_size:,} bytes")
            for threads in (1, 2):
                with served(folder) as url:
                    measured = measure(playwright, chromium, url, threads)
                print(f"{name}, {threads} threads: {described(*measured, seconds)}", flush=True)


def measure(playwright, chromium, url, threads):
    """The seconds of loading, the runs, and the page's memory during each, in bytes."""
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page()
    page.goto(url)
    time.sleep(1)
    empty = renderer_bytes()
    with largest() as while_loading:
        loading = page.evaluate(LOAD, threads)
    with largest() as while_running:
        runs = [page.evaluate(TRANSCRIBE) for _ in range(RUNS)]
    browser.close()
    return loading, runs, while_loading[0] - empty, while_running[0] - empty


def described(loading, runs, while_loading, while_running, seconds):
    times = [run["seconds"] for run in runs]
    return (
        f"loaded in {loading:.1f} s; {statistics.median(times):.3f} s, at best {min(times):.3f} s: "
        f"real-time factor {statistics.median(times) / seconds:.3f}, at best "
        f"{min(times) / seconds:.3f}; memory of the engine {runs[-1]['memory'] / 1e6:.0f} MB, of "
        f"the page {while_loading / 1e6:.0f} MB while it loads, {while_running / 1e6:.0f} MB while "
        "it runs"
    )


if __name__ == "__main__":
    main()
