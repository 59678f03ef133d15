"""Both Moonshines against transformers on random weights."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
)

import tynda
from helpers import close, noise
from tynda.compile import native
from tynda.compile.count import count
from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.models import moonshine, moonshine_layers, moonshine_streaming
from tynda.models.base import KVCache
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import Raw
from tynda.store import checkpoint, huggingface
from tynda.weights.weight import quantize_all

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
BASE = {
    **{"channels": 416, "hidden": 1664, "layers": 8, "rotary": 32},
    **{"decoder_hidden": 1664, "decoder_layers": 8},
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
                value.normal_(0, 2 * value[0].numel() ** -0.5)
    config = family.configure(family.settings(given.to_dict()))
    named = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    if kind.startswith("streaming"):
        named = moonshine_streaming.convert_tensors(config.bins, named)
    return model, family, config, {name: named[name] for name in family.specs(config)}


def sound(seconds, seed=0):
    return noise(seconds, seed, level=0.3)


def features(config, *sounds):
    """Return features as a front end gives them, padded with sevens that must not be read."""
    front = [frames(config, samples) for samples in sounds]
    lengths = np.array([len(x) for x in front])
    batch = np.full((len(front), lengths.max(initial=0), config.bins), 7.0, np.float32)
    for i, x in enumerate(front):
        batch[i, : len(x)] = x
    return batch, lengths


def frames(config, samples):
    front = Raw(normalize=False) if config.bins == 1 else moonshine_streaming.Frames()
    return front(samples)


def theirs_states(model, samples):
    """Return the states that the decoder of transformers attends to."""
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
        x, cache = run(moonshine_layers.decode, config, new, at, cross, cache)
        scores = np.array(run(moonshine_layers.logits, config, x)[0, 0])
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
    x, cache = moonshine_layers.decode(OPS, weights, config, tokens, np.zeros(1, int), cross)
    assert cache is None
    close(moonshine_layers.logits(OPS, weights, config, x), out.logits)
    expected = greedy(model, encoded, 20)
    assert ours_greedy(numpy_engine(weights), config, states, lengths, 20) == expected
    return expected


@small
@pytest.mark.parametrize("seconds", [0.06, 0.5123, 1.0])
def test_states_logits_and_greedy_tokens_are_those_of_transformers(kind, seconds):
    same_as_transformers(kind, seconds, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", PUBLISHED)
def test_full_size_states_logits_and_greedy_tokens(kind, seed):
    assert len(set(same_as_transformers(kind, 2.0 + 1.7 * seed, seed))) > 1


@pytest.mark.parametrize("instructions", native.instruction_sets())
@small
def test_native_kernels_give_the_same(kind, instructions):
    native_gives_the_same(kind, (0.9, 0.5123, 1.4), instructions)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_native_kernels_give_the_same_in_full_size(kind):
    native_gives_the_same(kind, (5.1, 2.3), None)


def native_gives_the_same(kind, lengths, instructions):
    _, family, config, weights = make(kind)
    batch = features(config, *(sound(seconds, i) for i, seconds in enumerate(lengths)))
    encode, trainable = family.programs["encode"], family.trainable(config)
    codes = quantize_all(weights, trainable)
    exact, counts = encode(OPS, weights, config, *batch)
    kept = [slice(0, count) for count in counts]
    for bits, held in ((32, weights), (8, codes)):
        engine = native.Native(held, 2, instructions, bits)
        states, found = engine.run(encode, config, *batch)
        assert found.tolist() == counts.tolist()
        if bits == 8:
            twin, _ = encode(NumpyOps(8), held, config, *batch)
            for i, count in enumerate(kept):
                error, rounding = (
                    np.square(x[i, count] - twin[i, count]).mean() for x in (states, exact)
                )
                assert error < rounding / 4  # the twin rounds the same way, but for ties
            continue
        for i, count in enumerate(kept):
            close(states[i, count], exact[i, count])
            alone = states[i, count][None], counts[i, None]
            tokens = ours_greedy(engine.run, config, *alone, 20)
            assert tokens == ours_greedy(numpy_engine(weights), config, *alone, 20)


def encoded(kind, *sounds, seed=0):
    """Family, config, weights, states and their lengths."""
    _, family, config, weights = make(kind, seed)
    batch = features(config, *sounds)
    return family, config, weights, *family.programs["encode"](OPS, weights, config, *batch)


@small
def test_specs_are_the_tensors_of_the_checkpoint(kind):
    model, family, config, _ = make(kind)
    named = {name: value.numpy() for name, value in model.state_dict().items()}
    if config.tied:
        del named["proj_out.weight"]
    if kind == "streaming":
        named = moonshine_streaming.convert_tensors(config.bins, named)
    assert family.shapes(config) == {name: value.shape for name, value in named.items()}


@small
def test_a_padded_batch_gives_each_item_what_it_gets_alone(kind):
    sounds = [sound(s, i) for i, s in enumerate((0.9, 0.0, 0.001, 0.056, 0.3333, 0.61))]
    _, config, weights, states, lengths = encoded(kind, *sounds)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (len(sounds), 5))
    zeros = np.zeros(len(sounds), int)
    cross = moonshine.cross_kv(OPS, weights, config, states, lengths)
    x, _ = moonshine_layers.decode(OPS, weights, config, tokens, zeros, cross)
    assert np.isfinite(x).all()
    for i, samples in enumerate(sounds):
        *_, alone, count = encoded(kind, samples)
        assert count.tolist() == [lengths[i]] == [alone.shape[1]]
        close(states[i, : lengths[i]], alone[0])
        own = moonshine.cross_kv(OPS, weights, config, alone, count)
        y, _ = moonshine_layers.decode(OPS, weights, config, tokens[i : i + 1], zeros[:1], own)
        close(x[i], y[0])


@small
def test_frames_are_as_many_as_the_sound_fills(kind):
    _, family, config, weights = make(kind)
    for n in (0, 1, 79, 80, 81, 320, 321, 894, 895, 896, 1278, 1279, 1280):
        x, lengths = features(config, np.zeros(n, np.float32))
        states, counts = family.programs["encode"](OPS, weights, config, x, lengths)
        expected = -(-n // 320) if kind == "streaming" else max(0, (n - 895) // 384 + 1)
        assert counts.tolist() == [expected] == [states.shape[1]]
        assert np.isfinite(states).all()


@small
def test_step_by_step_is_all_at_once(kind):
    _, config, weights, states, lengths = encoded(kind, sound(0.4, 0), sound(0.7, 1))
    cross = moonshine.cross_kv(OPS, weights, config, states, lengths)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, 9))
    expected, _ = moonshine_layers.decode(OPS, weights, config, tokens, np.zeros(2, int), cross)
    cache, parts = empty_cache(config, 2, 9), []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        new, at = tokens[:, start:stop], np.full(2, start)
        part, cache = moonshine_layers.decode(OPS, weights, config, new, at, cross, cache)
        parts.append(part)
    close(np.concatenate(parts, 1), expected)


@small
def test_rows_of_one_item_share_its_sound_and_may_be_at_different_places(kind):
    _, config, weights, states, lengths = encoded(kind, sound(0.4, 0), sound(0.7, 1))
    cross = moonshine.cross_kv(OPS, weights, config, states, lengths)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (4, 7))
    zeros = np.zeros(4, int)
    alone = []
    for i, row in enumerate(tokens):
        own = moonshine.cross_kv(OPS, weights, config, states[i // 2, None], lengths[i // 2, None])
        alone.append(moonshine_layers.decode(OPS, weights, config, row[None], zeros[:1], own)[0])
    expected = np.concatenate(alone)
    close(moonshine_layers.decode(OPS, weights, config, tokens, zeros, cross)[0], expected)
    # Prompts of unlike lengths, padded behind; then each row goes on at its own place.
    prompts, cache = np.array([2, 4, 1, 3]), empty_cache(config, 4, 7)
    _, cache = moonshine_layers.decode(OPS, weights, config, tokens[:, :4], zeros, cross, cache)
    following = tokens[np.arange(4), prompts][:, None]
    x, _ = moonshine_layers.decode(OPS, weights, config, following, prompts, cross, cache)
    close(x[:, 0], expected[np.arange(4), prompts])


@small
def test_torch_gives_the_same_and_trains(kind):
    _, family, config, weights = make(kind)
    batch = features(config, sound(0.4, 0), sound(0.7, 1))
    tokens, zeros = np.random.default_rng(1).integers(0, config.vocab, (2, 9)), np.zeros(2, int)

    def run(ops, weights, *inputs):
        *batch, tokens, zeros = inputs
        states, lengths = family.programs["encode"](ops, weights, config, *batch)
        cross = moonshine.cross_kv(ops, weights, config, states, lengths)
        x, _ = moonshine_layers.decode(ops, weights, config, tokens, zeros, cross)
        return moonshine_layers.logits(ops, weights, config, x)

    tensors = {k: torch.from_numpy(v).requires_grad_() for k, v in weights.items()}
    found = run(TorchOps(training=True), tensors, *map(torch.from_numpy, (*batch, tokens, zeros)))
    close(run(OPS, weights, *batch, tokens, zeros), found.detach().numpy())
    found.square().mean().backward()
    assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in tensors.values())


def test_the_watched_queries_and_keys_are_those_of_transformers():
    model, _, config, weights = make("offline")
    model.set_attn_implementation("eager")
    samples, seen = sound(0.7), []
    *_, states, lengths = encoded("offline", samples)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (1, 9))

    def watch(layer, q, k):
        seen.append(OPS.attention_weights(q, k, heads=config.decoder_heads, lengths=lengths))

    cross = moonshine.cross_kv(OPS, weights, config, states, lengths)
    moonshine_layers.decode(
        OPS, weights, config, tokens, np.zeros(1, int), cross, on_cross_attention=watch
    )
    with torch.no_grad():
        expected = model(
            torch.from_numpy(samples)[None],
            decoder_input_ids=torch.from_numpy(tokens),
            output_attentions=True,
        ).cross_attentions
    assert len(seen) == len(expected) == config.decoder_layers
    for ours, attention in zip(seen, expected, strict=True):
        close(ours, attention)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 27.1), ("base", 61.5)])
def test_sizes_are_those_of_the_paper(name, millions):
    config = moonshine.Config(**{} if name == "tiny" else BASE)
    weights = sum(math.prod(shape) for shape in moonshine.FAMILY.shapes(config).values())
    assert weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_streaming_sizes_are_those_of_the_paper():
    sizes = {  # channels of the encoder and the decoder, layers of each, heads of both
        33.6: (320, 320, 6, 8, 40),
        123.36: (620, 512, 10, 8, 64),
        244.9: (768, 640, 14, 10, 64),
    }
    for millions, (encoder, decoder, layers, heads, width) in sizes.items():
        config = moonshine_streaming.Config(
            **{"encoder_channels": encoder, "hidden": 4 * encoder, "heads": heads},
            **{"head_channels": width, "past": (16,) * layers, "future": (4,) * layers},
            **{"channels": decoder, "decoder_hidden": 4 * decoder, "decoder_layers": layers},
            decoder_heads=heads,
        )
        shapes = moonshine_streaming.FAMILY.shapes(config)
        del shapes["proj_out.weight"]  # the paper counts the tokens once
        weights = sum(map(math.prod, shapes.values()))
        assert weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_multiply_adds_of_the_published_encoder():
    # Moonshine-tiny over 10 s: 2499 frames of 127 samples, 831 of 7, 415 of 3; six layers of four
    # 288 x 288 products and two 288 x 1152, and two of 415 x 288.
    conv = 2499 * 127 * 288 + 831 * 7 * 288 * 576 + 415 * 3 * 576 * 288
    linear = 6 * 415 * (4 * 288 * 288 + 2 * 288 * 1152)
    attention = 6 * 2 * 415 * 415 * 288
    report = count(moonshine.FAMILY, moonshine.Config(), 160_000)
    assert report.total_macs == conv + linear + attention
    # streaming-tiny has 2000 frames of 80 samples; convolutions over 5 frames, padded by 4 on both
    # sides, make 1002 and 502 of which 1000 and 500 are kept; windows of 19 frames, or 16.
    stem = 2000 * 80 * 320 + 1002 * 5 * 320 * 640 + 502 * 5 * 640 * 320
    linear = 6 * 500 * (4 * 320 * 320 + 2 * 320 * 1280)
    attention = (4 * 19 + 2 * 16) * 500 * 2 * 320
    report = count(moonshine_streaming.FAMILY, moonshine_streaming.Config(), 2000)
    assert report.total_macs == stem + linear + attention


@pytest.fixture(params=SMALL)
def folder(request, tmp_path):
    """A checkpoint as transformers writes it, and its model."""
    model, *_ = make(request.param)
    model.config.eos_token_id, model.config.decoder_start_token_id = 2, 1
    model.save_pretrained(tmp_path)
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(60)), "\u2581a", "b"]
    special = [{"content": name, "id": i, "special": True} for i, name in enumerate(names[:3])]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = {
        "model": {"vocab": vocab, "byte_fallback": True, "merges": []},
        "added_tokens": special,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    extractor = {"do_normalize": False, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n---\n# A model\n")
    return request.param, model, tmp_path


def test_a_folder_is_read(folder):
    kind, _, path = folder
    *_, config, weights = make(kind)
    found = huggingface.load(path)
    assert (found.config, found.family.head) == (config, "seq2seq")
    assert found.frontend == (moonshine_streaming.Frames() if kind == "streaming" else Raw(False))
    assert (found.tokenizer.sot, found.tokenizer.eot) == (1, 2)
    assert (found.header.languages, found.header.licence) == (["en"], "mit")
    assert found.tokenizer.decode([1, 63, 64, 2]) == "ab"
    assert found.weights.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found.weights[name], value)


@pytest.mark.parametrize("bits", [32, 16, 8])
def test_a_model_file_is_read_again(folder, bits, tmp_path):
    _, _, path = folder
    model = huggingface.load(path)
    header = replace(
        model.header,
        config=asdict(model.config),
        tokenizer=model.tokenizer.to_dict(),
        frontend=model.frontend.config,
    )
    checkpoint.save_model(tmp_path / "m.safetensors", header, model.weights, bits=bits)
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert (again.config, again.frontend) == (model.config, model.frontend)
    assert again.tokenizer.names == model.tokenizer.names
    if bits == 32:
        for name, value in model.weights.items():
            np.testing.assert_array_equal(again.weights[name], value)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_few_bits_come_close(folder, bits, tmp_path):
    kind, _, path = folder
    _, family, config, weights = make(kind)
    tynda.quantize(path, tmp_path / "few.safetensors", bits=bits)
    few = checkpoint.load(tmp_path / "few.safetensors")
    trainable, batch = family.trainable(config), features(config, sound(0.7))
    exact, engine = (
        open_engine(given, trainable, "numpy", width)
        for given, width in ((weights, 32), (few.weights, 8))
    )
    expected, _ = exact.run(family.programs["encode"], config, *batch)
    states, lengths = engine.run(family.programs["encode"], config, *batch)
    error = np.square(states - expected).mean() / np.square(expected).mean()
    assert 1e-6 < error < (0.05 if bits == 8 else 1)
    assert len(ours_greedy(engine.run, config, states, lengths, 5)) == 6


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("tokenizer.json", {"model": {"byte_fallback": False}}, "no byte_fallback"),
        (
            "tokenizer.json",
            {"added_tokens": [{"content": "", "id": 999, "special": True}]},
            "beyond",
        ),
        ("config.json", {"eos_token_id": None}, "no start token"),
        ("config.json", {"hidden_size": "wide"}, "hidden_size 'wide'"),
        ("config.json", {"max_position_embeddings": 0}, "whole number from 1"),
        ("preprocessor_config.json", {"do_normalize": 3}, "true or false|normalisation of"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, file, change, says):
    _, _, path = folder
    values = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(values | change))
    with pytest.raises(TyndaError, match=says) as error:
        huggingface.load(path)
    assert "\n" not in str(error.value)


def test_settings_from_before_transformers_5():
    old = MoonshineConfig(**SMALL["offline"]).to_dict()
    del old["rope_parameters"]
    old |= {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": None}
    config = moonshine.FAMILY.configure(moonshine.settings(old))
    assert (config.rotary, config.rotary_base) == (8, 500.0)


@pytest.mark.parametrize("name", ["rotary_base", "tokens_per_second"])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-50, 1e300, math.inf, math.nan])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        moonshine.Config(**{name: value})


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("offline", {"encoder_hidden_act": "relu"}, "relu"),
        ("offline", {"decoder_hidden_act": "gelu"}, "gelu"),
        ("offline", {"attention_bias": True}, "biases"),
        ("offline", {"encoder_num_key_value_heads": 1}, "grouped-query"),
        ("offline", {"head_dim": 7}, "head_dim"),
        ("offline", {"rope_parameters": {"rope_type": "yarn"}}, "rotary"),
        ("offline", {"rope_parameters": 3}, "rotary"),
        (
            "offline",
            {"encoder_num_attention_heads": 4, "encoder_num_key_value_heads": 4},
            "differ from the decoder",
        ),
        ("offline", {"hidden_size": "wide"}, "hidden_size"),
        ("streaming", {"num_key_value_heads": 1}, "grouped-query"),
        ("streaming", {"encoder_config": {"hidden_act": "relu"}}, "relu"),
        ("streaming", {"encoder_config": {"attention_bias": True}}, "biases"),
        ("streaming", {"encoder_config": {"num_key_value_heads": 1}}, "grouped-query"),
        ("streaming", {"encoder_config": {"sliding_windows": [[16, 4]]}}, "windows"),
        ("streaming", {"encoder_config": {"sliding_windows": 3}}, "windows"),
        ("streaming", {"encoder_config": {"sliding_windows": [[0, 4]] * 6}}, "past"),
        ("streaming", {"encoder_config": None}, "encoder_config"),
    ],
)
def test_what_the_definition_does_not_cover_is_refused(kind, changes, says):
    _, family, *_ = make(kind)
    given = {"offline": MoonshineConfig, "streaming": MoonshineStreamingConfig}[kind]
    values = given(**SMALL[kind]).to_dict() | changes
    with pytest.raises((ValueError, TyndaError), match=says):
        family.configure(family.settings(values))


def test_live_words_share_the_audio_and_continue_what_is_final(folder):
    _, _, path = folder
    words = (f"\u2581a{i}" if i % 3 else f"b{i}" for i in range(57))
    vocab = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = vocab
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = tynda.load(path, backend="numpy")
    decoder = model.head.live(model.options())
    seconds = min(2.5, decoder.max_seconds)
    samples = noise(seconds)
    words = decoder.words(samples, [])
    tokens = [token for word in words for token in word.tokens]
    text = model.checkpoint.tokenizer.decode(tokens)
    assert [word.text.strip() for word in words] == text.split()
    times = [t for word in words for t in (word.start, word.end)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0, seconds)
    again = decoder.words(samples, words[:2])
    assert again[:2] == words[:2]
    if len(words) > 2:  # a text that ended because it was too long goes on
        assert [word.tokens for word in again[2:]] == [word.tokens for word in words[2:]]
    assert decoder.words(samples[:0], words[:1]) == words[:1]
