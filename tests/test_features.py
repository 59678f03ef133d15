"""Features of a recording that comes piece by piece are those of the whole recording."""

import numpy as np
import pytest

from helpers import noise, tone
from tynda.sound.features import WholeStream
from tynda.sound.frontend import Frames, LogMel, NemoLogMel, Raw, Spectrogram

WHISPER = LogMel(fft=400, normalize="whisper")
FIXED = LogMel(bins=3, normalize="fixed", mean=(-8, -9.5, -7), deviation=(3, 2.5, 4))
FRONTS = [WHISPER, FIXED, LogMel(normalize="whisper"), LogMel(), NemoLogMel(), Spectrogram(), Raw()]


def streamed(front, samples, size, silence):
    """Return the raw frames of samples that come in blocks, scaled after the last."""
    stream = front.stream()
    raw = [stream.add(samples[i : i + size]) for i in range(0, len(samples), size)]
    return stream.scaled(np.concatenate([*raw, stream.finish(silence)]))


@pytest.mark.parametrize("front", [*FRONTS, Frames()], ids=lambda front: str(front.config))
@pytest.mark.parametrize("size", [1, 159, 160, 161, 1000, 16000])
def test_blocks_make_no_difference(front, size):
    samples = np.concatenate([noise(0.2, level=0.01), tone(300, 0.1), np.zeros(1000, np.float32)])
    for silence in (0, 8000):
        expected = front(np.pad(samples, (0, silence)))
        np.testing.assert_array_equal(streamed(front, samples, size, silence), expected)


@pytest.mark.parametrize("length", [0, 1, 100, 159, 160, 199, 200, 201, 399, 400, 401, 560])
@pytest.mark.parametrize("silence", [0, 1, 100, 480000])
def test_short_recordings(length, silence):
    samples = noise(1, level=0.1)[:length]
    expected = WHISPER(np.pad(samples, (0, silence)))
    for size in (37, 1000):
        found = streamed(WHISPER, samples, size, silence)
        np.testing.assert_array_equal(found, expected)


def test_frames_that_are_further_apart_than_they_are_long():
    front = LogMel(window=64, hop=500, fft=64, bins=8, normalize="whisper")
    samples = noise(0.5)
    for size in (100, 333, 5000):
        np.testing.assert_array_equal(streamed(front, samples, size, 0), front(samples))


def test_the_loudest_energy_is_that_up_to_now():
    quiet, loud = noise(1, level=1e-3), noise(1, level=1.0)
    stream = WHISPER.stream()
    raw = stream.add(quiet)
    before = stream.scaled(raw.copy())
    np.testing.assert_array_equal(before[:90], WHISPER(quiet)[:90])
    stream.add(loud)
    after = stream.scaled(raw)
    whole = WHISPER(np.concatenate([quiet, loud]))
    np.testing.assert_array_equal(after, whole[: len(after)])
    assert (after != before).any()


def test_only_front_ends_without_statistics_know_frames_before_the_end():
    for front in FRONTS:
        is_whole = isinstance(front.stream(), WholeStream)
        assert is_whole == (getattr(front, "normalize", None) not in ("whisper", "fixed"))


def test_frames_with_fixed_statistics_do_not_depend_on_what_follows():
    quiet, loud = noise(1, level=1e-3), noise(1, level=1.0)
    stream = FIXED.stream()
    first = stream.scaled(stream.add(quiet))
    assert len(first) >= 98
    np.testing.assert_array_equal(first, FIXED(np.concatenate([quiet, loud]))[: len(first)])
