"""NumPy and torch agree on every operation, for all shapes and lengths."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers import norm_rounding
from tynda.ops.base import conv_length
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps
from tynda.ops.torch_rounded import RoundActivations
from tynda.weights.integers import quantize_activations

torch.set_num_threads(1)
NUMPY, TORCH = NumpyOps(), TorchOps()

SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 13])
TIMES = st.sampled_from([0, 1, 2, 3, 7, 11, 23])
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def both(name, *args, rounding=0.0, **options):
    """Return the result of one operation in NumPy, after checking that torch's is the same."""

    def tensor(value):
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    with torch.no_grad():
        theirs = getattr(TORCH, name)(
            *map(tensor, args), **{k: tensor(v) for k, v in options.items()}
        )
    ours = getattr(NUMPY, name)(*args, **options)
    if not isinstance(ours, np.ndarray):
        assert ours == theirs
        return ours
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    # The tolerance is relative to the maximum of the result: single elements may nearly cancel.
    size = np.abs(theirs).max(initial=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=(1e-5 + rounding) * size)
    return ours


class Draw:
    """Returns random arrays from one seed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.rng.standard_normal(shape, dtype=np.float32)

    def lengths(self, batch, time):
        lengths = self.rng.integers(0, time + 1, batch)
        lengths[self.rng.integers(batch)] = time
        return lengths


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, st.booleans())
@quick
def test_linear(seed, batch, time, inner, outer, biased):
    draw = Draw(seed)
    both("linear", draw(batch, time, inner), draw(outer, inner), draw(outer) if biased else None)


@given(SEEDS, TIMES, SIZES, st.sampled_from([-1.0, 0.0, 3.0]))
@quick
def test_training_rounds_activations_as_the_engine_does(seed, time, inner, shift):
    x = Draw(seed)(2, time, inner) + np.float32(shift)
    codes, scale, zero = quantize_activations(x)
    expected = (codes - zero[..., None]) * scale[..., None]
    found = RoundActivations().linear(torch.from_numpy(x), torch.eye(inner)).numpy()
    # A number in the middle of two codes may become either.
    assert (np.abs(found - expected) > 1e-4 * scale[..., None]).sum() <= 1
    assert (np.abs(found - x) <= 1.001 * scale[..., None]).all()


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, SIZES, SIZES, st.integers(1, 3), st.integers(0, 4))
@quick
def test_conv1d(seed, batch, time, inner, outer, groups, kernel, stride, padding):
    draw = Draw(seed)
    x, bias = draw(batch, time, groups * inner), draw(groups * outer)
    weight = draw(groups * outer, inner, kernel)
    both("conv1d", x, weight, bias, stride=stride, padding=padding, groups=groups)
    both("conv1d", x, weight, stride=stride, padding=padding, groups=groups)


@given(SEEDS, SIZES, TIMES, SIZES, st.integers(1, 4), SIZES, st.integers(1, 3), st.data())
@quick
def test_conv2d(seed, batch, time, bins, inner, outer, groups, data):
    draw = Draw(seed)
    pair = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(2))  # noqa: E731
    kernel, stride, padding = pair(1, 5), pair(1, 3), pair(0, 3)
    sizes = zip((time, bins), kernel, stride, padding, strict=True)
    shape = (batch, *(conv_length(*s) for s in sizes), groups * outer)
    # Of one channel in and one bin out, torch 2.13 leaves frames unwritten on some CPUs.
    assume(inner > 1 or shape[2] > 1)
    x, weight = draw(batch, time, bins, groups * inner), draw(groups * outer, inner, *kernel)
    settings = {"stride": stride, "padding": padding, "groups": groups}
    y = both("conv2d", x, weight, draw(groups * outer), **settings)
    assert y.shape == shape


@given(SEEDS, SIZES, TIMES, SIZES)
@example(seed=49691, batch=8, time=11, channels=2)  # two numbers that are nearly equal
@quick
def test_layer_norm(seed, batch, time, channels):
    draw = Draw(seed)
    # A single channel has no variance: the result is the bias, except for the effect of eps.
    x = 3 * draw(batch, time, channels) + 1
    both("layer_norm", x, draw(channels), draw(channels), rounding=norm_rounding(x, 1e-5))
    # Without a bias nothing is left of one channel but what eps lets through.
    assume(channels > 1)
    x = 3 * draw(batch, time, channels) + 1
    both("layer_norm", x, draw(channels), eps=1e-6, rounding=norm_rounding(x, 1e-6))


@given(SEEDS, SIZES, TIMES, st.none() | SIZES, SIZES)
@quick
def test_batch_norm(seed, batch, time, bins, channels):
    draw = Draw(seed)
    shape = (batch, time, channels) if bins is None else (batch, time, bins, channels)
    statistics = draw(channels), np.square(draw(channels))
    x, lengths = draw(*shape), draw.lengths(batch, time)
    both("batch_norm", x, draw(channels), draw(channels), *statistics, lengths)


@given(SEEDS, SIZES, TIMES, SIZES, SIZES)
@quick
def test_group_norm(seed, batch, time, groups, width):
    draw = Draw(seed)
    channels = groups * width
    x, lengths = 3 * draw(batch, time, channels) + 1, draw.lengths(batch, time)
    weight, bias = draw(channels), draw(channels)
    y = both("group_norm", x, weight, bias, groups=groups, lengths=lengths)
    for i, n in enumerate(lengths):
        if n * width > 1:  # torch rejects a single value
            alone = torch.nn.functional.group_norm(
                *map(torch.from_numpy, (x[i : i + 1, :n].swapaxes(1, 2),)),
                groups,
                torch.from_numpy(weight),
                torch.from_numpy(bias),
            )
            np.testing.assert_allclose(y[i, :n], alone[0].T, atol=2e-4, rtol=1e-4)


@given(SEEDS, SIZES, TIMES, SIZES)
@quick
def test_statistics(seed, batch, time, channels):
    draw = Draw(seed)
    x, lengths = 3 * draw(batch, time, channels) + 1, draw.lengths(batch, time)
    y = both("statistics", x, lengths)
    assert y.shape == (batch, 1, 2 * channels)
    for i, n in enumerate(lengths):
        if n > 1:
            own = x[i, :n].astype(np.float64)
            expected = np.concatenate([own.mean(0), np.sqrt(own.var(0, ddof=1) + 1e-7)])
            np.testing.assert_allclose(y[i, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "tanh", "asinh", "glu", "swiglu", "log_softmax"]
)
@given(SEEDS, SIZES, TIMES, SIZES, st.sampled_from([0.1, 1, 30]))
@quick
def test_elementwise(name, seed, batch, time, channels, spread):
    both(name, np.float32(spread) * Draw(seed)(batch, time, 2 * channels))


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh", "asinh", "log_softmax"])
def test_elementwise_extremes(name):
    y = both(name, np.float32([[-1e4, -200, -90, 0, 90, 200, 1e4]]))
    assert np.isfinite(y).all()


@given(SEEDS, SIZES, TIMES, TIMES, SIZES, SIZES, SIZES)
@quick
def test_attention(seed, batch, queries, keys, heads, width, values):
    draw = Draw(seed)
    q, k = draw(batch, queries, heads * width), draw(batch, keys, heads * width)
    v, lengths = draw(batch, keys, heads * values), draw.lengths(batch, keys)
    y = both("attention", q, k, v, heads=heads, lengths=lengths)
    for i, n in enumerate(lengths):
        alone = NUMPY.attention(
            q[i : i + 1],
            k[i : i + 1, :n],
            v[i : i + 1, :n],
            heads=heads,
            lengths=lengths[i : i + 1],
        )
        np.testing.assert_allclose(y[i], alone[0], atol=1e-5)
        if n == 0:
            assert not y[i].any()


@given(SEEDS, SIZES, TIMES, TIMES, SIZES, SIZES, SIZES)
@quick
def test_a_key_that_counts_several_times_is_several_keys(
    seed, batch, queries, keys, heads, width, values
):
    draw = Draw(seed)
    q, k = draw(batch, queries, heads * width), draw(batch, keys, heads * width)
    v, lengths = draw(batch, keys, heads * values), draw.lengths(batch, keys)
    counts = np.random.default_rng(seed).integers(1, 5, (batch, keys))
    logs = np.log(counts).astype(np.float32)
    y = both("attention", q, k, v, heads=heads, lengths=lengths, log_counts=logs)
    for i, n in enumerate(lengths):
        repeated = (np.repeat(x[i : i + 1, :n], counts[i, :n], axis=1) for x in (k, v))
        count = counts[i : i + 1, :n].sum(1)
        alone = NUMPY.attention(q[i : i + 1], *repeated, heads=heads, lengths=count)
        np.testing.assert_allclose(y[i], alone[0], atol=1e-5)


@given(SEEDS, SIZES, st.integers(0, 5), st.integers(0, 5), SIZES, SIZES)
@quick
def test_causal_attention(seed, batch, queries, before, heads, width):
    draw = Draw(seed)
    channels, keys = heads * width, before + queries
    q, k, v = (
        draw(batch, queries, channels),
        draw(batch, keys, channels),
        draw(batch, keys, 3 * heads),
    )
    starts = draw.rng.integers(0, before + 1, batch)
    y = both("causal_attention", q, k, v, heads=heads, starts=starts)
    for i, start in enumerate(starts):
        for j in range(queries):
            alone = NUMPY.attention(
                q[i : i + 1, j : j + 1],
                k[i : i + 1],
                v[i : i + 1],
                heads=heads,
                lengths=np.array([start + j + 1]),
            )
            np.testing.assert_allclose(y[i, j], alone[0, 0], atol=1e-5)


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, SIZES, st.integers(0, 9), st.integers(0, 5))
@quick
def test_window_attention(seed, batch, time, heads, width, values, before, after):
    draw = Draw(seed)
    q, k = draw(batch, time, heads * width), draw(batch, time, heads * width)
    v, lengths = draw(batch, time, heads * values), draw.lengths(batch, time)
    window = {"before": before, "after": after}
    y = both("window_attention", q, k, v, heads=heads, lengths=lengths, **window)
    for item, n in enumerate(lengths):
        for i in range(time):
            seen = slice(max(i - before, 0), min(i + after + 1, n))
            part = k[item : item + 1, seen], v[item : item + 1, seen]
            count = np.array([part[0].shape[1]])
            alone = NUMPY.attention(
                q[item : item + 1, i : i + 1], *part, heads=heads, lengths=count
            )
            np.testing.assert_allclose(y[item, i], alone[0, 0], atol=1e-5)
            assert i >= n or y[item, i].any()


def test_window_attention_past_the_end_has_a_gradient():
    q, k, v = (torch.randn(2, 7, 4, requires_grad=True) for _ in range(3))
    lengths, window = torch.tensor([2, 0]), {"before": 1, "after": 1}
    y = TorchOps(training=True).window_attention(q, k, v, heads=2, lengths=lengths, **window)
    y.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (q, k, v))


@given(SEEDS, SIZES, TIMES, SIZES, st.integers(0, 8), SIZES)
@quick
def test_rotary(seed, batch, time, heads, width, rest):
    draw = Draw(seed)
    starts = draw.rng.integers(0, 500, batch)
    table = both("rotary_table", starts, time, width=width, base=100.0)
    pairs = -(-width // 2)
    assert table.shape == (batch, time, 2 * pairs)
    x = draw(batch, time, heads * (2 * pairs + rest))
    y = both("rotary", x, table, heads=heads)
    # A pair is a complex number, and turned by the angle of its position.
    parts = [t.reshape(batch, time, heads, 2 * pairs + rest) for t in (x, y)]
    before, after = (p[..., 0 : 2 * pairs : 2] + 1j * p[..., 1 : 2 * pairs : 2] for p in parts)
    positions = (starts[:, None] + np.arange(time))[..., None, None]
    turns = np.exp(1j * positions * 100.0 ** (-2 * np.arange(pairs) / max(width, 1)))
    np.testing.assert_allclose(after, before * turns, atol=5e-4)
    np.testing.assert_array_equal(parts[0][..., 2 * pairs :], parts[1][..., 2 * pairs :])


def test_rotary_products_depend_on_the_distance_alone():
    q, k = Draw(0)(1, 1, 24), Draw(1)(1, 1, 24)

    def product(i, j):
        turned = (
            NUMPY.rotary(x, NUMPY.rotary_table(np.array([at]), 1, width=6, base=1e4), heads=3)
            for x, at in ((q, i), (k, j))
        )
        return np.vdot(*turned)

    assert product(9, 5) == pytest.approx(product(104, 100), rel=1e-4)
    assert product(9, 5) != pytest.approx(product(9, 6), rel=1e-2)


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, SIZES)
@quick
def test_relative_attention(seed, batch, time, heads, width, values):
    draw = Draw(seed)
    channels = 2 * heads * width
    q, k = draw(batch, time, channels), draw(batch, time, channels)
    v, lengths = draw(batch, time, heads * values), draw.lengths(batch, time)
    encoding = both("relative_encoding", q)
    assert encoding.shape == (max(0, 2 * time - 1), channels)
    biases = draw(channels), draw(channels)
    given = {"heads": heads, "lengths": lengths}
    y = both("relative_attention", q, k, v, encoding, *biases, **given)
    assert not y[lengths == 0].any()
    # Without distances it is attention; an item gets what it gets alone.
    plain = NUMPY.relative_attention(q, k, v, 0 * encoding, *biases, **given)
    expected = NUMPY.attention(q + biases[0], k, v, **given)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    for i, n in enumerate(lengths):
        cut = (x[i : i + 1, :n] for x in (q, k, v))
        middle = encoding[time - n : time + n - 1] if n else encoding[:0]
        alone = NUMPY.relative_attention(
            *cut, middle, *biases, heads=heads, lengths=lengths[i : i + 1]
        )
        np.testing.assert_allclose(y[i, :n], alone[0], atol=1e-5)


def test_relative_attention_by_hand():
    # One head of width 4, three frames. Queries and keys are 0: scores are 2 d[i - j] / 2, a bias
    # of 2 times the first channel of a distance over the root of the width. It is the logarithm of
    # 4, 2, 1, 3, 5 for the distances 2, 1, 0, -1, -2: the first query, at the distances 0, -1 and
    # -2 from the keys, weighs their values 1 : 3 : 5, the next 2 : 1 : 3, the last 4 : 2 : 1.
    encoding = np.zeros((5, 4), np.float32)
    encoding[:, 0] = np.log([4, 2, 1, 3, 5])
    nothing, bias = np.zeros((1, 3, 4), np.float32), np.array([2, 0, 0, 0], np.float32)
    v = np.array([[[9.0], [18], [27]]], np.float32)
    y = NUMPY.relative_attention(
        nothing, nothing, v, encoding, 0 * bias, bias, heads=1, lengths=np.array([3])
    )
    np.testing.assert_allclose(y[0, :, 0], [1 + 6 + 15, 3 + 3 + 13.5, 36 / 7 + 36 / 7 + 27 / 7])


def test_distances_by_hand():
    # Three frames of four channels: waves of 1 and of 10000 ** -0.5 = 0.01 radians a frame.
    y = NUMPY.relative_encoding(np.zeros((1, 3, 4), np.float32))
    d = np.array([2, 1, 0, -1, -2])
    rows = [np.sin(d), np.cos(d), np.sin(0.01 * d), np.cos(0.01 * d)]
    np.testing.assert_allclose(y, np.stack(rows, -1), atol=1e-7)


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, SIZES)
@quick
def test_attention_weights_are_those_of_attention(seed, batch, queries, keys, heads, width):
    draw = Draw(seed)
    q, k = draw(batch, queries, heads * width), draw(batch, keys, heads * width)
    lengths = draw.lengths(batch, keys)
    weights = both("attention_weights", q, k, heads=heads, lengths=lengths)
    assert weights.shape == (batch, heads, queries, keys)
    # The values identify their keys: attention sums them by the weights.
    v = np.tile(np.eye(keys, dtype=np.float32), (batch, 1, heads))
    y = NUMPY.attention(q, k, v, heads=heads, lengths=lengths)
    valid = lengths > 0
    expected = weights.swapaxes(1, 2).reshape(batch, queries, heads * keys)
    np.testing.assert_allclose(y[valid], expected[valid], atol=1e-6)


@given(SEEDS, SIZES, st.integers(0, 4), SIZES)
@quick
def test_rows_and_frames(seed, batch, time, channels):
    draw = Draw(seed)
    x, starts = draw(batch, time, channels), draw.rng.integers(0, 3, batch)
    assert both("positions", starts, time).tolist() == [
        [s + i for i in range(time)] for s in starts
    ]
    both("embedding", draw.rng.integers(0, 9, (batch, time)), draw(9, channels))
    both("index_select", x, draw.rng.integers(0, batch, 5))
    both("slice", x, time // 2, time)
    both("slice", x[0], 0, time // 2)
    both("add", x, x[0])
    before = draw(batch, time + 2, channels)
    after = both("write", before.copy(), x, starts)
    for i, start in enumerate(starts):
        assert (after[i, start : start + time] == x[i]).all()
        after[i, start : start + time] = before[i, start : start + time]
    assert (after == before).all()


@given(SEEDS, SIZES, TIMES, SIZES, SIZES, st.booleans())
@quick
def test_lstm(seed, batch, time, inner, hidden, reverse):
    draw = Draw(seed)
    x, lengths = draw(batch, time, inner), draw.lengths(batch, time)
    weights = draw(4 * hidden, inner), draw(4 * hidden, hidden), draw(4 * hidden), draw(4 * hidden)
    y = both("lstm", x, *weights, lengths=lengths, reverse=reverse)
    for i, n in enumerate(lengths):
        alone = NUMPY.lstm(x[i : i + 1, :n], *weights, lengths=lengths[i : i + 1], reverse=reverse)
        np.testing.assert_allclose(y[i, :n], alone[0], atol=1e-5)
        assert not y[i, n:].any()


@given(SEEDS, SIZES, TIMES, SIZES, st.floats(-3, 3, width=32))
@quick
def test_joining_and_shaping(seed, batch, time, channels, factor):
    draw = Draw(seed)
    x, y = draw(batch, time, channels), draw(batch, time, channels)
    both("add", x, y)
    both("scale", x, factor)
    both("concat", x, draw(batch, time, 3))
    both("reshape", x, batch, time, channels, 1)
    both("reshape", x, batch, time * channels)
    both("dropout", x, 0.5)
    assert both("shape", x) == (batch, time, channels)


@given(SEEDS, SIZES, TIMES, st.lists(SIZES, max_size=2))
@quick
def test_mask(seed, batch, time, rest):
    draw = Draw(seed)
    x, lengths = draw(batch, time, *rest), draw.lengths(batch, time)
    y = both("mask", x, lengths)
    for i, n in enumerate(lengths):
        assert (y[i, :n] == x[i, :n]).all()
        assert not y[i, n:].any()


@given(SEEDS, SIZES, SIZES, st.integers(1, 3), st.integers(0, 4))
@quick
def test_conv_lengths(seed, batch, kernel, stride, padding):
    lengths = np.random.default_rng(seed).integers(0, 30, batch)
    y = both("conv_lengths", lengths, kernel, stride, padding)
    assert y.tolist() == [conv_length(n, kernel, stride, padding) for n in lengths.tolist()]
    for n in lengths:
        frames = NUMPY.conv1d(
            np.zeros((1, n, 1), np.float32),
            np.zeros((1, 1, kernel), np.float32),
            stride=stride,
            padding=padding,
        )
        assert frames.shape[1] == conv_length(n, kernel, stride, padding)


def test_attention_without_keys_has_a_gradient():
    q, k, v = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    y = TorchOps(training=True).attention(q, k, v, heads=2, lengths=torch.tensor([0, 2]))
    y.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (q, k, v))


@pytest.mark.parametrize("bins", [(), (4,)])
def test_batch_norm_in_training_is_torchs_on_the_valid_frames(bins):
    torch.manual_seed(0)
    x, lengths = 2 * torch.randn(3, 7, *bins, 5) + 1, torch.tensor([7, 0, 4])
    module = torch.nn.BatchNorm1d(5, momentum=0.2)
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    mean, variance = torch.zeros(5), torch.ones(5)
    y = TorchOps(training=True).batch_norm(
        x, module.weight, module.bias, mean, variance, lengths, momentum=0.2
    )
    valid = torch.arange(7) < lengths[:, None]
    expected = module(x[valid].reshape(-1, 5)).reshape(-1, *bins, 5)
    torch.testing.assert_close(y[valid], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(variance, module.running_var)


def test_batch_norm_in_training_without_a_frame_keeps_its_statistics():
    mean, variance = torch.full((2,), 3.0), torch.full((2,), 4.0)
    y = TorchOps(training=True).batch_norm(
        torch.zeros(1, 3, 2), torch.ones(2), torch.zeros(2), mean, variance, torch.tensor([0])
    )
    assert torch.isfinite(y).all()
    assert mean.tolist() == [3, 3]
    assert variance.tolist() == [4, 4]


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_trains_in_bfloat16(reverse):
    torch.manual_seed(0)
    x = torch.randn(3, 9, 5, requires_grad=True)
    weights = [torch.randn(s, requires_grad=True) for s in ((16, 5), (16, 4), (16,), (16,))]
    lengths = torch.tensor([9, 0, 4])
    ops = TorchOps(training=True)
    exact = ops.lstm(x, *weights, lengths=lengths, reverse=reverse)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.lstm(x, *weights, lengths=lengths, reverse=reverse)
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (x, *weights))
    assert not x.grad[1].any()
    assert not x.grad[2, 4:].any()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 processors")
def test_lstm_trains_in_bfloat16_on_a_processor_without_it():
    code = """if True:
        from test_ops import test_lstm_trains_in_bfloat16
        from tynda.ops.torch import has_bfloat16
        assert not has_bfloat16("cpu")
        test_lstm_trains_in_bfloat16(reverse=True)
    """
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(100_003)
    y = TorchOps(training=True).dropout(x, 0.25)
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(256 / 192))}
    assert abs(y.mean() - 1) < 0.01
    assert TorchOps(training=True).dropout(x, 0.0) is x
