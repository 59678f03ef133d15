"""Training of models of voices: crops, the margin, and a small run from recipe to model file."""

import json
import math
import tomllib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tynda
from helpers import noise, save_tiny, write_wav
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.quantization.run import quantize
from tynda.sound.frontend import LogMel
from tynda.speakers.calibrate import calibrate, calibrated, person
from tynda.speakers.voices import Speakers
from tynda.train import recipe as recipes
from tynda.train.data import Corpus, collate
from tynda.train.margin import Margin
from tynda.train.recipe import Augment
from tynda.train.run import train
from tynda.train.speakers import Voices
from tynda.weights.weight import floats, stored_bits

RATE = 16_000
TOML = """
name = "tiny-voices"
family = "mfa_conformer"
[model]
channels = 16
layers = 1
heads = 2
hidden = 16
kernel = 5
stem = 4
pool_heads = 2
pool_width = 4
[frontend]
kind = "log_mel"
bins = 16
[margin]
size = 8
crops = 6
shortest = 0.3
longest = 0.5
[data]
dev = ["dev.jsonl"]
batch_seconds = 8.0
exclude_speakers = ["p9"]
[[data.train]]
manifest = "train.jsonl"
[augment]
speeds = [0.9, 1.1]
[optimizer]
epochs = 6
lr = 3e-3
warmup_steps = 2
average = 0.5
precision = "f32"
"""


