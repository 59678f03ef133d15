"""Whatever people hand over as sound becomes the same blocks."""

import io
from pathlib import Path

import numpy as np
import pytest

from helpers import noise, write_wav
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.sound.samples import samples_of

RATE = 16_000


def whole(source, sample_rate=None):
    blocks = list(samples_of(source, sample_rate))
    assert all(block.dtype == np.float32 and block.ndim == 1 and len(block) for block in blocks)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


@pytest.fixture
def file(tmp_path):
    return write_wav(tmp_path / "a.wav", noise(1))


def test_recordings_are_read_as_they_are(file, monkeypatch):
    expected = audio.load(file)
    data = Path(file).read_bytes()
    for source in (
        str(file),
        Path(file),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
    ):
        np.testing.assert_array_equal(whole(source), expected)
    with open(file, "rb") as opened:
        np.testing.assert_array_equal(whole(opened), expected)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    np.testing.assert_array_equal(whole("-"), expected)


def test_floats_are_taken_to_the_last_bit():
    samples = noise(61)
    np.testing.assert_array_equal(whole(samples), samples)
    np.testing.assert_array_equal(whole(samples.astype(np.float64)), samples)
    assert [len(block) for block in samples_of(samples)] == [480_000, 480_000, 16_000]
    half = samples.astype(np.float16)
    np.testing.assert_array_equal(whole(half), half.astype(np.float32))


def test_integers_have_their_full_scale_at_their_largest_value():
    for dtype, zero, scale in ((np.int16, 0, 2**15), (np.int32, 0, 2**31), (np.uint8, 128, 128)):
        info = np.iinfo(dtype)
        codes = np.array([zero, info.min, info.max, zero + scale // 2], dtype)
        expected = [0, -1, (int(info.max) - zero) / scale, 0.5]
        np.testing.assert_allclose(whole(codes), expected, atol=1e-7)
    swapped = np.array([0, -(2**15)], ">i2")
    np.testing.assert_array_equal(whole(swapped), [0, -1])


def test_samples_of_16_bits_are_those_of_their_file(file):
    codes = np.frombuffer(Path(file).read_bytes()[44:], np.int16)
    np.testing.assert_array_equal(whole(codes), audio.load(file))


def test_channels_are_on_the_shorter_axis_and_averaged():
    left, right = noise(1, seed=1), noise(1, seed=2)
    expected = (left.astype(np.float64) + right) / 2
    for stereo in (np.stack([left, right]), np.stack([left, right], 1)):
        np.testing.assert_array_equal(whole(stereo), expected.astype(np.float32))
    for mono in (left[None], left[:, None]):
        np.testing.assert_array_equal(whole(mono), left)
    codes = np.array([[0, 2**14], [2**14, 2**14], [0, 0]], np.int16)  # [n, channels]
    np.testing.assert_array_equal(whole(codes), [0.25, 0.5, 0])


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000.0, np.int64(96_000), 11_025.5])
def test_any_sample_rate_is_resampled(rate):
    seconds = 65.0  # more than two blocks
    time = np.arange(round(seconds * rate)) / rate
    found = whole(0.5 * np.sin(2 * np.pi * 440 * time), rate)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / RATE)
    assert abs(len(found) - seconds * RATE) <= 2
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-3)


def test_resampling_is_that_of_files(tmp_path):
    samples = noise(2)
    path = write_wav(tmp_path / "a.wav", samples, 44_100)
    codes = np.frombuffer(Path(path).read_bytes()[44:], np.int16)
    np.testing.assert_allclose(whole(codes, 44_100), audio.load(path), atol=1e-6)


def test_sample_rate_by_default_is_the_models():
    samples = noise(1)
    np.testing.assert_array_equal(whole(samples), whole(samples, RATE))


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    samples = noise(1)
    tensor = torch.from_numpy(samples)
    for given in (tensor, tensor[None], tensor.clone().requires_grad_(), tensor.double()):
        np.testing.assert_array_equal(whole(given), samples)
    np.testing.assert_allclose(whole(tensor.bfloat16()), samples, rtol=2**-8)
    codes = (tensor * 2**15).to(torch.int16)
    np.testing.assert_array_equal(whole(codes), codes.numpy() / np.float32(2**15))
    with pytest.raises(TyndaError, match="int64"):
        samples_of(codes.long())


@pytest.mark.parametrize("empty", [np.zeros(0, np.float32), np.zeros((0, 2)), np.zeros((2, 0))])
def test_an_empty_sound_gives_no_block(empty):
    assert list(samples_of(empty)) == []
    assert list(samples_of(empty, 44_100)) == []


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros(9, np.int64), "not int64"),
        (np.zeros(9, np.uint16), "not uint16"),
        (np.zeros(9, bool), "not bool"),
        (np.zeros(9, complex), "not complex128"),
        (np.array(["a.wav"]), "not <U5"),
        (np.array([None]), "not object"),
        (np.float32(1), r"not \[\]"),
        (np.zeros((2, 3, 4)), r"not \[2, 3, 4\]"),
        (np.zeros((80, 100)), r"not \[80, 100\]"),
        (np.array([0, np.nan]), "finite"),
        (np.array([0, -np.inf], np.float32), "finite"),
        (np.array([0, 1e300]), "finite"),
        (np.array([0.0, 20_000]), "go up to 20000: divide those of 16 bits by 32768"),
        (np.array([[0.0], [-17]], np.float16), "type float16 .* go up to 17"),
        ([0.0, 1.0], "of type list is no sound"),
        (3, "of type int is no sound"),
        (None, "of type NoneType is no sound"),
        (io.StringIO("text"), "binary mode"),
    ],
)
def test_what_is_no_sound_is_one_line(samples, says):
    with pytest.raises(TyndaError, match=says) as caught:
        samples_of(samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [0, -16_000, 16, 1e7, np.nan, True, "16000"])
def test_sample_rates_that_cannot_be(rate):
    with pytest.raises(TyndaError, match="sample_rate must be a number from 1000 to 1000000"):
        samples_of(noise(1), rate)


def test_a_recording_states_its_own_sample_rate(file):
    with pytest.raises(TyndaError, match="states its own sample_rate"):
        samples_of(file, 16_000)


def test_loud_floats_are_sound():
    np.testing.assert_array_equal(whole(np.array([0, 15.5, -16])), [0, 15.5, -16])
