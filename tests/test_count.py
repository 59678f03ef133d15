"""Counts against hand-computed values; test_count_peers.py compares with torch's counter."""

import math

import pytest

from counting import count_cross, count_step, count_text, total
from tynda.compile import count as counts
from tynda.compile.count import count, report
from tynda.compile.trace import Program, TraceOps, Value
from tynda.models import conformer, n2, wav2vec2, whisper
from tynda.ops.base import Ops


def weight(name, shape):
    return Value(shape, name, is_weight=True)


def reported(ops, *inputs):
    return report(Program(inputs, tuple(ops.steps), ()))


def only_row(ops):
    (row,) = reported(ops).rows
    return row


def test_linear():
    ops = TraceOps()
    y = ops.linear(
        Value((2, 5, 3)),
        weight("a.b.weight", (7, 3)),
        weight("a.b.bias", (7,)),
    )
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
    ops = TraceOps()
    y = ops.conv1d(
        Value((2, 8, 6)),
        weight("w.weight", (6, inner, 3)),
        stride=2,
        padding=1,
        groups=groups,
    )
    assert y.shape == (2, 4, 6)  # (8 + 2 - 3) // 2 + 1
    assert only_row(ops).macs == macs
    assert only_row(ops).flops == 2 * macs


def test_conv2d():
    ops = TraceOps()
    y = ops.conv2d(
        Value((1, 10, 9, 2)),
        weight("w.weight", (4, 2, 3, 5)),
        stride=(2, 1),
        padding=(1, 2),
    )
    # Time (10 + 2 - 3) // 2 + 1 = 5, bins (9 + 4 - 5) // 1 + 1 = 9.
    assert y.shape == (1, 5, 9, 4)
    # 5 * 9 places * 4 filters, each of 3 * 5 taps over 2 channels.
    assert only_row(ops).macs == 5 * 9 * 4 * 3 * 5 * 2


@pytest.mark.parametrize(
    ("groups", "inner", "macs"),
    [
        # 2 items, 4 * 3 places of 6 filters, each of 3 * 2 taps over the 3 channels of its group:
        (2, 3, 2 * 4 * 3 * 6 * 3 * 2 * 3),
        # ... over its own channel (depthwise):
        (6, 1, 2 * 4 * 3 * 6 * 3 * 2 * 1),
    ],
)
def test_conv2d_of_groups(groups, inner, macs):
    ops = TraceOps()
    y = ops.conv2d(
        Value((2, 8, 6, 6)),
        weight("w.weight", (6, inner, 3, 2)),
        stride=(2, 2),
        padding=(1, 0),
        groups=groups,
    )
    assert y.shape == (2, 4, 3, 6)
    assert only_row(ops).macs == macs
    assert only_row(ops).flops == 2 * macs


def test_relative_attention():
    ops = TraceOps()
    x, v = Value((2, 5, 8)), Value((2, 5, 12))
    encoding = ops.relative_encoding(x)
    assert encoding.shape == (9, 8)
    u = weight("a.u", (8,))
    y = ops.relative_attention(x, x, v, encoding, u, u, heads=4, lengths=Value((2,)))
    assert y.shape == (2, 5, 12)
    first, row = reported(ops).rows
    assert (first.macs, first.flops) == (0, 0)
    # In each of 2 items and 4 heads, 5 queries of width 2 by 5 keys and 9 distances, and sums of 5
    # values of width 3.
    assert row.macs == 2 * 4 * 5 * (2 * 5 + 2 * 9 + 3 * 5)
    # Beside them: two biases added to the queries, both scaled (4 * 80); 2 * 4 * 5 * 5 sums
    # of two scores, and a softmax at 5 each.
    assert row.flops == 2 * 1720 + 4 * 80 + 6 * 200


def test_attention():
    ops = TraceOps()
    q, k, v = Value((2, 5, 8)), Value((2, 7, 8)), Value((2, 7, 12))
    assert ops.attention(q, k, v, heads=4, lengths=Value((2,))).shape == (2, 5, 12)
    # Scores: 2 items * 4 heads * 5 * 7 products of width 2; sums of values: of width 3.
    assert only_row(ops).macs == 2 * 4 * 5 * 7 * (2 + 3)
    # In addition: q scaled (2 * 5 * 8) and a softmax over 2 * 4 * 5 * 7 scores at 5 each.
    assert only_row(ops).flops == 2 * 1400 + 80 + 5 * 280


