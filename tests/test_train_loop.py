"""The training loop, on tones that stand for words."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from click.testing import CliRunner  # noqa: E402

import tynda  # noqa: E402
from helpers import tone, write_manifest, write_wav  # noqa: E402
from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.models import Spec  # noqa: E402
from tynda.train import recipe as recipes  # noqa: E402
from tynda.train.loop import Trainer, _consistency, initial_weights, learning_rate  # noqa: E402
from tynda.train.recipe import Optimizer  # noqa: E402

HERTZ = {"do": 400, "mi": 1100, "so": 3000}
TEXTS = ["do mi so", "so do", "mi mi do"]
RECIPE = """
family = "conformer"
[model]
channels = 32
layers = 2
heads = 2
hidden = 32
kernel = 7
stem = 8
stride = 2
dropout = 0.05
[frontend]
kind = "log_mel"
bins = 16
[data]
dev = ["m.jsonl"]
batch_seconds = 6.0
[[data.train]]
manifest = "m.jsonl"
weight = 2.0
[optimizer]
epochs = 4
lr = 4e-3
warmup_steps = 10
average = 0.9
precision = "f32"
"""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three utterances, a second or so each, and the recipe to train on them."""
    folder = tmp_path_factory.mktemp("tones")
    pause = np.zeros(2400, np.float32)
    for i, text in enumerate(TEXTS):
        parts = [part for word in text.split() for part in (pause, tone(HERTZ[word], 0.3))]
        write_wav(folder / f"{i}.wav", np.concatenate([*parts, pause]))
    write_manifest(folder / "m.jsonl", [(f"{i}.wav", text) for i, text in enumerate(TEXTS)])
    (folder / "tones.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return recipes.load(str(folder / "tones.toml"))


def trainer(recipe, folder, output, **options):
    output.mkdir(exist_ok=True)
    return Trainer(recipe, folder, output, workers=1, **options)


def changed(recipe, **settings):
    return replace(recipe, optimizer=replace(recipe.optimizer, **settings))


def test_the_learning_rate_by_hand():
    o = Optimizer(epochs=1, lr=1.0, warmup_steps=4, cooldown=0.5)
    rates = [learning_rate(step, 10, o) for step in range(11)]
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]
    assert rates == pytest.approx(expected)
    flat = Optimizer(epochs=1, lr=2e-3, warmup_steps=0, cooldown=0.0)
    assert [learning_rate(step, 3, flat) for step in range(3)] == [2e-3] * 3


def test_weights_start_as_their_specs_say():
    specs = {"a": Spec((200, 5, 5)), "b": Spec((3,), "zeros"), "c": Spec((3,), "ones")}
    start = initial_weights(specs, 42)
    assert start["a"].abs().max() <= 1 / 5
    assert start["a"].std().item() == pytest.approx(1 / 5 / math.sqrt(3), rel=0.05)
    assert start["b"].tolist() == [0, 0, 0]
    assert start["c"].tolist() == [1, 1, 1]
    assert torch.equal(start["a"], initial_weights(specs, 42)["a"])
    assert not torch.equal(start["a"], initial_weights(specs, 43)["a"])


def test_the_consistency_loss_by_hand():
    # Two views of one utterance of one frame (the second frame is padding), two symbols.
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    padding = torch.tensor([0.9, 0.1])
    views = torch.stack([torch.stack([p, padding]), torch.stack([q, padding.flip(0)])])
    log_probs = views.log().requires_grad_()
    loss = _consistency(log_probs, torch.tensor([1, 1]))
    kl_qp = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    kl_pq = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert loss.item() == pytest.approx(kl_qp + kl_pq, rel=1e-5)
    loss.backward()
    # The other view is a fixed target, so the gradient is minus its probabilities.
    expected = torch.stack([torch.stack([-q, 0 * q]), torch.stack([-p, 0 * p])])
    torch.testing.assert_close(log_probs.grad, expected)


