"""The web app, as `tynda serve` serves it, in a real browser where there is one."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

import httpx

from browsing import (
    BUILT,
    FAKE_MICROPHONE,
    MODELS,
    READY,
    ROOT,
    WEB,
    app,
    chromium,
    kept,
    persistent,
    python_texts,
    record,
    settle,
    speaking,
)
from helpers import write_wav
from serving import serving
from tynda.compile import native
from tynda.export import export_archive
from tynda.sound import audio
from tynda.store import library

SHARING = """Object.defineProperty(navigator, "share", {
  value: async data => void (window.shared = data),
})"""
"""What the page shares goes to `window.shared`: a browser without a screen has no such dialog."""
JFK = ROOT / "demo" / "jfk.flac"

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


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


def test_models_are_downloaded_without_a_key(server, tmp_path):
    export_archive(library.load("digits-en"), tmp_path / "m.tar.gz", 8)
    listed = httpx.get(f"{server.url}/web/models.json").json()
    assert {model["name"] for model in listed} == set(MODELS)
    found = next(model for model in listed if model["name"] == "digits-en")
    answer = httpx.get(server.url + found["url"], timeout=60)
    assert answer.content == (tmp_path / "m.tar.gz").read_bytes()
    assert "immutable" in answer.headers["Cache-Control"]
    part = httpx.get(server.url + found["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, answer.content[10:20])


# ---- the app


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recorded_becomes_the_text_that_python_writes(server, tmp_path, name):
    spoken = write_wav(tmp_path / "spoken.wav", audio.load(JFK))
    with app(server.url, *speaking(spoken)) as page:
        page.get_by_label("Model").select_option(name)
        page.wait_for_timeout(200)
        settle(page)
        sent = []
        page.context.on("request", lambda request: sent.append(request.url))
        text = record(page, 5)
        found = kept(page)
        assert [url for url in sent if not url.endswith("/capture.js")] == []
        (tmp_path / "a.wav").write_bytes(found["wavs"][0])
        (entry,) = found["entries"]
        assert [text] == [entry["text"]] == python_texts(name, [tmp_path / "a.wav"])
        assert (entry["place"], entry["model"]) == ("device", name)
        assert f"On this device, {entry['confidence']:.0%} sure" in page.inner_text("#place")
        if name == "whisper-tiny.en":
            page.get_by_text("This model knows no commands").wait_for()
            assert "fellow Americans" in text
        samples = audio.load(tmp_path / "a.wav")
        assert 4 < len(samples) / 16000 < 8
        assert np.abs(samples).max() > 0.05

        # The history survives a reload, and can be played and deleted.
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        page.get_by_role("button", name="Play").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Subtitles").click()
        subtitles = Path(download.value.path()).read_text("utf-8")
        assert re.match(r"1\n00:00:0\d,\d\d\d --> 00:00:0\d,\d\d\d\n", subtitles)
        with page.expect_download() as download:
            page.get_by_role("button", name="Text file").click()
        assert Path(download.value.path()).read_text("utf-8") == f"{text}\n"
        assert download.value.suggested_filename == "tynda.txt"
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("No recordings yet.").wait_for()
        page.reload()
        page.get_by_text("No recordings yet.").wait_for()


def test_text_is_shown_while_somebody_speaks(server, tmp_path):
    spoken = write_wav(tmp_path / "spoken.wav", audio.load(ROOT / "demo" / "020070039.opus"))
    with app(server.url, *speaking(spoken)) as page:
        page.get_by_label("Model").select_option("digits-en")
        page.wait_for_timeout(200)
        page.locator(READY).wait_for(timeout=60_000)
        page.evaluate(SHARING)
        page.locator(READY).click()
        page.locator("#text", has_text="eight").wait_for(timeout=60_000)
        assert page.locator("button.record").text_content() == "Stop"
        assert page.locator("#text").get_attribute("aria-live") == "off"
        page.get_by_role("button", name="Stop").click()
        page.locator("#place", has_text="On this device").wait_for(timeout=60_000)
        (entry,) = kept(page)["entries"]
        assert page.inner_text("#text") == entry["text"]
        page.get_by_role("button", name="Share").click()
        assert page.evaluate("window.shared") == {"text": entry["text"]}
        # The text is that of the recording, however it was heard.
        page.get_by_role("button", name="Recognise again").click()
        page.locator("#place", has_text="On this device").wait_for(timeout=60_000)
        assert kept(page)["entries"] == [entry]


def test_the_app_works_without_a_network(server):
    with app(server.url, *FAKE_MICROPHONE) as page:
        page.context.set_offline(True)
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        record(page, 1)
        page.get_by_role("button", name="Delete").wait_for()


def test_the_app_is_installable(server, tmp_path):
    """By Chromium's own rules; a browser without a screen has no menu to install it from."""
    with persistent(tmp_path / "profile") as context:
        page = context.new_page()
        page.goto(server.url)
        settle(page)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        session = context.new_cdp_session(page)
        assert session.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
        found = session.send("Page.getAppManifest")
        assert found["errors"] == []
        assert json.loads(found["data"])["display"] == "standalone"


