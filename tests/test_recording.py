"""Recordings that are read as far as needed, and forgotten behind."""

import tracemalloc
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import RATE, noise
from tynda.errors import TyndaError
from tynda.heads.seq2seq import activity
from tynda.heads.seq2seq.recording import AHEAD, Recording
from tynda.sound import audio, silero
from tynda.sound.frontend import LogMel
from tynda.sound.samples import as_samples
from tynda.sound.tape import Tape

DEMO = Path(__file__).parents[1] / "demo"
WITNESS = Path(__file__).parent / "data" / "witness-whisper.safetensors"
FRONT = LogMel(fft=400, normalize="whisper")


def blocks(seconds, made=None, size=RATE):
    """Yield noise second by second, and count what was asked for."""
    second = noise(1, level=0.1)
    for i in range(int(seconds)):
        if made is not None:
            made.append(i)
        yield second[:size]


def test_windows_are_those_of_the_whole_recording():
    samples = noise(70, level=0.1)
    samples[50 * RATE :] *= 8
    whole = FRONT(np.pad(samples, (0, 30 * RATE)))
    recording = Recording(np.array_split(samples, 7), FRONT, 3000)
    windows = [(0, 3000), (0, 10), (2995, 5995), (6500, 9500), (6990, 7000), (9990, 10000)]
    for start, stop in windows:
        recording.forget(start - 5 if start else 0)
        np.testing.assert_array_equal(recording.window(start, stop), whole[start:stop])
    assert recording.end(6999) == 6999
    assert recording.end(7001) == recording.end(10**12) == 7000


def test_nothing_and_almost_nothing():
    for length in (0, 1, 159, 160, 161):
        recording = Recording([noise(1)[:length]], FRONT, 3000)
        assert recording.end(100) == length // 160
        assert recording.window(0, 3000).shape == (3000, 80)
        assert len(recording.samples(0, 500)) == length


def test_it_reads_no_further_than_it_has_to():
    made = []
    recording = Recording(blocks(3600, made), FRONT, 3000)
    assert made == []
    assert recording.end(3000) == 3000
    assert len(made) == 30 + AHEAD
    recording.window(0, 2900)
    assert len(made) == 30 + AHEAD
    live = Recording(blocks(3600, made), FRONT, 3000, ahead=0)
    made.clear()
    live.window(0, 100)
    assert len(made) == 2  # the last frame ends after the first second


def test_what_was_forgotten_cannot_be_read():
    recording = Recording(blocks(100), FRONT, 3000)
    recording.forget(2000)
    assert len(recording.window(2000, 2100)) == 100
    with pytest.raises(ValueError, match="row 1999 is forgotten"):
        recording.window(1999, 2100)


@pytest.mark.parametrize("holds_samples", [True, False])
def test_memory_does_not_grow_with_the_recording(holds_samples):
    """Samples and features of ten minutes are 58 MB."""
    recording = Recording(blocks(2400), FRONT, 3000, holds_samples=holds_samples)
    tracemalloc.start()
    try:
        for seek in range(0, 240_000, 3000):
            recording.forget(seek)
            stop = recording.end(seek + 3000)
            if holds_samples:
                assert len(recording.samples(seek * 160, stop * 160)) == (stop - seek) * 160
            assert recording.window(seek, stop).shape == (stop - seek, 80)
        recording.drain()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 75e6


def session_peak(minutes, **options):
    """Return the peak of memory while a model with a window reads speech and much silence."""
    model = tynda.load(WITNESS)
    speech, silence = audio.load(DEMO / "jfk.flac"), np.zeros(RATE, np.float32)
    sound = chain([speech], repeat(silence, 60 * minutes), [speech])
    tracemalloc.start()
    try:
        segments = list(model.session(**options).segments(sound))
        assert segments[-1].end > 60 * minutes
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Loud:
    """A detector that takes what is loud for speech."""

    def add(self, samples):
        whole = samples[: len(samples) // 512 * 512].reshape(-1, 512)
        return (np.abs(whole).max(axis=1, initial=0) > 0.01).astype(np.float32)

    def finish(self):
        return np.zeros(0, np.float32)


@pytest.mark.parametrize("options", [{}, {"vad_filter": True}], ids=str)
def test_a_session_needs_no_more_memory_for_half_an_hour(monkeypatch, options):
    """Half an hour of samples alone is 115 MB."""
    monkeypatch.setattr(activity, "Detector", Loud)
    monkeypatch.setattr(silero, "Detector", Loud)
    assert session_peak(31, **options) < session_peak(1, **options) + 65e6


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"vad_filter": True}], ids=str)
def test_a_session_needs_no_more_memory_for_ten_hours(options):
    assert session_peak(600, **options) < session_peak(1, **options) + 75e6


def test_a_later_part_is_reached_without_holding_what_is_before_it():
    recording = Recording(blocks(2400), FRONT, 3000, holds_samples=False, ahead=0)
    recording.forget(230_000)
    tracemalloc.start()
    try:
        recording.window(230_000, 233_000)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_tape_is_the_end_of_an_array():
    rng, rows, tape = np.random.default_rng(0), np.arange(1000.0, dtype=np.float32), Tape()
    first = end = 0
    while end < len(rows):
        size = int(rng.integers(0, 40))
        tape.append(rows[end : end + size])
        end = len(tape)
        first = max(first, end - int(rng.integers(0, 100)))
        tape.forget(first)
        stop = int(rng.integers(first, end + 10))
        np.testing.assert_array_equal(tape.read(first, stop), rows[first:end][: stop - first])
    assert len(tape._blocks) < 20


def test_an_array_of_half_an_hour_is_not_copied():
    samples = np.full(1800 * RATE, 0.5, np.float32)
    tracemalloc.start()
    try:
        assert np.shares_memory(as_samples(samples), samples)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_wherever_they_are(bad):
    for at in (0, 7, 15):
        samples = noise(1)[:16]
        samples[at] = bad
        with pytest.raises(TyndaError, match="finite"):
            as_samples(samples)
