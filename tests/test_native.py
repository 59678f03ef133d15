"""Every kernel equals its NumPy reference, on all instruction sets of this processor."""

import inspect

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import norm_rounding
from test_ops import SIZES, TIMES, Draw
from tynda.cli import main
from tynda.compile import native
from tynda.compile.count import count
from tynda.compile.native import Native
from tynda.heads.seq2seq import programs
from tynda.models import (
    base,
    conformer,
    moonshine,
    moonshine_streaming,
    parakeet,
    wav2vec2,
    whisper,
)
from tynda.ops.base import conv_length
from tynda.ops.numpy import NumpyOps
from tynda.quantization import fit
from tynda.weights.attention import MIN_QUERIES
from tynda.weights.grid import NF4, Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.weight import Weight, by_tap, quantize, quantize_all

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a compiler")
SETS = native.instruction_sets() if native.available() else []
NUMPY = NumpyOps()
SEEDS = st.integers(0, 2**32 - 1)
# Sizes below, at and above a vector, a panel and a tile of each instruction set, and primes.
WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 32, 33, 64, 67])
ROWS = st.sampled_from([0, 1, 2, 3, 5, 11, 12, 13, 24, 29, 131])
quick = settings(max_examples=30, deadline=None)
WEIGHTS = ["weight", "bias", "mean", "variance", "weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def engine(weights, instructions, threads=2, bits=32):
    return Native(weights, threads, instructions, bits)


def run(name, instructions, *args, **options):
    """Run one operation on the native backend."""
    bound = inspect.signature(getattr(NUMPY, name)).bind(*args, **options)
    names = list(bound.arguments)
    if "shape" in names:  # *shape
        return engine({}, instructions).run(
            lambda ops, weights, config, x: ops.reshape(x, *bound.arguments["shape"]),
            None,
            bound.arguments["x"],
        )
    arrays = {k: v for k, v in bound.arguments.items() if isinstance(v, np.ndarray | Weight)}
    weights = {k: v for k, v in arrays.items() if k in WEIGHTS}
    inputs = {k: v for k, v in arrays.items() if k not in WEIGHTS}

    def function(ops, weights, config, *tensors):
        given = bound.arguments | weights | dict(zip(inputs, tensors, strict=True))
        return getattr(ops, name)(**given)

    return engine(weights, instructions).run(function, None, *inputs.values())


def same(name, *args, exact=False, tolerance=1e-4, **options):
    """Return the result of one operation, after checking that all kernels agree with NumPy."""
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    expected = getattr(NUMPY, name)(*copies, **options)
    for instructions in SETS:
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        found = run(name, instructions, *copies, **options)
        assert found.shape == expected.shape
        if exact:
            np.testing.assert_array_equal(found, expected, instructions)
        else:
            size = np.abs(expected).max(initial=1e-3)
            np.testing.assert_allclose(
                found, expected, rtol=tolerance, atol=tolerance * size, err_msg=instructions
            )
    return expected


@given(SEEDS, ROWS, WIDTHS, WIDTHS, st.booleans())
@quick
def test_linear(seed, rows, inner, outer, biased):
    draw = Draw(seed)
    bias = draw(outer) if biased else None
    same("linear", draw(1, rows, inner), draw(outer, inner), bias, tolerance=1e-5)


@given(SEEDS, ROWS, WIDTHS, WIDTHS, st.booleans(), st.sampled_from([1e-38, 3e-37, 1e-30, 1, 1e30]))
@quick
def test_linear_in_8_bits_to_the_last_bit(seed, rows, inner, outer, biased, size):
    draw = Draw(seed)
    x = np.float32(size) * draw(1, rows, inner)
    x[:, ::3] = 0  # some rows are zeros
    weight = quantize(draw(outer, inner))
    same("linear", x, weight, draw(outer) if biased else None, exact=True)


def test_codes_at_their_ends_are_summed_exactly():
    # The maximum sum of two adjacent products, repeated.
    codes = np.full((5, 4096), 127, np.int8)
    codes[1], codes[2, ::2] = -127, -127
    weight = Weight.int8(codes, np.ones(5, np.float32))
    x = np.ones((1, 3, 4096), np.float32)
    x[:, 1] = -1
    y = same("linear", x, weight, exact=True)
    np.testing.assert_allclose(y[0, 0], [4096 * 127, -4096 * 127, 0, 4096 * 127, 4096 * 127])


GRIDS = [
    *(Grid(bits, group) for bits in (1.58, 2, 3, 4, 5, 6) for group in (0, 32, 64)),
    Grid(4, table=NF4),
]


def few(draw, grid, *shape):
    """A weight whose groups have very different ranges, centred at 0 or not."""
    weight = draw(*shape) + draw(shape[0], *[1] * (len(shape) - 1))
    find = fit.clipped_scales if grid.table or draw.rng.integers(2) else fit.hqq_scales
    return round_to_nearest(weight, grid, find(by_tap(weight), grid))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(SEEDS, st.integers(1, 20) | st.just(131), WIDTHS | st.just(1100), WIDTHS, st.booleans())
@settings(max_examples=8, deadline=None)
def test_linear_in_few_bits_to_the_last_bit(grid, seed, rows, inner, outer, biased):
    draw = Draw(seed)
    weight, bias = few(draw, grid, outer, inner), draw(outer) if biased else None
    same("linear", draw(1, rows, inner), weight, bias, exact=True)
    same("embedding", draw.rng.integers(0, outer, (2, 3)), weight, exact=True)


@given(SEEDS, SIZES, ROWS, WIDTHS, SIZES, SIZES, st.integers(1, 3), st.integers(0, 4), st.data())
@quick
def test_conv1d(seed, batch, time, inner, outer, kernel, stride, padding, data):
    draw, groups = Draw(seed), data.draw(st.sampled_from([1, 1, 2, 3]))
    x, bias = draw(batch, time, groups * inner), draw(groups * outer)
    weight = draw(groups * outer, inner, kernel)
    settings = {"stride": stride, "padding": padding, "groups": groups}
    same("conv1d", x, weight, bias, **settings)
    if inner > 1:
        same("conv1d", x, quantize(weight), bias, exact=True, **settings)
        coded = few(draw, data.draw(st.sampled_from(GRIDS)), *weight.shape)
        same("conv1d", x, coded, bias, exact=True, **settings)


@given(SEEDS, SIZES, ROWS, WIDTHS, SIZES, st.integers(1, 3), st.integers(0, 4))
@quick
def test_depthwise(seed, batch, time, channels, kernel, stride, padding):
    draw = Draw(seed)
    settings = {"stride": stride, "padding": padding, "groups": channels}
    x, weight = draw(batch, time, channels), draw(channels, 1, kernel)
    same("conv1d", x, weight, draw(channels), **settings)
    same("conv1d", x, weight, **settings)


def planes(data, most_kernel):
    """Settings of a convolution over frames and bins, and its kernel."""
    pair = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(2))  # noqa: E731
    return pair(1, most_kernel), {"stride": pair(1, 3), "padding": pair(0, 3)}