def test_causal_attention_and_its_weights():
    ops = TraceOps()
    q, k, v = Value((2, 3, 8)), Value((2, 7, 8)), Value((2, 7, 8))
    assert ops.causal_attention(q, k, v, heads=4, starts=Value((2,))).shape == (2, 3, 8)
    assert only_row(ops).macs == 2 * 4 * 3 * 7 * (2 + 2)
    ops = TraceOps()
    assert ops.attention_weights(q, k, heads=4, lengths=Value((2,))).shape == (2, 4, 3, 7)
    assert only_row(ops).macs == 2 * 4 * 3 * 7 * 2


def test_window_attention():
    ops = TraceOps()
    q, k, v = Value((2, 50, 8)), Value((2, 50, 8)), Value((2, 50, 12))
    window = {"lengths": Value((2,)), "before": 5, "after": 3}
    assert ops.window_attention(q, k, v, heads=4, **window).shape == (2, 50, 12)
    # A window of 5 + 1 + 3 = 9 keys for each of 2 * 50 queries, 8 channels of keys, 12 of values.
    assert only_row(ops).macs == 2 * 50 * 9 * (8 + 12)
    # Beside them: q scaled and a softmax over 9 scores of 4 heads, at 5 each.
    assert only_row(ops).flops == 2 * 2 * 50 * 9 * 20 + 2 * 50 * 8 + 5 * 2 * 4 * 50 * 9
    # Fewer frames than a window has: all of them.
    ops = TraceOps()
    q, k, v = Value((1, 7, 8)), Value((1, 7, 8)), Value((1, 7, 8))
    ops.window_attention(q, k, v, heads=4, **window)
    assert only_row(ops).macs == 7 * 7 * 16


def test_rotary():
    ops = TraceOps()
    table = ops.rotary_table(Value((2,)), 5, width=6, base=1e4)
    assert table.shape == (2, 5, 6)
    # 2 * 5 positions of 3 pairs, each a product, a cosine and a sine.
    assert only_row(ops).flops == 3 * 2 * 5 * 3
    assert only_row(ops).output_bytes == 4 * 2 * 5 * 6
    x = ops.linear(Value((2, 5, 3)), weight("a.q.weight", (40, 3)))
    y = ops.rotary(x, table, heads=4)
    assert (y.shape, y.name) == ((2, 5, 40), "a.q")
    # A head turns 6 of its 10 channels, each with two products and a sum.
    assert reported(ops).rows[-1].flops == 3 * 2 * 5 * 4 * 6


def test_new_activations_and_a_norm_without_a_shift():
    ops = TraceOps()
    x = ops.asinh(ops.tanh(Value((2, 5, 8))))
    assert ops.swiglu(x).shape == (2, 5, 4)
    ops.layer_norm(x, weight("n.weight", (8,)))
    flops = [row.flops for row in reported(ops).rows]
    # A sigmoid of 4 and two products for each of the 40 outputs; a norm of 7 less the shift.
    assert flops == [80, 80, 6 * 40, 6 * 80]


def test_embedding_reads_its_rows_and_a_shared_table_counts_once():
    ops = TraceOps()
    table = weight("tokens.weight", (100, 8))
    x = ops.embedding(ops.positions(Value((2,)), 3), table)
    assert x.shape == (2, 3, 8)
    assert only_row(ops).weight_bytes == 4 * 2 * 3 * 8
    ops.linear(x, table)
    assert reported(ops).weight_bytes == 4 * 100 * 8


def test_positions_added_from_a_table_are_weights():
    ops = TraceOps()
    x = ops.add(Value((2, 5, 8)), ops.slice(weight("places.weight", (9, 8)), 0, 5))
    assert (x.shape, x.name) == ((2, 5, 8), "places")
    assert reported(ops).weight_bytes == 4 * 5 * 8
    assert only_row(ops).flops == 2 * 5 * 8


def test_writing_to_a_cache_moves_what_is_written():
    ops = TraceOps()
    cache = Value((2, 448, 8))
    assert ops.write(cache, Value((2, 1, 8)), Value((2,))).shape == (2, 448, 8)
    assert only_row(ops).output_bytes == 4 * 2 * 1 * 8