def voice(one, seconds, seed):
    """Return a tone that goes to and fro between two pitches of a person, and noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    low, high = 200 + 150 * (one % 5), 1500 + 500 * (one // 5)
    turns = np.sin(2 * np.pi * 4 * t + seed) > 0
    tones = np.where(turns, np.sin(2 * np.pi * low * t), np.sin(2 * np.pi * high * t))
    return (0.1 * tones + noise(seconds, seed, 0.003)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with ten people to train on and six of dev, each with a pitch of its own."""
    path = tmp_path_factory.mktemp("data")
    for name, people in (("train", range(10)), ("dev", range(20, 26))):
        lines = []
        for p in people:
            for take in range(5):
                file = path / f"{name}-{p}-{take}.wav"
                write_wav(file, voice(p, 0.6, 10 * p + take))
                about = {"audio_filepath": file.name, "text": "数字", "speaker": f"p{p}"}
                lines.append(json.dumps(about | {"source": "synthetic"}))
        unknown = {"audio_filepath": lines and json.loads(lines[0])["audio_filepath"]}
        lines.append(json.dumps(unknown | {"text": "", "speaker": "-"}))
        (path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (path / "tiny.toml").write_text(TOML)
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    return train(str(folder / "tiny.toml"), folder, output / "whole", threads=1)


def test_people_of_all_sources_have_names_of_their_own():
    def heard(speaker, source):
        return Utterance("a.wav", "", None, speaker, None, source)

    assert person(heard("1", "a")) == "a/1" != person(heard("1", "b"))
    assert {person(heard(unknown, "a")) for unknown in (None, "", "-")} == {None}


def test_a_run_makes_a_calibrated_model(trained, folder):
    model = tynda.load(trained)
    header = model.header
    assert header.family == "mfa_conformer"
    assert header.config["cohort"] == 9  # p9 is excluded, and one recording has no name
    assert model.checkpoint.weights["cohort"].shape == (9, 8)
    thresholds = [v for k, v in sorted(header.decoding.items()) if k.startswith("threshold")]
    assert thresholds == sorted(thresholds, reverse=True)
    assert 0 <= header.scores["dev"]["eer"] < 0.45
    assert header.training["recipe"]["margin"]["size"] == 8
    assert "classes.weight" not in model.checkpoint.weights
    cohort = Speakers(model).cohort
    assert np.linalg.norm(cohort, axis=1) == pytest.approx(np.ones(9), abs=0.02)
    log = json.loads((trained.parent / "log.json").read_text())
    assert log["epochs"][-1]["loss"] < log["epochs"][0]["loss"]


def test_the_best_epoch_has_the_least_error_on_dev(trained):
    log = json.loads((trained.parent / "log.json").read_text())
    rates = [epoch["dev_eer"] for epoch in log["epochs"]]
    assert len(rates) == 6
    best = tynda.load(trained.parent / "best.safetensors").header.training
    assert best["dev_eer"] == min(rates)


def test_a_resumed_run_gives_the_same_model(folder, tmp_path):
    settings = ["optimizer.epochs=4", "optimizer.cooldown=0.0", "margin.rise=0.0"]
    recipe, straight = str(folder / "tiny.toml"), tmp_path / "straight"
    first = [*settings[1:], "optimizer.epochs=2"]
    train(recipe, folder, tmp_path / "parts", first, threads=1)
    parts = train(recipe, folder, tmp_path / "parts", settings, threads=1, resume=True)
    whole = train(recipe, folder, straight, settings, threads=1)
    log = json.loads((tmp_path / "parts" / "log.json").read_text())
    assert [epoch["epoch"] for epoch in log["epochs"]] == [1, 2, 3, 4]
    first, second = (tynda.load(path).checkpoint.weights for path in (parts, whole))
    for name, weight in first.items():
        assert np.array_equal(floats(weight), floats(second[name])), name


def test_the_last_layer_in_closed_form_tells_people_apart_at_once(folder, tmp_path, capsys):
    settings = ["margin.discriminant=20", "optimizer.epochs=1", "optimizer.lr=1e-9"]
    path = train(str(folder / "tiny.toml"), folder, tmp_path, settings, threads=1)
    said = capsys.readouterr().err
    begun, fitted = (
        line for line in said.splitlines() if "the first epoch" in line or "closed" in line
    )
    assert float(begun.split()[-1]) < 0.4  # before anything is learnt; chance is 0.5
    assert "closed form" in fitted
    header = tynda.load(path).header
    assert header.scores["dev"]["eer"] < 0.4


def test_weights_in_few_bits_stay_rounded_to_the_end(folder, tmp_path):
    settings = ["rounding.bits=[2]", "rounding.group=32", 'rounding.keep=["embedding.*"]']
    settings += ["optimizer.epochs=1", "margin.discriminant=2"]
    path = train(str(folder / "tiny.toml"), folder, tmp_path, settings, threads=1)
    weights = tynda.load(path).checkpoint.weights
    rounded = {name for name, weight in weights.items() if stored_bits(weight) < 8}
    # Matrices with few inputs are not rounded, which all others of this small model are.
    assert rounded == {"stem.convs.1.weight", "stem.convs.2.weight"}


def test_the_last_layer_is_found_again_after_few_bits(trained, folder, tmp_path):
    """Two bits make people alike; the closed form tells them apart again."""
    small, plain, fitted = (tmp_path / f"{name}.safetensors" for name in ("2", "plain", "fitted"))
    quantize(trained, small, 2)
    dev, own = folder / "dev.jsonl", [folder / "train.jsonl"]
    before = calibrate(small, dev, plain, cohort=own)
    after = calibrate(small, dev, fitted, cohort=own, refit=True)
    assert (after["people"], after["cohort"]) == (before["people"], before["cohort"]) == (6, 10)
    assert after["eer"] < max(before["eer"], 0.2)
    weights = tynda.load(fitted).checkpoint.weights
    assert stored_bits(weights["embedding.weight"]) >= 8
    assert stored_bits(weights["stem.convs.1.weight"]) == 2
    Speakers(str(fitted))
    with pytest.raises(TyndaError, match="is there already"):
        calibrate(small, dev, fitted)


def test_crops_have_one_duration_in_a_batch_and_their_class(folder, tmp_path):
    from tynda import manifest

    utterances = [u for u in manifest.read(folder / "train.jsonl") if person(u)]
    corpus = Corpus(utterances, tmp_path)
    members = [
        np.array([i for i, u in enumerate(utterances) if u.speaker == p]) for p in ("p0", "p1")
    ]
    front = LogMel(bins=8)
    voices = Voices(
        corpus,
        members,
        [[0, 1, 1], [1]],
        [0.4, 2.0],
        front,
        Augment(speeds=(0.9, 1.0)),
        None,
        None,
        (1,),
    )
    assert len(voices) == 2
    batch = voices[0]
    assert set(batch.lengths.tolist()) <= {39, 40, 41}
    assert [c // 2 for c in batch.labels.tolist()] == [0, 1, 1]
    # Short recordings follow one another until a crop is full.
    assert abs(int(voices[1].lengths[0]) - 200) <= 1
    assert torch.equal(voices[0].features, voices[0].features)  # depends only on the seed


def objective(margin, progress=1.0):
    recipe = recipes.from_table("tiny", tomllib.loads(TOML))
    recipe = replace(recipe, margin=replace(recipe.margin, margin=margin, scale=10.0))
    made = Margin(recipe, LogMel(bins=16), ["a", "b"])
    made.progress = progress
    return made


def test_the_margin_by_hand(monkeypatch):
    vector = torch.tensor([[math.cos(0.5), math.sin(0.5), *[0.0] * 6]])
    monkeypatch.setattr(Margin, "embeddings", lambda *_: vector)
    # Two people at two speeds; the second class of the first is 0.5 radians away.
    weights = {"classes.weight": torch.eye(8)[[2, 0, 1, 3]] * 5}
    batch = collate([np.zeros((1, 16), np.float32)], [[1]], [[]])
    scores = torch.tensor([[0, math.cos(0.5), math.sin(0.5), 0]])
    moved = torch.tensor([[0, math.cos(0.5 + 0.3), math.sin(0.5), 0]])
    loss, plain = objective(0.3).loss(weights, batch, 1)
    own = torch.tensor([1])
    assert float(plain) == pytest.approx(float(F.cross_entropy(10 * scores, own)), abs=1e-5)
    assert float(loss) == pytest.approx(float(F.cross_entropy(10 * moved, own)), abs=1e-5)
    for without in (objective(0.0), objective(0.3, progress=0.0)):
        loss, plain = without.loss(weights, batch, 1)
        assert float(loss) == pytest.approx(float(plain), abs=1e-5)


def test_a_voice_opposite_to_its_class_is_pulled_back(monkeypatch):
    vector = torch.tensor([[-1.0, 1e-3, *[0.0] * 6]], requires_grad=True)
    monkeypatch.setattr(Margin, "embeddings", lambda *_: F.normalize(vector))
    batch = collate([np.zeros((1, 16), np.float32)], [[0]], [[]])
    loss, plain = objective(0.3).loss({"classes.weight": torch.eye(8)[:4]}, batch, 1)
    loss.backward()
    assert loss > plain
    assert vector.grad.isfinite().all()


def test_calibration_by_hand():
    # Two people whose recordings are all equal, at a right angle to each other.
    voices = {"a": np.tile([1.0, 0, 0], (5, 1)), "b": np.tile([0, 1.0, 0], (5, 1))}
    cohort = np.array([[0.6, 0, 0.8], [0, 0.6, 0.8], [0, 0, 1.0]])
    found = calibrated(voices, cohort)
    assert found["slope"] > 0
    assert set(found) == {
        "slope",
        "offset",
        *(f"threshold_{r}" for r in ("0.0001", "0.001", "0.01", "0.1")),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('family = "conformer"', r"\[margin\] is for models of voices"),
        ("[lm]", "lm is for models of words"),
        ("shortest = 9.0", "shortest must not be above longest"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(folder, tmp_path, change, message):
    text = {
        'family = "conformer"': TOML.replace('family = "mfa_conformer"', change),
        "[lm]": TOML + "[lm]\norder = 2\nprune = [0]\n",
        "shortest = 9.0": TOML.replace("shortest = 0.3", change),
    }[change]
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(TyndaError, match=message):
        train(str(tmp_path / "bad.toml"), folder, tmp_path / "run")


def test_manifests_that_cannot_train_voices_are_refused(folder, tmp_path):
    about = {"audio_filepath": str(folder / "train-0-0.wav"), "text": "a"}
    (tmp_path / "train.jsonl").write_text(json.dumps(about) + "\n")
    with pytest.raises(TyndaError, match="names no speaker"):
        train(str(folder / "tiny.toml"), tmp_path, tmp_path / "a", ["data.dev=[]"])
    (tmp_path / "train.jsonl").write_text(json.dumps(about | {"speaker": "x"}) + "\n")
    with pytest.raises(TyndaError, match="two people"):
        train(str(folder / "tiny.toml"), tmp_path, tmp_path / "b", ["data.dev=[]"])


def test_people_of_dev_who_are_trained_on_are_left_out(folder, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(
            str(folder / "tiny.toml"),
            folder,
            tmp_path,
            ['data.dev=["train.jsonl","dev.jsonl"]', "optimizer.epochs=1"],
            threads=1,
        )
    assert any("45 dev recordings are of people to train on" in str(w.message) for w in caught)


def test_a_start_needs_blocks_of_the_same_size(folder, tmp_path):
    save_tiny(tmp_path / "words.safetensors")
    start = tmp_path / "words.safetensors"
    settings = ["optimizer.epochs=1", "data.dev=[]", "frontend.bins=8"]
    # The small recogniser of the tests has blocks of these sizes.
    assert train(str(folder / "tiny.toml"), folder, tmp_path / "a", settings, init=start).exists()
    with pytest.raises(TyndaError, match="another blocks"):
        train(
            str(folder / "tiny.toml"),
            folder,
            tmp_path / "b",
            [*settings, "model.hidden=20"],
            init=start,
        )