@given(SEEDS, SIZES, ROWS, SIZES, WIDTHS, st.booleans(), st.data())
@quick
def test_depthwise_over_frames_and_bins(seed, batch, time, bins, channels, biased, data):
    draw, (kernel, settings) = Draw(seed), planes(data, 4)
    x, weight = draw(batch, time, bins, channels), draw(channels, 1, *kernel)
    bias = draw(channels) if biased else None
    same("conv2d", x, weight, bias, groups=channels, **settings)


@given(SEEDS, SIZES, ROWS, SIZES, st.integers(1, 4), SIZES, st.integers(1, 3), st.data())
@quick
def test_conv2d(seed, batch, time, bins, inner, outer, groups, data):
    draw, (kernel, settings) = Draw(seed), planes(data, 5)
    stride, padding = settings["stride"], settings["padding"]
    settings |= {"groups": groups}
    x, weight = draw(batch, time, bins, groups * inner), draw(groups * outer, inner, *kernel)
    bias = draw(groups * outer)
    same("conv2d", x, weight, bias, **settings)
    if groups == 1 or inner > 1:
        same("conv2d", x, quantize(weight), bias, exact=True, **settings)
        coded = few(draw, data.draw(st.sampled_from(GRIDS)), *weight.shape)
        same("conv2d", x, coded, bias, exact=True, **settings)
    assert conv_length(time, kernel[0], stride[0], padding[0]) >= 0


