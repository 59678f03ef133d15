"""The memory of a case is predicted, and a case that does not fit is skipped."""

import os
from pathlib import Path

import pytest

pytest.importorskip("psutil")

import psutil

from helpers import save_tiny
from tynda.compile import native
from tynda.profiling import run as running
from tynda.profiling.case import Case
from tynda.profiling.plan import Plan
from tynda.profiling.predict import predict
from tynda.profiling.run import measure
from tynda.store import library
from whisper_peer import write_folder

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a compiler")


def measured(model, **plan):
    plan = {"durations": (5.0,), "repeats": 1, "budget": 0.1, "threads": 2} | plan
    found = measure(Plan((str(model),), **plan))
    assert all(row.status == "ok" for row in found), [row.why for row in found]
    return [row.values["memory"] for row in found if row.case.work == "speed"]


def check(found):
    for memory in found:
        assert memory["predicted"] == pytest.approx(memory["peak"], rel=0.05)
        assert memory["base"] <= memory["described"] < memory["predicted"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
def test_a_small_model():
    check(measured("sentences-en", durations=(5.0, 30.0), batches=(1, 4)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
def test_what_reads_sound_is_not_the_models():
    manifest = Path(__file__).parents[1] / "demo" / "manifest.jsonl"
    check(measured("sentences-en", manifest=str(manifest)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
def test_raw_sound_is_not_copied():
    witness = Path(__file__).parent / "data" / "witness-wav2vec2.safetensors"
    check(measured(witness, bits=("stored", "8"), durations=(30.0,)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
def test_windows_make_room_for_each_other():
    witness = Path(__file__).parent / "data" / "witness-whisper.safetensors"
    check(measured(witness, bits=("stored", "8"), durations=(30.0,), batches=(16,)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
@pytest.mark.parametrize("bits", ["32", "8"])
def test_a_whisper_of_full_size(tmp_path, bits):
    tiny = {"channels": 384, "layers": 4, "heads": 6, "hidden": 1536, "frames": 1500}
    tiny |= {"decoder_layers": 4, "decoder_heads": 6, "decoder_hidden": 1536}
    write_folder(tmp_path / "tiny", **tiny)
    check(measured(tmp_path / "tiny", bits=(bits,), durations=(5.0, 30.0), batches=(1, 4)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="not Linux")
@pytest.mark.parametrize("bits", ["32", "8"])
def test_a_turbo_of_full_width(tmp_path, bits):
    """The shape is that of whisper-large-v3-turbo with 2 of 32 and 1 of 4 layers."""
    turbo = {"channels": 1280, "layers": 2, "heads": 20, "hidden": 5120, "frames": 1500}
    turbo |= {"decoder_layers": 1, "decoder_heads": 20, "decoder_hidden": 5120, "bins": 128}
    write_folder(tmp_path / "turbo", languages=100, **turbo)
    check(measured(tmp_path / "turbo", bits=(bits,)))


def test_what_is_foreseen_is_what_the_kernels_take(tmp_path):
    write_folder(tmp_path)
    model = library.load(tmp_path)
    for bits in ("32", "8"):
        case = Case("speed", "", "tynda", bits, seconds=2.0, batch=2, threads=2, tokens=2.0)
        found = predict(model, case)
        assert min(found.weights, found.arena, found.cache, found.data) > 0
        longer = predict(model, Case("speed", "", "tynda", bits, seconds=2.0, batch=4, threads=2))
        assert (longer.weights, longer.cache > found.cache) == (found.weights, True)


def test_a_case_that_does_not_fit_is_passed_over(tmp_path, monkeypatch):
    path = save_tiny(tmp_path / "tiny.safetensors")
    free = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(running.psutil, "virtual_memory", lambda: free)
    (row,) = measure(Plan((str(path),), durations=(5.0,)))
    assert row.status == "skipped"
    assert "memory" in row.why
