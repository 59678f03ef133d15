"""Whisper against transformers on random weights."""

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from helpers import close
from tynda.compile.count import count
from tynda.models import base, whisper
from tynda.models.base import sinusoids
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps

OPS = NumpyOps()
TINY = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 3,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 40,
    "max_source_positions": 60,
    "max_target_positions": 24,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}


def make(**changes):
    """Return a random transformers model with its weights and config as tynda reads them."""
    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(WhisperConfig(**TINY | SPECIAL | changes)).eval()
    with torch.no_grad():  # biases and norms start at values that would hide a mistake
        for name, value in theirs.named_parameters():
            if value.ndim == 1:
                value += 0.2 * torch.randn_like(value)
            elif "encoder.embed_positions" not in name:
                value *= 3
    config = whisper.Config(**whisper.settings(theirs.config.to_dict()))
    weights = {k: v.numpy() for k, v in theirs.state_dict().items() if k != "proj_out.weight"}
    return theirs, config, weights


def features(config, batch=2, seed=0):
    shape = (batch, 2 * config.frames, config.bins)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def full(config, batch):
    return np.full(batch, 2 * config.frames)


def heard(config, weights, mel):
    states, lengths = whisper.encode(OPS, weights, config, mel, full(config, len(mel)))
    return whisper.cross_kv(OPS, weights, config, states, lengths)


@pytest.mark.parametrize("bins", [80, 128])
def test_states_and_logits_are_those_of_transformers(bins):
    theirs, config, weights = make(num_mel_bins=bins)
    mel = features(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, config.context))
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(mel).transpose(1, 2), decoder_input_ids=torch.from_numpy(tokens)
        )
    states, lengths = whisper.encode(OPS, weights, config, mel, full(config, 2))
    assert lengths.tolist() == [config.frames] * 2
    close(states, expected.encoder_last_hidden_state)
    audio = whisper.cross_kv(OPS, weights, config, states, lengths)
    x, cache = whisper.decode(OPS, weights, config, tokens, np.zeros(2, int), audio)
    assert cache is None
    close(whisper.logits(OPS, weights, config, x), expected.logits)


def test_specs_are_the_tensors_of_the_checkpoint():
    _, config, weights = make()
    assert {k: s.shape for k, s in whisper.specs(config).items()} == {
        k: v.shape for k, v in weights.items()
    }


def test_step_by_step_is_all_at_once():
    _, config, weights = make()
    audio = heard(config, weights, features(config))
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, 9))
    expected, _ = whisper.decode(OPS, weights, config, tokens, np.zeros(2, int), audio)
    cache = empty_cache(config, 2)
    parts = []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        part, cache = whisper.decode(
            OPS, weights, config, tokens[:, start:stop], np.full(2, start), audio, cache
        )
        parts.append(part)
    close(np.concatenate(parts, 1), expected)


def test_rows_of_one_item_share_its_sound_and_may_be_at_different_places():
    _, config, weights = make()
    audio = heard(config, weights, features(config))
    tokens = np.random.default_rng(1).integers(0, config.vocab, (4, 7))
    starts = np.zeros(4, int)
    expected = np.concatenate(
        [
            whisper.decode(
                OPS, weights, config, tokens[i : i + 1], starts[:1], item(audio, i // 2)
            )[0]
            for i in range(4)
        ]
    )
    together, _ = whisper.decode(OPS, weights, config, tokens, starts, audio)
    close(together, expected)
    # The prompts have different lengths and are padded; then each row continues where it ended.
    prompts = np.array([2, 4, 1, 3])
    cache = empty_cache(config, 4)
    _, cache = whisper.decode(OPS, weights, config, tokens[:, :4], starts, audio, cache)
    following = tokens[np.arange(4), prompts][:, None]
    x, _ = whisper.decode(OPS, weights, config, following, prompts, audio, cache)
    close(x[:, 0], expected[np.arange(4), prompts])


def test_a_padded_batch_gives_each_item_what_it_gets_alone():
    _, config, weights = make()
    mel = features(config, 4)
    lengths = np.array([120, 1, 64, 31])
    together, frames = whisper.encode(OPS, weights, config, mel, lengths)
    assert frames.tolist() == [60, 1, 32, 16]
    for i, n in enumerate(lengths):
        alone, _ = whisper.encode(OPS, weights, config, mel[i : i + 1, :n], lengths[i : i + 1])
        close(together[i, : frames[i]], alone[0])


def test_torch_gives_the_same_and_trains():
    _, config, weights = make()
    mel = features(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, 9))
    expected, _ = whisper.decode(
        OPS, weights, config, tokens, np.zeros(2, int), heard(config, weights, mel)
    )
    ops = TorchOps()
    tensors = {k: torch.from_numpy(v).requires_grad_() for k, v in weights.items()}
    states, lengths = whisper.encode(
        ops, tensors, config, torch.from_numpy(mel), torch.from_numpy(full(config, 2))
    )
    audio = whisper.cross_kv(ops, tensors, config, states, lengths)
    x, _ = whisper.decode(
        ops, tensors, config, torch.from_numpy(tokens), torch.zeros(2, dtype=torch.long), audio
    )
    close(expected, x.detach().numpy())
    whisper.logits(ops, tensors, config, x).square().mean().backward()
    assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in tensors.values())