def test_conv2d_of_one_bin_with_zeros_beside_it():
    draw = Draw(0)
    same("conv2d", draw(1, 5, 1, 3), draw(4, 3, 1, 1), draw(4), padding=(0, 1))


@given(SEEDS, SIZES, ROWS, WIDTHS)
@example(seed=1, batch=1, time=1, channels=2)  # two numbers that are nearly equal
@quick
def test_norms(seed, batch, time, channels):
    draw = Draw(seed)
    x, scale, shift = 3 * draw(batch, time, channels) + 1, draw(channels), draw(channels)
    # A constant row becomes zero, except for rounding errors.
    wide = x if channels > 1 else 0 * x
    tolerance = 1e-4 + norm_rounding(wide, 1e-5)
    same("layer_norm", wide, scale, shift, tolerance=tolerance)
    same("layer_norm", wide, scale, tolerance=tolerance)
    lengths = draw.lengths(batch, time)
    same("batch_norm", x, scale, shift, draw(channels), np.square(draw(channels)), lengths)
    groups = 1 if channels % 2 else 2
    if channels > 1:
        lengths = np.maximum(lengths, min(2, time))
        y = NUMPY.group_norm(x, scale, shift, groups=groups, lengths=lengths)
        for instructions in SETS:
            found = run("group_norm", instructions, x, scale, shift, groups=groups, lengths=lengths)
            for item, length in enumerate(lengths):
                parts = x[item, :length].reshape(length, groups, channels // groups)
                flat = parts.swapaxes(0, 1).reshape(groups, length * channels // groups)
                rounding = norm_rounding(flat, 1e-5) if length else 0
                np.testing.assert_allclose(
                    found[item, :length], y[item, :length], rtol=1e-4, atol=1e-4 + rounding
                )


@given(SEEDS, SIZES, TIMES, SIZES)
@example(seed=1, batch=2, time=300, channels=3)  # more frames than a task sums
@quick
def test_statistics(seed, batch, time, channels):
    draw = Draw(seed)
    x, lengths = 3 * draw(batch, time, channels) + 1, draw.lengths(batch, time)
    same("statistics", x, lengths)


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "tanh", "asinh", "glu", "swiglu", "log_softmax"]
)
@given(SEEDS, ROWS, WIDTHS, st.sampled_from([0.1, 1, 30]))
@quick
def test_elementwise(name, seed, rows, channels, spread):
    same(name, np.float32(spread) * Draw(seed)(1, rows, 2 * channels))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "asinh", "log_softmax"])
def test_elementwise_extremes(name):
    y = same(name, np.float32([[-1e4, -200, -90, -0.0, 0, 90, 200, 1e4]]))
    assert np.isfinite(y).all()


@given(SEEDS, SIZES, ROWS, ROWS, st.integers(1, 3), WIDTHS, WIDTHS)
@quick
def test_attention(seed, batch, queries, keys, heads, width, values):
    draw = Draw(seed)
    q, k = draw(batch, queries, heads * width), draw(batch, keys, heads * width)
    v, lengths = draw(batch, keys, heads * values), draw.lengths(batch, keys)
    same("attention", q, k, v, heads=heads, lengths=lengths)
    same("attention_weights", q, k, heads=heads, lengths=lengths)
    counts = np.log(draw.rng.integers(1, 99, (batch, keys))).astype(np.float32)
    same("attention", q, k, v, heads=heads, lengths=lengths, log_counts=counts)


@pytest.mark.parametrize("queries", [1, 30])
def test_attention_over_many_blocks_of_keys_and_scores_of_any_size(queries):
    draw = Draw(0)
    q, k, v = 30 * draw(1, queries, 16), 30 * draw(1, 777, 16), draw(1, 777, 16)
    same("attention", q, k, v, heads=2, lengths=np.array([700]))
    same("attention", 0 * q, k, v, heads=2, lengths=np.array([777]))


