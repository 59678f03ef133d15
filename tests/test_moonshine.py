"""Both Moonshines against transformers on random weights."""

import numpy as np
import pytest
import torch
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
)

from helpers import close, noise
from tynda.models import moonshine, moonshine_streaming
from tynda.models.base import KVCache
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps

torch.set_num_threads(1)
OPS = NumpyOps()
PUBLISHED = {
    "tiny": {"max_position_embeddings": 194},
    "base": {
        **{"hidden_size": 416, "intermediate_size": 1664, "max_position_embeddings": 194},
        **{"encoder_num_hidden_layers": 8, "decoder_num_hidden_layers": 8},
        "partial_rotary_factor": 0.62,
    },
    "streaming tiny": {},
    # In the sizes of the paper's table 1, cut in depth.
    "streaming small": {
        **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3},
        "encoder_config": {"hidden_size": 620, "intermediate_size": 2480, "head_dim": 64},
    },
}
SMALL = {
    "offline": {
        **{"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48},
        **{"encoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2},
        **{"decoder_num_hidden_layers": 3, "decoder_num_attention_heads": 2},
        **{"max_position_embeddings": 24, "pad_head_dim_to_multiple_of": 8},
    },
    "streaming": {
        **{"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 100},
        "encoder_config": {
            **{"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4},
            **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 14},
            "sliding_windows": [[5, 3], [4, 0], [2, 1], [3, 2]],
        },
    },
}
small = pytest.mark.parametrize("kind", SMALL)


def make(kind, seed=0):
    """A random model of transformers; its family, config and weights as tynda reads them."""
    settings = {"num_key_value_heads": 8} if kind.startswith("streaming") else {}
    settings |= SMALL.get(kind) or PUBLISHED[kind]
    torch.manual_seed(seed)
    if kind.startswith("streaming"):
        given = MoonshineStreamingConfig(**settings)
        model = MoonshineStreamingForConditionalGeneration(given)
        family = moonshine_streaming.FAMILY
    else:
        given = MoonshineConfig(**settings)
        model = MoonshineForConditionalGeneration(given)
        family = moonshine.FAMILY
    model = model.eval()
    with torch.no_grad():  # biases and norms start at values that would hide a mistake
        for value in model.parameters():
            if value.ndim <= 1:
                value += 0.2 * torch.randn_like(value)
            else:
                value *= 3
    config = family.configure(family.settings(given.to_dict()))
    named = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    read = getattr(moonshine_streaming, "_fold") if kind.startswith("streaming") else None
    weights = read(config.bins, named) if read else named
    return model, family, config, {name: weights[name] for name in family.specs(config)}


def sound(seconds, seed=0):
    return noise(seconds, seed, level=0.3)


def features(config, *sounds):
    """As a front end gives them, padded with what must not be looked at."""
    front = [frames(config, samples) for samples in sounds]
    lengths = np.array([len(x) for x in front])
    batch = np.full((len(front), lengths.max(initial=0), config.bins), 7.0, np.float32)
    for i, x in enumerate(front):
        batch[i, : len(x)] = x
    return batch, lengths


def frames(config, samples):
    front = moonshine.Raw(normalize=False) if config.bins == 1 else moonshine_streaming.Frames()
    return front(samples)


def theirs_states(model, samples):
    """What the decoder of transformers attends to."""
    values = torch.from_numpy(samples)[None]
    mask = torch.ones_like(values, dtype=torch.long)
    if hasattr(model.config, "encoder_config"):  # as its processor does
        pad = -len(samples) % 80
        values, mask = (torch.nn.functional.pad(x, (0, pad)) for x in (values, mask))
    return model.model.encoder(values, attention_mask=mask)


def attended(model, states):
    """With the positions, and the projection, that are the decoder's in transformers."""
    if not hasattr(model.config, "encoder_config"):
        return states
    decoder = model.model.decoder
    return decoder.proj(states + decoder.pos_emb(torch.arange(states.shape[1])))


def copy(encoded):
    """The decoder of transformers adds positions to the states in place."""
    return type(encoded)(encoded.last_hidden_state.clone(), attention_mask=None)


def greedy(model, states, count):
    """Tokens of transformers' own generation, without an end."""
    with torch.no_grad():
        made = model.generate(
            encoder_outputs=copy(states),
            attention_mask=states.attention_mask,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            decoder_start_token_id=1,
        )
    return made[0].tolist()


def empty_cache(config, rows, room):
    def layers():
        shape = (rows, room, config.channels)
        return [np.zeros(shape, np.float32) for _ in range(config.decoder_layers)]

    return KVCache(layers(), layers())


def ours_greedy(run, config, states, lengths, count):
    """``run``: calls a program with a config and inputs, as an engine does."""
    cross = run(moonshine.cross_kv, config, states, lengths)
    cache, tokens = empty_cache(config, 1, count + 1), [1]
    while len(tokens) <= count:
        new, at = np.array([tokens[-1:]]), np.array([len(tokens) - 1])
        x, cache = run(moonshine.decode, config, new, at, cross, cache)
        scores = np.array(run(moonshine.logits, config, x)[0, 0])
        scores[2] = -np.inf
        tokens.append(int(scores.argmax()))
    return tokens


def numpy_engine(weights):
    return lambda program, config, *inputs: program(OPS, weights, config, *inputs)


def same_as_transformers(kind, seconds, seed):
    model, family, config, weights = make(kind, seed)
    samples = sound(seconds, seed)
    with torch.no_grad():
        encoded = theirs_states(model, samples)
        expected = attended(model, encoded.last_hidden_state.clone())
    states, lengths = family.programs["encode"](OPS, weights, config, *features(config, samples))
    assert lengths.tolist() == [states.shape[1]]
    close(states, expected)
    tokens = np.random.default_rng(seed).integers(0, config.vocab, (1, 13))
    with torch.no_grad():
        out = model(
            encoder_outputs=copy(encoded),
            decoder_input_ids=torch.from_numpy(tokens),
        )
    cross = moonshine.cross_kv(OPS, weights, config, states, lengths)
    x, cache = moonshine.decode(OPS, weights, config, tokens, np.zeros(1, int), cross)
    assert cache is None
    close(moonshine.logits(OPS, weights, config, x), out.logits)
    expected = greedy(model, encoded, 20)
    found = ours_greedy(numpy_engine(weights), config, states, lengths, 20)
    assert found == expected
    return found


@small
@pytest.mark.parametrize("seconds", [0.06, 0.5123, 1.0])
def test_states_logits_and_greedy_tokens_are_those_of_transformers(kind, seconds):
    same_as_transformers(kind, seconds, 0)
