"""Weights have one interface for all formats; their bytes and products do not change."""

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import header
from tynda.ops.numpy import NumpyOps
from tynda.quantization import fit
from tynda.quantization.run import quantize
from tynda.store import checkpoint, library
from tynda.weights.grid import Grid
from tynda.weights.integers import quantize_activations, quantize_rows
from tynda.weights.kernels import kernel_format
from tynda.weights.rounding import round_to_nearest
from tynda.weights.tensors import MappedRows
from tynda.weights.weight import (
    Weight,
    by_tap,
    concatenate,
    dequantize_all,
    floats,
    is_integer,
    lookup,
    product,
    quantize_all,
    stored_bits,
)
from tynda.weights.weight import quantize as to_8_bits


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def tensors_digest(path):
    """Return a hash of all tensors; the header's description of a model may change."""
    data = path.read_bytes()
    return digest(data[8 + int.from_bytes(data[:8], "little") :])


def numbers(*shape):
    """Return exact fractions from -1 to 1, the same on any machine."""
    count = int(np.prod(shape))
    return ((np.arange(count) * 7919 % 10007 - 5003) / 5003).astype(np.float32).reshape(shape)


# Files and products must not change with the code that makes them.
FILES = {
    (8, "rtn"): "fabdd29c1f5581d4",
    (4, "rtn"): "517462812915d424",
    (1.58, "rtn"): "89838088c43e9530",
    (16, None): "efe96259ec48d8f8",
}
SAVED = {8: "a8f921b08bb5a5a6", 16: "f5e871535594a978", 32: "c28ab334aa82250b"}
PRODUCTS = {
    "linear 8": "69f8627900f748c0",
    "conv1d 8": "05b9265e1afdb6f7",
    "conv2d 8": "6ff228c4b04f4031",
    "linear 3": "71a79565ae195e37",
    "conv1d 3": "9303ac5c81ea7b4a",
    "conv2d 3": "953eba6e726d2a75",
}


@pytest.mark.parametrize(("bits", "method"), FILES)
def test_a_quantized_file_has_the_same_bytes_as_ever(tmp_path, bits, method):
    quantize("digits-en", tmp_path / "m", bits, method=method)
    assert tensors_digest(tmp_path / "m") == FILES[bits, method]


@pytest.mark.parametrize("bits", SAVED)
def test_a_saved_model_has_the_same_bytes_as_ever(tmp_path, bits):
    weights = dequantize_all(library.load("digits-en").weights)
    checkpoint.save_model(tmp_path / "m", header(), weights, bits=bits)
    assert tensors_digest(tmp_path / "m") == SAVED[bits]