def test_gelu_and_group_norm():
    ops = TraceOps()
    x = ops.gelu(Value((2, 5, 8)))
    assert only_row(ops).flops == 5 * 80
    ops.group_norm(
        x,
        weight("n.w", (8,)),
        weight("n.b", (8,)),
        groups=2,
        lengths=Value((2,)),
    )
    assert reported(ops).rows[1].flops == 7 * 80


def test_statistics():
    ops = TraceOps()
    assert ops.statistics(Value((2, 5, 8)), Value((2,))).shape == (2, 1, 16)
    assert only_row(ops).flops == 4 * 2 * 5 * 8  # two sums, a difference, a square


def test_lstm():
    ops = TraceOps()
    weights = [
        weight(f"l.{name}", shape)
        for name, shape in {"ih": (16, 3), "hh": (16, 4), "bih": (16,), "bhh": (16,)}.items()
    ]
    assert ops.lstm(Value((2, 5, 3)), *weights, lengths=Value((2,))).shape == (2, 5, 4)
    row = only_row(ops)
    # 2 * 5 steps, each four gates of 4 units, of 3 inputs and 4 states.
    assert row.macs == 10 * 16 * (3 + 4)
    # In addition, for each of 10 * 4 results: four sums, three sigmoids of 4, two tanh, two
    # products and a sum for the cell, a product for the output: 4 + 12 + 2 + 3 + 1 = 22.
    assert row.flops == 2 * 1120 + 40 * 22
    assert row.weight_bytes == 4 * (16 * 3 + 16 * 4 + 16 + 16)
    assert row.layer == "l"


@pytest.mark.parametrize(
    ("name", "flops"),
    [("relu", 1), ("silu", 5), ("glu", 2.5), ("log_softmax", 5)],
)
def test_elementwise(name, flops):
    ops = TraceOps()
    getattr(ops, name)(Value((2, 3, 4)))
    assert only_row(ops).flops == flops * 24
    assert only_row(ops).macs == 0


def test_norms():
    ops = TraceOps()
    vectors = [weight(f"n.{i}", (4,)) for i in range(4)]
    ops.layer_norm(Value((2, 3, 4)), *vectors[:2])
    ops.batch_norm(Value((2, 3, 4)), *vectors, Value((2,)))
    assert [row.flops for row in reported(ops).rows] == [7 * 24, 3 * 24]


def test_what_only_moves_data_costs_bytes_alone():
    ops = TraceOps()
    x = Value((2, 3, 4))
    ops.concat(x, ops.mask(x, Value((2,))))
    assert ops.reshape(x, 2, -1).shape == (2, 12)
    assert ops.dropout(x, 0.5) is x
    assert [(r.operation, r.flops, r.output_bytes) for r in reported(ops).rows] == [
        ("mask", 0, 96),
        ("concat", 0, 192),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ops, x: ops.linear(x, weight("w", (5, 3))),
        lambda ops, x: ops.conv1d(x, weight("w", (4, 4, 3)), groups=2),
        lambda ops, x: ops.conv2d(Value((1, 2, 3, 4)), weight("w", (5, 3, 1, 1))),
        lambda ops, x: ops.layer_norm(x, weight("w", (3,)), weight("b", (3,))),
        lambda ops, x: ops.add(x, Value((2, 3, 5))),
        lambda ops, x: ops.reshape(x, 5, -1),
        lambda ops, x: ops.attention(x, x, x, heads=3, lengths=Value((2,))),
    ],
)
def test_shapes_that_do_not_fit(wrong):
    ops = TraceOps()
    with pytest.raises(ValueError, match="do not fit"):
        wrong(ops, Value((2, 3, 4)))


def test_peak_memory_follows_what_lives():
    ops = TraceOps()
    x = Value((1, 10, 5))  # 200 bytes
    y = ops.relu(x)  # 400 alive, 200 after
    z = ops.relu(y)  # 400, and x is gone
    view = ops.reshape(z, 1, 50)  # nothing new
    assert reported(ops, x).peak_activation_bytes == 400
    twice = ops.concat(view, view)  # the view keeps z: 600
    assert reported(ops, x).peak_activation_bytes == 600
    ops.add(ops.relu(twice), twice)  # 400 twice, then the sum: 1200
    assert reported(ops, x).peak_activation_bytes == 1200


