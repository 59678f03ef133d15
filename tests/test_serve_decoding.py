"""The processes that decode recordings: the same samples, and limits that are kept."""

import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("psutil")

import psutil

from helpers import noise, write_wav
from serving import until
from tynda.errors import TyndaError
from tynda.serve import decoding
from tynda.serve.decoding import Decoder
from tynda.serve.workers import Slots, Stopped
from tynda.sound import audio

DEMO = Path(__file__).parents[1] / "demo"
FILES = sorted(path for path in DEMO.iterdir() if path.suffix in (".flac", ".opus", ".wav", ".mp3"))


OTHERS = []
"""Processes that earlier tests have started."""


@pytest.fixture(scope="module")
def decoder():
    OTHERS.extend(psutil.Process().children(recursive=True))
    made = Decoder(20, 0.5)
    yield made
    made.close()


@pytest.fixture
def ticket():
    slots = Slots(1)
    made = slots.admit(60)
    yield made
    made.release()


def children():
    return [each for each in psutil.Process().children(recursive=True) if each not in OTHERS]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_samples_are_those_of_this_process(decoder, ticket, file):
    stated = []
    samples = np.concatenate(list(decoder.decode(file.read_bytes(), ticket, stated.append)))
    assert np.array_equal(samples, audio.load(file))
    assert stated == [pytest.approx(len(samples) / audio.SAMPLE_RATE, abs=0.05)]


def test_mistakes_and_warnings_come_across(decoder, ticket):
    for data in (b"", b"nothing", bytes(1000)):
        with pytest.raises(TyndaError, match=r"^the file is") as caught:
            list(decoder.decode(data, ticket))
        with pytest.raises(TyndaError) as here:
            list(audio.stream(data))
        assert str(here.value).split("is", 1)[1] == str(caught.value).split("is", 1)[1]
    cut = FILES[0].read_bytes()[:-2000]
    with pytest.warns(UserWarning, match=r"^the file is (damaged or )?cut short"):
        list(decoder.decode(cut, ticket))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(decoder.decode(FILES[0].read_bytes(), ticket))


def test_a_child_ends_with_its_recording(decoder, ticket):
    list(decoder.decode(FILES[0].read_bytes(), ticket))
    until(lambda: len(children()) == 1)
    blocks = decoder.decode(FILES[0].read_bytes(), ticket)
    next(blocks)
    blocks.close()
    until(lambda: len(children()) == 1)


def long_flac(folder, seconds):
    import av

    write_wav(folder / "a.wav", noise(60, seed=1))
    one = (folder / "a.wav").read_bytes()
    samples = np.tile(np.frombuffer(one[44:], "<i2"), seconds // 60)
    with av.open(str(folder / "a.flac"), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        for at in range(0, len(samples), 160_000):
            part = samples[None, at : at + 160_000]
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return (folder / "a.flac").read_bytes()


def test_time_memory_and_files_are_limited(tmp_path, ticket, monkeypatch):
    """The limits of the system end a child that loops, fills the memory, or writes a file."""
    programs = {
        "time": "while True: pass",
        "memory": "bytearray(3 << 30)",
        "file": f"open({str(tmp_path / 'x')!r}, 'w').write('x' * 9999)",
    }
    for name, program in programs.items():
        folder = tmp_path / name
        folder.mkdir()
        # sitecustomize is run before anything else: it replaces the function that decodes.
        (folder / "sitecustomize.py").write_text(
            "import sys\n"
            "from tynda.sound import audio\n"
            f"def stream(*_, **__):\n    {program}\n    yield\n"
            "audio.stream = stream\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))
        limited = Decoder(1, 0.3)
        started = time.monotonic()
        expected = "too much memory" if name == "memory" else "cannot be decoded within the limits"
        with pytest.raises(TyndaError, match=expected):
            list(limited.decode(b"x", ticket))
        assert time.monotonic() - started < 30
        limited.close()
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_a_stopped_ticket_stops_a_child_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nfrom tynda.sound import audio\n"
        "def stream(*_, **__):\n    time.sleep(600)\n    yield\naudio.stream = stream\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Decoder(2, 0.5)
    slots = Slots(1)
    with pytest.raises(Stopped):
        list(made.decode(b"x", slots.admit(1.0)))
    # The child sleeps, which takes no time of the processor.
    (process,) = [each for each in children() if each.pid == made.pid]
    until(lambda: not process.children())
    made.close()


def test_a_process_that_was_killed_is_started_again(ticket):
    made = Decoder(20, 0.5)
    list(made.decode(FILES[0].read_bytes(), ticket))
    (process,) = [each for each in children() if each.pid == made.pid]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert len(list(made.decode(FILES[0].read_bytes(), ticket))) > 0
    made.close()


def test_without_fork_this_process_decodes(monkeypatch, ticket):
    monkeypatch.setattr(decoding, "_CAN_FORK", False)
    made = Decoder(20, 0.5)
    assert made.pid is None
    blocks = list(made.decode(FILES[0].read_bytes(), ticket))
    assert np.array_equal(np.concatenate(blocks), audio.load(FILES[0]))
    ticket.stop()
    with pytest.raises(TyndaError):
        list(made.decode(FILES[0].read_bytes(), ticket))
    made.close()


def test_a_long_recording_comes_in_blocks(tmp_path, decoder, ticket):
    data = long_flac(tmp_path, 120)
    seconds = sum(map(len, decoder.decode(data, ticket))) / audio.SAMPLE_RATE
    assert seconds == 120
