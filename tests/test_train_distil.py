"""Distillation of a model in few bits from its own full precision, without texts."""

import json
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

import tynda  # noqa: E402
from helpers import noise, save_tiny, write_manifest, write_tones, write_wav  # noqa: E402
from tynda import models  # noqa: E402
from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.quantization.descent import Descent  # noqa: E402
from tynda.quantization.methods import round_weight  # noqa: E402
from tynda.sound.frontend import LogMel  # noqa: E402
from tynda.store import checkpoint  # noqa: E402
from tynda.train.damped import DampedAdam  # noqa: E402
from tynda.train.distil import Distiller  # noqa: E402
from tynda.train.distil_recipe import is_distillation, load  # noqa: E402
from tynda.train.output_layer import fit_output_layer, output_divergence  # noqa: E402
from tynda.train.recipe import bundled, read_table  # noqa: E402
from tynda.train.run import train  # noqa: E402
from tynda.train.start import initial_weights  # noqa: E402
from tynda.train.tokens import learn_tokens  # noqa: E402
from tynda.weights.grid import Grid  # noqa: E402
from tynda.weights.weight import floats, stored_bits  # noqa: E402

TEXTS = ["do mi so", "so do", "mi mi do", "so so mi"]
RECIPE = """
teacher = "TEACHER"
samples = 1
updates = 6
batch = 2
report = 3
[data]
dev = ["dev.jsonl"]
max_seconds = 1.5
[[data.train]]
manifest = "m.jsonl"
join = 2
[augment]
speeds = [0.9, 1.1]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model, its rounding to 3 bits with zero points, recordings and a recipe."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("distil")
    write_tones(folder, TEXTS, pause=0.05)
    write_wav(folder / "noise.wav", noise(1.2))
    write_manifest(folder / "dev.jsonl", [("noise.wav", ""), ("0.wav", "")])
    tokenizer, family = learn_tokens(TEXTS, 270), models.family("whisper")
    config = family.configure(
        {
            "bins": 16,
            "vocab": tokenizer.timestamp_begin + 76,
            "channels": 32,
            "layers": 1,
            "heads": 2,
            "hidden": 64,
            "decoder_layers": 1,
            "decoder_heads": 2,
            "decoder_hidden": 64,
            "frames": 75,
            "context": 24,
        }
    )
    header = checkpoint.Header(
        name="small",
        family="whisper",
        config=asdict(config),
        frontend=LogMel(bins=16, normalize="whisper").config,
        tokenizer=tokenizer.to_dict(),
        languages=["en"],
        licence="MIT",
        decoding={"alignment_heads": [(0, 0)]},
    )
    weights = {k: 1.5 * v.numpy() for k, v in initial_weights(family.specs(config), 0).items()}
    teacher = folder / "teacher.safetensors"
    checkpoint.save_model(teacher, header, weights)
    tynda.quantize(teacher, folder / "small.safetensors", 3)
    (folder / "d.toml").write_text(RECIPE.replace("TEACHER", str(teacher)))
    return folder


def run(folder, output, *settings, init="small.safetensors", resume=False):
    return train(
        str(folder / "d.toml"), folder, output, settings, init=folder / init, resume=resume
    )


def log(output):
    return json.loads((output / "log.json").read_text())["updates"]


def changed(folder, path):
    """The names of the tensors that learnt, by what the file stores."""
    before = checkpoint.load(folder / "small.safetensors").weights
    after = checkpoint.load(path).weights
    return {n for n in before if not np.array_equal(floats(before[n]), floats(after[n]))}


@pytest.mark.parametrize("name", bundled("distillations"))
def test_every_bundled_distillation_loads(name):
    table = read_table(name)
    assert is_distillation(table)
    assert load(name, table).name == name


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_only_the_part_that_learns_changes(folder, tmp_path, part):
    path = run(folder, tmp_path / "run", f'learn=["{part}"]', "rate=5.0")
    names = changed(folder, path)
    assert names
    assert all(name.startswith(f"model.{part}.") for name in names)
    assert f"model.{part}.layers.0.fc1.weight" in names
    assert f"model.{part}.layers.0.fc1.bias" in names
    assert not any("embed_positions" in name for name in names)


def test_the_divergence_falls_and_the_file_has_the_weights_that_learnt(folder, tmp_path):
    path = run(folder, tmp_path / "run", "updates=60", "report=30", "rate=6.0", "samples=3")
    entries = log(tmp_path / "run")
    assert [(e["part"], e.get("update")) for e in entries] == [
        ("output", None),
        ("encoder", 30),
        ("encoder", 60),
        ("decoder", 30),
        ("decoder", 60),
    ]
    start = divergence(folder, folder / "small.safetensors", tmp_path)
    found = divergence(folder, path, tmp_path)
    assert found < 0.8 * start
    assert found == pytest.approx(entries[-1]["dev"], rel=1e-2)  # norms are stored in f16
    widths = {stored_bits(w) for w in checkpoint.load(path).weights.values()}
    assert widths == {3, 8, 32}


def divergence(folder, init, tmp_path):
    recipe = load("d", read_table(str(folder / "d.toml")))
    distiller = Distiller(recipe, folder, tmp_path / init.stem, init=init)
    return distiller.divergence(distiller._items("dev", distiller.dev))


@pytest.mark.parametrize("part", [1, 2])
def test_a_run_goes_on_where_it_was(folder, tmp_path, monkeypatch, part):
    whole = run(folder, tmp_path / "whole")
    kept = Distiller._update

    def interrupted(self, items):
        if (self.part, self.at) == (part, 4):
            raise KeyboardInterrupt
        return kept(self, items)

    monkeypatch.setattr(Distiller, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "parts")
    monkeypatch.setattr(Distiller, "_update", kept)
    parts = run(folder, tmp_path / "parts", resume=True)
    assert not_seconds(log(tmp_path / "whole")) == not_seconds(log(tmp_path / "parts"))
    first, second = (checkpoint.load(path).weights for path in (whole, parts))
    for name, weight in first.items():
        np.testing.assert_array_equal(floats(weight), floats(second[name]))


def not_seconds(entries):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def test_windows_are_computed_once(folder, tmp_path, capfd):
    run(folder, tmp_path / "run")
    index = tmp_path / "run" / "cache" / "train" / "texts.jsonl"
    lines = index.read_text().splitlines()
    states = index.with_name("teacher.f16").read_bytes()
    assert all(len(json.loads(line)) == 2 for line in lines)
    # The last window was interrupted: its line is incomplete.
    index.write_text("\n".join(lines)[:-3])
    index.with_name("teacher.f16").write_bytes(states[:-5])
    capfd.readouterr()
    run(folder, tmp_path / "run", "updates=7", resume=True)
    assert f"train: texts of {len(lines)} of {len(lines)} windows" in capfd.readouterr().err
    assert index.read_text().splitlines() == lines
    assert index.with_name("teacher.f16").read_bytes() == states


@pytest.mark.parametrize("inputs", [64, 80])
@pytest.mark.parametrize("alone", [True, False])
def test_descent_reduces_the_error_and_the_weight_can_be_stored(inputs, alone):
    torch.manual_seed(0)
    exact = torch.randn(12, inputs) + 0.5
    rounded = round_weight(exact.numpy(), Grid(3, 32), "clip")
    x = torch.randn(12 if alone else 1, 200, inputs) @ torch.randn(inputs, inputs)
    hessians = x.transpose(1, 2) @ x
    descent = Descent(exact, rounded)
    np.testing.assert_array_equal(descent.values().numpy(), rounded.dequantize())
    before = error(exact, descent.values(), hessians)
    rows = torch.tensor([7, 2, 3])
    descent.improve(rows, hessians[rows] if alone else hessians)
    stored = descent.rounded()
    assert stored.scales.are_valid(stored.grid)
    np.testing.assert_array_equal(stored.dequantize(), descent.values().numpy())
    after = error(exact, descent.values(), hessians)
    others = torch.ones(12, dtype=bool)
    others[rows] = False
    assert (after[rows] < 0.8 * before[rows]).all()
    torch.testing.assert_close(after[others], before[others])


def error(exact, values, hessians):
    lost = (values - exact)[:, None]
    return (lost @ hessians @ lost.transpose(1, 2))[:, 0, 0]


def test_an_output_layer_is_fitted_to_its_decisions():
    torch.manual_seed(0)
    exact = torch.randn(300, 64)
    mixing = torch.randn(64, 64) / 4
    states, others = torch.randn(2000, 64) @ mixing, torch.randn(500, 64) @ mixing
    rounded = round_weight(exact.numpy(), Grid(3, 32), "clip")
    calls = []
    fitted = fit_output_layer(exact, rounded, states, lambda *x: calls.append(x))
    assert calls[-1] == (300, 300)
    assert fitted.grid == rounded.grid
    before, after = (
        output_divergence(exact, torch.from_numpy(w.dequantize()), others)
        for w in (rounded, fitted)
    )
    assert after < 0.7 * before
    assert output_divergence(exact, exact, others) == pytest.approx(0, abs=1e-6)


def test_tensors_without_evidence_stay_where_they_are():
    weight = torch.zeros(2, requires_grad=True)
    damped = DampedAdam([{"params": [weight], "lr": 0.1}], damping=1.0)
    adam = torch.optim.Adam([other := torch.zeros(2, requires_grad=True)], lr=0.1)
    for _ in range(5):
        for tensor, optimizer in ((weight, damped), (other, adam)):
            tensor.grad = torch.tensor([1.0, 1e-4])
            optimizer.step()
    assert other.detach()[1] == pytest.approx(-0.5, rel=1e-2)
    assert abs(float(weight.detach()[1])) < 1e-4
    assert weight.detach()[0] == pytest.approx(-0.5 / (1 + 0.5**0.5), rel=1e-2)


def test_without_damping_it_is_adam():
    torch.manual_seed(0)
    start, gradients = torch.randn(20), torch.randn(6, 20)
    found = []
    for make in (
        lambda p: DampedAdam([{"params": [p], "lr": 0.1}], damping=0.0),
        lambda p: torch.optim.Adam([p], lr=0.1, betas=(0.9, 0.99), eps=1e-30),
    ):
        tensor = start.clone().requires_grad_()
        optimizer = make(tensor)
        for gradient in gradients:
            tensor.grad = gradient.clone()
            optimizer.step()
        found.append(tensor.detach())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("settings", "init", "message"),
    [
        ((), "teacher.safetensors", "no weight in fewer than 8 bits"),
        ((), "ctc.safetensors", "has no decoder"),
        (('teacher="digits-en"',), "small.safetensors", "is not the model that"),
        (('learn=["head"]',), "small.safetensors", "learn"),
        (("learn=[]",), "small.safetensors", "learn"),
        (("lr=1",), "small.safetensors", "unknown setting 'lr'"),
        (("augment.splice=0.5",), "small.safetensors", "splice"),
        (("augment.noise=0.5",), "small.safetensors", "data.noise"),
        (("rate=1e9",), "small.safetensors", "diverged"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, settings, init, message):
    save_tiny(folder / "ctc.safetensors")
    with pytest.raises(TyndaError, match=message) as caught:
        run(folder, tmp_path / "run", *settings, init=init)
    assert "\n" not in str(caught.value)


def test_the_command_needs_a_model_and_an_empty_folder(folder, tmp_path):
    arguments = ["train", str(folder / "d.toml"), "--data", str(folder), "--output", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "--init" in result.stderr
    arguments += ["--init", str(folder / "small.safetensors")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "d.safetensors")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    other = CliRunner().invoke(main, [*arguments, "--resume", "--set=seed=1"])
    assert other.exit_code == 1
    assert "has windows of other data" in other.stderr


def test_a_damaged_checkpoint_is_one_line(folder, tmp_path):
    run(folder, tmp_path / "run")
    (tmp_path / "run" / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TyndaError, match="damaged"):
        run(folder, tmp_path / "run", resume=True)