def test_outputs_and_caches_live_on():
    ops = TraceOps()
    cache, x = Value((1, 100, 5)), Value((1, 1, 5))
    kept = ops.write(cache, x, Value((1,)))  # 2000 bytes in place, 20
    y = ops.relu(ops.slice(kept, 0, 10))  # 200
    ops.relu(y)  # 200 more, and the cache lives if it is given back
    steps = tuple(ops.steps)
    assert report(Program((cache, x), steps, ())).peak_activation_bytes == 2200
    assert report(Program((cache, x), steps, (kept,))).peak_activation_bytes == 2400


def test_every_operation_has_its_flops():
    operations = {name for name in vars(Ops) if not name.startswith("_")}
    counted = {name for name in operations if name in counts._FLOPS_PER_ELEMENT}
    # Attention, rotary positions and statistics have their own formulas; others are no steps.
    own = {n for n in operations if "attention" in n or n.startswith(("rotary", "statistics"))}
    assert operations - counted - own == {"shape", "dropout"}


@pytest.mark.parametrize("module", [conformer, n2, wav2vec2])
def test_report_of_a_model(module):
    config = module.Config()
    report = count(module.FAMILY, config, 400)
    specs = module.specs(config)
    assert report.weight_bytes == 4 * sum(math.prod(s.shape) for s in specs.values())
    layers = {row.layer for row in report.rows}
    assert {name.rpartition(".")[0] for name in specs} <= layers
    sums = report.by_operation()
    assert sum(row.flops for row in sums.values()) == report.total_flops
    flops = [row.flops for row in sums.values()]
    assert flops == sorted(flops, reverse=True)
    assert count(module.FAMILY, config, 400, batch=3).total_macs == 3 * report.total_macs


def test_conformer_peak_by_hand():
    # The maximum is where relu follows the first convolution: its 200 * 40 * 32 values and as many
    # results. The features and their masked copy are not needed any more.
    report = count(conformer.FAMILY, conformer.Config(), 400)
    assert report.peak_activation_bytes == 4 * 2 * 200 * 40 * 32


SMALL = whisper.Config(
    **{"bins": 8, "vocab": 60, "channels": 32, "layers": 1, "heads": 2, "hidden": 16},
    **{"frames": 60, "context": 12, "decoder_layers": 3, "decoder_heads": 2, "decoder_hidden": 20},
)


def test_a_step_of_a_decoder_by_hand():
    # Counted once: keys and values of 3 layers, for 60 frames.
    assert count_cross(whisper.FAMILY, SMALL, 60).total_macs == 3 * 2 * 60 * 32 * 32
    # Behind 5 tokens: in each layer four products of its own and two (queries, output) with the
    # sound, all 32 by 32, the two of the feed-forward part, 6 keys and 60 of sound; then 60 words.
    layer = 6 * 32 * 32 + 2 * 32 * 20 + 2 * 32 * (6 + 60)
    assert count_step(whisper.FAMILY, SMALL, 60, 5).total_macs == 3 * layer + 60 * 32
    # Without a cache the 5 are run again, though words are asked of the last alone.
    again = 6 * layer
    assert count_step(whisper.FAMILY, SMALL, 60, 5, cached=False).total_macs == 3 * again + 60 * 32
    assert count_step(whisper.FAMILY, SMALL, 60, 5, batch=4).total_macs == 4 * (3 * layer + 60 * 32)


def test_a_text_is_the_sum_of_its_steps():
    text = count_text(whisper.FAMILY, SMALL, 4, 5)
    steps = [count_step(whisper.FAMILY, SMALL, 60, 0, 4)]
    steps += [count_step(whisper.FAMILY, SMALL, 60, 4 + i) for i in range(5)]
    for name in ("total_macs", "total_flops"):
        assert total(text, name) == sum(getattr(step, name) for step in steps)
    for name in ("weight_bytes", "peak_activation_bytes"):
        largest = max(getattr(step, name) for step in steps)
        assert max(getattr(report, name) for _, report in text) == largest
    assert len(count_text(whisper.FAMILY, SMALL, 4, 0)) == 1