@given(SEEDS, SIZES, ROWS, st.integers(1, 3), WIDTHS, WIDTHS)
@quick
def test_relative_attention(seed, batch, time, heads, width, values):
    draw = Draw(seed)
    channels = 2 * heads * width
    q, k = draw(batch, time, channels), draw(batch, time, channels)
    v, lengths = draw(batch, time, heads * values), draw.lengths(batch, time)
    encoding = same("relative_encoding", q, tolerance=1e-6)
    biases = draw(channels), draw(channels)
    same("relative_attention", q, k, v, encoding, *biases, heads=heads, lengths=lengths)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_relative_attention_over_many_blocks_of_keys(threads):
    """Blocks of keys, and parts of the queries where threads outnumber heads."""
    draw = Draw(0)
    q, k, v = (draw(1, 777, 16) for _ in range(3))
    biases = {"content": draw(16), "distance": draw(16)}
    lengths = np.array([700])

    def attend(ops, weights, config, q, k, v, lengths):
        part = ops.relative_encoding(q), weights["content"], weights["distance"]
        return ops.relative_attention(q, k, v, *part, heads=1, lengths=lengths)

    expected = attend(NUMPY, biases, None, q, k, v, lengths)
    for instructions in SETS:
        found = engine(biases, instructions, threads).run(attend, None, q, k, v, lengths)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def attend(ops, weights, config, q, k, v, lengths, log_counts=None):
    return ops.attention(q, k, v, heads=config, lengths=lengths, log_counts=log_counts)


@pytest.mark.parametrize("instructions", SETS)
def test_the_environment_chooses_a_set(monkeypatch, instructions):
    monkeypatch.setenv(native.INSTRUCTIONS, instructions)
    assert native.machine(1).instructions == instructions


def test_an_unknown_set_in_the_environment_is_one_line(monkeypatch):
    monkeypatch.setenv(native.INSTRUCTIONS, "avx1024")
    done = CliRunner().invoke(main, ["transcribe", "demo/jfk.flac"])
    assert done.exit_code == 1
    assert done.stderr == (
        "error: TYNDA_INSTRUCTIONS is 'avx1024': this processor has kernels for "
        f"{', '.join(SETS)}\n"
    )


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_keys_that_count_several_times(instructions, bits, packed, queries):
    """Counts of 1 to 1000 in blocks of the online softmax, with a query of zeros, in two items."""
    draw, n = Draw(0), np.array([700, 41])
    q, k, v = 3 * draw(2, queries, 64), draw(2, 777, 64), draw(2, 777, 64) + 2
    q[:, -1] = 0
    counts = np.log(draw.rng.integers(1, 1000, (2, 777))).astype(np.float32)
    one, twin = engine({}, instructions, bits=bits), NumpyOps(bits)
    if packed:

        def pack(ops, weights, config, k, v, lengths):
            about = {"heads": 2, "lengths": lengths}
            return ops.pack_keys(k, **about), ops.pack_values(v, **about)

        y = one.run(attend, 2, q, *one.run(pack, None, k, v, n), n, counts)
        expected = attend(twin, {}, 2, q, *pack(twin, {}, None, k, v, n), n, counts)
    else:
        y = one.run(attend, 2, q, k, v, n, counts)
        expected = attend(twin, {}, 2, q, k, v, n, counts)
    np.testing.assert_allclose(y, expected, atol=1e-4 if bits == 32 else 0.03)
    exact = NUMPY.attention(q, k, v, heads=2, lengths=n, log_counts=counts)
    assert np.abs(y - exact).mean() < 0.02
    assert np.abs(y - NUMPY.attention(q, k, v, heads=2, lengths=n)).mean() > 0.05


@pytest.mark.parametrize("instructions", SETS)
@given(SEEDS, SIZES, st.sampled_from([16, 25]), ROWS, st.integers(1, 3), WIDTHS, WIDTHS)
@quick
def test_attention_in_8_bits(instructions, seed, batch, queries, keys, heads, width, values):
    draw = Draw(seed)
    q, k = draw(batch, queries, heads * width), draw(batch, keys, heads * width)
    v, lengths = draw(batch, keys, heads * values), draw.lengths(batch, keys)
    exact = NUMPY.attention(q, k, v, heads=heads, lengths=lengths)
    y = engine({}, instructions, bits=8).run(attend, heads, q, k, v, lengths)
    twin = NumpyOps(bits=8).attention(q, k, v, heads=heads, lengths=lengths)
    # A weight at the border between two codes may get either: a difference of one step in 127.
    size = np.abs(v).max(initial=1)
    np.testing.assert_allclose(y, twin, atol=0.01 * size)
    np.testing.assert_allclose(y, exact, atol=0.1 * size)
    assert np.abs(y - twin).mean() < 1e-3 * size if y.size else True