def test_tones_are_learnt_by_heart_and_the_model_file_transcribes_them(folder, recipe, tmp_path):
    source = replace(recipe.data.train[0], weight=40.0)
    long = replace(changed(recipe, epochs=10), data=replace(recipe.data, train=(source,)))
    path = trainer(long, folder, tmp_path / "run", command="tynda train tones").run()
    assert path == tmp_path / "run" / "best.safetensors"
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    last = log["epochs"][-1]
    assert [entry["epoch"] for entry in log["epochs"]] == list(range(1, 11))
    assert last["loss"] < 0.1 < log["epochs"][0]["loss"]
    assert last["dev_loss"] < 0.1
    assert last["dev_wer"] == last["dev_cer"] == 0
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    model = tynda.load(path)
    assert model.header.training["command"] == "tynda train tones"
    assert model.header.name == "tones"
    assert "phones.weight" not in model._model.weights
    for i, text in enumerate(TEXTS):
        assert model.transcribe(folder / f"{i}.wav").text == text
    assert tynda.evaluate(model, [folder / "m.jsonl"]).overall.wer == 0


def test_a_resumed_run_is_the_same_run(folder, recipe, tmp_path):
    whole = trainer(recipe, folder, tmp_path / "whole")
    whole.run()
    trainer(recipe, folder, tmp_path / "parts").run(max_epochs=2)
    parts = trainer(recipe, folder, tmp_path / "parts", resume=True)
    assert parts.at.epoch == 2
    parts.run()
    assert parts.at.epoch == 4
    assert parts.at.step == whole.at.step
    for weights in ("weights", "average"):
        for name, value in getattr(whole, weights).items():
            assert torch.equal(value, getattr(parts, weights)[name]), name
    histories = [
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in t.at.history]
        for t in (whole, parts)
    ]
    assert histories[0] == histories[1]
    assert histories[0][-1]["lr"] == learning_rate(7, 8, recipe.optimizer)
    done = trainer(recipe, folder, tmp_path / "parts", resume=True)
    assert done.run() == tmp_path / "parts" / "best.safetensors"
    assert done.at.epoch == 4