def three_bits(weight):
    return round_to_nearest(weight, Grid(3, 32), fit.max_scales(by_tap(weight), Grid(3, 32)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_the_same_as_ever(name):
    operation, bits = name.split()
    ops, make = NumpyOps(), to_8_bits if bits == "8" else three_bits
    if operation == "linear":
        y = ops.linear(numbers(2, 7, 64), make(numbers(24, 64)))
    elif operation == "conv1d":
        y = ops.conv1d(numbers(2, 9, 32), make(numbers(24, 16, 3)), padding=1, groups=2)
    else:
        weight = make(numbers(8, 4, 3, 3))
        y = ops.conv2d(numbers(2, 9, 5, 4), weight, stride=(2, 1), padding=(1, 1))
    assert digest(np.ascontiguousarray(y).tobytes()) == PRODUCTS[name]


FORMATS = ["lazy_int8", "int8", "mapped", "1.58", "3", "6", "table"]


def weight_in(form, values, folder=None):
    """Return the numbers ``[out, ...]`` in a format."""
    if form == "lazy_int8":
        return Weight.lazy_int8(values)
    if form == "int8":
        return to_8_bits(values)
    if form == "mapped":
        known, path = to_8_bits(values), folder / "rows"
        path.write_bytes(b"head" + known.codes.tobytes())
        return Weight.int8(MappedRows(path.open("rb"), 4, values.shape, np.int8), known.row_scales)
    rows = by_tap(values)
    grid = fit.kmeans_table(rows, 3) if form == "table" else Grid(float(form), 32)
    return round_to_nearest(values, grid, fit.max_scales(rows, grid))


SHAPES = [(9, 40), (6, 5, 3), (4, 3, 2, 5), (1, 1), (3, 64, 1)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_formats_answer_alike(tmp_path, form, shape):
    weight = weight_in(form, numbers(*shape) + np.float32(0.1), tmp_path)
    values = weight.dequantize()
    assert weight.shape == values.shape == shape
    assert values.dtype == np.float32
    codes, scale = weight.integers()
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, shape, shape[:1])
    np.testing.assert_array_equal(values, codes * scale.reshape(-1, *[1] * (len(shape) - 1)))
    np.testing.assert_array_equal(weight.by_tap().dequantize(), by_tap(values))
    np.testing.assert_array_equal(floats(weight), values)
    np.testing.assert_array_equal(weight[1:3].dequantize(), values[1:3])
    np.testing.assert_array_equal(weight[1:3][1:].dequantize(), values[1:3][1:])
    ids = np.array([[0, len(values) - 1], [0, 0]])
    np.testing.assert_array_equal(lookup(weight, ids), lookup(values, ids))
    if form != "lazy_int8":
        parts = concatenate([weight[: len(values) // 2], weight[len(values) // 2 :]])
        np.testing.assert_array_equal(parts.dequantize(), values)


@pytest.mark.parametrize("form", FORMATS)
def test_products_are_in_8_bits_or_of_the_same_values_in_floats(tmp_path, form):
    weight = weight_in(form, numbers(9, 40), tmp_path)
    x = numbers(2, 3, 40)[:, ::-1]
    codes, scale, zero = quantize_activations(x)
    whole = (codes.astype(int) - zero[..., None].astype(int)) @ weight.codes.astype(int).T
    expected = whole.astype(np.float32) * (scale[..., None] * weight.row_scales)
    assert is_integer(weight)
    np.testing.assert_array_equal(product(x, weight), expected)
    exact = weight.with_float_products()
    assert not is_integer(exact)
    assert not is_integer(exact[2:4])
    assert kernel_format(exact) == (32, 0)
    np.testing.assert_array_equal(product(x, exact), x @ weight.dequantize().T)


def test_how_the_kernels_hold_a_weight(tmp_path):
    held = {form: kernel_format(weight_in(form, numbers(4, 64), tmp_path)) for form in FORMATS}
    assert held == {
        **{"lazy_int8": (8, 0), "int8": (8, 0), "mapped": (8, 0)},
        **{"1.58": (2, 32), "3": (3, 32), "6": (8, 0), "table": (8, 0)},
    }
    assert kernel_format(numbers(4, 64)) == (32, 0)
    bits = {form: stored_bits(weight_in(form, numbers(4, 64), tmp_path)) for form in FORMATS}
    assert bits == {
        **{"lazy_int8": 32, "int8": 8, "mapped": 8},
        **{"1.58": 1.58, "3": 3, "6": 6, "table": 3},
    }
    assert stored_bits(numbers(4, 64)) == 32


def test_weights_are_rounded_when_they_are_read():
    weights = {"a": numbers(4, 40), "b": numbers(40), "positions": numbers(4, 40)}
    learnt = {"a": True, "b": True, "positions": False}
    now, lazy = quantize_all(weights, learnt), quantize_all(weights, learnt, lazy=True)
    assert lazy["a"].rows is weights["a"]
    np.testing.assert_array_equal(lazy["a"].codes, now["a"].codes)
    np.testing.assert_array_equal(lazy["a"].row_scales, now["a"].row_scales)
    for name in ("b", "positions"):
        assert now[name] is lazy[name] is weights[name]
    assert is_integer(now["a"])
    assert not is_integer(dequantize_all(now, lazy=True)["a"])
    np.testing.assert_array_equal(dequantize_all(now)["a"], now["a"].dequantize())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-45, 1e-38, 4e-37, 1e-9, 1, 1e30]))
def test_rounding_to_8_bits(seed, size):
    x = np.random.default_rng(seed).standard_normal((5, 33)).astype(np.float32) * np.float32(size)
    x[3] = 0
    codes, scale = quantize_rows(x)
    assert (scale.dtype, codes.min() >= -127) == (np.float32, True)
    some = np.abs(x).max(1) >= 4e-37
    assert (codes[~some] == 0).all()
    assert (np.abs(codes[some]).max(1) == 127).all()
    error = np.abs(codes[some] * scale[some, None] - x[some])
    assert (error <= 0.501 * scale[some, None]).all()
    codes, scale = quantize_rows(np.clip(x, -6e4, 6e4), np.float16)
    assert scale.dtype == np.float16
    assert (scale >= np.float16(6.2e-5)).all()
    steps = np.clip(x, -6e4, 6e4) / scale[:, None].astype(np.float32)
    # f16 may have rounded the scale down, so that the largest value lies beyond 127 of it.
    assert np.abs(codes - np.clip(steps, -127, 127)).max() <= 0.5


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-45, 1e-38, 4e-37, 1e-9, 1, 3e38]))
def test_rounding_of_activations(seed, size):
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-1, 1, (5, 33)) * size).astype(np.float32)
    x[0], x[1], x[2, :16], x[3] = np.abs(x[0]), -np.abs(x[1]), 0, 0
    codes, scale, zero = quantize_activations(x)
    assert (codes.dtype, scale.dtype, zero.dtype) == (np.int8, np.float32, np.float32)
    least, most = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    some = most / 2 - least / 2 >= 4e-37
    assert (codes[~some] == 0).all()
    assert (zero[~some] == 0).all()
    assert np.array_equal(zero, np.rint(zero))
    assert (np.abs(zero) <= 127).all()
    assert (codes[2, :16] == zero[2]).all()  # 0 is exact
    if some[0]:
        assert (zero[0], codes[0].max()) == (-127, 127)
    if some[1]:
        assert (zero[1], codes[1].min()) == (127, -127)
    found = (codes[some] - zero[some, None].astype(float)) * scale[some, None].astype(float)
    np.testing.assert_allclose(
        scale[some].astype(float), (most.astype(float) - least)[some] / 254, rtol=1e-6
    )
    # The zero point is rounded as well, so that the codes at the ends may be half a code off.
    assert (np.abs(found - x[some]) <= 1.001 * scale[some, None]).all()
    inner = np.abs(codes[some]) < 127
    assert (np.abs(found - x[some])[inner] <= (0.501 * scale[some, None] * inner)[inner]).all()


