"""A model that encodes chunk by chunk: pieces of any size give what one pass gives."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import (
    CONFIG,
    LoudDetector,
    header,
    noise,
    weights,
    write_manifest,
    write_wav,
)
from tynda.cli import main
from tynda.compile import native
from tynda.errors import TyndaError
from tynda.heads.ctc.incremental import IncrementalEncoder, with_look_ahead
from tynda.live import session as sessions
from tynda.live.session import LiveSession
from tynda.model import Model, load
from tynda.models import chunked_conformer
from tynda.ops.numpy import NumpyOps
from tynda.sound.frontend import LogMel
from tynda.store import checkpoint

FRONT = LogMel(bins=8, normalize="fixed", mean=(-12.0,) * 8, deviation=(2.0,) * 8)
CHUNKED = {**CONFIG, "layers": 2, "chunk": 1, "chunks": [1, 2, 4], "window": 8}
BACKENDS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(not native.available(), reason="no kernels are compiled")
    ),
    "numpy",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    config = chunked_conformer.Config(**CHUNKED)
    rng = np.random.default_rng(0)
    own = weights()
    for name, spec in chunked_conformer.specs(config).items():
        if name not in own:
            own[name] = (rng.uniform(-0.3, 0.3, spec.shape) + (spec.init == "ones")).astype("f4")
    path = tmp_path_factory.mktemp("model") / "chunked.safetensors"
    about = header(family="chunked_conformer", config=CHUNKED, frontend=FRONT.config)
    checkpoint.save_model(path, about, own)
    return path


@pytest.mark.parametrize(
    "how", [["--bits", "4", "--method", "gptq"], ["--bits", "entropy", "--target-size", "0.026"]]
)
def test_recordings_of_any_lengths_calibrate_it(path, tmp_path, how):
    for i in range(3):
        write_wav(tmp_path / f"{i}.wav", noise(1 + i / 3, i))
    sound = write_manifest(tmp_path / "m.jsonl", [(f"{i}.wav", "") for i in range(3)])
    output = tmp_path / "few.safetensors"
    command = ["quantize", str(path), "-o", str(output), "--calibration", str(sound), *how]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    whole, few = load(path), load(output)
    assert output.stat().st_size < path.stat().st_size * 0.7
    samples = noise(2, 5)
    assert np.abs(few.encode(samples) - whole.encode(samples)).mean() < 1


@pytest.fixture(scope="module", params=BACKENDS)
def model(request, path):
    return load(path, backend=request.param, threads=2)


@pytest.fixture(scope="module", params=[8, 32])
def native_model(request, path, tmp_path_factory):
    if not native.available():
        pytest.skip("no kernels are compiled")
    whole = checkpoint.load(path)
    small = tmp_path_factory.mktemp("model") / "few.safetensors"
    checkpoint.save_model(small, whole.header, whole.weights, bits=8)
    return load(small, backend="native", bits=request.param, threads=2)


def network(model: Model, look_ahead):
    checkpoint = with_look_ahead(model.checkpoint, look_ahead)
    return dataclasses.replace(model.head.network()[0], model=checkpoint)


def streamed(model, look_ahead, samples, sizes):
    """Return the log-probabilities of samples that come in pieces of these sizes."""
    own = network(model, look_ahead)
    encoder, found, at, i = IncrementalEncoder(own.model, own.engine), [], 0, 0
    while at < len(samples):
        found.append(encoder.add(samples[at : at + sizes[i % len(sizes)]]))
        at, i = at + sizes[i % len(sizes)], i + 1
    return np.concatenate([*found, encoder.finish()])


SAMPLES = st.integers(0, 40_000)
SIZES = st.lists(st.sampled_from([1, 159, 160, 161, 1000, 3333, 40_000]), min_size=1, max_size=4)
LOOK_AHEADS = st.sampled_from([0.08, 0.16, 0.32])


@given(samples=SAMPLES, sizes=SIZES, look_ahead=LOOK_AHEADS, seed=st.integers(0, 9))
@example(samples=1280, sizes=[161], look_ahead=0.08, seed=0)  # exactly one chunk
@example(samples=2561, sizes=[161], look_ahead=0.16, seed=0)
@settings(max_examples=40, deadline=None)
def test_pieces_of_any_size_are_one_pass_to_the_last_bit(
    native_model, samples, sizes, look_ahead, seed
):
    audio = noise(3, seed)[:samples]
    if max(sizes) < 159:
        audio = audio[:2000]
    expected = network(native_model, look_ahead).log_probs(audio)
    found = streamed(native_model, look_ahead, audio, sizes)
    np.testing.assert_array_equal(found, expected)


@given(samples=SAMPLES, sizes=SIZES, look_ahead=LOOK_AHEADS, seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_pieces_of_any_size_give_the_same(model, samples, sizes, look_ahead, seed):
    audio = noise(3, seed)[:samples]
    if max(sizes) < 159:
        audio = audio[:2000]
    whole = streamed(model, look_ahead, audio, [len(audio) + 1])
    np.testing.assert_array_equal(streamed(model, look_ahead, audio, sizes), whole)
    # Where a pass has other numbers of rows, the products of NumPy's library differ in rounding.
    expected = network(model, look_ahead).log_probs(audio)
    np.testing.assert_allclose(whole, expected, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_chunk_depends_on_no_later_audio(chunk):
    config = chunked_conformer.Config(**CHUNKED | {"chunk": chunk, "chunks": (1, 2, 4)})
    rng, size = np.random.default_rng(1), chunk * config.reduction
    own = {
        name: rng.uniform(-0.5, 0.5, spec.shape).astype(np.float32)
        for name, spec in chunked_conformer.specs(config).items()
    }
    x = rng.standard_normal((1, 6 * size, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, 4 * size :] += 1
    lengths = np.array([6 * size])
    before, after = (
        chunked_conformer.encode(NumpyOps(), own, config, f, lengths)[0] for f in (x, changed)
    )
    frames = 4 * chunk * config.upsample
    np.testing.assert_array_equal(before[:, :frames], after[:, :frames])
    # The frames of a chunk do depend on its end.
    changed = x.copy()
    changed[:, 4 * size - 1] += 1
    after, _ = chunked_conformer.encode(NumpyOps(), own, config, changed, lengths)
    assert (
        before[:, frames - chunk * config.upsample] != after[:, frames - chunk * config.upsample]
    ).any()


def test_a_chunk_attends_to_its_window_only():
    config = chunked_conformer.Config(**CHUNKED | {"layers": 1, "chunks": (1, 2, 4), "kernel": 1})
    rng = np.random.default_rng(2)
    own = {
        name: rng.uniform(-0.5, 0.5, spec.shape).astype(np.float32)
        for name, spec in chunked_conformer.specs(config).items()
    }
    x = rng.standard_normal((1, 40 * config.reduction, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, : 10 * config.reduction] += (
        1  # Frames 0 to 9, and 10 by the convolutions of the stem.
    )
    lengths = np.array([x.shape[1]])
    before, after = (
        chunked_conformer.encode(NumpyOps(), own, config, f, lengths)[0] for f in (x, changed)
    )
    same = (before == after).all(-1)[0].reshape(-1, config.upsample).all(1)
    assert same.tolist() == [False] * (10 + config.window) + [True] * (30 - config.window)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_live_text_does_not_depend_on_blocks(path, data):
    model = load(path, backend="native" if native.available() else "numpy", threads=1)
    audio = np.concatenate([noise(data.draw(st.floats(0.2, 2)), level=0.5), np.zeros(16_000, "f")])
    sizes = data.draw(st.lists(st.sampled_from([77, 1600, 40_000]), min_size=1, max_size=3))
    look_ahead = data.draw(LOOK_AHEADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "Detector", LoudDetector)
        results = []
        for blocks in (sizes, [100_000]):
            session: LiveSession = model.live(look_ahead=look_ahead)
            found, at, i = [], 0, 0
            while at < len(audio):
                found += session.feed(audio[at : at + blocks[i % len(blocks)]])
                at, i = at + blocks[i % len(blocks)], i + 1
            results.append([each.to_dict() for each in found + session.finish()])
    assert results[0] == results[1]
    for each, later in zip(results[0], results[0][1:], strict=False):
        if each["final"]:
            continue
        count = each["final_words"]
        assert later["words"][:count] == each["words"][:count]


def test_look_ahead_is_the_nearest_one(path):
    model = load(path)
    for seconds, chunk in ((None, 1), (0.0, 1), (0.15, 2), (0.3, 4), (9, 4)):
        assert with_look_ahead(model.checkpoint, seconds).config.chunk == chunk


def test_other_models_have_no_look_ahead():
    model = load("digits-en")
    with pytest.raises(TyndaError, match="digits-en encodes whole recordings"):
        model.transcribe(noise(1), look_ahead=0.5)


def test_configs_that_do_not_fit():
    configure = chunked_conformer.FAMILY.configure
    for values, problem in (
        ({"window": 10}, "window 10 is not 3 times a power of two"),
        ({"chunk": 5}, "chunk 5 is not one of the chunks"),
        ({"stride": 2, "upsample": 1}, "is not 4 or 8"),
    ):
        with pytest.raises(TyndaError, match=problem):
            configure(values)
