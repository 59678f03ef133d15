"""Traces: a model's definition as a list of operations that another backend can run."""

import math

import numpy as np
import pytest

from helpers import noise
from tynda.compile import native
from tynda.compile.engine import open_engine
from tynda.compile.trace import Program, TraceOps, Value, replay, trace
from tynda.models import (
    FAMILIES,
    base,
    campplus,
    chunked_conformer,
    conformer,
    mfa_conformer,
    moonshine,
    moonshine_streaming,
    n2,
    overlap,
    parakeet,
    speaker_resnet,
    tdnn,
    wav2vec2,
    whisper,
    whisper_states,
)
from tynda.ops.numpy import NumpyOps
from tynda.ops.tree import leaves

SMALL = {
    campplus: {
        **{"bins": 16, "vocab": 6, "channels": 8, "filters": 4, "blocks": (2, 1, 2)},
        **{"growth": 4, "width": 8},
    },
    chunked_conformer: {
        **{"bins": 8, "channels": 16, "layers": 2, "heads": 2, "hidden": 16, "stem": 4},
        **{"chunk": 2, "chunks": (2,), "window": 8},
    },
    conformer: {"bins": 8, "channels": 16, "layers": 2, "heads": 2, "hidden": 16, "stem": 4},
    mfa_conformer: {
        **{"bins": 12, "vocab": 6, "channels": 12, "layers": 2, "heads": 3, "hidden": 10},
        **{"kernel": 5, "stem": 3, "pool_heads": 4, "pool_width": 3, "cohort": 5},
    },
    n2: {},
    overlap: {
        **{"bins": 8, "channels": 16, "layers": 2, "heads": 2, "hidden": 16, "kernel": 5},
        "stem": 4,
    },
    speaker_resnet: {"bins": 16, "vocab": 6, "channels": 4, "blocks": (1, 2, 1, 1)},
    parakeet: {"bins": 8, "channels": 16, "layers": 2, "heads": 2, "hidden": 16, "stem": 4},
    tdnn: {"bins": 8, "vocab": 9, "channels": 16, "layers": 2},
    wav2vec2: {
        **{"channels": 32, "layers": 2, "heads": 2, "hidden": 16},
        **{"conv_channels": (16,) * 7, "position_kernel": 8, "position_groups": 2},
    },
    moonshine: {
        **{"vocab": 60, "channels": 32, "layers": 2, "heads": 2, "hidden": 16, "rotary": 10},
        **{"context": 12, "decoder_layers": 2, "decoder_heads": 2, "decoder_hidden": 16},
    },
    moonshine_streaming: {
        **{"bins": 8, "vocab": 60, "channels": 32, "encoder_channels": 24, "heads": 2},
        **{"head_channels": 10, "hidden": 16, "past": (3, 5), "future": (1, 3), "rotary": 10},
        **{"context": 12, "decoder_layers": 2, "decoder_heads": 2, "decoder_hidden": 16},
    },
    whisper: {
        **{"bins": 8, "vocab": 60, "channels": 32, "layers": 2, "heads": 2, "hidden": 16},
        **{"frames": 60, "context": 12, "decoder_layers": 2, "decoder_heads": 2},
        "decoder_hidden": 16,
    },
    whisper_states: {
        **{"bins": 8, "vocab": 9, "channels": 32, "layers": 2, "heads": 2, "hidden": 16},
        "frames": 60,
    },
}


def draw(module, config):
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.1, 1, s.shape).astype("f4") / math.sqrt(math.prod(s.shape[1:]))
        for name, s in module.specs(config).items()
    }


@pytest.mark.parametrize("module", SMALL)
def test_a_replayed_trace_is_the_model(module):
    config = module.Config(**SMALL[module])
    frames = 6000 if config.bins == 1 else 120
    weights = draw(module, config)
    features = noise(2 * frames * config.bins / 16000, level=1.0).reshape(2, frames, config.bins)
    lengths = np.array([frames, frames - 30])
    program = trace(module.FAMILY, config, frames, batch=2)
    expected = leaves(module.encode(NumpyOps(), weights, config, features, lengths))
    found = replay(program, NumpyOps(), weights, [features, lengths])
    for value, mine, other in zip(program.outputs, found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert value.shape == other.shape


def test_every_family_is_traced():
    assert {module.FAMILY.name for module in SMALL} == set(FAMILIES)


@pytest.mark.skipif(not native.available(), reason="no kernels are compiled")
@pytest.mark.parametrize("module", SMALL)
def test_the_native_engine_computes_every_family(module):
    config = module.Config(**SMALL[module])
    frames, family = 6000 if config.bins == 1 else 120, module.FAMILY
    weights = draw(module, config)
    features = noise(2 * frames * config.bins / 16000, level=1.0).reshape(2, frames, config.bins)
    inputs = features, np.array([frames, frames - 30])
    engine = open_engine(weights, family.trainable(config), "native", bits=32)
    # A model of voices gives an embedding, and no lengths.
    found, *lengths = leaves(engine.run(family.programs["encode"], config, *inputs))
    expected, *expected_lengths = leaves(module.encode(NumpyOps(), weights, config, *inputs))
    np.testing.assert_array_equal(lengths, expected_lengths)
    for i, (mine, other) in enumerate(zip(found, expected, strict=True)):
        length = lengths[0][i] if lengths else len(other)
        atol = 1e-4 * max(1, np.abs(other).max())
        np.testing.assert_allclose(mine[:length], other[:length], atol=atol)


@pytest.mark.parametrize("module", [whisper, moonshine, moonshine_streaming])
def test_a_step_of_a_decoder(module):
    config, programs = module.Config(**SMALL[module]), module.FAMILY.programs
    weights = draw(module, config)
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2, 60, 32)).astype(np.float32)
    lengths, starts = np.array([60, 60]), np.array([3, 5])
    caches = [rng.standard_normal((2, 12, 32)).astype(np.float32) for _ in range(4)]
    tokens = np.array([[7], [9]])

    def step(ops, weights, states, lengths, tokens, starts, *caches):
        cross = programs["cross_kv"](ops, weights, config, states, lengths)
        cache = base.KVCache(list(caches[:2]), list(caches[2:]))
        x, cache = programs["decode"](ops, weights, config, tokens, starts, cross, cache)
        return [programs["logits"](ops, weights, config, x), *cache.keys, *cache.values]

    inputs = [states, lengths, tokens, starts, *caches]
    ops = TraceOps()
    named = {k: ops.weight(k, *s.shape) for k, s in module.specs(config).items()}
    values = [Value(x.shape) for x in inputs]
    program = Program(tuple(values), (), tuple(step(ops, named, *values)))
    program = Program(program.inputs, tuple(ops.steps), program.outputs)
    expected = step(NumpyOps(), weights, *(x.copy() for x in inputs))
    found = replay(program, NumpyOps(), weights, [x.copy() for x in inputs])
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_weights_and_layers_are_named():
    program = trace(whisper.FAMILY, whisper.Config(**SMALL[whisper]), 120)
    linear = next(s for s in program.steps if s.operation == "linear")
    assert linear.result.name == "model.encoder.layers.0.self_attn.q_proj"
    assert [w.name.rpartition(".")[2] for w in linear.weights] == ["weight", "bias"]
    positions = next(s for s in program.steps if s.operation == "slice")
    assert positions.result.is_weight
    attention = next(s for s in program.steps if s.operation == "attention")
    assert attention.result.name == "model.encoder.layers.0.self_attn.v_proj"
    assert len(attention.activations) == 3