@pytest.mark.parametrize("instructions", SETS)
def test_attention_in_8_bits_over_many_blocks(instructions):
    draw = Draw(0)
    q, k, v = 3 * draw(1, 40, 64), draw(1, 777, 64), draw(1, 777, 64) + 2
    n = np.array([700])
    y = engine({}, instructions, bits=8).run(attend, 2, q, k, v, n)
    np.testing.assert_allclose(
        y, NumpyOps(bits=8).attention(q, k, v, heads=2, lengths=n), atol=0.01
    )
    exact = NUMPY.attention(q, k, v, heads=2, lengths=n)
    assert np.abs(y - exact).mean() < 0.02


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("queries", [1, 5, 30])
def test_packed_keys_and_values(instructions, bits, queries):
    draw, heads = Draw(2), 3
    q, k, v = draw(2, queries, 60), draw(2, 300, 60), draw(2, 300, 90) + 1
    lengths = np.array([300, 41])
    one, twin = engine({}, instructions, bits=bits), NumpyOps(bits)

    def pack(ops, weights, config, k, v, lengths):
        about = {"heads": heads, "lengths": lengths}
        return ops.pack_keys(k, **about), ops.pack_values(v, **about)

    def recall(ops, weights, config, q, k, v, lengths):
        about = {"heads": heads, "lengths": lengths}
        return ops.attention(q, k, v, **about), ops.attention_weights(q, k, **about)

    kept = one.run(pack, None, k, v, lengths)
    assert [part.shape for part in kept] == [k.shape, v.shape]
    y, weights = one.run(recall, None, q, *kept, lengths)
    ours = pack(twin, {}, None, k, v, lengths)
    expected, expected_weights = recall(twin, {}, None, q, *ours, lengths)
    tolerance = 1e-5 if bits == 32 else 0.02
    np.testing.assert_allclose(y, expected, atol=tolerance)
    np.testing.assert_allclose(weights, expected_weights, atol=tolerance)
    # One of two: what was taken is what was asked for.
    kept = one.run(programs.select, None, list(kept), np.array([1]))
    again, _ = one.run(recall, None, q[1:], *kept, lengths[1:])
    np.testing.assert_array_equal(again, y[1:])


@given(SEEDS, SIZES, st.integers(0, 30), st.integers(0, 30), st.integers(1, 3), WIDTHS)
@quick
def test_causal_attention(seed, batch, queries, before, heads, width):
    draw = Draw(seed)
    q, k, v = (
        draw(batch, queries, heads * width),
        draw(batch, before + queries, heads * width),
        draw(batch, before + queries, 3 * heads),
    )
    starts = draw.rng.integers(0, before + 1, batch)
    same("causal_attention", q, k, v, heads=heads, starts=starts)


@given(SEEDS, SIZES, ROWS, st.integers(0, 20), st.integers(0, 20), st.integers(1, 3), WIDTHS)
@quick
def test_window_attention(seed, batch, time, before, after, heads, width):
    draw = Draw(seed)
    q, k = draw(batch, time, heads * width), draw(batch, time, heads * width)
    v, lengths = draw(batch, time, 3 * heads), draw.lengths(batch, time)
    window = {"heads": heads, "lengths": lengths, "before": before, "after": after}
    expected = same("window_attention", q, k, v, **window)
    for instructions in SETS if time >= MIN_QUERIES else []:  # else it is in float32
        one = engine({}, instructions, bits=8)
        y = one.run(attend_window, (heads, before, after), q, k, v, lengths)
        twin = NumpyOps(bits=8).window_attention(q, k, v, **window)
        size = np.abs(v).max(initial=1)
        np.testing.assert_allclose(y, twin, atol=0.01 * size)
        np.testing.assert_allclose(y, expected, atol=0.1 * size)


def attend_window(ops, weights, config, q, k, v, lengths):
    heads, before, after = config
    return ops.window_attention(q, k, v, heads=heads, lengths=lengths, before=before, after=after)


