"""Downloads of models that are cut go on where they were, in a real browser."""

import http.server
import re
import shutil
import threading
import time

import pytest

from browsing import BUILT, chromium
from tynda.compile import native
from tynda.export import export_archive
from tynda.store import library

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")

LOAD = """async url => {
  const { Recogniser } = await import("/assets/engine.js");
  window.progress = [];
  try {
    const model = await Recogniser.load(url, { onProgress: (...p) => window.progress.push(p) });
    model.close();
  } catch (error) { return error.code; }
  return null;
}"""
PARTS = """async () => {
  const keys = await (await caches.open("tynda-parts")).keys();
  return keys.length;
}"""


class Server(http.server.ThreadingHTTPServer):
    """It serves one file with ranges, of which the next answers end early."""

    def __init__(self, folder, data):
        self.folder, self.data, self.tag = folder, data, '"one"'
        self.cuts, self.ranges = [], []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        return str(self.server.folder / path.split("?")[0].strip("/"))

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        if not self.path.startswith("/model"):
            return super().do_GET()
        wanted = self.headers["Range"]
        server.ranges.append(wanted)
        start = 0
        if wanted and self.headers["If-Range"] in (None, server.tag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        rest = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            whole = len(server.data)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if not server.cuts:
            self.wfile.write(rest)
        elif cut := server.cuts.pop(0):
            self.wfile.write(rest[:cut])
            # A browser drops what it has not passed on when the connection ends.
            time.sleep(1)
        return None


@pytest.fixture
def server(tmp_path):
    shutil.copytree(BUILT / "assets", tmp_path / "assets")
    (tmp_path / "index.html").write_text("<!doctype html><title>test</title>")
    export_archive(library.load("digits-en"), tmp_path / "m.tar.gz", 8)
    with Server(tmp_path, (tmp_path / "m.tar.gz").read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_goes_on_where_it_was(server):
    with chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        whole = len(server.data)

        # The connection is cut, when some of it has come.
        server.cuts = [100_000]
        assert page.evaluate(LOAD, "model?v=1") is None
        assert server.ranges == [None, "bytes=100000-"]
        assert page.evaluate("window.progress.at(-1)") == [whole, whole]
        assert page.evaluate(PARTS) == 0

        # Nothing more comes: that is an error. The part is there when the page is opened again.
        server.cuts, server.ranges = [120_000, 0], []
        assert page.evaluate(LOAD, "model?v=2") == "interrupted"
        assert page.evaluate(PARTS) == 1
        page.reload()
        assert page.evaluate(LOAD, "model?v=2") is None
        assert server.ranges == [None, "bytes=120000-", "bytes=120000-"]
        assert page.evaluate("window.progress[0][0] > 120000")

        # A file that has changed is downloaded from its beginning.
        server.cuts, server.ranges = [120_000, 0], []
        assert page.evaluate(LOAD, "model?v=3") == "interrupted"
        server.tag = '"two"'
        assert page.evaluate(LOAD, "model?v=3") is None
        assert server.ranges == [None, "bytes=120000-", "bytes=120000-"]
        assert page.evaluate("window.progress.at(-1)") == [whole, whole]
        assert page.evaluate(PARTS) == 0

        # So is one of which the server does not tell the versions apart.
        server.tag, server.cuts, server.ranges = 'W/"weak"', [120_000], []
        assert page.evaluate(LOAD, "model?v=4") == "interrupted"
        assert page.evaluate(PARTS) == 0
        assert page.evaluate(LOAD, "model?v=4") is None
        assert server.ranges == [None, None]
