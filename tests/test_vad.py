"""Pieces: none lost, none too long, no word cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.vad import split

RATE = 16_000


def noise(seconds, level=0.3, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype("f4")


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def in_blocks(samples, size):
    return (samples[i : i + size] for i in range(0, len(samples), size))


def starts(samples, **limits):
    return [start for start, _ in split([samples], **limits)]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 60_000),
    block=st.integers(1, 70_000),
    most=st.floats(0.01, 3),
    share=st.floats(0.01, 1),
    quiet=st.booleans(),
)
def test_nothing_is_lost_and_no_limit_broken(n, block, most, share, quiet):
    samples = silence(n / RATE) if quiet else noise(n / RATE)
    # Pieces of a few samples are legal, and slow to test.
    block = max(block, n // 50)
    pieces = list(split(in_blocks(samples, block), most, most * share))
    joined = np.concatenate([piece for _, piece in pieces]) if pieces else silence(0)
    np.testing.assert_array_equal(joined, samples)
    lengths = [len(piece) for _, piece in pieces]
    assert all(0 < length <= most * RATE for length in lengths)
    assert all(length >= int(most * share * RATE) for length in lengths[:-1])
    ends = itertools.accumulate(lengths)
    assert [start for start, _ in pieces][1:] == [end / RATE for end in ends][:-1]
    assert not pieces or pieces[0][0] == 0.0


@pytest.mark.parametrize("block", [160, 16_000, 10**6])
def test_pieces_do_not_depend_on_the_blocks(block):
    samples = noise(70) * np.repeat(np.random.default_rng(1).random(140), 8000).astype("f4")
    whole = list(split([samples]))
    parts = list(split(in_blocks(samples, block)))
    assert [start for start, _ in whole] == [start for start, _ in parts]
    assert len(whole) >= 4


def test_short_sound_is_one_piece():
    samples = noise(20)
    ((start, piece),) = split([samples])
    assert start == 0.0
    np.testing.assert_array_equal(piece, samples)
    assert len(list(split([np.append(samples, np.float32(0))]))) == 2


def test_nothing_gives_nothing():
    assert list(split([])) == []
    assert list(split([silence(0), silence(0)])) == []


def test_the_cut_is_in_the_pause():
    samples = np.concatenate([noise(12), silence(0.4), noise(15)])
    (cut,) = starts(samples)[1:]
    assert 12 < cut < 12.4


def test_a_pause_of_speech_beats_the_closure_of_a_stop():
    samples = np.concatenate([noise(10), silence(0.06), noise(4), 0.05 * noise(0.4), noise(10)])
    (cut,) = starts(samples)[1:]
    assert 14.06 < cut < 14.46


def test_a_pause_shorter_than_the_average_is_cut_within():
    samples = np.concatenate([noise(12), silence(0.1), noise(15)])
    (cut,) = starts(samples)[1:]
    assert 12 <= cut <= 12.1


def test_a_pause_before_the_least_length_does_not_count():
    samples = np.concatenate([noise(5), silence(1), noise(20)])
    assert starts(samples)[1] >= 8


def test_digital_silence_gives_long_pieces():
    assert starts(silence(60))[1] > 19


def test_it_gives_as_it_goes():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield noise(1, seed=taken)

    assert len(list(itertools.islice(split(endless()), 5))) == 5
    assert taken <= 5 * 20 + 1


@pytest.mark.parametrize(("most", "least"), [(0, 0), (5, 8), (20, 0), (20, -1), (float("nan"), 8)])
def test_impossible_limits(most, least):
    with pytest.raises(ValueError, match="must hold"):
        list(split([noise(1)], most, least))