def test_the_watched_queries_and_keys_are_those_of_transformers():
    theirs, config, weights = make()
    theirs.set_attn_implementation("eager")
    mel = features(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, 9))
    seen = []

    def watch(layer, q, k):
        lengths = np.full(2, config.frames)
        seen.append(OPS.attention_weights(q, k, heads=config.decoder_heads, lengths=lengths))

    audio = heard(config, weights, mel)
    whisper.decode(OPS, weights, config, tokens, np.zeros(2, int), audio, on_cross_attention=watch)
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(mel).transpose(1, 2),
            decoder_input_ids=torch.from_numpy(tokens),
            output_attentions=True,
        ).cross_attentions
    assert len(seen) == len(expected) == config.decoder_layers
    for ours, attention in zip(seen, expected, strict=True):
        close(ours, attention)


def test_positions_are_those_of_the_checkpoint():
    _, config, weights = make()
    ours = sinusoids(config.frames, config.channels)
    np.testing.assert_allclose(ours, weights["model.encoder.embed_positions.weight"], atol=1e-5)


def test_what_the_definition_does_not_cover_is_refused():
    theirs, _, _ = make()
    values = theirs.config.to_dict()
    with pytest.raises(ValueError, match="relu"):
        whisper.settings(values | {"activation_function": "relu"})
    with pytest.raises(ValueError, match="scaled"):
        whisper.settings(values | {"scale_embedding": True})
    with pytest.raises(ValueError, match="divide"):
        whisper.Config(channels=10, heads=3)


def test_multiply_adds_of_the_published_encoder():
    # Whisper-tiny over 30 s: convolutions 3 x 80 x 384 at 3000 frames and 3 x 384 x 384 at
    # 1500; four layers of four 384 x 384 products and two 384 x 1536, and two of 1500 x 384.
    conv = 3000 * 3 * 80 * 384 + 1500 * 3 * 384 * 384
    linear = 4 * 1500 * (4 * 384 * 384 + 2 * 384 * 1536)
    attention = 4 * 2 * 1500 * 1500 * 384
    report = count(whisper.FAMILY, whisper.Config(), 3000)
    assert report.total_macs == conv + linear + attention


def item(audio, i):
    keys, values = ([t[i : i + 1] for t in part] for part in (audio.keys, audio.values))
    return base.CrossKV(keys, values, audio.lengths[i : i + 1])


def empty_cache(config, rows):
    def room():
        shape = (rows, config.context, config.channels)
        return [np.zeros(shape, np.float32) for _ in range(config.decoder_layers)]

    return base.KVCache(room(), room())


FULL = {
    "vocab_size": 51865,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_mel_bins": 128, "vocab_size": 51866}])
def test_full_size_states_logits_and_a_hundred_greedy_tokens(changes):
    theirs, config, weights = make(**FULL | changes)
    # The large positions, shared with transformers, make the tokens differ from step to step.
    weights["model.decoder.embed_positions.weight"] *= 30
    mel = features(config, 1)
    start = [50258, 50259, 50359, 50363]
    with torch.no_grad():
        tokens = theirs_greedy(theirs, torch.from_numpy(mel).transpose(1, 2), start, 100)
        expected = theirs(
            torch.from_numpy(mel).transpose(1, 2), decoder_input_ids=torch.tensor([tokens])
        )
    states, lengths = whisper.encode(OPS, weights, config, mel, full(config, 1))
    close(states, expected.encoder_last_hidden_state)
    audio = whisper.cross_kv(OPS, weights, config, states, lengths)
    x, _ = whisper.decode(OPS, weights, config, np.array([tokens]), np.zeros(1, int), audio)
    close(whisper.logits(OPS, weights, config, x), expected.logits)
    cache, ours = empty_cache(config, 1), list(start)
    new = np.array([start])
    while len(ours) < len(tokens):
        at = np.array([len(ours) - new.shape[1]])
        x, cache = whisper.decode(OPS, weights, config, new, at, audio, cache)
        new = whisper.logits(OPS, weights, config, x[:, -1:]).argmax(-1)
        ours.append(int(new[0, 0]))
    assert ours == tokens
    assert len(set(ours)) > 10


def theirs_greedy(model, mel, start, count):
    states = model.model.encoder(mel)
    tokens, cache = torch.tensor([start]), None
    new = tokens
    for _ in range(count):
        out = model(
            encoder_outputs=states, decoder_input_ids=new, past_key_values=cache, use_cache=True
        )
        cache, new = out.past_key_values, out.logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, new], 1)
    return tokens[0].tolist()
