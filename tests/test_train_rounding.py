"""Quantisation-aware training."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import tynda  # noqa: E402
from helpers import write_tones  # noqa: E402
from test_train_loop import RECIPE, TEXTS  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.models.base import Spec  # noqa: E402
from tynda.store import checkpoint  # noqa: E402
from tynda.train import recipe as recipes  # noqa: E402
from tynda.train.recipe import Rounding  # noqa: E402
from tynda.train.rounding import Rounder, round_weight  # noqa: E402
from tynda.train.run import train  # noqa: E402
from tynda.weights.grid import BITS, Grid  # noqa: E402
from tynda.weights.weight import stored_bits  # noqa: E402

SPECS = {"a": Spec((48, 100)), "b": Spec((20, 40, 3)), "small": Spec((9, 5)), "c": Spec((5,))}


def drawn(rounder, seed=0):
    torch.manual_seed(seed)
    sizes = {k: torch.randn(spec.shape) * 0.05 for k, spec in SPECS.items()}
    return sizes | {k: v * (0.5 + torch.rand_like(v)) for k, v in rounder.factors.items()}


@pytest.mark.parametrize("group", [0, 32, 64])
def test_a_model_trains_with_the_weights_that_its_file_has(group):
    rounder = Rounder(Rounding(bits=BITS, group=group), SPECS)
    assert rounder.names == ["a", "b"]
    weights = drawn(rounder)
    for grid in rounder.grids:
        rounded, stored = rounder(weights, grid), rounder.coded(weights, grid)
        for name in rounder.names:
            np.testing.assert_array_equal(stored[name].dequantize(), rounded[name].numpy())
        assert rounded["small"] is weights["small"]


def test_what_is_kept_is_not_rounded():
    rounder = Rounder(Rounding(bits=(2,), keep=("a*",)), SPECS)
    assert rounder.names == ["b"]


def test_gradients_go_straight_through_and_to_the_steps():
    weight = torch.tensor([[0.1, -0.4] * 15 + [50.0, -50.0]], requires_grad=True)
    factors = torch.ones(1, 1, requires_grad=True)
    rounded = round_weight(weight, factors, Grid(3))
    rounded.sum().backward()
    # The gradient of weights beyond the end of the grid is zero.
    assert weight.grad[0].tolist() == [1] * 30 + [0, 0]
    # Esser et al. 2020, equation 3: the distance to the code inside the grid, the code beyond it.
    step = 0.734 * weight.detach().abs().mean()
    place = weight.detach() / step
    codes = torch.clamp(torch.floor(place), -4, 3) + 0.5
    expected = torch.where(place.abs() < 4, codes - place, codes).sum() * step
    assert factors.grad.item() == pytest.approx(expected.item(), rel=2e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_tones(folder, TEXTS, pause=0.15)
    (folder / "tones.toml").write_text(RECIPE)
    (folder / "long.toml").write_text(RECIPE.replace("weight = 2.0", "weight = 16.0"))
    return folder


@pytest.mark.slow
def test_a_model_learns_in_few_bits(folder, tmp_path):
    torch.set_num_threads(1)
    settings = ["optimizer.epochs=30", "rounding.bits=[1.58, 3]", "rounding.keep=['stem.*']"]
    path = train(str(folder / "long.toml"), folder, tmp_path / "run", settings)
    log = json.loads((tmp_path / "run" / "log.json").read_text())["epochs"]
    assert min(e["dev_cer"] for e in log) < 0.2
    names = {1.58: path, 3: path.with_stem("long-3bit")}
    for bits, file in names.items():
        model = checkpoint.load(file)
        kinds = {stored_bits(w) for w in model.weights.values() if stored_bits(w) < 8}
        assert kinds == {bits}
        assert stored_bits(model.weights["stem.out.weight"]) >= 8
        heard = [tynda.load(file, bits=32).transcribe(folder / f"{i}.wav").text for i in range(3)]
        assert sum(h == t for h, t in zip(heard, TEXTS, strict=True)) >= 2


def test_a_run_goes_on_where_it_was(folder, tmp_path):
    torch.set_num_threads(1)
    files = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        for i, epochs in enumerate(parts):
            settings = ["rounding.bits=[2]", f"optimizer.epochs={epochs}", "optimizer.cooldown=0"]
            train(str(folder / "tones.toml"), folder, tmp_path / name, settings, resume=i > 0)
        files.append(torch.load(tmp_path / name / "last.pt", weights_only=True)["average"])
    assert any("step2" in name for name in files[0])
    for name, value in files[0].items():
        assert torch.equal(value, files[1][name]), name


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("rounding.bits=[]", "must not be empty"),
        ("rounding.bits=[7]", "1.58, 2, 3"),
        ("rounding.bits=2", "a list"),
        ("rounding.group=16", "multiple of 32"),
    ],
)
def test_bad_settings_are_told(folder, setting, what):
    key, value = setting.split("=")
    given = {key: json.loads(value)} | ({} if "bits" in key else {"rounding.bits": [2]})
    with pytest.raises(TyndaError, match=what):
        recipes.load(str(folder / "tones.toml"), given)
