"""Splitting into pieces: nothing is lost, no piece is too long, no word is cut."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from tynda.sound import silero, vad
from tynda.sound.vad import split

RATE = 16_000


def noise(seconds, level=0.3, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype("f4")


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def in_blocks(samples, size):
    return (samples[i : i + size] for i in range(0, len(samples), size))


def starts(samples, most=20, least=8):
    return [start for start, _ in split([samples], most, least)]


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
    # Pieces of a few samples are allowed, but slow to test.
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
    samples = noise(8)
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


def test_a_pause_before_the_minimum_length_does_not_count():
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
    assert taken <= 5 * 8 + 1


@pytest.mark.parametrize(("most", "least"), [(0, 0), (5, 8), (20, 0), (20, -1), (float("nan"), 8)])
def test_impossible_limits(most, least):
    with pytest.raises(ValueError, match="must hold"):
        list(split([noise(1)], most, least))


class Script:
    """A detector that returns given probabilities."""

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def __call__(self, blocks):
        return iter([self.probabilities])


def spoken(monkeypatch, probabilities, **options):
    monkeypatch.setattr(silero, "probabilities", Script(probabilities))
    samples = np.zeros(len(probabilities) * vad.CHUNK, np.float32)
    return [
        (round(a * RATE / vad.CHUNK, 3), round(b * RATE / vad.CHUNK, 3))
        for a, b in vad.speech(samples, **options)
    ]


CHUNKS = vad.CHUNK / RATE


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([], []),
        ([0.4] * 9, []),
        ([0.9] * 9, [(0, 9)]),
        ([0, 0, 0.5, 0.4, 0.36, 0.9, 0, 0, 0, 0, 0], [(2, 6)]),  # 0.35 ends it, 0.36 does not
        ([0.9, 0, 0, 0, 0.9, 0, 0, 0, 0, 0.9], [(0, 5), (9, 10)]),  # silence: more than three
        ([0, 0.9, 0.9], [(1, 3)]),  # speech up to the end
    ],
)
def test_speech_begins_and_ends(monkeypatch, probabilities, expected):
    options = {"min_silence": 3 * CHUNKS, "min_speech": 0, "pad": 0}
    assert spoken(monkeypatch, probabilities, **options) == expected


def test_short_speech_is_dropped_and_pads_share_the_silence(monkeypatch):
    p = [0.9, 0, 0, 0, 0.9, 0.9, 0, 0, 0, 0.9, 0.9, 0.9, 0, 0]
    options = {"min_silence": 2 * CHUNKS, "min_speech": 2 * CHUNKS}
    assert spoken(monkeypatch, p, pad=0, **options) == [(4, 6), (9, 12)]
    assert spoken(monkeypatch, p, pad=2 * CHUNKS, **options) == [(2, 7.5), (7.5, 14)]


def test_real_speech_between_silences():
    said = tynda.sound.audio.load(Path(__file__).parents[1] / "demo" / "jfk.flac")
    samples = np.concatenate([noise(3, level=1e-3), said, np.zeros(4 * RATE, np.float32), said])
    stretches = vad.speech(samples)
    length = len(said) / RATE
    assert 2.7 < stretches[0][0] < 3.6
    assert stretches[-1][1] <= len(samples) / RATE
    heard = sum(b - a for a, b in stretches)
    assert 1.2 * length < heard <= 2 * length
    gap = (3 + length, 3 + length + 4)
    assert not any(a > gap[0] + 0.5 and b < gap[1] - 0.5 for a, b in stretches)


def random_probabilities(seed, chunks=4000):
    """Return probabilities that stay high or low for a while."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < chunks:
        parts.append(
            np.clip(rng.normal(rng.choice([0.1, 0.4, 0.9]), 0.1, rng.integers(1, 80)), 0, 1)
        )
    return np.concatenate(parts)[:chunks]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{}, {"pad": 0.5, "min_silence": 0.1}, {"min_speech": 2.0}])
def test_spans_come_as_soon_as_they_are_known(seed, options):
    p, rng, spans = random_probabilities(seed), np.random.default_rng(seed), vad.Spans(**options)
    whole = vad.Spans(**options)
    duration = len(p) * CHUNKS
    expected = whole.add(p) + whole.finish(duration)
    found, settled = [], 0.0
    while len(p):
        size = int(rng.integers(1, 200))
        new = spans.add(p[:size])
        assert all(start >= settled - 1e-9 for start, _ in new)
        found, settled, p = found + new, spans.settled, p[size:]
    assert found + spans.finish(duration) == expected
    assert len(expected) > 5


def test_a_span_without_an_end_comes_in_parts():
    spans = vad.Spans(max_seconds=30.0)
    assert spans.add([0.0] * 100) == []
    found = spans.add([0.9] * 10_000)
    start = 100 * CHUNKS - 0.2
    assert len(found) == 10
    np.testing.assert_allclose(found, [(start + 30 * i, start + 30 * (i + 1)) for i in range(10)])
    assert spans.settled == pytest.approx(start + 300)
    ((last, end),) = spans.add([0.0] * 100)
    assert last == pytest.approx(start + 300)
    assert end == pytest.approx(10_100 * CHUNKS + 0.2)
