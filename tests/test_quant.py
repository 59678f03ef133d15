"""Few bits: grids, packing, and the methods that round to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tynda.errors import TyndaError
from tynda.ops.numpy import NumpyOps
from tynda.quantization import asymmetric, fit
from tynda.quantization.gptq import gptq
from tynda.weights.grid import BITS, NF4, Grid
from tynda.weights.pack import pack, row_bytes, unpack
from tynda.weights.rounding import round_to_nearest
from tynda.weights.scales import Scales, round_scales
from tynda.weights.weight import Weight, by_tap, is_integer, stored_bits

FEW = [bits for bits in BITS if bits < 8]


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(st.sampled_from(BITS), st.data())
def test_packing_comes_back(bits, data):
    shape = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 40)))
    codes = data.draw(arrays(np.uint8, shape, elements=st.integers(0, Grid(bits).levels - 1)))
    packed = pack(codes, bits)
    assert packed.shape == (shape[0], row_bytes(bits, shape[1]))
    np.testing.assert_array_equal(unpack(packed, bits, shape[1]), codes)


def test_packing_by_hand():
    codes = np.array([[1, 2, 3, 0, 1]], np.uint8)
    assert pack(codes, 2).tolist() == [[0b00_11_10_01, 0b01]]
    assert pack(codes, 3).tolist() == [[0b11_010_001, 0b001_000_0]]
    assert pack(codes, 4).tolist() == [[0x21, 0x03, 0x01]]
    assert pack(codes % 3, 1.58).tolist() == [[1 + 2 * 3 + 0 * 9 + 0 * 27 + 1 * 81]]
    with pytest.raises(ValueError, match="too large"):
        pack(codes, 1.58)


def test_any_byte_is_three_digits():
    every = np.arange(256, dtype=np.uint8)[None]
    assert unpack(every, 1.58, 256 * 5).max() == 2


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [0, 32, 64])
def test_values_are_whole_numbers_beside_the_rows_scale(bits, group):
    weight = gaussian(7, 80)
    found = round_to_nearest(weight, Grid(bits, group), fit.max_scales(weight, Grid(bits, group)))
    assert is_integer(found)
    assert stored_bits(found) == bits
    codes = found.codes
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    np.testing.assert_array_equal(found.dequantize(), codes * found.row_scales[:, None])
    np.testing.assert_array_equal(found.row_scales, found.row_scales.astype(np.float16))
    for part in codes.reshape(7, -1)[:, : group or 80]:
        assert len(np.unique(part)) <= Grid(bits).levels
    # No other value of the grid is nearer.
    if bits < 8:
        step, offset = (v[:, :1].astype(int) for v in found.scales[1:])
        values = (step * np.arange(Grid(bits).levels) + offset) * found.row_scales[:, None]
        first = weight[:, : group or 80]
        best = np.abs(first[:, :, None] - values[:, None]).min(2)
        error = np.abs(found.dequantize()[:, : group or 80] - first)
        np.testing.assert_allclose(error, best, atol=1e-6)


@settings(deadline=None)
@given(st.sampled_from(FEW), st.sampled_from([0, 32]), st.integers(0, 2**32 - 1), st.booleans())
def test_settled_steps_stay_within_eight_bits(bits, group, seed, moved):
    rng, grid = np.random.default_rng(seed), Grid(bits, group)
    size = 10.0 ** rng.uniform(-9, 4, (5, 1))
    step = (rng.uniform(0, 1, (5, grid.groups(50))) * size).astype(np.float32)
    middle = (rng.standard_normal(step.shape) * size).astype(np.float32) if moved else None
    steps = round_scales(grid, step, middle)
    assert steps.are_valid(grid)
    assert np.isfinite(steps.row).all()


def test_steps_that_leave_eight_bits_are_seen():
    one = np.ones((1, 1))
    good = Scales(one[0].astype(np.float32), one.astype(np.uint8), -8 * one.astype(np.int8))
    assert good.are_valid(Grid(4))
    assert not good._replace(group=0 * good.group).are_valid(Grid(4))
    assert not good._replace(group=16 * good.group).are_valid(Grid(4))
    assert not good._replace(offset=np.int8(-128) * one.astype(np.int8)).are_valid(Grid(4))


def test_a_row_of_zeros_stays_near_zero():
    for bits in BITS:
        found = round_to_nearest(
            np.asymmetric((2, 32), np.float32),
            Grid(bits),
            fit.clipped_scales(np.asymmetric((2, 32), np.float32), Grid(bits)),
        )
        assert np.abs(found.dequantize()).max() < 1e-3


@pytest.mark.parametrize(
    ("grid", "what"),
    [
        ({"bits": 7}, "1.58, 2, 3"),
        ({"bits": 4, "group": 31}, "32, 64"),
        ({"bits": 4, "group": -32}, "32, 64"),
        ({"bits": 2, "table": (1, 2, 3)}, "4 increasing"),
        ({"bits": 2, "table": (3, 2, 1, 0)}, "4 increasing"),
        ({"bits": 2, "table": (-128, 2, 3, 4)}, "4 increasing"),
        ({"bits": 4, "group": 32, "table": NF4}, "no groups"),
    ],
)
def test_what_is_no_grid_is_refused(grid, what):
    with pytest.raises(TyndaError, match=what):
        Grid(**grid)


def error(found, weight):
    return float(np.square(found.dequantize() - weight).mean())


def test_clipping_errs_less_than_the_largest_value():
    weight = gaussian(20, 128)
    for bits in (1.58, 2, 3, 4):
        grid = Grid(bits, 32)
        plain, clipped_scales = (
            round_to_nearest(weight, grid, f(weight, grid))
            for f in (fit.max_scales, fit.clipped_scales)
        )
        assert error(clipped_scales, weight) < error(plain, weight)


def test_gaussian_steps_are_those_of_max():
    # The errors are those of uniform quantizers of 4, 8 and 16 levels (Max 1960, table II).
    weight = gaussian(40, 4096)
    for bits, expected in ((2, 0.1188), (3, 0.0374), (4, 0.01154)):
        found = round_to_nearest(weight, Grid(bits), fit.mean_scales(weight, Grid(bits)))
        assert error(found, weight) == pytest.approx(expected, rel=0.05)


def test_absmean_by_hand():
    weight = np.tile(np.float32([[1, -0.4, 0.6, -2, 0, 1, -1, 2]]), (1, 4))
    found = round_to_nearest(weight, Grid(1.58), fit.mean_scales(weight, Grid(1.58)))
    np.testing.assert_allclose(found.dequantize()[0, :8], [1, 0, 1, -1, 0, 1, -1, 1], rtol=1e-3)


def test_half_quadratic_finds_the_midst():
    weight = gaussian(20, 64) + 2
    grid = Grid(3, 32)
    steps = fit.hqq_scales(weight, grid)
    plain = round_to_nearest(weight, grid, fit.clipped_scales(weight, grid))
    assert error(round_to_nearest(weight, grid, steps), weight) < 0.5 * error(plain, weight)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_zero_points_find_the_midst_of_a_group(bits):
    weight = gaussian(20, 96) + np.repeat(gaussian(20, 3, seed=1) * 2, 32, axis=1)
    grid = Grid(bits, 32)
    found = round_to_nearest(weight, grid, asymmetric.fit_scales(weight, grid))
    others = [
        round_to_nearest(weight, grid, f(weight, grid))
        for f in (fit.clipped_scales, fit.hqq_scales)
    ]
    assert error(found, weight) < 0.5 * error(others[0], weight)
    assert error(found, weight) < error(others[1], weight)
    # Numbers that lie about 0 already gain less than what a byte for each group is worth.
    about = np.sign(gaussian(20, 96)) * np.float32(0.5) + gaussian(20, 96, seed=2) * 0.01
    steps = asymmetric.fit_scales(about, grid)
    np.testing.assert_array_equal(steps.offset, fit.clipped_scales(about, grid).offset)


def test_zero_points_go_by_how_much_an_input_counts():
    weight, counts = gaussian(40, 64) + 1, np.ones(64, np.float32)
    counts[::2] = 100
    grid = Grid(2, 32)
    found, plain = (
        round_to_nearest(weight, grid, asymmetric.fit_asymmetric(weight, grid, w))
        for w in (counts, None)
    )
    assert error(found, weight) > error(plain, weight)
    off = [np.square(x.dequantize() - weight)[:, ::2].mean() for x in (found, plain)]
    assert off[0] < 0.9 * off[1]


def test_filling_of_a_short_group_does_not_count():
    weight = gaussian(8, 40) + 5
    grid = Grid(4, 32)
    found = round_to_nearest(weight, grid, asymmetric.fit_asymmetric(weight, grid))
    assert np.square(found.dequantize() - weight)[:, 32:].mean() < 0.01


def test_half_quadratic_forgives_outliers():
    weight = gaussian(20, 64)
    weight[:, 0] *= 8
    grid = Grid(3)
    found, plain = (
        round_to_nearest(weight, grid, f(weight, grid)) for f in (fit.hqq_scales, fit.max_scales)
    )
    median = [np.median(np.abs(x.dequantize() - weight)) for x in (found, plain)]
    assert median[0] < median[1]


def test_a_table_of_means_errs_less_than_even_steps():
    weight = gaussian(30, 256) ** 3  # far from uniform
    table = fit.kmeans_table(weight, 3)
    assert len(table.table) == 8
    found = round_to_nearest(weight, table, fit.max_scales(weight, table))
    plain = round_to_nearest(weight, Grid(3), fit.max_scales(weight, Grid(3)))
    assert error(found, weight) < 0.3 * error(plain, weight)


def test_nf4_by_hand():
    weight = np.float32([[-1, -0.7, 0.01, 0.08, 0.55, 1, 0.3, -0.3] * 4])
    found = round_to_nearest(weight, Grid(4, table=NF4), fit.max_scales(weight, Grid(4, table=NF4)))
    assert found.codes[0, :8].tolist() == [-127, -88, 0, 10, 71, 127, 43, -36]


def correlated(count, inputs, seed=1):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((inputs // 4, inputs)) + 0.2 * rng.standard_normal((1, inputs))
    x = rng.standard_normal((count, inputs // 4)) @ mixed
    return (x + 0.3 * rng.standard_normal((count, inputs))).astype(np.float32)


@pytest.mark.parametrize("grid", [Grid(2, 32), Grid(3, 32), Grid(4), Grid(4, table=NF4)])
def test_gptq_harms_the_products_less(grid):
    x, weight = correlated(2000, 96), gaussian(40, 96)
    hessian = (x.T @ x).astype(np.float64) / len(x)
    steps = fit.clipped_scales(weight, grid)
    plain = round_to_nearest(weight, grid, steps).dequantize()
    found = gptq(weight, grid, steps, [hessian]).dequantize()
    harm = [np.square(x @ (w - weight).T).mean() for w in (found, plain)]
    assert harm[0] < 0.5 * harm[1]


def test_gptq_by_hand():
    # Two inputs are always equal: the second compensates for the error of the first.
    weight = np.asymmetric((1, 32), np.float32)
    weight[0, :2] = 0.4, 0.4
    hessian = np.eye(32) * 1e-9
    hessian[:2, :2] = 1
    steps = round_scales(Grid(1.58), np.ones((1, 1), np.float32))
    assert round_to_nearest(weight, Grid(1.58), steps).dequantize()[0, :2].tolist() == [0, 0]
    values = gptq(weight, Grid(1.58), steps, [hessian]).dequantize()[0, :2]
    np.testing.assert_allclose(sorted(values), [0, 1], atol=1e-3)


def test_gptq_leaves_inputs_that_never_come():
    weight, hessian = gaussian(4, 40), np.asymmetric((40, 40))
    grid = Grid(4)
    steps = fit.clipped_scales(weight, grid)
    found = gptq(weight, grid, steps, [hessian])
    np.testing.assert_array_equal(found.codes, round_to_nearest(weight, grid, steps).codes)


@pytest.mark.parametrize("bits", FEW)
def test_a_model_computes_with_few_bits_as_with_eight(bits):
    ops, x = NumpyOps(), gaussian(2, 9, 40)
    for shape, run in (
        ((12, 40), lambda w: ops.linear(x, w)),
        ((12, 40, 3), lambda w: ops.conv1d(x, w, stride=2, padding=1)),
        ((12, 10, 3), lambda w: ops.conv1d(x, w, padding=1, groups=4)),
        ((12, 8, 3, 3), lambda w: ops.conv2d(x.reshape(2, 9, 5, 8), w, padding=(1, 1))),
        ((12, 40), lambda w: ops.embedding(np.array([[3, 0], [11, 3]]), w)),
    ):
        weight = gaussian(*shape)
        grid = Grid(bits, 32)
        few = round_to_nearest(weight, grid, fit.clipped_scales(by_tap(weight), grid))
        assert few.shape == shape
        eight = Weight.int8(np.ascontiguousarray(few.codes), few.row_scales)
        np.testing.assert_array_equal(run(few), run(eight))
        np.testing.assert_array_equal(few[2:5].dequantize(), few.dequantize()[2:5])