def test_the_same_seed_gives_the_same_weights_and_another_one_others(folder, recipe, tmp_path):
    ends = []
    for run, seed in enumerate((1, 1, 2)):
        t = trainer(changed(recipe, seed=seed), folder, tmp_path / str(run))
        t.run(max_epochs=1)
        ends.append(t.weights["head.weight"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_run_is_not_overwritten_and_a_missing_one_not_resumed(folder, recipe, tmp_path):
    trainer(recipe, folder, tmp_path / "run").run(max_epochs=1)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises(TyndaError, match="--resume"):
        trainer(recipe, folder, tmp_path / "run")
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    with pytest.raises(TyndaError, match="nothing to resume"):
        trainer(recipe, folder, tmp_path / "none", resume=True)


def test_a_run_of_another_shape_and_a_damaged_one_are_not_resumed(folder, recipe, tmp_path):
    trainer(recipe, folder, tmp_path / "run").run(max_epochs=1)
    for sizes in ({"layers": 1}, {"hidden": 48}):
        other = replace(recipe, model={**recipe.model, **sizes})
        with pytest.raises(TyndaError, match="another recipe"):
            trainer(other, folder, tmp_path / "run", resume=True)
    last = tmp_path / "run" / "last.pt"
    whole = last.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        last.write_bytes(content)
        with pytest.raises(TyndaError, match=r"last\.pt is damaged"):
            trainer(recipe, folder, tmp_path / "run", resume=True)


def test_a_run_can_start_from_a_model_of_the_same_shape(folder, recipe, tmp_path):
    path = trainer(recipe, folder, tmp_path / "first").run(max_epochs=1)
    started = trainer(recipe, folder, tmp_path / "second", init=path)
    for name, value in tynda.load(path)._model.weights.items():
        np.testing.assert_array_equal(started.weights[name].detach().numpy(), value)
        np.testing.assert_array_equal(started.average[name].numpy(), value)
    wider = replace(recipe, model={**recipe.model, "hidden": 48})
    with pytest.raises(TyndaError, match="another shape"):
        trainer(wider, folder, tmp_path / "third", init=path)


def test_phones_consistency_and_bf16_train_too_and_leave_no_trace(folder, recipe, tmp_path):
    pytest.importorskip("pocketsphinx")
    full = replace(changed(recipe, consistency=0.2, precision="bf16"), phones=recipes.Phones())
    t = trainer(full, folder, tmp_path / "run")
    before = t.weights["phones.weight"].detach().clone()
    path = t.run(max_epochs=1)
    assert not torch.equal(t.weights["phones.weight"], before)
    assert math.isfinite(t.at.history[0]["loss"])
    assert "phones.weight" not in tynda.load(path)._model.weights


def test_no_better_dev_cer_for_long_ends_the_run(folder, recipe, tmp_path):
    still = trainer(changed(recipe, lr=0.0, epochs=9, patience=2), folder, tmp_path / "run")
    still.run()
    assert still.at.epoch == 3
    assert still.at.best_epoch == 1


@pytest.mark.filterwarnings("error")
def test_without_dev_the_loss_alone_is_watched_and_drawn(folder, recipe, tmp_path):
    t = trainer(replace(recipe, data=replace(recipe.data, dev=())), folder, tmp_path / "run")
    path = t.run()
    assert t.at.history[0].keys() == {"epoch", "loss", "lr", "steps", "seconds"}
    assert t.at.best_score[0] == min(entry["loss"] for entry in t.at.history)
    assert path.exists()
    assert (tmp_path / "run" / "curve.png").exists()


def test_a_dev_set_that_comes_later_is_drawn_too(folder, recipe, tmp_path):
    t = trainer(replace(recipe, data=replace(recipe.data, dev=())), folder, tmp_path / "run")
    t.run(max_epochs=1)
    later = trainer(recipe, folder, tmp_path / "run", resume=True)
    later.run(max_epochs=1)
    assert "dev_cer" not in later.at.history[0]
    assert "dev_cer" in later.at.history[1]


def test_dev_texts_without_a_letter_are_no_trouble(folder, recipe, tmp_path):
    write_manifest(tmp_path / "empty.jsonl", [(str(folder / "0.wav"), "")])
    data = replace(recipe.data, dev=(str(tmp_path / "empty.jsonl"),))
    t = trainer(replace(recipe, data=data), folder, tmp_path / "run")
    t.run(max_epochs=1)
    assert math.isfinite(t.at.history[0]["dev_loss"])


def invoke(folder, *args):
    command = ["train", str(folder / "tones.toml"), "--data", str(folder), *map(str, args)]
    return CliRunner().invoke(main, command)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--set", "optimizer.epochs"], "KEY=VALUE"),
        (["--set", "optimizer.epochs=many"], "TOML"),
        (["--set", "optimizer.epoch=3"], "'epoch'"),
        (["--set", "model.channels=31"], "channels 31"),
        (["--set", "model.width=3"], "'width'"),
        (["--set", "frontend.kind='ear'"], "'ear'"),
        (["--set", "family='oracle'"], "'oracle'"),
        (["--set", "data.dev=['absent.jsonl']"], "absent.jsonl"),
        (["--data", "absent"], "absent/m.jsonl"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, tmp_path, args, words):
    result = invoke(folder, "--output", tmp_path / "run", *args)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line
    assert not list((tmp_path / "run").glob("*.*"))


def test_a_run_folder_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(folder, "--output", tmp_path / "file" / "run")
    assert result.exit_code == 1
    assert "cannot make the folder" in result.stderr


def test_the_command_prints_the_path_of_a_model_that_loads(folder, tmp_path):
    output = tmp_path / "run"
    result = invoke(folder, "--output", output, "--set", "optimizer.epochs=1", "--workers", 2)
    assert result.exit_code == 0, result.output
    path = result.stdout.strip()
    assert "epoch 1" in result.stderr
    assert tynda.load(path).header.training["recipe"]["optimizer"]["epochs"] == 1
    # The process computes with small numbers as it did before.
    assert np.float32(1e-40) * np.float32(1) != 0
