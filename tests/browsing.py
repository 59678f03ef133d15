"""Helpers of the tests of the engine in WebAssembly and of the web app."""

import base64
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import tynda
from building import program
from helpers import write_wav
from test_export import greedy
from tynda.sound import audio
from tynda.sound.mel import mel_spectra

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
BUILT = ROOT / "src" / "tynda" / "serve" / "web"
MODELS = ["digits-en", "sentences-en", "whisper-tiny.en"]


def as_wavs(folder, utterances):
    """The recordings as WAV files, so that every reader gets the same samples."""
    return [write_wav(folder / f"{i}.wav", audio.load(u.audio)) for i, u in enumerate(utterances)]


def samples_file(path, samples):
    """A file of samples, as the programs in Node.js read them."""
    samples.astype("<f4").tofile(path)
    return path


def node_program(name):
    """The command of a program of web/engine/test with the built engine, or a skipped test."""
    node, compiler = program("node"), WEB / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip("needs web/node_modules: run `npm --prefix web install`")
    subprocess.run([compiler, "-p", WEB / "engine" / "tsconfig.node.json"], check=True)
    return [node, WEB / "build" / "test" / f"{name}.js", BUILT / "assets" / "engine.wasm"]


@contextmanager
def plain_kernels():
    """Models that are loaded within the block have the kernels in plain C++.

    Like WebAssembly, and unlike AVX2, they have four lanes and round each product before it is
    added; where a score is close, either text is right.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tynda._native, "instruction_sets", lambda: ["scalar"])
        mel_spectra.cache_clear()  # They have the kernels with which they were made.
        try:
            yield
        finally:
            mel_spectra.cache_clear()


def python_texts(name, wavs):
    """The greedy texts of Python for a model and recordings, see `plain_kernels`."""
    with plain_kernels():
        model = tynda.load(name, threads=1)
        return [greedy(model, wav) for wav in wavs]


@contextmanager
def installed(*arguments):
    """Return what starts the installed browser, and its settings; skip the test without one."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        settings = {"executable_path": path, "args": ["--no-sandbox", *arguments]}
        yield playwright.chromium, settings


@contextmanager
def chromium(*arguments):
    """A browser, or the test is skipped."""
    with installed(*arguments) as (kind, settings):
        browser = kind.launch(**settings)
        yield browser
        browser.close()


@contextmanager
def persistent(folder):
    """A browser with a profile, which other ones of the tests have not, or the test is skipped."""
    with installed() as (kind, settings):
        context = kind.launch_persistent_context(folder, **settings)
        yield context
        context.close()


# ---- the app

FAKE_MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
READY = "button.record.idle:not([disabled])"

KEPT = """async () => {
  const all = (source, ...names) => Promise.all(names.map(name => new Promise((resolve, reject) => {
    const request = source.transaction(name).objectStore(name).getAll();
    request.onsuccess = () => resolve(request.result);
    request.onerror = reject;
  })));
  const source = await new Promise(resolve => {
    indexedDB.open("tynda").onsuccess = event => resolve(event.target.result);
  });
  const [[key], texts, recordings] = await all(source, "keys", "texts", "recordings");
  const isSecret = await crypto.subtle.exportKey("raw", key).then(() => false, () => true);
  const raw = bytes => Array.from(new Uint8Array(bytes), c => String.fromCharCode(c)).join("");
  const opened = async (store, { id, iv, data }) => {
    const additionalData = new TextEncoder().encode(`${store}/${id}`);
    return crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, key, data);
  };
  const decoder = new TextDecoder();
  const entries = await Promise.all(
    texts.map(async each => JSON.parse(decoder.decode(await opened("texts", each)))));
  const wavs = await Promise.all(
    recordings.map(async each => btoa(raw(await opened("recordings", each)))));
  const stored = [...texts, ...recordings].map(({ data }) => btoa(raw(data)));
  source.close();
  entries.sort((a, b) => b.created - a.created);
  return { isSecret, entries, wavs, stored };
}"""
"""What the page keeps: whether its key is one that no script can read, its entries, the newest
first, its recordings, and what is stored of both."""


def settle(page):
    """Wait until the model and its commands are loaded."""
    page.locator(READY).wait_for(timeout=60_000)
    listen = page.locator("section[aria-labelledby=commands-title] button:disabled")
    listen.wait_for(state="detached", timeout=60_000)


@contextmanager
def app(url, *arguments, **screen):
    """The page of the app in a browser, whose model is loaded. Problems fail the test."""
    problems = []
    with chromium(*arguments) as browser:
        context = browser.new_context(**{**PHONE, **screen})
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        settle(page)
        # The files of the page are cached, so that no other requests come.
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        yield page
    assert problems == []


def record(page, seconds):
    """Record for some seconds; returns the text that is shown. The page is in English."""
    page.locator(READY).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_timeout(1000 * seconds)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Record", exact=True).wait_for(timeout=60_000)
    return page.locator("#text").text_content()


def kept(page):
    """What the page keeps, see `KEPT`; recordings as bytes."""
    found = page.evaluate(KEPT)
    return {**found, "wavs": [base64.b64decode(wav) for wav in found["wavs"]]}


def speaking(path):
    """The arguments of a browser whose microphone hears a WAV file once, from each start on."""
    return [*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={path}%noloop"]
