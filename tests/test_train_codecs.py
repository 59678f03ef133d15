"""Lossy codecs on training audio."""

from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import RATE, noise, tone
from tynda.sound import audio
from tynda.train import codecs
from tynda.train.augment import distort
from tynda.train.codecs import CODECS, Codec, coded, through
from tynda.train.recipe import Augment

SPEECH = audio.load("demo/jfk.flac")[: 2 * RATE]


def lag(samples, found):
    """Return by how many samples ``found`` is later."""
    size = 1 << len(samples).bit_length()
    product = np.fft.rfft(samples, 2 * size).conj() * np.fft.rfft(found, 2 * size)
    peak = int(np.fft.irfft(product).argmax())
    return peak if peak < size else peak - 2 * size


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{c.name}-{c.rate}")
def test_speech_is_damaged_and_stays_in_its_place(codec):
    if codec not in codecs._available():
        pytest.skip(f"this FFmpeg has no {codec.name}")
    for bits in codec.bits or (None,):
        found = through(SPEECH, codec, bits)
        assert found.dtype == np.float32
        assert found.shape == SPEECH.shape
        assert not np.array_equal(found, SPEECH)
        late = lag(SPEECH, found)
        assert abs(late) < 0.01 * RATE
        assert np.corrcoef(SPEECH, np.roll(found, -late))[0, 1] > 0.8


def test_a_telephone_has_its_band():
    line = Codec("pcm_mulaw", "wav", 8_000, (), (300.0, 3400.0))
    for hertz, least, most in ((100, 0.0, 0.1), (1000, 0.9, 1.1), (6000, 0.0, 0.05)):
        samples = tone(hertz, 1.0)
        found = through(samples, line)
        assert least <= np.std(found) / np.std(samples) <= most, hertz


def test_the_same_seed_gives_the_same_sound_and_all_codecs_come():
    first, second = (coded(SPEECH, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    drawn = [coded(SPEECH[:RATE], np.random.default_rng(seed)) for seed in range(12)]
    assert len({each.tobytes() for each in drawn}) > 4


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), noise(0.001), 5 * noise(0.5)])
def test_nothing_little_and_too_much_keep_their_length(samples):
    for codec in codecs._available():
        found = through(samples, codec, codec.bits[0] if codec.bits else None)
        assert found.shape == samples.shape
        assert np.isfinite(found).all()


def test_augmentation_draws_a_codec_last():
    plain = distort(SPEECH, Augment(), [], [], np.random.default_rng(0))
    assert np.array_equal(plain, SPEECH)
    found = distort(SPEECH, Augment(codecs=1.0), [], [], np.random.default_rng(0))
    assert not np.array_equal(found, SPEECH)
    assert found.shape == SPEECH.shape


def test_a_build_without_a_codec_does_without_it(monkeypatch):
    missing = Codec("no_such_codec", "wav", 8_000)
    monkeypatch.setattr(codecs, "CODECS", (missing, CODECS[-2]))
    codecs._available.cache_clear()
    assert codecs._available() == (CODECS[-2],)
    codecs._available.cache_clear()


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{c.name}-{c.rate}")
def test_a_voice_is_nearer_to_itself_than_to_others_through_the_same_codec(codec):
    if codec not in codecs._available():
        pytest.skip(f"this FFmpeg has no {codec.name}")
    model = tynda.load("speakers")

    def voice(samples, is_coded=True):
        sent = through(samples, codec, codec.bits[0] if codec.bits else None)
        found = model.encode(sent if is_coded else samples)
        return found / np.linalg.norm(found)

    jack = audio.load("demo/jfk.flac")
    known = voice(jack[: len(jack) // 2], is_coded=False)
    again = voice(jack[len(jack) // 2 :])
    others = [voice(audio.load(path)) for path in sorted(Path("demo").glob("*.opus"))]
    assert len(others) >= 4
    assert again @ known > max(again @ other for other in others)
