"""The training loop, on tones that represent words."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from click.testing import CliRunner  # noqa: E402

import tynda  # noqa: E402
from helpers import write_manifest, write_tones  # noqa: E402
from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.models.base import Spec  # noqa: E402
from tynda.ops.torch import has_bfloat16  # noqa: E402
from tynda.train import recipe as recipes  # noqa: E402
from tynda.train.ctc import _consistency  # noqa: E402
from tynda.train.loop import Trainer  # noqa: E402
from tynda.train.recipe import Optimizer  # noqa: E402
from tynda.train.start import initial_weights, learning_rate  # noqa: E402

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
    write_tones(folder, TEXTS, pause=0.15)
    write_manifest(folder / "mute.jsonl", [("0.wav", "")])
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
    # The other view is a fixed target, so that the gradient is minus its probabilities.
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
    assert "phones.weight" not in model.checkpoint.weights
    for i, text in enumerate(TEXTS):
        assert model.transcribe(folder / f"{i}.wav", speech_threshold=0).text == text
    options = model.options(speech_threshold=0)  # Tones are no speech.
    assert tynda.evaluate(model, [folder / "m.jsonl"], options).overall.wer == 0


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
    for name, value in tynda.load(path).checkpoint.weights.items():
        np.testing.assert_array_equal(started.weights[name].detach().numpy(), value)
        np.testing.assert_array_equal(started.average[name].numpy(), value)
    wider = replace(recipe, model={**recipe.model, "hidden": 48})
    with pytest.raises(TyndaError, match=r"has a hidden of .*, the recipe's model one of 48"):
        trainer(wider, folder, tmp_path / "third", init=path)


def test_a_model_for_live_text_starts_from_one_of_whole_recordings(folder, recipe, tmp_path):
    path = trainer(recipe, folder, tmp_path / "first").run(max_epochs=1)
    chunked = replace(
        recipe,
        family="chunked_conformer",
        model={**recipe.model, "chunk": 2, "chunks": [2, 4], "window": 8},
        frontend={"kind": "log_mel", "bins": 16, "normalize": "fixed"},
        augment=replace(recipe.augment, gain_db=6.0),
    )
    live = trainer(chunked, folder, tmp_path / "live", init=path)
    for name, value in tynda.load(path).checkpoint.weights.items():
        np.testing.assert_array_equal(live.weights[name].detach().numpy(), value)
    # The front end has the statistics of the recordings, also for the dev set and in the file.
    energies = np.concatenate([live.frontend(live.corpus.samples(i)) for i in range(3)])
    np.testing.assert_allclose(energies.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(energies.std(0), 1, atol=0.01)
    np.testing.assert_allclose(
        live.dev.features[0], live.frontend(live.corpus.samples(0)), atol=0.01
    )
    drawn, encode = set(), live.objective.family.programs["encode"]

    def recorded(ops, weights, config, *inputs):
        drawn.add((ops.training, config.chunk))
        return encode(ops, weights, config, *inputs)

    programs = {**live.objective.family.programs, "encode": recorded}
    live.objective.family = replace(live.objective.family, programs=programs)
    trained = live.run()
    assert drawn == {(True, 2), (True, 4), (False, 2)}
    model = tynda.load(trained)
    assert model.checkpoint.frontend == live.frontend
    assert model.transcribe(folder / "0.wav", look_ahead=9, speech_threshold=0).text
    with pytest.raises(TyndaError, match="is a chunked_conformer, but the recipe's is a conformer"):
        trainer(recipe, folder, tmp_path / "back", init=trained)


def test_phones_consistency_and_bf16_train_too_and_leave_no_trace(folder, recipe, tmp_path):
    pytest.importorskip("pocketsphinx")
    full = replace(changed(recipe, consistency=0.2, precision="bf16"), phones=recipes.Phones())
    t = trainer(full, folder, tmp_path / "run")
    before = t.weights["phones.weight"].detach().clone()
    path = t.run(max_epochs=1)
    assert not torch.equal(t.weights["phones.weight"], before)
    assert math.isfinite(t.at.history[0]["loss"])
    assert "phones.weight" not in tynda.load(path).checkpoint.weights


def test_an_lstm_trains_in_bf16_or_says_that_the_processor_has_none(
    folder, recipe, tmp_path, monkeypatch, capsys
):
    model = {"filters": 2, "hidden": 6, "layers": 1}
    n2 = replace(recipe, family="n2", model=model)
    wanted = changed(n2, precision="bf16")
    ends = []
    for name, asked in (("own", wanted), ("none", wanted), ("f32", n2)):
        if name != "own":
            monkeypatch.setattr("tynda.train.objective.has_bfloat16", lambda _: False)
            monkeypatch.setattr("tynda.train.loop.has_bfloat16", lambda _: False)
        t = trainer(asked, folder, tmp_path / name)
        t.run(max_epochs=1)
        told = capsys.readouterr().err.count(
            "this processor does not support bfloat16: training in float32"
        )
        assert told == (name == "none" or (name == "own" and not has_bfloat16("cpu")))
        assert math.isfinite(t.at.history[0]["loss"])
        ends.append(t.weights)
    assert all(torch.equal(ends[1][k], ends[2][k]) for k in ends[2])


def test_no_better_dev_cer_for_long_ends_the_run(folder, recipe, tmp_path):
    still = trainer(changed(recipe, lr=0.0, epochs=9, patience=2), folder, tmp_path / "run")
    still.run()
    assert still.at.epoch == 3
    assert still.at.best_epoch == 1
    again = trainer(still.recipe, folder, tmp_path / "run", resume=True)
    again.run()
    assert again.at.epoch == 3


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


def test_a_dev_text_without_a_letter_is_no_trouble_but_all_are(folder, recipe, tmp_path):
    rows = [(str(folder / "0.wav"), ""), (str(folder / "1.wav"), "so do")]
    for name, part in (("some", rows), ("none", rows[:1])):
        write_manifest(tmp_path / f"{name}.jsonl", part)
    some, none = (
        replace(recipe, data=replace(recipe.data, dev=(str(tmp_path / f"{name}.jsonl"),)))
        for name in ("some", "none")
    )
    t = trainer(some, folder, tmp_path / "run")
    t.run(max_epochs=1)
    assert math.isfinite(t.at.history[0]["dev_loss"])
    with pytest.raises(TyndaError, match=r"no text of data\.dev"):
        trainer(none, folder, tmp_path / "other")


def trained_on(recipe, path, **settings):
    source = replace(recipe.data.train[0], manifest=str(path), **settings)
    return replace(recipe, data=replace(recipe.data, train=(source,)))


def test_training_texts_without_a_word_are_refused(folder, recipe, tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", [(str(folder / "0.wav"), "")])
    with pytest.raises(TyndaError, match=r"no text of data\.train"):
        trainer(trained_on(recipe, path), folder, tmp_path / "run")


def test_texts_too_long_for_their_recordings_are_counted(folder, recipe, tmp_path):
    # About 1.3 s are 65 frames of 20 ms; equal letters need a frame between them.
    rows = [(str(folder / "1.wav"), "ab" * 24), (str(folder / "1.wav"), "oo" * 24)]
    path = write_manifest(tmp_path / "m.jsonl", rows)
    with pytest.warns(UserWarning, match="1 of 2 texts are too long"):
        trainer(trained_on(recipe, path), folder, tmp_path / "run")
    path = write_manifest(tmp_path / "n.jsonl", rows[1:])
    with pytest.raises(TyndaError, match="1 of 1 texts are too long"):
        trainer(trained_on(recipe, path), folder, tmp_path / "run")


def test_a_full_disk_is_one_line_and_what_was_saved_stays(folder, recipe, tmp_path):
    t = trainer(recipe, folder, tmp_path / "run")
    t.run(max_epochs=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("last*")}
    resource = pytest.importorskip("resource")  # not on Windows
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.pt"]) // 2, limits[1]))
    try:
        with pytest.raises(TyndaError, match=r"cannot write .*last\.pt"):
            t._save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*last*")} == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dev", [True, False])
def test_a_training_that_diverges_says_so_and_spoils_nothing(folder, recipe, tmp_path, dev):
    if not dev:
        recipe = replace(recipe, data=replace(recipe.data, dev=()))
    t = trainer(recipe, folder, tmp_path / "run")
    t.run(max_epochs=1)
    saved = {p: p.read_bytes() for p in (tmp_path / "run").glob("*.*")}
    wild = trainer(changed(recipe, lr=1e38), folder, tmp_path / "run", resume=True)
    with pytest.raises(TyndaError, match=r"diverged in epoch \d: lower optimizer\.lr"):
        wild.run()
    # Without dev, the first steps of an epoch may hide what the last one did until the next.
    assert not dev or saved == {p: p.read_bytes() for p in (tmp_path / "run").glob("*.*")}


def test_a_last_pt_that_is_none_is_not_resumed(folder, recipe, tmp_path):
    trainer(recipe, folder, tmp_path / "run").run(max_epochs=1)
    last = tmp_path / "run" / "last.pt"
    state = torch.load(last, weights_only=True)
    bad = [[1, 2], {}, {k: v for k, v in state.items() if k != "optimizer"}]
    bad += [state | {part: {}} for part in ("optimizer", "average")]
    for field, value in (
        ("epoch", 3),
        ("epoch", "1"),
        ("step", -1),
        ("best_score", (1.0,)),
        ("best_epoch", 2),
        ("history", [{}]),
        ("colour", 1),
    ):
        bad.append(state | {"progress": state["progress"] | {field: value}})
    last.write_text("a text\n")
    with pytest.raises(TyndaError, match=r"last\.pt is damaged"):
        trainer(recipe, folder, tmp_path / "run", resume=True)
    for content in bad:
        torch.save(content, last)
        with pytest.raises(TyndaError, match=r"last\.pt (is damaged|comes from another)"):
            trainer(recipe, folder, tmp_path / "run", resume=True)


def test_a_resumed_run_obeys_the_recipe_and_says_what_is_new(folder, recipe, tmp_path, capsys):
    trainer(recipe, folder, tmp_path / "run").run(max_epochs=1)
    capsys.readouterr()
    trainer(changed(recipe, epochs=9), folder, tmp_path / "run", resume=True)
    assert "settings" not in capsys.readouterr().err
    other = changed(recipe, betas=(0.5, 0.6), weight_decay=0.5)
    other = replace(other, licence="MIT")
    t = trainer(other, folder, tmp_path / "run", resume=True)
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "settings" in s]
    assert line.endswith(": licence, optimizer.betas, optimizer.weight_decay")
    assert [g["betas"] for g in t.optimizer.param_groups] == [(0.5, 0.6)] * 2
    assert [g["weight_decay"] for g in t.optimizer.param_groups] == [0.5, 0.0]
    (tmp_path / "run" / "log.json").write_text("[]")
    trainer(other, folder, tmp_path / "run", resume=True)


def test_one_recording_that_cannot_be_read_does_not_stop_a_training(folder, recipe, tmp_path):
    rows = [(str(folder / f"{i % 3}.wav"), TEXTS[i % 3]) for i in range(12)]
    path = write_manifest(tmp_path / "m.jsonl", [*rows, ("lost.wav", "do")])
    data = replace(trained_on(recipe, path).data, dev=(str(path),))
    with pytest.warns(UserWarning, match=r"left out: .*lost\.wav"):
        t = trainer(replace(recipe, data=data), folder, tmp_path / "run")
    assert len(t.dev.said) == 12
    t.run(max_epochs=1)
    assert math.isfinite(t.at.history[0]["loss"])


def test_matplotlib_is_silent_without_a_home(tmp_path):
    code = "from tynda.train.curve import draw; from pathlib import Path; draw([], Path('a.png'))"
    environment = os.environ | {"HOME": "/dev/null", "PYTHONPATH": os.pathsep.join(sys.path)}
    for variable in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def invoke(folder, *args):
    command = ["train", str(folder / "tones.toml"), "--data", str(folder), *map(str, args)]
    return CliRunner().invoke(main, command)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "meta"], "'meta'"),
        (["--device", "hpu"], "'hpu'"),
        (["--device", ""], "no device ''"),
        (["--set", "lm.order=7"], "from 2 to 6"),
        (
            ["--set", "data.train=[{manifest='mute.jsonl'}]", "--set", "lm.order=2"],
            "no training texts",
        ),
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
    assert "cannot create the folder" in result.stderr


def test_the_command_prints_the_path_of_a_model_that_loads(folder, tmp_path):
    output = tmp_path / "run"
    result = invoke(folder, "--output", output, "--set", "optimizer.epochs=1", "--workers", 2)
    assert result.exit_code == 0, result.output
    path = result.stdout.strip()
    lines = result.stderr.splitlines()
    assert [line for line in lines if "dev_cer" in line and "seconds" in line]
    assert all(line.strip() for line in lines)
    assert tynda.load(path).header.training["recipe"]["optimizer"]["epochs"] == 1
    # The process treats denormal numbers as before.
    assert np.float32(1e-40) * np.float32(1) != 0
