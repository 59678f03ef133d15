"""Whisper's encoder over acoustic states: the same states, a start from Whisper, few bits."""

from dataclasses import asdict, replace

import numpy as np
import pytest

import tynda
from test_hybrid_model import RECIPE, speech
from tynda.errors import TyndaError
from tynda.models import whisper, whisper_states
from tynda.ops.numpy import NumpyOps
from tynda.sound.frontend import LogMel
from tynda.store import checkpoint
from tynda.weights.weight import Weight
from whisper_peer import SMALL, published_tokenizer, random_weights

WHISPER = replace(SMALL, vocab=51864, frames=500)
CONFIG = whisper_states.Config(channels=32, layers=2, heads=2, hidden=128, frames=500, vocab=9)
FRONT = LogMel(fft=400, normalize="whisper")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of a small Whisper with random weights."""
    tokenizer = published_tokenizer(multilingual=False)
    weights = random_weights(WHISPER, tokenizer, 0)
    header = checkpoint.Header(
        "small",
        "whisper",
        asdict(WHISPER),
        FRONT.config,
        tokenizer.to_dict(),
        ["en"],
        "MIT",
        {"alignment_heads": [[1, 0]]},
    )
    path = tmp_path_factory.mktemp("whisper") / "small.safetensors"
    checkpoint.save_model(path, header, weights, bits=32)
    return path


def test_scores_are_those_of_whispers_states(published):
    weights = dict(checkpoint.load(published).weights)
    rng = np.random.default_rng(1)
    weights["head.weight"] = rng.standard_normal((9, 32)).astype(np.float32)
    weights["head.bias"] = rng.standard_normal(9).astype(np.float32)
    x = rng.standard_normal((2, 40, 80)).astype(np.float32)
    lengths = np.array([40, 26])
    states, _ = whisper.encode(NumpyOps(), weights, WHISPER, x, lengths)
    found, sizes = whisper_states.encode(NumpyOps(), weights, CONFIG, x, lengths)
    scores = states.astype(np.float64) @ weights["head.weight"].T + weights["head.bias"]
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    assert sizes.tolist() == [20, 13]
    np.testing.assert_allclose(found[0], scores[0], atol=1e-4)
    np.testing.assert_allclose(found[1, :13], scores[1, :13], atol=1e-4)


def test_more_than_the_encoders_positions_is_one_line():
    with pytest.raises(TyndaError, match="reads 1000 frames at once, not 1002"):
        whisper_states.encode(
            NumpyOps(), {}, CONFIG, np.zeros((1, 1002, 80), np.float32), np.array([1002])
        )


STATES = RECIPE.format(model="heads = 2\nhidden = 128\nframes = 500\ndropout = 0.0", more="")
for before, after in {
    'family = "tdnn"': 'family = "whisper_states"',
    "bins = 16": 'fft = 400\nnormalize = "whisper"',
    "epochs = 12": "epochs = 3",
}.items():
    assert before in STATES
    STATES = STATES.replace(before, after)


@pytest.mark.parametrize("bits", [None, 2])
def test_training_starts_from_a_whisper(tmp_path, published, bits, monkeypatch):
    pytest.importorskip("torch")
    from tynda.hybrid import run

    speech(tmp_path, ["sea mat", "mat knit", "knit sea", "dog mat", "sea dog"] * 2)
    recipe = tmp_path / "tones.toml"
    recipe.write_text(STATES + (f"[rounding]\nbits = [{bits}]\n" if bits else ""))
    starts = []

    def train(*arguments):
        starts.append(arguments[5])
        return original(*arguments)

    from tynda.train.run import train as by_recipe

    original = run.train
    monkeypatch.setattr(run, "train", train)
    path = by_recipe(str(recipe), tmp_path, tmp_path / "run", init=published)
    weights = checkpoint.load(published).weights
    name = "model.encoder.layers.0.fc1.weight"
    np.testing.assert_array_equal(starts[0][name], weights[name])
    assert "head.weight" not in starts[0]
    found = checkpoint.load(path).weights
    assert isinstance(found[name], Weight)
    assert found[name].grid.bits == (bits or 8)
    assert tynda.load(path).transcribe(np.zeros(16000, np.float32)).text == ""
    # A second training goes on where the first has ended, with frequencies in its biases.
    if bits is None:
        by_recipe(str(recipe), tmp_path, tmp_path / "again", init=path)
        again, paths = starts[1], np.load(tmp_path / "again" / "mixtures.npz")["paths"]
        counts = np.bincount(paths, minlength=len(again["head.bias"])) + 1
        ended = found["head.bias"] + np.log(counts / counts.sum())
        np.testing.assert_allclose(again["head.bias"], ended, atol=1e-3)
    # Training has gone on from there, and constants are as they were.
    moved = np.abs(found[name].dequantize() - weights[name])
    assert 0 < moved.max() < 1
    positions = "model.encoder.embed_positions.weight"
    np.testing.assert_array_equal(
        tynda.load(path).checkpoint.weights[positions], weights[positions]
    )


def test_a_start_that_does_not_fit_is_one_line(tmp_path, published, tiny_file):
    pytest.importorskip("torch")
    from tynda.train.run import train

    speech(tmp_path, ["sea mat", "mat knit"] * 3)
    recipe = tmp_path / "tones.toml"
    recipe.write_text(STATES)
    with pytest.raises(TyndaError, match="start from a whisper_states or whisper"):
        train(str(recipe), tmp_path, tmp_path / "run", init=tiny_file)
    recipe.write_text(STATES.replace("channels = 32", "channels = 24"))
    with pytest.raises(TyndaError, match="has another model"):
        train(str(recipe), tmp_path, tmp_path / "run", init=published)
