"""Data augmentation of training audio."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import RATE, noise, tone
from tynda.train.augment import (
    add_noise,
    distort,
    equalize,
    mask_spectrum,
    reverberate,
    speed,
    synthetic_room,
)
from tynda.train.recipe import Augment


def rng(seed=0):
    return np.random.default_rng(seed)


def power(x):
    return float(np.mean(np.square(x, dtype=np.float64)))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 3.0, 20.0])
@pytest.mark.parametrize("length", [0.01, 0.5, 7.0])
def test_noise_is_so_many_decibels_below_the_speech(snr, length):
    speech = tone(300, 2)
    noisy = add_noise(speech, noise(length, seed=1, level=0.01), snr, rng())
    assert noisy.dtype == np.float32
    assert noisy.shape == speech.shape
    ratio = 10 * math.log10(power(speech) / power(noisy - speech))
    assert ratio == pytest.approx(snr, abs=0.01)


def test_noise_by_hand():
    # The powers are 1 and 4: at 0 dB the noise is halved, at 20 dB scaled to a twentieth.
    speech, hum = np.ones(4, np.float32), np.full(3, 2, np.float32)
    np.testing.assert_allclose(add_noise(speech, hum, 0.0, rng()), 2)
    np.testing.assert_allclose(add_noise(speech, hum, 20.0, rng()), 1.1, rtol=1e-6)


def test_noise_begins_anywhere_and_is_looped():
    speech, ramp = np.ones(100, np.float32), np.arange(1, 8, dtype=np.float32)
    starts = set()
    for seed in range(40):
        added = add_noise(speech, ramp, 0.0, rng(seed)) - speech
        added = np.rint(added / added.min()).astype(int)
        starts.add(added[0])
        np.testing.assert_array_equal(added[1:], np.where(added[:-1] == 7, 1, added[:-1] + 1))
    assert starts == set(range(1, 8))


def test_silent_or_empty_noise_and_speech_stay_as_they_are():
    speech, silence, nothing = tone(300, 0.1), np.zeros(99, np.float32), np.zeros(0, np.float32)
    for a, b in ((speech, silence), (silence, speech), (speech, nothing), (nothing, speech)):
        np.testing.assert_array_equal(add_noise(a, b, 3.0, rng()), a)
    for a, b in ((speech, nothing), (nothing, speech)):
        np.testing.assert_array_equal(reverberate(a, b), a)


@pytest.mark.parametrize("factor", [0.85, 0.9, 1.1, 1.15])
def test_speed_changes_length_and_pitch_by_the_factor(factor):
    samples = tone(500, 2)
    faster = speed(samples, factor)
    assert faster.dtype == np.float32
    assert len(faster) == pytest.approx(len(samples) / factor, abs=2)
    loudest = np.abs(np.fft.rfft(faster)).argmax() * RATE / len(faster)
    assert loudest == pytest.approx(500 * factor, abs=1)


def test_speed_of_one_and_of_nothing():
    samples = tone(500, 0.1)
    assert speed(samples, 1.0) is samples
    assert speed(np.zeros(0, np.float32), 1.1).size == 0


def test_a_room_keeps_length_power_and_the_place_of_the_direct_path():
    click = np.zeros(4000, np.float32)
    click[1000] = 1
    response = np.zeros(600, np.float32)
    response[[90, 100, 400]] = 0.1, -0.8, 0.3  # the strongest sample is late and negative
    heard = reverberate(click, response)
    assert heard.dtype == np.float32
    assert heard.shape == click.shape
    assert power(heard) == pytest.approx(power(click), rel=1e-4)
    scale = -heard[1000] / 0.8
    np.testing.assert_allclose(heard[[990, 1300]] / scale, [0.1, 0.3], rtol=1e-4)
    assert np.abs(heard).argmax() == 1000


def test_a_room_is_a_convolution():
    samples, response = noise(0.05), noise(0.02, seed=1)
    direct = np.abs(response).argmax()
    expected = np.convolve(samples, response)[direct : direct + len(samples)]
    heard = reverberate(samples, response)
    expected *= math.sqrt(power(samples) / power(expected))
    np.testing.assert_allclose(heard, expected, atol=1e-5)


def test_synthetic_rooms_fall_by_60_db_in_their_time():
    # Schroeder's backward integration: the level falls along a line from -5 to -25 dB, whose
    # slope gives the time to -60 dB.
    times, ratios = [], []
    for seed in range(200):
        response = synthetic_room(rng(seed)).astype(np.float64)
        assert response[0] == 1
        tail = response[1:]
        ratios.append(-10 * math.log10(np.sum(tail**2)))
        level = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2))
        # The tail has 60 dB only, which hardly changes the line down to -25 dB.
        line = np.flatnonzero((level < -5) & (level > -25))
        slope = np.polyfit(line / RATE, level[line], 1)[0]
        measured = -60 / slope
        times.append(measured)
        assert measured == pytest.approx((len(response)) / RATE, rel=0.12)
    assert 0.08 < min(times) < 0.15
    assert 0.55 < max(times) < 0.66
    assert np.mean(times) == pytest.approx(0.35, abs=0.04)
    assert 0 <= min(ratios) < 1
    assert 14 < max(ratios) <= 15.001


@given(
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, 3),
    st.integers(0, 40),
    st.integers(0, 3),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_masks_are_no_wider_than_asked(frames, bins, freqs, width, times, share, seed):
    augment = Augment(freq_masks=freqs, freq_width=width, time_masks=times, time_share=share)
    features = np.ones((frames, bins), np.float32)
    masked = mask_spectrum(features, augment, rng(seed))
    assert (features == 1).all()
    assert set(np.unique(masked)) <= {0, 1}
    lost_bins, lost_frames = (masked == 0).all(0), (masked == 0).all(1)
    if times == 0:
        assert lost_bins.sum() <= freqs * min(width, bins - 1)
    if freqs == 0:
        assert lost_frames.sum() <= times * int(frames * share)
    np.testing.assert_array_equal(masked == 0, lost_bins[None] | lost_frames[:, None])


def test_the_widest_mask_does_occur_and_lies_anywhere():
    augment = Augment(freq_masks=1, freq_width=3, time_masks=1, time_share=0.2)
    bins, frames, first = set(), set(), set()
    for seed in range(300):
        masked = mask_spectrum(np.ones((20, 10), np.float32), augment, rng(seed))
        lost = np.flatnonzero((masked == 0).all(0))
        bins.add(len(lost))
        first |= set(lost[:1])
        frames.add(int((masked == 0).all(1).sum()))
    assert bins == {0, 1, 2, 3}
    assert frames == {0, 1, 2, 3, 4}
    assert first == set(range(10))


def test_the_same_generator_gives_the_same_distortion_and_another_one_another():
    augment = Augment(speeds=(0.9, 1.0, 1.1), noise=0.9, rooms=0.9)
    samples, noises, rooms = tone(300, 0.5), [noise(0.3), noise(1)], [noise(0.05, seed=2)]
    runs = [
        [distort(samples, augment, noises, rooms, rng(seed)) for seed in range(8)] for _ in "ab"
    ]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in runs[0]}) == 8


def test_nothing_is_done_unless_it_is_asked_for():
    samples = tone(300, 0.2)
    for seed in range(20):
        same = distort(samples, Augment(), [noise(1)], [noise(0.1)], rng(seed))
        np.testing.assert_array_equal(same, samples)
        np.testing.assert_array_equal(
            distort(samples, Augment(noise=1.0), [], [], rng(seed)), samples
        )


def test_noise_and_rooms_come_as_often_as_asked():
    samples = tone(300, 0.01)
    for augment in (Augment(noise=0.3), Augment(rooms=0.3), Augment(filter=0.3)):
        changed = [
            not np.array_equal(distort(samples, augment, [noise(1)], [noise(0.1)], rng(s)), samples)
            for s in range(500)
        ]
        assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


def test_a_microphone_gives_each_frequency_its_gain():
    t = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * f * t).astype(np.float32) for f in (250, 4000))
    out = equalize(low + high, np.array([0, 0, 12.0]))  # 62.5 Hz, 707 Hz, 8 kHz
    spectrum = np.abs(np.fft.rfft(out))
    ratio = 20 * np.log10(spectrum[4000] / spectrum[250])
    # 4 kHz is 6 octaves up, where the line from 3.5 to 7 has reached 12 * 2.5 / 3.5 dB.
    assert ratio == pytest.approx(12 * 2.5 / 3.5, abs=0.2)
    assert np.mean(out**2) == pytest.approx(np.mean((low + high) ** 2), rel=1e-4)
    np.testing.assert_allclose(equalize(low, np.zeros(4)), low, atol=1e-6)
    assert equalize(low[:0], np.zeros(4)).size == 0


def test_the_level_changes_by_up_to_so_many_decibels():
    speech, draws = tone(300, 0.1), rng(1)
    changes = [
        10 * math.log10(power(distort(speech, Augment(gain_db=9), [], [], draws)) / power(speech))
        for _ in range(200)
    ]
    assert -9 <= min(changes) < -8
    assert 8 < max(changes) <= 9
    np.testing.assert_array_equal(distort(speech, Augment(), [], [], rng()), speech)
