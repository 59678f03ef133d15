"""Every front end against its published equivalent, and in edge cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.sound import audio, frontend, spectra
from tynda.sound.frontend import Frames, LogMel, NemoLogMel, Raw, Spectrogram, from_config

DEMO = Path(__file__).parents[1] / "demo"
RECORDINGS = sorted([*DEMO.glob("*.flac"), *DEMO.glob("*.opus")])
FRONT_ENDS = [
    LogMel(),
    LogMel(fft=400, normalize="whisper"),
    LogMel(window=320, hop=200, fft=512, bins=40, fmin=20, fmax=7600),
    NemoLogMel(),
    NemoLogMel(window=320, hop=200, fft=360, bins=128, preemphasis=0),
    Spectrogram(),
    Raw(),
    Frames(),
]
whatever = pytest.mark.parametrize("front_end", FRONT_ENDS, ids=lambda f: f.kind)


@pytest.fixture(scope="module", params=["native", "numpy"], autouse=True)
def backend(request):
    """Run every test with the kernel, and with NumPy."""
    if request.param == "native" and spectra._native is None:
        pytest.skip("installed without a compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontend, "mel_spectra", frontend.mel_spectra.__wrapped__)
        patch.setattr(frontend, "mel_powers", frontend.mel_powers.__wrapped__)
        patch.setattr(frontend, "standard_spectra", frontend.standard_spectra.__wrapped__)
        if request.param == "numpy":
            patch.setattr(spectra, "_native", None)
        yield


def sound(n, seed=0):
    """A gliding tone with a changing loudness, over faint noise."""
    t = np.arange(n) / 16_000
    tone = np.sin(2 * np.pi * (200 + 300 * t) * t) * (0.3 + 0.2 * np.sin(5 * t))
    noise = np.random.default_rng(seed).standard_normal(n)
    return (tone + 0.01 * noise).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
def test_log_mel_is_whispers(bins):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    samples = sound(30 * 16_000)
    theirs = extractor(samples, sampling_rate=16_000, return_tensors="np").input_features[0].T
    ours = LogMel(fft=400, bins=bins, normalize="whisper")(samples)
    assert ours.shape == theirs.shape == (3000, bins)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def parakeets(samples, **settings):
    """Features by transformers, of the frames that count: as it computes them, and in double.

    Its float32 spectra are up to 3.3e-4 off in the faintest bins of the recordings below.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.ParakeetFeatureExtractor(**settings)
    found = extractor(samples, sampling_rate=16_000, return_tensors="np")
    theirs = found.input_features[0][found.attention_mask[0].astype(bool)]
    x = torch.from_numpy(samples)
    x = torch.cat([x[:1], x[1:] - 0.97 * x[:-1]]).double()
    window = torch.hann_window(400, periodic=False, dtype=torch.float64)
    spectra = torch.stft(x, 512, 160, 400, window, return_complex=True, pad_mode="constant")
    logs = torch.log(extractor.mel_filters.double() @ spectra.abs().square() + 2**-24)
    logs = logs.T[: len(theirs)]
    return theirs, ((logs - logs.mean(0)) / (logs.std(0) + 1e-5)).numpy()


def equal_parakeets(samples, bins):
    ours = NemoLogMel(bins=bins)(samples)
    theirs, exact = parakeets(samples, feature_size=bins)
    assert ours.shape == theirs.shape == (len(samples) // 160, ours.shape[1])
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=5e-4)


@pytest.mark.parametrize("n", [320, 479, 480, 5001, 80_000])
@pytest.mark.parametrize("bins", [80, 128])
def test_nemo_log_mel_is_parakeets(n, bins):
    noise = 0.1 * np.random.default_rng(n).standard_normal(n)
    equal_parakeets(noise.astype(np.float32), bins)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_nemo_log_mel_is_parakeets_on_recordings(recording):
    equal_parakeets(audio.load(recording), 80)


def test_nemo_log_mel_of_a_single_frame():
    assert not NemoLogMel()(sound(160)).any()


