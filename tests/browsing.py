"""Helpers of the tests of the engine in WebAssembly and of the web app."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import tynda
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


def python_texts(name, wavs):
    """The greedy texts of Python for a model and recordings.

    The kernels are those in plain C++. Like WebAssembly, and unlike AVX2, they have four lanes and
    round each product before it is added; where a score is close, either text is right.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tynda._native, "instruction_sets", lambda: ["scalar"])
        mel_spectra.cache_clear()  # They have the kernels with which they were made.
        try:
            model = tynda.load(name, threads=1)
            return [greedy(model, wav) for wav in wavs]
        finally:
            mel_spectra.cache_clear()


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
