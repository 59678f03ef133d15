"""Distillation from a finished model's output in each frame."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import tynda  # noqa: E402
from helpers import CONFIG, noise, write_tones  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.ops.torch import TorchOps  # noqa: E402
from tynda.train import recipe as recipes  # noqa: E402
from tynda.train.data import collate  # noqa: E402
from tynda.train.loop import Trainer  # noqa: E402
from tynda.train.recipe import Distill  # noqa: E402

TEXTS = ["do mi so", "so do", "mi mi do"]
TINY = {k: v for k, v in CONFIG.items() if k not in ("bins", "vocab")}
WHISPER = {
    **dict.fromkeys(("channels", "hidden", "decoder_hidden"), 32),
    **dict.fromkeys(("layers", "heads", "decoder_layers", "decoder_heads"), 1),
    **{"frames": 75, "context": 24},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_tones(folder, TEXTS, pause=0.05)
    return folder


def recipe(teacher, family="conformer", **model):
    return recipes.Recipe(
        name="student",
        family=family,
        model=model or {**TINY, "dropout": 0.0},
        frontend={"kind": "log_mel", "bins": 8}
        if family == "conformer"
        else {"kind": "log_mel", "bins": 16, "normalize": "whisper"},
        data=recipes.Data(
            (recipes.Source("m.jsonl", weight=4.0),), (), batch_seconds=3.0, max_seconds=1.5
        ),
        optimizer=recipes.Optimizer(30, lr=3e-3, warmup_steps=0, precision="f32"),
        distill=Distill(str(teacher), 0.5) if teacher else None,
    )


def trainer(plan, folder, output, **options):
    output.mkdir(exist_ok=True)
    return Trainer(plan, folder, output, **options)


def front(model):
    return model.checkpoint.frontend


def test_the_divergence_is_summed_over_the_frames_that_both_have(tiny_file, tiny, folder, tmp_path):
    objective = trainer(recipe(tiny_file), folder, tmp_path / "run").objective
    sounds = [noise(1.0), noise(0.6, seed=1)]
    batch = collate(
        [s[:1, None] for s in sounds], [[], []], [[], []], list(map(front(tiny), sounds))
    )
    taught = [torch.from_numpy(tiny.encode(s)) for s in sounds]
    frames = [len(t) for t in taught]
    even = torch.full((2, 40, 29), -math.log(29))
    # One student has three frames fewer, the other more frames than its teacher.
    lengths = torch.tensor([frames[0] - 3, 40])
    expected = sum(
        float((t[:n].exp() * (t[:n] + math.log(29))).sum())
        for t, n in zip(taught, (frames[0] - 3, frames[1]), strict=True)
    )
    got = objective.distill_loss(even, lengths, batch)
    assert float(got) == pytest.approx(0.5 * expected, rel=1e-4)
    both = objective.distill_loss(even.repeat(2, 1, 1), lengths.repeat(2), batch)
    assert float(both) == pytest.approx(expected, rel=1e-4)  # two views


def test_a_copy_of_the_teacher_has_no_distillation_loss(tiny_file, tiny, folder, tmp_path):
    t = trainer(recipe(tiny_file), folder, tmp_path / "run", init=tiny_file)
    sounds = [noise(1.0), noise(0.6, seed=1)]
    features = list(map(front(tiny), sounds))
    batch = collate(features, [[], []], [[], []], features)
    log_probs, lengths = t.objective.family.programs["encode"](
        TorchOps(), t.weights, t.objective.config, batch.features, batch.lengths
    )
    assert abs(t.objective.distill_loss(log_probs, lengths, batch).item()) < 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "model"), [("conformer", TINY), ("whisper", WHISPER)])
def test_a_student_comes_nearer_to_its_teacher(tiny_file, folder, tmp_path, family, model):
    t = trainer(recipe(tiny_file, family, **model), folder, tmp_path / "run")
    asked = []
    distance = t.objective.distill_loss

    def watch(*args):
        asked.append(distance(*args))
        return asked[-1]

    t.objective.distill_loss = watch
    path = t.run()
    first, last = (float(np.mean([x.item() for x in part])) for part in (asked[:2], asked[-2:]))
    assert 0 < last < 0.8 * first
    assert not [name for name in tynda.load(path).checkpoint.weights if "taught" in name]


def test_who_cannot_teach_is_told_in_a_line(tiny_file, folder, tmp_path):
    cases = [
        (recipe("nobody"), "nobody"),
        (recipe(tiny_file, "conformer", **TINY, stride=2), "640 samples, the model's 320"),
        (recipe(tiny_file, "whisper", **WHISPER), None),
    ]
    for plan, told in cases[:2]:
        with pytest.raises(TyndaError, match=told):
            trainer(plan, folder, tmp_path / "run")
    listener = trainer(cases[2][0], folder, tmp_path / "whisper").run(max_epochs=1)
    with pytest.raises(TyndaError, match="cannot teach: it does not write English letters by CTC"):
        trainer(recipe(listener), folder, tmp_path / "run")
