"""Choosing recordings: gradients, their projection, features on disk, and what is chosen."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from helpers import RATE, noise, save_tiny, tone, write_manifest, write_wav  # noqa: E402
from test_train_distil import TEXTS  # noqa: E402
from tynda import manifest, models  # noqa: E402
from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.heads import head_of  # noqa: E402
from tynda.heads.base import forced_inputs  # noqa: E402
from tynda.manifest import Utterance  # noqa: E402
from tynda.ops.torch import TorchOps  # noqa: E402
from tynda.sound.frontend import LogMel  # noqa: E402
from tynda.store import checkpoint  # noqa: E402
from tynda.train.select import run as selecting  # noqa: E402
from tynda.train.select import select  # noqa: E402
from tynda.train.select.features import FeatureFile, key_of  # noqa: E402
from tynda.train.select.learner import UnusableError, learner_of  # noqa: E402
from tynda.train.select.projection import Projection  # noqa: E402
from tynda.train.start import initial_weights  # noqa: E402
from tynda.train.tokens import learn_tokens  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def whisper():
    """A small model with a decoder, a window of 1.5 s and random weights."""
    tokenizer, family = learn_tokens(TEXTS, 270), models.family("whisper")
    config = family.config(
        bins=16,
        vocab=tokenizer.timestamp_begin + 76,
        channels=32,
        layers=1,
        heads=2,
        hidden=64,
        decoder_layers=1,
        decoder_heads=2,
        decoder_hidden=64,
        frames=75,
        context=24,
    )
    header = checkpoint.Header(
        name="small",
        family="whisper",
        config={},
        frontend={},
        tokenizer={},
        languages=["en"],
        licence="MIT",
    )
    weights = {k: 1.5 * v.numpy() for k, v in initial_weights(family.specs(config), 0).items()}
    front = LogMel(bins=16, normalize="whisper")
    return checkpoint.Checkpoint(header, config, front, tokenizer, weights, None, 0)


def directional(learner, arguments, step=1e-3):
    """The derivative of the loss along random directions, by differences and by gradients."""
    rng = torch.Generator().manual_seed(0)
    away = {n: torch.randn(w.shape, generator=rng) for n, w in learner.weights.items()}
    size = sum(float(d.square().sum()) for d in away.values()) ** 0.5
    found = learner.gradients(*arguments)
    by_gradients = sum(float((g * away[n]).sum()) for n, g in found.items()) / size
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for name, weight in learner.weights.items():
                weight += sign * step / size * away[name]
            losses.append(float(learner.loss(*arguments)))
        for name, weight in learner.weights.items():
            weight += step / size * away[name]
    return (losses[0] - losses[1]) / (2 * step), by_gradients


def test_the_loss_of_ctc_is_that_of_all_paths(tiny_path):
    learner = learner_of(checkpoint.load(tiny_path))
    samples = noise(0.3, 1)
    loss = float(learner.loss(samples, "Ab!").detach())
    features = torch.from_numpy(learner.model.frontend(samples))[None]
    scores = head_of(learner.model.family).forced(
        TorchOps(),
        learner._all,
        (learner.model.family, learner.model.config),
        features,
        torch.tensor([features.shape[1]]),
    )[0]
    # The probabilities of blank? a+ blank? b+ blank? in all frames, one after the other.
    probabilities, path = scores.detach().exp().double().numpy(), [0, 3, 0, 4, 0]
    now = np.array([probabilities[0][0], probabilities[0][3], 0, 0, 0])
    for row in probabilities[1:]:
        before = np.concatenate([[0, 0], now])
        now = np.array(
            [
                (before[i + 2] + before[i + 1] + (before[i] if i == 3 else 0)) * row[path[i]]
                for i in range(5)
            ]
        )
    assert loss == pytest.approx(-np.log(now[-1] + now[-2]) / 2, rel=1e-4)


def test_gradients_of_ctc_are_derivatives(tiny_path):
    learner = learner_of(checkpoint.load(tiny_path))
    differences, gradients = directional(learner, (noise(0.5, 1), "ab"))
    assert gradients == pytest.approx(differences, rel=0.02)
    assert abs(gradients) > 0.01


def test_the_loss_of_a_decoder_is_that_of_its_tokens(whisper):
    """The window is full, so that nothing stands for padding, as in `Head.forced`."""
    learner, head = learner_of(whisper), head_of(whisper.family)
    samples = noise(1.5, 2)
    (tokens,) = head.reference_tokens(whisper, "do mi")
    tokens.append(whisper.tokenizer.eot)
    inputs, _ = forced_inputs(head.features(whisper, samples), [tokens[:-1]])
    settings = (whisper.family, whisper.config)
    logits = head.forced(TorchOps(), learner._all, settings, *map(torch.from_numpy, inputs))[0]
    begin = len(tokens) - 1 - len(whisper.tokenizer.encode(" do mi"))
    expected = torch.nn.functional.cross_entropy(logits[begin - 1 :], torch.tensor(tokens[begin:]))
    assert float(learner.loss(samples, "do mi").detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )


def test_gradients_of_a_decoder_are_derivatives(whisper):
    learner = learner_of(whisper)
    differences, gradients = directional(learner, (noise(0.4, 2), "do mi"), step=3e-3)
    assert gradients == pytest.approx(differences, rel=0.02)
    assert learner.states(noise(0.4, 2)).shape == (20, 32)


@pytest.mark.parametrize(
    ("seconds", "text", "reason"),
    [
        (0.01, "a", "too short"),
        (0.1, "abcdefghijkl", "too short for its text"),
        (0.04 * 4, "aa", None),
        (0.5, "…", "no words in its text"),
        (0.5, "привет", "no words in its text"),
        (41, "a", "longer than 40 s"),
    ],
)
def test_what_ctc_cannot_learn_from(tiny_path, seconds, text, reason):
    learner = learner_of(checkpoint.load(tiny_path))
    if reason is None:
        assert learner.gradients(noise(seconds), text)
        return
    with pytest.raises(UnusableError, match=f"^{reason}$"):
        learner.gradients(noise(seconds), text)


@pytest.mark.parametrize(
    ("seconds", "text", "reason"),
    [
        (0, "do", "too short"),
        (0.5, " ", "no words in its text"),
        (0.5, "do re mi " * 9, "its text is too long for the decoder"),
        (1.6, "do", "longer than 1.5 s"),
    ],
)
def test_what_a_decoder_cannot_learn_from(whisper, seconds, text, reason):
    with pytest.raises(UnusableError, match=f"^{reason}$"):
        learner_of(whisper).gradients(noise(seconds), text)


def test_projections_keep_inner_products():
    rng = np.random.default_rng(0)
    shapes = {"a": (50, 300), "b": (7,), "c": (3, 4, 5)}
    ones = {name: torch.ones(shape) for name, shape in shapes.items()}
    project = Projection(ones, 4096, seed=1)
    for likeness in (0.0, 0.3, 0.9):
        x = {n: torch.from_numpy(rng.standard_normal(s)).float() for n, s in shapes.items()}
        y = {
            n: likeness * x[n]
            + (1 - likeness**2) ** 0.5 * torch.from_numpy(rng.standard_normal(s)).float()
            for n, s in shapes.items()
        }
        exact, projected = [
            float(torch.nn.functional.cosine_similarity(a, b, 0))
            for a, b in (
                [torch.cat([t[n].flatten() for n in shapes]) for t in (x, y)],
                (project(x), project(y)),
            )
        ]
        # The standard deviation of a cosine of 4096 numbers is 1 / 64.
        assert projected == pytest.approx(exact, abs=4 / 64)
        assert float(project(x).norm() / torch.cat([x[n].flatten() for n in shapes]).norm()) == (
            pytest.approx(1, abs=0.1)
        )


def test_projections_have_a_mean_without_error():
    x, y = torch.tensor([3.0, -1, 2, 0.5, 4]), torch.tensor([1.0, 1, -2, 2, 0])
    ones = {"w": torch.ones(5)}
    products = [
        float(project({"w": x}) @ project({"w": y}))
        for project in (Projection(ones, 3, seed) for seed in range(3000))
    ]
    assert np.mean(products) == pytest.approx(float(x @ y), abs=4 * np.std(products) / 3000**0.5)


def test_projections_depend_on_seed_and_scales():
    ones, x = {"w": torch.ones(4, 4)}, {"w": torch.arange(16.0).reshape(4, 4)}
    assert torch.equal(Projection(ones, 8, 1)(x), Projection(ones, 8, 1)(x))
    assert not torch.equal(Projection(ones, 8, 1)(x), Projection(ones, 8, 2)(x))
    assert torch.equal(
        Projection({"w": torch.full((4, 4), 2.0)}, 8, 1)(x), 2 * Projection(ones, 8, 1)(x)
    )
    assert torch.equal(Projection(ones, 8, 1)({}), torch.zeros(8))


def test_features_are_kept_and_continued(tmp_path):
    path, identity = tmp_path / "f", {"a": 1}
    file = FeatureFile(path, identity, 4)
    file.add(b"1" * 16, np.array([3, 0, 4, 0], np.float32))
    file.add(b"2" * 16, "too short")
    file.close()
    with path.open("ab") as torn:
        torn.write(b"3" * 20)
    file = FeatureFile(path, identity, 4)
    file.add(b"4" * 16, np.zeros(4, np.float32))
    assert b"1" * 16 in file
    assert b"3" * 16 not in file
    assert file.reason(b"2" * 16) == "too short"
    assert file.reason(b"1" * 16) is None
    (block,) = file.blocks([b"4" * 16, b"1" * 16])
    np.testing.assert_allclose(block, [[0, 0, 0, 0], [0.6, 0, 0.8, 0]], atol=1e-3)
    file.close()
    with pytest.raises(TyndaError, match="other recordings or models"):
        FeatureFile(path, {"a": 2}, 4)
    with pytest.raises(TyndaError, match="cannot write"):
        FeatureFile(tmp_path / "none" / "f", identity, 4)


def test_two_runs_do_not_mix_their_features(tmp_path):
    one, other = (FeatureFile(tmp_path / "f", {}, 4) for _ in range(2))
    one.add(b"1" * 16, np.ones(4, np.float32))
    with pytest.raises(TyndaError, match="another run writes"):
        other.add(b"2" * 16, np.ones(4, np.float32))


def test_damaged_features_are_no_scores(tmp_path):
    features = Fixed("gradients", [[1, 0], [1, 0]], tmp_path)
    path = tmp_path / "gradients"
    path.write_bytes(path.read_bytes()[:-4] + b"\xff" * 4)
    with pytest.raises(TyndaError, match="damaged: remove it"):
        selecting._scores(features, [utterance(0)], {"a": features.keys[1:]}, tmp_path)


def test_a_header_that_was_interrupted_is_written_again(tmp_path):
    (tmp_path / "f").write_bytes(b'{"a"')
    FeatureFile(tmp_path / "f", {"a": 1}, 4).close()
    assert (tmp_path / "f").read_bytes() == b'{"a": 1}\n'


def utterance(index, source="x", duration=None):
    return Utterance(f"{index}.wav", "a", duration, None, None, source)


class Fixed:
    """Features that were worked out by hand."""

    def __init__(self, by, vectors, tmp_path):
        self.by = by
        self.file = FeatureFile(tmp_path / by, {}, 2)
        self.keys = [bytes([i]) * 16 for i in range(len(vectors))]
        for key, vector in zip(self.keys, vectors, strict=True):
            self.file.add(key, vector if isinstance(vector, str) else np.float32(vector))

    def usable(self, utterances, path):
        found = [(i, self.keys[i]) for i in range(len(utterances))]
        return [(i, key) for i, key in found if self.file.reason(key) is None]


def test_scores_by_hand(tmp_path):
    # The mean of the first task is (0.5, 0.5), that of the second (0, -1).
    vectors = [[1, 0], [0, 2], [-3, -4], "too short", [0, 1], [1, 0], [0, -1]]
    features = Fixed("gradients", vectors, tmp_path)
    tasks = {"a": features.keys[4:6], "b": features.keys[6:]}
    scores = selecting._scores(features, [utterance(i) for i in range(4)], tasks, tmp_path)
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.8, np.nan], atol=1e-3)


def test_scores_of_embeddings_are_without_their_mean(tmp_path):
    # Those of the pool have the mean (0.5, 0.5), with which the target is (0.5, -0.5).
    features = Fixed("embeddings", [[1, 0], [0, 1], [1, 0]], tmp_path)
    scores = selecting._scores(
        features, [utterance(0), utterance(1)], {"a": features.keys[2:]}, tmp_path
    )
    np.testing.assert_allclose(scores, [1, -1], atol=1e-3)


@pytest.mark.parametrize(
    ("fraction", "unit", "chosen"),
    [
        (0.4, "utterances", [1, 3]),
        (0.01, "utterances", [1]),
        (1, "utterances", [0, 1, 3, 4]),
        (0.3, "hours", [1, 3]),
        (0.6, "hours", [1, 3, 4]),
        (0.01, "hours", [1]),
    ],
)
def test_the_best_are_chosen(fraction, unit, chosen):
    seconds = [1.0, 1, 1, 4, 3]
    utterances = [utterance(i, duration=s) for i, s in enumerate(seconds)]
    scores = np.array([0.1, 0.9, np.nan, 0.5, 0.4])
    assert selecting._choose(utterances, scores, fraction, unit, None) == chosen


def write_pool(folder):
    """Words of two kinds of sound, a target of one of them, and lines that are of no use."""
    rows = []
    for i in range(6):
        samples = tone(400 + 20 * i, 0.6) if i % 2 else noise(0.6, i)
        write_wav(folder / f"{i}.wav", samples)
        rows.append((f"{i}.wav", "ab ba", {"duration": 0.6, "speaker": f"s{i}", "mine": [i]}))
    write_wav(folder / "short.wav", np.zeros(RATE // 100, np.float32))
    write_wav(folder / "target.wav", tone(430, 0.6))
    write_manifest(folder / "target.jsonl", [("target.wav", "ab ba")])
    rows += [("none.wav", "a"), ("short.wav", "a"), ("0.wav", "?")]
    return write_manifest(folder / "pool.jsonl", rows)


def test_the_command(tmp_path, tiny_path, monkeypatch):
    write_pool(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["select", "pool.jsonl", "--target", "target.jsonl", "--model", str(tiny_path)]
    result = CliRunner().invoke(main, [*command, "-o", "out.jsonl", "--fraction", "0.34"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "out.jsonl\n"
    assert "3 of 9 recordings (0.00 hours) are chosen" in result.stderr
    assert "without features: unreadable 1, too short 1, no words in its text 1" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["mine"] for line in lines] == [[1], [3], [5]]
    assert all(-1 <= line["score"] <= 1 for line in lines)
    assert [u.audio.name for u in manifest.read("out.jsonl")] == ["1.wav", "3.wav", "5.wav"]

    # Other shares need no more features, and a folder elsewhere has whole names.
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(selecting._Features, "_compute", refuse)
    result = CliRunner().invoke(main, [*command, "-o", "out.jsonl", "--fraction", "0.1"])
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("by", ["embeddings", "random"])
def test_other_choices(tmp_path, tiny_path, by):
    pool, target = write_pool(tmp_path), tmp_path / "target.jsonl"
    (tmp_path / "out").mkdir()
    chosen = []
    for seed in (1, 1, 2):
        out = tmp_path / "out" / "o.jsonl"
        found = select(pool, out, target=target, model=tiny_path, by=by, fraction=0.34, seed=seed)
        assert found.chosen == 3
        assert (found.features is None) == (by == "random")
        chosen.append([u.audio for u in manifest.read(out)])
    assert chosen[0] == chosen[1]
    if by == "random":
        assert chosen[0] != chosen[2]
    else:
        assert [path.name for path in chosen[0]] == ["1.wav", "3.wav", "5.wav"]
        assert all(path.is_absolute() for path in chosen[0])


def test_a_run_goes_on_where_another_stopped(tmp_path, tiny_path):
    pool, target = write_pool(tmp_path), tmp_path / "target.jsonl"

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        select(pool, tmp_path / "a.jsonl", target=target, model=tiny_path, on_progress=stop)
    assert not (tmp_path / "a.jsonl").exists()
    (features,) = tmp_path.glob("*.f16")
    before = features.read_bytes()
    select(pool, tmp_path / "a.jsonl", target=target, model=tiny_path)
    assert features.read_bytes().startswith(before)
    whole = (tmp_path / "a.jsonl").read_bytes()
    features.unlink()
    select(pool, tmp_path / "a.jsonl", target=target, model=tiny_path)
    assert (tmp_path / "a.jsonl").read_bytes() == whole


def test_a_changed_recording_has_another_key(tmp_path):
    one = Utterance(write_wav(tmp_path / "a.wav", noise(0.1)), "a", None, None, None, "x")
    before = key_of(one)
    assert key_of(one) == before
    write_wav(tmp_path / "a.wav", noise(0.2))
    assert key_of(one) != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pool.jsonl"], "choosing by gradients needs a manifest of the target"),
        (["pool.jsonl", "--target", "target.jsonl"], "choosing by gradients needs a model"),
        (["none.jsonl", "--by", "random"], "none.jsonl: cannot read the manifest"),
        (["empty.jsonl", "--by", "random"], "empty.jsonl: empty manifest"),
        (["pool.jsonl", "--target", "empty.jsonl", "--model", "m"], "empty.jsonl: empty manifest"),
        (["textless.jsonl", "--target", "target.jsonl", "--model", "m"], '1: no "text"'),
        (["pool.jsonl", "--target", "target.jsonl", "--model", "none"], "none"),
        (["pool.jsonl", "--target", "bad.jsonl", "--model", "tiny.safetensors"], "unreadable 1"),
        (["pool.jsonl", "--target", "target.jsonl", "--model", "speakers"], "does not learn"),
        (["textless.jsonl", "--by", "random", "--unit", "hours"], "recording 1 has no duration"),
        (["out.jsonl", "--by", "random"], "choose another name"),
    ],
)
def test_bad_input_is_one_line(tmp_path, tiny_path, monkeypatch, arguments, said):
    write_pool(tmp_path)
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny.safetensors")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "textless.jsonl").write_text('{"audio_filepath": "0.wav"}')
    (tmp_path / "bad.jsonl").write_text('{"audio_filepath": "none.wav", "text": "a"}')
    (tmp_path / "out.jsonl").write_text('{"audio_filepath": "0.wav", "text": "a"}')
    result = CliRunner().invoke(main, ["select", *arguments, "-o", "out.jsonl"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert (tmp_path / "out.jsonl").read_text() == '{"audio_filepath": "0.wav", "text": "a"}'