@given(SEEDS, SIZES, ROWS, st.integers(1, 3), WIDTHS, st.data())
@quick
def test_rotary_positions(seed, batch, time, heads, width, data):
    draw = Draw(seed)
    pairs = data.draw(st.integers(0, width // 2))
    turned = max(2 * pairs - data.draw(st.integers(0, 1)), 0)
    base = data.draw(st.sampled_from([2.0, 10000.0, 12345.75]))  # a plan has it in float32
    starts = draw.rng.integers(0, 4096, batch)
    table = same("rotary_table", starts, time, width=turned, base=base, tolerance=1e-5)
    same("rotary", draw(batch, time, heads * width), table, heads=heads, tolerance=1e-6)


@given(SEEDS, SIZES, ROWS, WIDTHS, WIDTHS, st.booleans())
@quick
def test_lstm(seed, batch, time, inner, hidden, reverse):
    draw = Draw(seed)
    x, lengths = draw(batch, time, inner), draw.lengths(batch, time)
    # The magnitude is that of a trained model: larger weights amplify any rounding error.
    recurrent = draw(4 * hidden, hidden) / np.float32(2 * np.sqrt(hidden))
    weights = draw(4 * hidden, inner), recurrent, draw(4 * hidden), draw(4 * hidden)
    same("lstm", x, *weights, lengths=lengths, reverse=reverse)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_stays_within_its_frames_whatever_the_lengths_say(instructions, reverse):
    draw = Draw(4)
    x = draw(2, 10, 6)
    weights = draw(20, 6), draw(20, 5) / np.float32(5), draw(20), draw(20)
    found = run("lstm", instructions, x, *weights, lengths=np.array([-1, 100_000]), reverse=reverse)
    expected = NUMPY.lstm(x, *weights, lengths=np.array([0, 10]), reverse=reverse)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(SEEDS, SIZES, st.integers(0, 4), WIDTHS, st.floats(-3, 3, width=32))
@quick
def test_what_only_moves_or_adds(seed, batch, time, channels, factor):
    draw = Draw(seed)
    x, starts = draw(batch, time, channels), draw.rng.integers(0, 3, batch)
    exact = {"exact": True}
    same("positions", starts, time, **exact)
    same("embedding", draw.rng.integers(0, 9, (batch, time)), draw(9, channels), **exact)
    table = quantize(draw(9, channels))
    same("embedding", draw.rng.integers(0, 9, (batch, time)), table, **exact)
    same("index_select", x, draw.rng.integers(0, batch, 5), **exact)
    same("index_select", starts, draw.rng.integers(0, batch, 5), **exact)
    same("slice", x, time // 2, time, **exact)
    same("slice", x[0], 0, time // 2, **exact)
    same("add", x, x, **exact)
    same("add", x, draw(time, channels), **exact)
    same("scale", x, factor, **exact)
    same("concat", x, draw(batch, time, 3), **exact)
    same("reshape", x, batch, time * channels, 1, **exact)
    same("write", draw(batch, time + 2, channels), x, starts, **exact)
    same("mask", x, draw.lengths(batch, time), **exact)
    same("mask", draw(batch, time, 3, channels), draw.lengths(batch, time), **exact)
    same("conv_lengths", draw.rng.integers(0, 30, batch), 3, 2, 1, **exact)
    same("multiply_lengths", starts, 3, **exact)


@pytest.mark.parametrize("bits", [8, 32])
def test_results_may_be_parts_of_other_tensors(bits):
    def parts(ops, weights, config, x):
        y = ops.add(x, x)
        first = ops.reshape(ops.slice(y, 0, 2), 2, 4)
        last = ops.reshape(ops.slice(y, 1, 3), 8, 1)
        return y, first, last, ops.reshape(y, 3, 4)

    x = Draw(0)(1, 3, 4)
    expected = parts(NumpyOps(), {}, None, x)
    found = Native({}, 1, None, bits).run(parts, None, x)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_that_name_nothing_are_refused():
    with pytest.raises(IndexError):
        run("embedding", SETS[0], np.array([[9]]), np.zeros((9, 4), np.float32))
    cache, x = np.zeros((1, 3, 4), np.float32), np.zeros((1, 2, 4), np.float32)
    with pytest.raises(IndexError):
        run("write", SETS[0], cache, x, np.array([2]))


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("threads", [1, 3])
def test_what_becomes_part_of_a_product_stays_the_same(instructions, threads):
    draw = Draw(1)
    weights = {"a": draw(40, 20), "b": draw(40), "c": draw(20, 40), "d": draw(20)}

    def block(ops, weights, config, x, y):
        h = ops.gelu(ops.linear(x, weights["a"], weights["b"]))
        z = ops.add(x, ops.scale(ops.linear(h, weights["c"], weights["d"]), 0.5))
        both = ops.add(ops.linear(y, weights["c"]), ops.linear(y, weights["c"]))
        return z, ops.add(z, ops.relu(z)), ops.silu(ops.add(both, z)), h

    x, y = draw(2, 35, 20), draw(2, 35, 40)
    found = engine(weights, instructions, threads).run(block, None, x, y)
    for mine, other in zip(found, block(NUMPY, weights, None, x, y), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def conformer_model():
    config = conformer.Config(bins=40, channels=48, layers=2, heads=3, hidden=64)
    draw = Draw(3)
    specs = conformer.specs(config)
    return config, {k: 0.3 * draw(*s.shape) + (s.init == "ones") for k, s in specs.items()}


def test_the_arena_is_as_large_as_was_foreseen_and_is_used_again():
    config, weights = conformer_model()
    one = engine(weights, SETS[0])
    for frames in (300, 500, 100):
        x, n = Draw(0)(1, frames, 40), np.array([frames])
        first = one.run(conformer.encode, config, x, n)
        again = one.run(conformer.encode, config, x, n)
        np.testing.assert_array_equal(first[0], again[0])
    foreseen = [compiled.bytes for compiled in one._plans.values()]
    assert one.arena_bytes == max(foreseen) == foreseen[1]
    assert count(conformer.FAMILY, config, 500, machine=one.machine).arena_bytes == one.arena_bytes


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize(
    "module", [conformer, parakeet, wav2vec2, whisper, moonshine, moonshine_streaming]
)
def test_the_memory_that_is_counted_is_what_the_arena_takes(module, bits):
    small = {"channels": 48, "layers": 2, "heads": 3, "hidden": 64}
    more = {
        conformer: {"bins": 40},
        parakeet: {"bins": 40, "stem": 6},
        wav2vec2: {"conv_channels": (40,) * 7, "position_kernel": 12, "position_groups": 4},
        whisper: {"bins": 8, "frames": 300, "decoder_layers": 0},
        moonshine: {"decoder_heads": 3, "rotary": 10},
        moonshine_streaming: {"decoder_heads": 3, "rotary": 10, "encoder_channels": 40},
    }
    if module is moonshine_streaming:  # a layer for each of its windows
        del small["layers"]
    config = module.Config(**small, **more[module])
    specs, draw = module.specs(config), Draw(0)
    weights = {name: np.abs(draw(*spec.shape)) for name, spec in specs.items()}
    if bits == 8:
        weights = quantize_all(weights, {name: spec.trainable for name, spec in specs.items()})
    frames = 600 if config.bins > 1 else 60_000
    for instructions in SETS:
        one = engine(weights, instructions, bits=bits)
        x = draw(2, frames, config.bins)
        one.run(module.encode, config, x, np.array([frames, frames]))
        counted = count(module.FAMILY, config, frames, 2, machine=one.machine)
        assert counted.arena_bytes == one.arena_bytes


@pytest.mark.parametrize("grid", [None, 8, Grid(2), Grid(3, 32), Grid(4, 64), Grid(6), GRIDS[-1]])
@pytest.mark.parametrize("instructions", SETS)
def test_weights_take_the_memory_that_is_counted(instructions, grid):
    draw, bits = Draw(0), 32 if grid is None else 8
    weights = {"conv": draw(70, 36, 3), "in": draw(65, 140), "out": draw(52, 13), "bias": draw(52)}
    if grid is not None:
        for name in ("conv", "in"):
            weights[name] = (
                quantize(weights[name]) if grid == 8 else few(draw, grid, *weights[name].shape)
            )

    def block(ops, weights, config, x):
        x = ops.conv1d(x, weights["conv"])
        x = ops.linear(ops.reshape(x, 1, -1, 140), weights["in"])
        return ops.linear(ops.reshape(x, 1, -1, 13), weights["out"], weights["bias"])

    one = engine(weights, instructions, bits=bits)
    x = draw(1, 42, 36)
    lowered, _ = one.compile(block, None, [x])
    one.run(block, None, x)
    assert one.weight_bytes == sum(lowered.matrices.values()) > 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("frames", [1, 10, 600])
def test_a_run_with_a_clock_is_the_same_run(threads, frames):
    config, weights = conformer_model()
    one = engine(weights, SETS[0], threads)
    x, n = Draw(0)(1, frames, 40), np.array([frames])
    expected = one.run(conformer.encode, config, x, n)
    found, seconds = one.timings(conformer.encode, config, x, n)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    lowered, _ = one.compile(conformer.encode, config, [x, n])
    steps = lowered.program.steps
    timed = {steps[i].operation for i in seconds}
    assert {"conv1d", "conv2d", "linear", "attention", "layer_norm", "log_softmax"} <= timed
    assert not timed & {"reshape", "relu"}  # these are fused into a product
    assert all(time >= 0 for time in seconds.values())
    assert seconds[max(seconds, key=seconds.__getitem__)] > 0


def test_threads_do_not_change_a_bit():
    config, weights = conformer_model()
    x, n = Draw(0)(2, 301, 40), np.array([301, 100])
    results = [engine(weights, SETS[0], t).run(conformer.encode, config, x, n) for t in (1, 2, 5)]
    for y, frames in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(frames, results[0][1])


def test_a_model_keeps_to_its_threads_beside_one_with_more():
    config, weights = conformer_model()
    x, n = Draw(0)(1, 301, 40), np.array([301])
    one = engine(weights, SETS[0], threads=1)
    expected = one.run(conformer.encode, config, x, n)[0]
    many = engine(weights, SETS[0], threads=7)
    for _ in range(5):
        np.testing.assert_array_equal(one.run(conformer.encode, config, x, n)[0], expected)
        np.testing.assert_array_equal(many.run(conformer.encode, config, x, n)[0], expected)


def test_models_may_run_at_once():
    from concurrent.futures import ThreadPoolExecutor

    config, weights = conformer_model()
    x, n = Draw(0)(1, 200, 40), np.array([200])
    alone = engine(weights, SETS[0]).run(conformer.encode, config, x, n)[0]

    def listen(_):
        one = engine(weights, SETS[0])
        return [one.run(conformer.encode, config, x, n)[0] for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(listen, range(4)):
            for y in results:
                np.testing.assert_array_equal(y, alone)


@pytest.mark.parametrize("instructions", SETS)
def test_whispers_decoder_step_by_step(instructions):
    config = whisper.Config(
        bins=8,
        vocab=70,
        channels=32,
        layers=1,
        heads=2,
        hidden=48,
        frames=60,
        context=12,
        decoder_layers=2,
        decoder_heads=2,
        decoder_hidden=48,
    )
    draw = Draw(5)
    weights = {
        k: 0.2 * draw(*s.shape) + (s.init == "ones") for k, s in whisper.specs(config).items()
    }
    mel, lengths = draw(2, 120, 8), np.array([120, 70])
    one = engine(weights, instructions)
    heard = one.run(whisper.cross_kv, config, *one.run(whisper.encode, config, mel, lengths))
    states, frames = whisper.encode(NUMPY, weights, config, mel, lengths)
    ours = whisper.cross_kv(NUMPY, weights, config, states, frames)

    def empty():
        asymmetric = [np.zeros((4, 12, 32), np.float32) for _ in range(4)]
        return base.KVCache(asymmetric[:2], asymmetric[2:])

    cache, expected_cache, starts = empty(), empty(), np.zeros(4, np.int64)
    for size in (3, 1, 1, 2):
        tokens = draw.rng.integers(0, 70, (4, size))
        y, cache = one.run(whisper.decode, config, tokens, starts, heard, cache)
        expected, expected_cache = whisper.decode(
            NUMPY, weights, config, tokens, starts, ours, expected_cache
        )
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        starts = starts + size