def test_a_mapped_weight_keeps_no_descriptor_and_reads_the_code_that_is_none(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"\x80" * 4000)
    folder = "/proc/self/fd"
    with path.open("rb") as file:
        rows = [MappedRows(file, 8, (8, 99), np.int8) for _ in range(20)]
        before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
        weights = [Weight.int8(r, np.ones(8, np.float32)) for r in rows]
        parts = [weight[2:4] for weight in weights]
        del parts
        if before:
            assert len(os.listdir(folder)) == before
        assert (weights[0].codes == -127).all()
        assert (weights[0][np.array([3])].codes == -127).all()
        assert MappedRows(file, 0, (0, 99), np.int8)[:].shape == (0, 99)
        assert MappedRows(file, 8, (8, 99), np.uint8)[:].max() == 128


def test_what_is_multiplied_is_observed():
    seen = []
    ops = NumpyOps(observe=lambda start, x: seen.append((start, x.shape)))
    plain, x = NumpyOps(), numbers(2, 9, 32)
    for run in (
        lambda ops: ops.linear(x, numbers(5, 32)),
        lambda ops: ops.conv1d(x, numbers(8, 16, 3), padding=1, groups=2),
        lambda ops: ops.conv2d(x.reshape(2, 9, 8, 4), numbers(6, 4, 3, 3)),
        lambda ops: ops.conv1d(x, numbers(32, 1, 3), groups=32),  # each channel by itself
    ):
        np.testing.assert_allclose(run(ops), run(plain), rtol=1e-5, atol=1e-5)
    assert seen == [(0, (2, 9, 32)), (0, (2, 9, 1, 48)), (4, (2, 9, 1, 48)), (0, (2, 7, 6, 36))]
