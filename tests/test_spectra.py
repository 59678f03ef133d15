"""The kernel of every instruction set against NumPy's transforms, in double precision."""

import numpy as np
import pytest

from tynda.compile import native
from tynda.sound import spectra
from tynda.sound.spectra import Spectra

SETS = native.instruction_sets() if native.available() else []
both = pytest.mark.parametrize("instructions", [*SETS, "numpy"])


def make(instructions, monkeypatch, *args, **options):
    if instructions == "numpy":
        monkeypatch.setattr(spectra, "_native", None)
        return Spectra(*args, **options)
    return Spectra(*args, **options, instructions=instructions)


def frames_of(samples, window, hop, frames):
    rows = [samples[i * hop : i * hop + len(window)] for i in range(frames)]
    return np.asarray(rows, np.float64).reshape(frames, len(window)) * window


@both
@pytest.mark.parametrize("fft", [2, 3, 5, 9, 15, 16, 30, 320, 384, 400, 512, 1125, 7, 16_384])
@pytest.mark.parametrize("frames", [0, 1, 17, 131])
def test_power(instructions, fft, frames, monkeypatch):
    rng = np.random.default_rng(fft)
    for size in {fft, fft // 2 + 1, 1}:
        for hop in (1, 160):
            window = rng.uniform(0.1, 1, size).astype(np.float32)
            samples = rng.uniform(-1, 1, max(0, frames - 1) * hop + size).astype(np.float32)
            expected = np.fft.rfft(frames_of(samples, window, hop, frames), fft)
            found = make(instructions, monkeypatch, window, fft)(samples, hop, frames)
            assert found.shape == (frames, fft // 2 + 1)
            # An error is relative to the whole spectrum, not to its weakest bin.
            whole = np.sqrt(np.square(np.abs(expected)).mean(axis=1, keepdims=True))
            wrong = np.abs(np.sqrt(found) - np.abs(expected)) / np.maximum(whole, 1e-30)
            assert wrong.max(initial=0) < 5e-7


@both
def test_each_tone_is_in_its_bin(instructions, monkeypatch):
    for fft in (15, 16, 30, 400):
        angle = 2 * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(fft)) / fft
        samples = np.cos(angle).astype(np.float32).ravel()  # frame k: bin k alone
        power = make(instructions, monkeypatch, np.ones(fft, np.float32), fft)(
            samples, fft, fft // 2 + 1
        )
        alone = np.full(fft // 2 + 1, fft / 2)
        alone[[0] if fft % 2 else [0, -1]] = fft
        np.testing.assert_allclose(np.sqrt(power), np.diag(alone), atol=fft * 2e-7)


@both
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1, 1e6, 1e12])
@pytest.mark.parametrize("ending", ["power", "log", "log10"])
def test_filters(instructions, size, ending, monkeypatch):
    rng = np.random.default_rng(0)
    filters = np.zeros((201, 7), np.float32)  # the last filter is all zeros
    for i, (first, last) in enumerate([(0, 1), (0, 201), (200, 201), (3, 90), (90, 91), (5, 9)]):
        filters[first:last, i] = rng.uniform(0, 2, last - first)
    window = rng.uniform(0.1, 1, 400).astype(np.float32)
    samples = (size * rng.uniform(-1, 1, 5000)).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames_of(samples, window, 160, 20)))) @ filters
    found = make(instructions, monkeypatch, window, 400, filters, ending)(samples, 160, 20)
    if ending == "power":
        np.testing.assert_allclose(found, power, rtol=1e-4, atol=1e-30)
    else:
        expected = getattr(np, ending)(np.maximum(power, 1e-10))
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)


@both
def test_standardised(instructions, monkeypatch):
    rng = np.random.default_rng(0)
    window = rng.uniform(0.1, 1, 256).astype(np.float32)
    samples = rng.uniform(-1, 1, 5000).astype(np.float32)
    samples[2000:2600] = 0  # a frame without any deviation
    root = np.sqrt(np.abs(np.fft.rfft(frames_of(samples, window, 160, 29), 384)))
    expected = (root - root.mean(axis=1, keepdims=True)) / (root.std(axis=1, keepdims=True) + 1e-10)
    found = make(instructions, monkeypatch, window, 384, ending="standard")(samples, 160, 29)
    assert not found[14].any()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.skipif(not SETS, reason="installed without a compiler")
def test_threads_and_silence_change_no_bit():
    samples = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    samples[50_000:100_000] = 0
    made = Spectra(np.ones(400, np.float32), 400, ending="log")
    alone = np.concatenate([made(samples[160 * i :], 160, 1) for i in range(1200)])
    for threads in (1, 2, 3):
        spectra._native.set_threads(threads)
        np.testing.assert_array_equal(made(samples, 160, 1200), alone)


@pytest.mark.skipif(not SETS, reason="installed without a compiler")
def test_what_does_not_fit():
    ones = np.ones(400, np.float32)
    for fft, filters, says in [
        (14 * 64, None, "factors"),
        (320, None, "no window"),
        (400, np.ones((200, 3), np.float32), "a row for each bin"),
    ]:
        with pytest.raises(ValueError, match=says):
            spectra._native.Spectra(ones, fft, filters, spectra._native.FinalStep.POWER)
    made = Spectra(ones, 400)
    made(ones, 160, 1)
    for hop, frames in [(160, 2), (0, 1)]:
        with pytest.raises(ValueError, match="do not fit"):
            made(ones, hop, frames)