def test_a_reload_in_the_middle_of_recognising_loses_nothing(server, tmp_path):
    spoken = write_wav(tmp_path / "spoken.wav", audio.load(JFK))
    with app(server.url, *speaking(spoken)) as page:
        page.get_by_label("Model").select_option("whisper-tiny.en")
        page.wait_for_timeout(200)
        settle(page)
        page.locator(READY).click()
        page.get_by_role("button", name="Stop").wait_for()
        page.wait_for_timeout(5000)
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("listitem").wait_for()
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        assert page.get_by_role("listitem").count() == 1
        page.get_by_role("button", name="Recognise again").click()
        page.locator("#place", has_text="On this device").wait_for(timeout=60_000)
        assert "fellow Americans" in page.inner_text("#text")


def test_the_page_is_isolated_so_that_its_engine_may_have_threads(server):
    with app(server.url, *FAKE_MICROPHONE) as page:
        assert page.evaluate("crossOriginIsolated")
        page.reload()  # Now the service worker answers.
        settle(page)
        assert page.evaluate("crossOriginIsolated")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no microphone: connect one"),
        # Without a permission, and without anybody to ask for it, the browser refuses.
        (FAKE_MICROPHONE[:1], "the microphone was refused: allow it in the browser's settings"),
    ],
)
def test_no_microphone_is_one_line(server, arguments, said):
    with app(server.url, *arguments) as page:
        page.locator(READY).click()
        error = page.get_by_role("alert")
        error.filter(has_text=said).wait_for()
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
def test_everybody_can_use_it(server, tmp_path, scheme):
    spoken = write_wav(tmp_path / "spoken.wav", audio.load(JFK))
    narrow = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme}
    with app(server.url, *speaking(spoken), **narrow) as page:
        record(page, 3)
        # By keyboard: each control is reached by Tab, and Enter presses it.
        page.locator(READY).focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").wait_for()
        page.wait_for_timeout(2000)
        page.keyboard.press("Enter")
        page.get_by_role("listitem").nth(1).wait_for(timeout=60_000)
        page.locator(READY).focus()
        focused = "document.activeElement.textContent || document.activeElement.type"
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(focused))
        assert reached == [
            *("search", "Play", "Copy", "Edit", "Text file", "Subtitles"),
            *("Recognise again", "Delete"),
        ]
        look(page, "a text")

        page.get_by_label("Prefer the server").check()
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").blur()
        page.get_by_text("the server does not accept the API key").wait_for()
        page.get_by_label("Language that you speak").select_option("kk")
        edit = page.get_by_role("button", name="Edit").first
        edit.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Control+A")
        page.keyboard.type("and so my fellow Americans")
        look(page, "an editor")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("May models learn from it?").wait_for()
        # The focus stays in the entry.
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Yes, send both"
        look(page, "a question")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("May models learn from it?").wait_for(state="detached")
        record(page, 1)
        page.get_by_role("listitem").filter(has_text="the server").first.wait_for()
        look(page, "a refusal")


def look(page, about):
    """The page fits its width, and has no violation of axe."""
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1] == 320, about
    axe = WEB / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("needs web/node_modules for axe: run `npm --prefix web install`")
    page.evaluate(axe.read_text("utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    assert [(about, each["id"], each["nodes"][0]["html"]) for each in found] == []
