"""Recipes: read, checked, overridden."""

import dataclasses
import math

import pytest

from tynda import models
from tynda.errors import TyndaError
from tynda.sound import frontend
from tynda.text.tokenizer import ENGLISH
from tynda.train import recipe
from tynda.train.recipe import Augment, Optimizer, Phones, Source

NAN, INF = math.nan, math.inf
BARE = ("int", "float", "tuple[int, ...]", "tuple[float, ...]", "tuple[float, float]")
TEXT = """
family = "conformer"
[model]
channels = 16
[frontend]
kind = "log_mel"
[data]
dev = ["dev.jsonl"]
[[data.train]]
manifest = "a.jsonl"
[[data.train]]
manifest = "b.jsonl"
weight = 2
words = ["one", "two"]
[augment]
speeds = [0.9, 1]
[phones]
weight = 0.2
[optimizer]
epochs = 3
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT)
    return str(tmp_path / "mine.toml")


@pytest.mark.parametrize("name", recipe.bundled())
def test_every_bundled_recipe_loads_and_its_model_can_be_made(name):
    loaded = recipe.load(name)
    assert loaded.name == name
    front = frontend.from_config(dict(loaded.frontend))
    family = models.family(loaded.family)
    # A model of overlap has three outputs, and no letters.
    sizes = {"bins": front.bins, "vocab": 3 if loaded.mixing else len(ENGLISH)}
    config = family.configure({**loaded.model, **sizes})
    assert family.specs(config)
    assert loaded.data.train


def test_the_models_that_are_shipped_have_a_recipe():
    assert {"digits-en", "sentences-en"} <= set(recipe.bundled())


def test_a_file_becomes_a_recipe_named_after_it(path):
    loaded = recipe.load(path)
    assert loaded.name == "mine"
    assert loaded.model == {"channels": 16}
    assert loaded.data.train == (
        Source("a.jsonl"),
        Source("b.jsonl", weight=2, words=("one", "two")),
    )
    assert loaded.augment == Augment(speeds=(0.9, 1))
    assert loaded.phones == Phones(weight=0.2)
    assert loaded.lm is None
    assert loaded.optimizer == Optimizer(epochs=3)


def test_overrides_reach_every_section_and_make_new_ones(path):
    overrides = {
        "optimizer.epochs": 7,
        "model.layers": 2,
        "lm.order": 2,
        "name": "other",
        "augment.snr": [1, 2.5],
    }
    loaded = recipe.load(path, overrides)
    assert loaded.optimizer.epochs == 7
    assert loaded.model == {"channels": 16, "layers": 2}
    assert loaded.lm.order == 2
    assert loaded.name == "other"
    assert loaded.augment.snr == (1, 2.5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"optimizer.epoch": 3}, ["'epoch'", "optimizer"]),
        ({"colour": 3}, ["'colour'"]),
        ({"phones.depth": 3}, ["'depth'", "phones"]),
        ({"data.train": [{"manifest": "a", "wieght": 1}]}, ["'wieght'", "data.train"]),
        ({"data.train": [{"weight": 1}]}, ["'manifest'", "missing"]),
        ({"data.train": ["a.jsonl"]}, ["data.train", "table"]),
        ({"data.train": "a.jsonl"}, ["'train'", "a.jsonl"]),
        ({"data": 5}, ["data", "table"]),
        ({"model": 5}, ["'model'"]),
        ({"optimizer.epochs": "five"}, ["'epochs'", "'five'"]),
        ({"optimizer.epochs": 2.5}, ["'epochs'", "2.5"]),
        ({"optimizer.epochs": True}, ["'epochs'", "True"]),
        ({"optimizer.epochs": 0}, ["epochs", "at least 1"]),
        ({"optimizer.lr": "1e-3"}, ["'lr'"]),
        ({"optimizer.betas": [0.9]}, ["'betas'"]),
        ({"optimizer.precision": "fp16"}, ["precision", "bf16"]),
        ({"augment.speeds": []}, ["speeds"]),
        ({"augment.speeds": [1.0, 0]}, ["speeds"]),
        ({"augment.snr": [9, 3]}, ["snr"]),
        ({"augment.time_share": 1.5}, ["time_share"]),
        ({"data.train": [{"manifest": "a", "join": 0}]}, ["join"]),
        ({"data.train": [{"manifest": "a", "weight": -1}]}, ["weight"]),
        ({"data.train": [{"manifest": "a", "words": "one"}]}, ["'words'"]),
        ({"data.noise": 3}, ["'noise'"]),
        ({"data.train": [{"manifest": "a", "weight": 0}]}, ["'weight'", "above 0"]),
        ({"data.batch_seconds": 0}, ["'batch_seconds'", "above 0"]),
        ({"data.max_seconds": -1.0}, ["'max_seconds'"]),
        ({"data.dev_utterances": -1}, ["'dev_utterances'", "0 or more"]),
        ({"augment.noise": 1.5}, ["'noise'", "from 0 to 1"]),
        ({"augment.noise": 0.5}, ["augment.noise", "data.noise"]),
        ({"augment.rooms": -0.1}, ["'rooms'"]),
        ({"augment.splice": 2}, ["'splice'"]),
        ({"augment.freq_masks": -1}, ["'freq_masks'"]),
        ({"augment.time_masks": -1}, ["'time_masks'"]),
        ({"augment.freq_width": -1}, ["'freq_width'"]),
        ({"augment.speeds": [0.4, 1]}, ["'speeds'", "0.5 to 2"]),
        ({"augment.speeds": [2.1]}, ["'speeds'"]),
        ({"augment.snr": [-INF, INF]}, ["'snr'"]),
        ({"phones.weight": -0.1}, ["'weight'", "phones"]),
        ({"optimizer.lr": 0}, ["'lr'", "above 0"]),
        ({"optimizer.lr": -1e-3}, ["'lr'"]),
        ({"optimizer.lr": 10**400}, ["'lr'"]),
        ({"optimizer.betas": [0.9, 1.0]}, ["'betas'", "below 1"]),
        ({"optimizer.average": 1.0}, ["'average'"]),
        ({"optimizer.weight_decay": -0.01}, ["'weight_decay'"]),
        ({"optimizer.clip": 0}, ["'clip'"]),
        ({"optimizer.warmup_steps": -1}, ["'warmup_steps'"]),
        ({"optimizer.cooldown": 1}, ["'cooldown'"]),
        ({"optimizer.patience": -1}, ["'patience'"]),
        ({"optimizer.consistency": -1}, ["'consistency'"]),
        ({"optimizer.consistency_start": 1.1}, ["'consistency_start'"]),
        ({"optimizer.seed": -1}, ["'seed'"]),
        ({"optimizer.seed": 2**63}, ["'seed'"]),
        ({"lm.order": 1}, ["'order'", "from 2 to 6"]),
        ({"lm.order": 7}, ["'order'"]),
        ({"lm.prune": []}, ["lm", "prune"]),
        ({"lm.prune": [1]}, ["lm", "prune"]),
        ({"lm.prune": [0, 2, 1]}, ["lm", "prune"]),
        ({"lm.prune": [0, -1]}, ["'prune'"]),
        ({"lm.beam_size": 0}, ["'beam_size'"]),
        ({"lm.tune_utterances": 0}, ["'tune_utterances'"]),
        ({"lm.order": 2, "data.train": [{"manifest": "a", "lm": False}]}, ["[lm]"]),
        ({"model.bins": 80}, ["model.bins"]),
        ({"model.vocab": 29}, ["model.vocab"]),
        ({"model.dropout": NAN}, ["'model'"]),
        ({"bits": 4}, ["'bits'", "8, 16 or 32"]),
        ({"family": "rnn"}, ["'family'", "conformer"]),
        ({"language": "uk"}, ["'language'", "English"]),
        *(
            ({"name": name}, ["'name'", "file name"])
            for name in ("", ".", "..", ".a", "a/b", "/a", "a\\b", "a\0", "a b", "a\n", "a" * 300)
        ),
    ],
)
def test_what_does_not_fit_is_named(path, overrides, words):
    with pytest.raises(TyndaError) as caught:
        recipe.load(path, overrides)
    for word in [*words, "mine.toml"]:
        assert word in str(caught.value)


NUMBERS = [
    f"{section}.{f.name}"
    for section, kind in recipe._SECTIONS.items()
    for f in dataclasses.fields(kind)
    if f.type in ("Positive", "NotNegative", "Share", "BelowOne")
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_number_is_infinite_or_none(path, key, value):
    with pytest.raises(TyndaError, match=f"'{key.split('.')[1]}'.*cannot be"):
        recipe.load(path, {"distill.teacher": "sentences-en", key: value})


def test_every_number_has_a_range():
    """All settings have bounds except the signal-to-noise ratio."""
    kinds = (*recipe._SECTIONS.values(), Source)
    bare = [f.name for kind in kinds for f in dataclasses.fields(kind) if f.type in BARE]
    assert bare == ["snr"]


def test_the_edges_of_the_ranges_are_allowed(path):
    overrides = {
        "optimizer.warmup_steps": 0,
        "optimizer.cooldown": 0,
        "optimizer.seed": 2**63 - 1,
        "optimizer.betas": [0, 0.0],
        "augment.speeds": [0.5, 2],
        "augment.rooms": 1,
        "phones.weight": 0,
        "lm.order": 6,
        "lm.prune": [0, 0, 1, 1, 2, 2],
        "name": "a-1_b.c",
    }
    recipe.load(path, overrides)


def test_a_value_is_no_section(path):
    for key in ("family.x", "model.channels.x"):
        with pytest.raises(TyndaError, match=key):
            recipe.load(path, {key: 5})


@pytest.mark.parametrize("lost", ["family", "optimizer", "model", "data"])
def test_a_missing_section_is_named(path, lost, tmp_path):
    kept, dropping = [], False
    for line in TEXT.splitlines():
        if line.startswith("["):
            dropping = line.strip("[]").split(".")[0] == lost
        if not dropping and not line.startswith(f"{lost} ="):
            kept.append(line)
    (tmp_path / "mine.toml").write_text("\n".join(kept))
    with pytest.raises(TyndaError, match=f"'{lost}' is missing"):
        recipe.load(path)


def test_an_unknown_recipe_and_bad_toml(tmp_path):
    for name in ("nobody", str(tmp_path), "nobody.toml", "no\0body"):
        with pytest.raises(TyndaError, match="sentences-en"):
            recipe.load(name)
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(TyndaError, match=r"bad\.toml"):
        recipe.load(str(tmp_path / "bad.toml"))
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TyndaError, match=r"latin\.toml is not UTF-8"):
        recipe.load(str(tmp_path / "latin.toml"))