def test_raw_is_wav2vec2s():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor()
    samples = sound(50_000) + 0.1
    theirs = extractor(samples, sampling_rate=16_000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(Raw()(samples)[:, 0], theirs, atol=1e-4)


def test_frames_are_the_samples_and_a_last_one_that_is_not_full_is_silent():
    samples = sound(250)
    features = Frames()(samples)
    np.testing.assert_array_equal(features[:3].ravel(), samples[:240])
    assert features.shape == (4, 80)
    assert not features[3].any()


@pytest.mark.parametrize("n", [256, 415, 416, 80_000])
def test_spectrogram_is_the_published_one(n):
    torch = pytest.importorskip("torch")
    samples = torch.from_numpy(sound(n))
    # The window comes first, then zeros up to the FFT length, as in TensorFlow's stft.
    frames = samples.unfold(0, 256, 160) * torch.hann_window(256, periodic=True)
    root = torch.fft.rfft(frames, 384).abs() ** 0.5
    std, mean = torch.std_mean(root, dim=1, keepdim=True, correction=0)
    theirs = (root - mean) / (std + 1e-10)
    ours = Spectrogram()(samples.numpy())
    assert ours.shape == (1 + (n - 256) // 160, 193)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("n", [257, 320, 5000, 80_000])
def test_log_mel_is_torchs_stft_through_librosas_filters(n):
    torch = pytest.importorskip("torch")
    audio_utils = pytest.importorskip("transformers.audio_utils")
    samples = sound(n)
    window = torch.hann_window(400)
    spectrum = torch.stft(
        torch.from_numpy(samples), 512, 160, 400, window, center=True, return_complex=True
    )
    filters = audio_utils.mel_filter_bank(257, 80, 0, 8000, 16_000, "slaney", "slaney")
    power = spectrum[:, :-1].abs().numpy().astype(np.float64) ** 2
    log = np.log(np.maximum(power.T @ filters, 1e-10))[: n // 160]
    theirs = (log - log.mean(axis=0)) / (log.std(axis=0) + 1e-5)
    ours = LogMel()(samples)
    assert ours.shape == (n // 160, 80)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6000), st.sampled_from(FRONT_ENDS))
def test_any_length(n, front_end):
    features = front_end(sound(n))
    frames = {
        "log_mel": n // front_end.hop,
        "nemo_log_mel": n // front_end.hop,
        "spectrogram": max(0, 1 + (n - 256) // 160),
        "raw": n,
        "frames": -(-n // 80),
    }[front_end.kind]
    assert features.shape == (frames, front_end.bins)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


@whatever
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_sound_is_finite(front_end, value):
    features = front_end(np.full(20_000, value, np.float32))
    assert len(features) > 0
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 100


@pytest.mark.parametrize("front_end", [LogMel(), Spectrogram(), Raw()], ids=lambda f: f.kind)
def test_loudness_is_normalised(front_end):
    samples = sound(32_000)
    np.testing.assert_allclose(front_end(samples * 4), front_end(samples), atol=2e-3)


@whatever
def test_config_round_trip(front_end):
    copy = from_config(json.loads(json.dumps(front_end.config)))
    assert copy == front_end
    assert (copy.hop, copy.bins, copy.sample_rate) == (front_end.hop, front_end.bins, 16_000)


def test_fixed_statistics_are_those_of_recordings():
    front = LogMel(bins=8, normalize="fixed")
    quiet, loud = sound(8000), 10 * sound(24_000)
    plain = np.concatenate([front(quiet), front(loud)])
    fitted = front.fitted([quiet, loud])
    np.testing.assert_allclose(fitted.mean, plain.mean(0), atol=1e-3)
    np.testing.assert_allclose(fitted.deviation, plain.std(0), atol=2e-3)
    both = np.concatenate([fitted(quiet), fitted(loud)])
    np.testing.assert_allclose(both, (plain - plain.mean(0)) / plain.std(0), atol=0.01)
    assert fitted.fitted([loud]) is fitted
    assert LogMel().fitted([loud]) == LogMel()
    assert from_config(json.loads(json.dumps(fitted.config))) == fitted
    assert "mean" not in LogMel().config
    with pytest.raises(TyndaError, match="native code has no normalize 'fixed'"):
        fitted.exported()


def test_defaults_fill_in():
    assert from_config({"kind": "log_mel", "bins": 40}) == LogMel(bins=40)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "unknown kind None"),
        ({"kind": "mfcc"}, "unknown kind 'mfcc'"),
        ({"kind": ["raw"]}, "unknown kind"),
        ({"kind": "raw", "hop": 1}, "no field hop"),
        ({"kind": "log_mel", "n_mels": 80}, "no field n_mels"),
        ({"kind": "log_mel", "bins": 0}, "bins must be"),
        ({"kind": "log_mel", "bins": "80"}, "bins must be"),
        ({"kind": "log_mel", "hop": 0}, "hop must be"),
        ({"kind": "log_mel", "window": 600}, "window must be"),
        ({"kind": "log_mel", "fft": 10**9}, "fft must be"),
        ({"kind": "log_mel", "fmax": 9000}, "fmin < fmax"),
        ({"kind": "log_mel", "fmin": None}, "fmin must be"),
        ({"kind": "log_mel", "fmin": float("nan")}, "fmin < fmax"),
        ({"kind": "log_mel", "normalize": "no"}, "normalize must be"),
        ({"kind": "log_mel", "normalize": "fixed", "mean": [1.0]}, "mean must be a list of 80"),
        ({"kind": "log_mel", "normalize": "fixed", "mean": 1.0}, "mean must be a list of 80"),
        ({"kind": "log_mel", "bins": 1, "mean": ["0"]}, "mean must be a list of 1 numbers"),
        ({"kind": "log_mel", "bins": 1, "mean": [True]}, "mean must be a list of 1 numbers"),
        ({"kind": "log_mel", "bins": 1, "mean": [float("nan")]}, "mean must be a list of 1"),
        ({"kind": "log_mel", "bins": 1, "deviation": [1e9]}, "deviation must be a list of 1"),
        ({"kind": "log_mel", "bins": 1, "mean": [0]}, "mean and deviation need numbers"),
        (
            {"kind": "log_mel", "bins": 1, "normalize": "fixed", "mean": [0], "deviation": [0]},
            "mean and deviation need numbers",
        ),
        ({"kind": "log_mel", "bins": 1, "mean": [0], "deviation": [1]}, "for normalize 'fixed'"),
        ({"kind": "nemo_log_mel", "bins": 258}, "bins must be"),
        ({"kind": "nemo_log_mel", "hop": 0}, "hop must be"),
        ({"kind": "nemo_log_mel", "preemphasis": 1}, "preemphasis must be"),
        ({"kind": "nemo_log_mel", "preemphasis": "0.9"}, "preemphasis must be"),
        ({"kind": "nemo_log_mel", "preemphasis": float("nan")}, "preemphasis must be"),
        ({"kind": "spectrogram", "fft": 128}, "window must be"),
        ({"kind": "frames", "size": 0}, "size must be"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(config, says):
    with pytest.raises(TyndaError, match=says) as error:
        from_config(config)
    assert "\n" not in str(error.value)


def test_stereo_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="one channel"):
        LogMel()(np.zeros((100, 2), np.float32))


@pytest.mark.parametrize("front_end", [f for f in FRONT_ENDS if f.bins > 1], ids=lambda f: f.kind)
def test_silence_is_what_it_would_be_if_it_were_looked_at(front_end, monkeypatch):
    samples = np.zeros(30 * 16000, np.float32)
    samples[20000:90000] = np.random.default_rng(0).uniform(-1, 1, 70000)
    quick = front_end(samples)
    monkeypatch.setattr("tynda.sound.spectra._FRAMES_AT_ONCE", 10_000)  # no block is all silence
    exact = front_end(samples)
    np.testing.assert_array_equal(quick[-1000:], exact[-1000:])
    np.testing.assert_allclose(quick, exact, rtol=1e-4, atol=1e-5)
