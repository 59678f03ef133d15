"""Entropy-coded weights: every array of codes comes back, and damage is one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import noise, read_raw, save_tiny, write_manifest, write_raw, write_wav
from tynda.errors import TyndaError
from tynda.model import Model
from tynda.quantization.fit import relative_scales
from tynda.quantization.run import new_header, quantize
from tynda.quantization.steps import StepPlanner
from tynda.store import checkpoint
from tynda.weights import coding
from tynda.weights.coding import BLOCK, CodedRows, block_count, encode
from tynda.weights.grid import Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.tensors import MappedRows
from tynda.weights.weight import Weight

STEP = Grid(8, relative_step=0.5)
WITNESS = Path(__file__).parent / "data" / "witness-whisper.safetensors"
W = "blocks.0.ff1.in.weight"


def stored(tmp_path, codes):
    data, ends = encode(codes)
    path = tmp_path / "streams"
    path.write_bytes(b"head" + data.tobytes())
    return CodedRows("w", MappedRows(path.open("rb"), 4, data.shape, np.uint8), ends, codes.shape)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 50), st.integers(1, 9), st.integers(1, 4)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, 127]),
)
def test_codes_come_back(tmp_path_factory, shape, seed, largest):
    codes = np.random.default_rng(seed).integers(-largest, largest + 1, shape).astype(np.int8)
    rows = stored(tmp_path_factory.mktemp("coded"), codes)
    np.testing.assert_array_equal(rows[:], codes)
    assert rows[:].flags.c_contiguous
    assert coding.is_possible(codes.size, len(encode(codes).data))


def test_rows_are_read_in_any_order_over_the_borders_of_blocks(tmp_path):
    rng = np.random.default_rng(0)
    codes = np.rint(rng.standard_normal((2 * BLOCK + 7, 5)) * np.arange(5)).astype(np.int8)
    rows = stored(tmp_path, codes)
    assert block_count(len(codes)) == 3
    for index in (
        slice(None),
        slice(3, 3),
        slice(BLOCK - 1, BLOCK + 2),
        slice(BLOCK, 2 * BLOCK),
        slice(-3, None),
        slice(None, None, -7),
        np.array([len(codes) - 1, 0, -1]),
        np.array([[BLOCK, 1], [1, 1]]),
        np.array([], int),
    ):
        np.testing.assert_array_equal(rows[index], codes[index])


def test_a_column_has_its_own_huffman_code_where_there_are_many_rows():
    """Columns with different spreads take the bits of each, and not those of their mixture."""
    rng = np.random.default_rng(1)
    spread = np.repeat([0.4, 12], 32)
    codes = np.clip(np.rint(rng.standard_normal((BLOCK, 64)) * spread), -127, 127).astype(np.int8)

    def entropy(part):
        share = np.unique(part, return_counts=True)[1] / part.size
        return -(share * np.log2(share)).sum()

    by_column = np.mean([entropy(column) for column in codes.T])
    bits = 8 * len(encode(codes).data) / codes.size
    assert by_column < bits < by_column + 0.35 < entropy(codes)


def test_steps_are_relative_to_rows_and_no_value_is_clipped():
    rng = np.random.default_rng(2)
    values = (
        rng.standard_normal((6, 400)).astype(np.float32)
        * np.float32([1, 9, 1e-3, 0, 1, 1])[:, None]
    )
    values[4, 0] = 300
    scale = relative_scales(values, STEP).row
    size = np.sqrt(np.square(values).mean(1))
    np.testing.assert_allclose(scale[[0, 1, 2, 5]], size[[0, 1, 2, 5]] / 2, rtol=2**-10)
    error = np.abs(
        round_to_nearest(values, STEP, relative_scales(values, STEP)).dequantize() - values
    )
    assert (error <= scale[:, None] * 0.5001).all()


def test_a_file_is_smaller_and_its_texts_are_those_of_the_same_codes(tmp_path):
    source = checkpoint.load(save_tiny(tmp_path / "tiny.safetensors"))
    plan = {W: STEP, "head.weight": STEP}
    quantize(tmp_path / "tiny.safetensors", tmp_path / "coded", plan)
    model = checkpoint.load(tmp_path / "coded")
    assert (model.header.format, model.weights[W].grid) == (3, STEP)
    assert model.header.training["quantized"] == {
        "method": "rtn",
        "bits": [8],
        "entropy_coded": True,
    }
    expected = round_to_nearest(source.weights[W], STEP, relative_scales(source.weights[W], STEP))
    np.testing.assert_array_equal(model.weights[W].codes, expected.codes)
    np.testing.assert_array_equal(model.weights[W].row_scales, expected.row_scales)
    # The same values in plain 8 bits give the same outputs on both engines.
    plain = {
        name: Weight.int8(w.codes, w.row_scales) if isinstance(w, Weight) else w
        for name, w in model.weights.items()
    }
    checkpoint.save_model(tmp_path / "plain", new_header(model), plain)
    for backend, bits in (("native", 8), ("numpy", 8), ("numpy", 32)):
        outputs = [
            Model(checkpoint.load(tmp_path / name), backend=backend, bits=bits).encode(noise(1))
            for name in ("coded", "plain")
        ]
        np.testing.assert_array_equal(*outputs)
    # A file that is written anew keeps its codes.
    checkpoint.save_model(tmp_path / "again", new_header(model), model.weights)
    np.testing.assert_array_equal(
        checkpoint.load(tmp_path / "again").weights[W].codes, expected.codes
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t, h: t.pop(f"{W}.scale"), "scale is missing"),
        (lambda t, h: t.pop(f"{W}.ends"), "ends is missing"),
        (lambda t, h: t.update({f"{W}.scale": t[f"{W}.scale"][1:]}), "does not fit"),
        (lambda t, h: t.update({f"{W}.ends": np.array([1, 2])}), "does not fit"),
        (lambda t, h: t.update({f"{W}.ends": t[f"{W}.ends"] + 1}), "invalid streams"),
        (lambda t, h: t.update({f"{W}.ends": -t[f"{W}.ends"]}), "invalid streams"),
        (lambda t, h: t[f"{W}.scale"].fill(np.nan), "invalid streams"),
        (lambda t, h: t.update({W: t[W].view(np.int8)}), "should be U8"),
        (lambda t, h: t.update({W: t[W][:, None]}), "should be U8"),
        (
            # Too few bytes for so many codes: whoever decodes them needs much memory.
            lambda t, h: t.update({W: t[W][:9], f"{W}.ends": np.array([9])}),
            "invalid streams",
        ),
        (lambda t, h: h["grids"][W].update(relative_step=-1), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(relative_step=0), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(relative_step="1"), "an invalid grid"),
        (lambda t, h: h["grids"][W].pop("relative_step"), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(group=32), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(bits=4), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(other=4), "an invalid grid"),
        (lambda t, h: h["grids"].update({"head.bias": h["grids"][W]}), "few bits"),
    ],
)
def test_damaged_descriptions_are_told(tmp_path, change, what):
    save_tiny(tmp_path / "tiny.safetensors")
    quantize(tmp_path / "tiny.safetensors", tmp_path / "good", {W: STEP})
    tensors, values = read_raw(tmp_path / "good")
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    change(tensors, values)
    path = write_raw(tmp_path / "bad.safetensors", tensors, values)
    with pytest.raises(TyndaError, match=what) as told:
        checkpoint.load(path)
    assert str(path) in str(told.value)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_streams_are_told_or_codes(tmp_path_factory, data):
    codes = np.random.default_rng(4).integers(-3, 4, (20, 6)).astype(np.int8)
    streams, ends = encode(codes)
    changed = bytearray(streams.tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(1, len(changed)))]
        ends = np.array([len(changed)])
    path = tmp_path_factory.mktemp("damaged") / "streams"
    path.write_bytes(changed)
    rows = CodedRows("w", MappedRows(path.open("rb"), 0, (len(changed),), np.uint8), ends, (20, 6))
    try:
        assert (rows[:].shape, rows[:].min() >= -127) == ((20, 6), True)
    except TyndaError as error:
        assert str(error) == f"{path}: tensor w is damaged"  # noqa: PT017 - both are right


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_file_has_at_most_the_size_that_was_asked_for(tmp_path, calibrated):
    size, speech = 1_300_000, None
    if calibrated:
        write_wav(tmp_path / "a.wav", noise(2))
        speech = write_manifest(tmp_path / "m.jsonl", [("a.wav", "a")])
    planner = StepPlanner(WITNESS, speech)
    plan = planner.for_size(size)
    assert (len({grid.relative_step for grid in plan.values()}) > 1) is calibrated
    quantize(WITNESS, tmp_path / "small", plan, calibration=planner.calibration)
    assert 0.95 * size < (tmp_path / "small").stat().st_size <= size
    larger = planner.for_size(size + 100_000)
    assert all(larger[name].relative_step < plan[name].relative_step for name in plan)
    with pytest.raises(TyndaError, match="with the largest steps"):
        planner.for_size(1000)


def test_the_tensor_that_loses_more_has_finer_steps():
    """Where one tensor loses sixteen times as much for each weight, its step is a quarter."""
    planner, name = StepPlanner(WITNESS), "model.encoder.conv2.weight"
    planner._losses[name] *= 16
    plan = planner.for_size(1_300_000)
    others = {grid.relative_step for other, grid in plan.items() if other != name}
    assert len(others) == 1
    assert plan[name].relative_step == pytest.approx(others.pop() / 4, rel=1e-3)


def test_methods_that_fit_grids_are_refused(tmp_path):
    source = save_tiny(tmp_path / "tiny.safetensors")
    with pytest.raises(TyndaError, match="use rtn or gptq"):
        quantize(source, tmp_path / "m", {W: STEP}, method="clip")
    with pytest.raises(TyndaError, match="8 bits, and no groups"):
        Grid(4, relative_step=1)
