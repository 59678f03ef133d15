"""Where several people speak at once: conversations to learn from, the trainer, the model."""

import numpy as np
import pytest
from click.testing import CliRunner

import tynda
from helpers import noise, tone, write_manifest, write_wav
from tynda import manifest
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.models import overlap
from tynda.sound.frontend import LogMel
from tynda.train import recipe as recipes
from tynda.train.conversations import Conversations, labels_of, spoken
from tynda.train.data import Corpus
from tynda.train.people import names_of, recordings_of
from tynda.train.recipe import Augment, Mixing
from tynda.train.run import train

RATE = 16_000
TOML = """
name = "tiny-overlap"
family = "overlap"
[model]
channels = 16
layers = 1
heads = 2
hidden = 32
kernel = 5
stem = 8
[frontend]
kind = "log_mel"
bins = 16
normalize = "fixed"
[mixing]
seconds = 4.0
hours = 0.08
turn = [0.5, 2.0]
[data]
dev = ["dev.jsonl"]
batch_seconds = 16.0
[[data.train]]
manifest = "train.jsonl"
[optimizer]
epochs = 4
lr = 1e-2
warmup_steps = 2
average = 0.8
precision = "f32"
"""


def voice(one, seconds, seed):
    """Return a tone of a person's own, quiet at both ends."""
    t = np.arange(int(seconds * RATE)) / RATE
    sound = 0.1 * np.sin(2 * np.pi * (300 + 140 * one) * t) * (1 + 0.5 * np.sin(9 * t + seed))
    return np.pad(sound, RATE // 5).astype(np.float32) + noise(seconds + 0.4, seed, 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with eight people to train on and four of dev."""
    path = tmp_path_factory.mktemp("data")
    for name, people in (("train", range(8)), ("dev", range(10, 14))):
        rows = []
        for p in people:
            for take in range(3):
                write_wav(path / f"{p}-{take}.wav", voice(p, 1.5, 3 * p + take))
                rows.append((f"{p}-{take}.wav", "", {"speaker": f"p{p}"}))
        write_manifest(path / f"{name}.jsonl", rows)
    (path / "tiny.toml").write_text(TOML)
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    return train(str(folder / "tiny.toml"), folder, tmp_path_factory.mktemp("run"), threads=1)


def test_speech_is_where_the_energy_is():
    silence = np.zeros(RATE // 2, np.float32)
    found = spoken(np.concatenate([silence, tone(300, 1.0), silence[:3200], tone(300, 0.5)]))
    assert found[:48].sum() == 0
    assert found[52:].all()  # A pause of 0.2 s belongs to speech.
    found = spoken(np.concatenate([tone(300, 1.0), silence, tone(300, 1.0)]))
    assert not found[105:145].any()
    assert len(spoken(np.zeros(10, np.float32))) == 0


def test_labels_by_hand():
    counts = np.array([0] * 12 + [1] * 8 + [2] * 8 + [3] * 4 + [1])
    # Frames of eight: centres at 0, 8, 16, 24 and 32.
    assert labels_of(counts, 8).tolist() == [0, 0, 1, 2, 1]
    assert labels_of(np.array([1]), 8).tolist() == [1]


def conversations(folder, tmp_path, **mixing):
    utterances = manifest.read(folder / "train.jsonl")
    corpus = Corpus(utterances, tmp_path)
    return Conversations(
        corpus,
        recordings_of(corpus, names_of(utterances)),
        np.ones(8),
        count=3,
        size=4,
        mixing=Mixing(seconds=6.0, turn=(0.5, 2.0), **mixing),
        stride=8,
        frontend=LogMel(bins=16),
        augment=Augment(speeds=(0.9, 1.1), filter=0.5),
        noises=None,
        rooms=None,
        seed=(1,),
    )


def test_conversations_have_a_label_for_each_frame(folder, tmp_path):
    made = conversations(folder, tmp_path)
    assert len(made) == 3
    batch = made[0]
    assert batch.features.shape[0] == 4
    assert len(batch.labels) == 4 * -(-batch.features.shape[1] // 8)
    assert set(batch.labels.tolist()) == {0, 1, 2}
    again = made[0]
    assert np.array_equal(batch.features, again.features)
    assert not np.array_equal(batch.features, made[1].features)


def test_nobody_interrupts_without_overlap(folder, tmp_path):
    made = conversations(folder, tmp_path, overlap=0.0)
    assert set(np.concatenate([made[i].labels for i in range(3)]).tolist()) == {0, 1}


def test_where_two_speak_both_are_heard(folder, tmp_path):
    made, power = conversations(folder, tmp_path), {0: [], 1: [], 2: []}
    for seed in range(20):
        samples, counts = made._conversation(np.random.default_rng(seed))
        ticks = samples[: len(counts) * 160].reshape(len(counts), 160)
        for count, own in power.items():
            own += np.square(ticks).mean(1)[counts == count].tolist()
    nobody, one, two = (np.mean(own) for own in power.values())
    assert nobody < 0.02 * one
    assert 1.5 < two / one < 2.5


def test_a_run_makes_a_model_that_hears_overlap(trained):
    model = tynda.load(trained, threads=1)
    assert model.header.family == "overlap"
    alone, other = voice(1, 2.0, 5) / 2, voice(5, 2.0, 6) / 2
    one, two = model.encode(alone), model.encode(alone + other)
    assert one.shape == two.shape == (-(-len(alone) // 1280),)
    assert two[5:-5].mean() > one[5:-5].mean() + 0.3
    log = (trained.parent / "log.json").read_text()
    assert '"dev_loss"' in log


def test_any_length_is_heard_in_pieces(trained):
    model = tynda.load(trained, threads=1)
    for seconds in (0, 0.005, 0.08, 30.5, 95.0):
        samples = np.zeros(int(seconds * RATE), np.float32)
        found = model.encode(samples)
        assert abs(len(found) - len(samples) / 1280) <= 1
        assert ((found >= 0) & (found <= 1)).all()


def test_a_model_of_overlap_writes_no_text(trained, folder):
    done = CliRunner().invoke(
        main, ["transcribe", "--model", str(trained), str(folder / "0-0.wav")]
    )
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "where several people speak at once" in done.stderr
    done = CliRunner().invoke(main, ["speakers", "identify", "--model", str(trained), "x.wav"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "no model of voices" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[mixing]\n", "[margin]\n[mixing]\n", r"\[margin\] is for models of voices"),
        ('family = "overlap"', 'family = "conformer"', r"\[mixing\] is for models of overlap"),
        ("turn = [0.5, 2.0]", "turn = [2.0, 0.5]", "turn must be the minimum, then"),
        ("layers = 1", "layers = 1\nupsample = 3", "is not 2, 4 or 8"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(folder, tmp_path, old, new, message):
    text = TOML.replace(old, new)
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(TyndaError, match=message):
        train(str(tmp_path / "wrong.toml"), folder, tmp_path / "run", threads=1)


def test_one_person_makes_no_conversation(folder, tmp_path):
    rows = [(str(folder / f"0-{take}.wav"), "", {"speaker": "p0"}) for take in range(3)]
    write_manifest(tmp_path / "train.jsonl", rows)
    (tmp_path / "tiny.toml").write_text(TOML.replace('["dev.jsonl"]', "[]"))
    with pytest.raises(TyndaError, match="two people or more"):
        train(str(tmp_path / "tiny.toml"), tmp_path, tmp_path / "run", threads=1)


def test_the_bundled_recipe_starts_from_the_recogniser_of_sentences():
    recipe = recipes.load("overlap")
    config = overlap.FAMILY.configure({**recipe.model, "bins": 80, "vocab": 3})
    held = tynda.load("sentences-en").checkpoint
    for name, shape in overlap.FAMILY.shapes(config).items():
        if name.startswith(("blocks", "stem")):
            assert held.family.shapes(held.config)[name] == shape
