"""Counts against arithmetic by hand and against torch's own counter."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tynda.models import conformer, n2, wav2vec2
from tynda.ops.count import CountOps, Shape, count
from tynda.ops.torch import TorchOps


def only_row(ops):
    (row,) = ops.report().rows
    return row


def test_linear():
    ops = CountOps()
    y = ops.linear(ops.input(2, 5, 3), Shape((7, 3), "a.b.weight"), Shape((7,), "a.b.bias"))
    assert y.shape == (2, 5, 7)
    row = only_row(ops)
    assert (row.operation, row.layer) == ("linear", "a.b")
    # 2 * 5 frames, each 7 outputs of 3 inputs: 10 * 7 * 3 multiply-adds.
    assert row.macs == 210
    assert row.flops == 420
    assert row.weight_bytes == 4 * (7 * 3 + 7)
    assert row.input_bytes == 4 * 2 * 5 * 3
    assert row.output_bytes == 4 * 2 * 5 * 7


@pytest.mark.parametrize(
    ("groups", "inner", "macs"),
    [
        # 2 items * 4 frames * 6 outputs, each of kernel 3 over all 6 channels:
        (1, 6, 2 * 4 * 6 * 3 * 6),
        # ... over the 3 channels of its group:
        (2, 3, 2 * 4 * 6 * 3 * 3),
        # ... over its own channel (depthwise):
        (6, 1, 2 * 4 * 6 * 3 * 1),
    ],
)
def test_conv1d(groups, inner, macs):
    ops = CountOps()
    y = ops.conv1d(
        ops.input(2, 8, 6), Shape((6, inner, 3), "w.weight"), stride=2, padding=1, groups=groups
    )
    assert y.shape == (2, 4, 6)  # (8 + 2 - 3) // 2 + 1
    assert only_row(ops).macs == macs
    assert only_row(ops).flops == 2 * macs


def test_conv2d():
    ops = CountOps()
    y = ops.conv2d(
        ops.input(1, 10, 9, 2), Shape((4, 2, 3, 5), "w.weight"), stride=(2, 1), padding=(1, 2)
    )
    # Time (10 + 2 - 3) // 2 + 1 = 5, bins (9 + 4 - 5) // 1 + 1 = 9.
    assert y.shape == (1, 5, 9, 4)
    # 5 * 9 places * 4 filters, each of 3 * 5 taps over 2 channels.
    assert only_row(ops).macs == 5 * 9 * 4 * 3 * 5 * 2


def test_attention():
    ops = CountOps()
    q, k, v = ops.input(2, 5, 8), ops.input(2, 7, 8), ops.input(2, 7, 12)
    assert ops.attention(q, k, v, heads=4, lengths=Shape((2,))).shape == (2, 5, 12)
    # Scores: 2 items * 4 heads * 5 * 7 products of width 2; sums of values: of width 3.
    assert only_row(ops).macs == 2 * 4 * 5 * 7 * (2 + 3)
    # Beside them: q scaled (2 * 5 * 8) and a softmax over 2 * 4 * 5 * 7 scores at 5 each.
    assert only_row(ops).flops == 2 * 1400 + 80 + 5 * 280


def test_causal_attention_and_its_weights():
    ops = CountOps()
    q, k, v = ops.input(2, 3, 8), ops.input(2, 7, 8), ops.input(2, 7, 8)
    assert ops.causal_attention(q, k, v, heads=4, starts=Shape((2,))).shape == (2, 3, 8)
    assert only_row(ops).macs == 2 * 4 * 3 * 7 * (2 + 2)
    ops = CountOps()
    assert ops.attention_weights(q, k, heads=4, lengths=Shape((2,))).shape == (2, 4, 3, 7)
    assert only_row(ops).macs == 2 * 4 * 3 * 7 * 2


def test_embedding_reads_its_rows_and_a_shared_table_counts_once():
    ops = CountOps()
    table = Shape((100, 8), "tokens.weight")
    x = ops.embedding(ops.positions(Shape((2,)), 3), table)
    assert x.shape == (2, 3, 8)
    assert only_row(ops).weight_bytes == 4 * 2 * 3 * 8
    ops.linear(x, table)
    assert ops.report().weight_bytes == 4 * 100 * 8


def test_positions_added_from_a_table_are_weights():
    ops = CountOps()
    x = ops.add(ops.input(2, 5, 8), ops.slice(Shape((9, 8), "places.weight"), 0, 5))
    assert (x.shape, x.name) == ((2, 5, 8), "places")
    assert ops.report().weight_bytes == 4 * 5 * 8
    assert only_row(ops).flops == 2 * 5 * 8


def test_writing_to_a_cache_moves_what_is_written():
    ops = CountOps()
    cache = ops.input(2, 448, 8)
    assert ops.write(cache, ops.input(2, 1, 8), Shape((2,))) is cache
    assert only_row(ops).output_bytes == 4 * 2 * 1 * 8


def test_gelu_and_group_norm():
    ops = CountOps()
    x = ops.gelu(ops.input(2, 5, 8))
    assert only_row(ops).flops == 5 * 80
    ops.group_norm(x, Shape((8,), "n.w"), Shape((8,), "n.b"), groups=2, lengths=Shape((2,)))
    assert ops.report().rows[1].flops == 7 * 80


def test_lstm():
    ops = CountOps()
    weights = [
        Shape(shape, f"l.{name}")
        for name, shape in {"ih": (16, 3), "hh": (16, 4), "bih": (16,), "bhh": (16,)}.items()
    ]
    assert ops.lstm(ops.input(2, 5, 3), *weights, lengths=Shape((2,))).shape == (2, 5, 4)
    row = only_row(ops)
    # 2 * 5 steps, each four gates of 4 units, of 3 inputs and 4 states.
    assert row.macs == 10 * 16 * (3 + 4)
    # Beside them, for each of 10 * 4 results: four sums, three sigmoids of 4, two tanh, two
    # products and a sum for the cell, a product for the output: 4 + 12 + 2 + 3 + 1 = 22.
    assert row.flops == 2 * 1120 + 40 * 22
    assert row.weight_bytes == 4 * (16 * 3 + 16 * 4 + 16 + 16)
    assert row.layer == "l"


@pytest.mark.parametrize(
    ("name", "flops"),
    [("relu", 1), ("silu", 5), ("glu", 2.5), ("log_softmax", 5)],
)
def test_elementwise(name, flops):
    ops = CountOps()
    getattr(ops, name)(ops.input(2, 3, 4))
    assert only_row(ops).flops == flops * 24
    assert only_row(ops).macs == 0


def test_norms():
    ops = CountOps()
    vectors = [Shape((4,), f"n.{i}") for i in range(4)]
    ops.layer_norm(ops.input(2, 3, 4), *vectors[:2])
    ops.batch_norm(ops.input(2, 3, 4), *vectors, Shape((2,)))
    assert [row.flops for row in ops.report().rows] == [7 * 24, 3 * 24]


def test_what_only_moves_data_costs_bytes_alone():
    ops = CountOps()
    x = ops.input(2, 3, 4)
    ops.concat(x, ops.mask(x, Shape((2,))))
    assert ops.reshape(x, 2, -1).shape == (2, 12)
    assert ops.dropout(x, 0.5) is x
    assert [(r.operation, r.flops, r.output_bytes) for r in ops.report().rows] == [
        ("mask", 0, 96),
        ("concat", 0, 192),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ops, x: ops.linear(x, Shape((5, 3), "w")),
        lambda ops, x: ops.conv1d(x, Shape((4, 4, 3), "w"), groups=2),
        lambda ops, x: ops.conv2d(ops.input(1, 2, 3, 4), Shape((5, 3, 1, 1), "w")),
        lambda ops, x: ops.layer_norm(x, Shape((3,), "w"), Shape((3,), "b")),
        lambda ops, x: ops.add(x, ops.input(2, 3, 5)),
        lambda ops, x: ops.reshape(x, 5, -1),
        lambda ops, x: ops.attention(x, x, x, heads=3, lengths=Shape((2,))),
    ],
)
def test_shapes_that_do_not_fit(wrong):
    ops = CountOps()
    with pytest.raises(ValueError, match="do not fit"):
        wrong(ops, ops.input(2, 3, 4))


def test_peak_memory_follows_what_lives():
    ops = CountOps()
    x = ops.input(1, 10, 5)  # 200 bytes
    y = ops.relu(x)  # 400 alive
    y = ops.relu(y)  # 600 while both results live, 400 after
    view = ops.reshape(y, 1, 50)  # nothing new
    del x, y  # the view keeps its 200
    view = ops.concat(view, view)  # 600 again
    assert ops.report().peak_activation_bytes == 600
    view = ops.concat(view, view)  # 400 + 800
    assert ops.report().peak_activation_bytes == 1200


def test_conformer_agrees_with_torchs_counter():
    config, frames, batch = conformer.Config(layers=3), 403, 2
    ours = count(conformer, config, frames, batch)
    weights = {k: torch.zeros(s.shape) for k, s in conformer.specs(config).items()}
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        features = torch.zeros(batch, frames, config.bins)
        conformer.encode(TorchOps(), weights, config, features, torch.full((batch,), frames))
    # torch counts products and convolutions alone.
    assert 2 * ours.total_macs == pytest.approx(theirs.get_total_flops(), rel=0.01)
    assert 2 * ours.total_macs < ours.total_flops < 2.2 * ours.total_macs


@pytest.mark.parametrize("module", [conformer, n2, wav2vec2])
def test_report_of_a_model(module):
    config = module.Config()
    report = count(module, config, 400)
    specs = module.specs(config)
    assert report.weight_bytes == 4 * sum(math.prod(s.shape) for s in specs.values())
    layers = {row.layer for row in report.rows}
    assert {name.rpartition(".")[0] for name in specs} <= layers
    sums = report.by_operation()
    assert sum(row.flops for row in sums.values()) == report.total_flops
    flops = [row.flops for row in sums.values()]
    assert flops == sorted(flops, reverse=True)
    assert count(module, config, 400, batch=3).total_macs == 3 * report.total_macs


def test_conformer_peak_by_hand():
    # Widest where relu follows the first convolution: the features and their masked copy
    # (400 * 80 each), the convolution's 200 * 40 * 32 values and as many results.
    report = count(conformer, conformer.Config(), 400)
    assert report.peak_activation_bytes == 4 * (2 * 400 * 80 + 2 * 200 * 40 * 32)
