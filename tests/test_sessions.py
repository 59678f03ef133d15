"""One model in several threads and processes: each gets the result of a single thread."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import noise
from tynda.compile import native
from tynda.profiling.memory import resident
from tynda.sound import audio

DEMO = Path(__file__).parents[1] / "demo"
WITNESS = Path(__file__).parent / "data" / "witness-whisper.safetensors"
compiled = pytest.mark.skipif(not native.available(), reason="installed without a compiler")


@pytest.fixture(scope="module")
def recordings():
    """Return recordings of several lengths, so that threads need arenas of several sizes."""
    found = [audio.load(path) for path in sorted(DEMO.glob("*.opus"))]
    return [*found, *(samples[: 16000 + 7000 * i] for i, samples in enumerate(found))]


@compiled
@pytest.mark.parametrize("name", ["digits-en", "sentences-en", str(WITNESS)])
def test_eight_threads_write_what_one_writes(name, recordings):
    model = tynda.load(name)
    expected = [model.transcribe(samples) for samples in recordings]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(recordings)), 4))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: model.transcribe(recordings[i]), order)
    for i, transcript in zip(order, found, strict=True):
        assert transcript == expected[i]


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("name", ["digits-en", "sentences-en", "whisper-tiny.en"])
def test_many_transcriptions_in_eight_threads_need_no_more_memory(name, recordings):
    """The arena grows to one piece for each thread, and plans to their maximum number."""
    model, count = tynda.load(name), 200 if name.startswith("whisper") else 1000
    expected = [model.transcribe(samples) for samples in recordings]
    order = np.random.default_rng(1).permutation(np.resize(np.arange(len(recordings)), count))
    used = []

    def transcribe(i):
        found = model.transcribe(recordings[i])
        used.append(resident())
        return found

    with ThreadPoolExecutor(8) as pool:
        for i, transcript in zip(order, pool.map(transcribe, order), strict=True):
            assert transcript == expected[i]
    first, last = np.median(used[count // 5 : count // 3]), np.median(used[-count // 10 :])
    assert last - first < 20e6


@compiled
def test_segments_come_as_they_are_ready():
    model, path = tynda.load("sentences-en"), DEMO / "jfk.flac"
    whole, seen = model.transcribe(path), []
    segments = model.transcribe(path, stream=True, on_progress=seen.append)
    first = next(segments)
    assert first == whole.segments[0]
    assert seen == []  # the second piece has not been read
    assert [first, *segments] == whole.segments == list(model.segments(path))
    assert len(whole.segments) > 1


@compiled
def test_a_session_says_what_is_known_so_far():
    model = tynda.load("sentences-en")
    session = model.session(beam_size=1)
    texts = [session.text for _ in session.segments(audio.stream(DEMO / "jfk.flac"))]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert texts[-1] == model.transcribe(DEMO / "jfk.flac", beam_size=1).text
    assert session.seconds == pytest.approx(11, abs=0.01)


@compiled
def test_a_model_with_fewer_threads_leaves_the_others_theirs():
    samples = noise(2, level=0.1)
    many = tynda.load("digits-en", threads=3)
    expected = many.encode(samples)
    one = tynda.load("digits-en", threads=1)
    np.testing.assert_array_equal(one.encode(samples), expected)
    np.testing.assert_array_equal(many.encode(samples), expected)


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", ["digits-en", "whisper-tiny.en"])
def test_a_forked_process_goes_on_with_the_model(name):
    code = """
import os, sys, tynda
model = tynda.load(sys.argv[2], threads=2)
idle = os.fork()
if idle == 0:
    sys.exit(0)
assert os.waitpid(idle, 0)[1] == 0
text = model.transcribe(sys.argv[1]).text
child = os.fork()
if child == 0:
    same = model.transcribe(sys.argv[1]).text == text
    sys.exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    command = [sys.executable, "-c", code, DEMO / "020070039.opus", name]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of the address space")
def test_a_system_that_refuses_threads(recordings, tmp_path):
    code = (
        "import resource, sys, numpy as np, tynda\n"
        "samples = np.load(sys.argv[1])\n"
        "expected = tynda.load('digits-en', threads=1).transcribe(samples)\n"
        "model = tynda.load('digits-en', threads=1024)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)\n"
        "assert model.transcribe(samples) == expected\n"
    )
    np.save(file := tmp_path / "a.npy", recordings[0])
    done = subprocess.run(
        # The stack of each thread takes a third of the memory that is left.
        ["sh", "-c", 'ulimit -s 1048576; exec "$@"', "-", sys.executable, "-c", code, file],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
