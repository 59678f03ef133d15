"""Whisper in the shapes that are published beside those of the first paper.

large-v3 hears 128 mel bins and knows Cantonese, one more token than before; its turbo has 4 layers
in the decoder, and the distilled ones (Gandhi et al. 2023, "Distil-Whisper") have 2.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import tynda
from helpers import close, noise, write_wav
from test_whisper import theirs_greedy
from tynda.compile import native
from tynda.compile.engine import open_engine
from tynda.models import base, whisper
from tynda.profiling.case import Case
from tynda.profiling.predict import predict
from tynda.store import library
from whisper_peer import write_folder


def shape(channels, layers, decoder_layers, bins=80, vocab=51865):
    """A published ``config.json``, as far as it says sizes."""
    return {
        **{"model_type": "whisper", "vocab_size": vocab, "num_mel_bins": bins},
        **{"d_model": channels, "encoder_layers": layers, "decoder_layers": decoder_layers},
        **{"encoder_attention_heads": channels // 64, "decoder_attention_heads": channels // 64},
        **{"encoder_ffn_dim": 4 * channels, "decoder_ffn_dim": 4 * channels},
        **{"max_source_positions": 1500, "max_target_positions": 448},
    }


# With their weights in millions, as their model cards have them.
PUBLISHED = {
    "large-v2": (shape(1280, 32, 32), 1550),
    "large-v3": (shape(1280, 32, 32, 128, 51866), 1550),
    "large-v3-turbo": (shape(1280, 32, 4, 128, 51866), 809),
    "distil-large-v2": (shape(1280, 32, 2), 756),
    "distil-large-v3": (shape(1280, 32, 2, 128, 51866), 756),
    "distil-medium.en": (shape(1024, 24, 2, vocab=51864), 394),
    "distil-small.en": (shape(768, 12, 4, vocab=51864), 166),
}
LATER = ["large-v3", "large-v3-turbo", "distil-large-v3"]


def configure(name, **changes):
    return whisper.FAMILY.configure(whisper.settings(PUBLISHED[name][0] | changes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_read(name):
    given, millions = PUBLISHED[name]
    config = configure(name)
    with torch.device("meta"):
        theirs = WhisperForConditionalGeneration(WhisperConfig(**given))
    shapes = {k: s.shape for k, s in whisper.specs(config).items()}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items() if k != "proj_out.weight"}
    assert sum(map(math.prod, shapes.values())) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.skipif(not native.available(), reason="installed without a compiler")
@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("bits", ["32", "8"])
def test_memory_is_foreseen(tmp_path, name, bits):
    write_folder(tmp_path, languages=100, bins=128)
    config = configure(name)
    nothing = np.zeros(1, np.float32)
    weights = {
        name: np.broadcast_to(nothing, spec.shape) for name, spec in whisper.specs(config).items()
    }
    model = replace(library.load(tmp_path), config=config, weights=weights)
    found = predict(model, Case("speed", "", "tynda", bits, seconds=30.0, batch=1, threads=2))
    count, width = sum(math.prod(w.shape) for w in weights.values()), int(bits) // 8
    assert found.weights == pytest.approx(width * count, rel=0.03)
    # Keys and values of 1500 frames (with scales, and in blocks of 256, in 8 bits) and of tokens.
    sound, text = 2 * 1280 * config.decoder_layers * np.array([1500 * width, 448 * 4])
    assert sound < found.cache < (1.01 if bits == "32" else 1.1) * sound + text
    assert found.arena < 400e6


def cut(name, layers, decoder_layers):
    """A random model of full width, and few layers, in transformers and here."""
    torch.manual_seed(0)
    given = PUBLISHED[name][0] | {"encoder_layers": layers, "decoder_layers": decoder_layers}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 50257)
    theirs = WhisperForConditionalGeneration(
        WhisperConfig(**given, **special, decoder_start_token_id=50258)
    ).eval()
    with torch.no_grad():
        for value in (v for v in theirs.parameters() if v.ndim == 1):
            value += 0.2 * torch.randn_like(value)
        theirs.model.decoder.embed_positions.weight *= 30  # tokens then differ from step to step
    weights = {k: v.numpy() for k, v in theirs.state_dict().items() if k != "proj_out.weight"}
    config = configure(name, encoder_layers=layers, decoder_layers=decoder_layers)
    return theirs, config, weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "decoder_layers"),
    [("large-v3", 2, 2), ("large-v3-turbo", 3, 1), ("distil-large-v3", 1, 2)],
)
def test_full_width_and_few_layers(name, layers, decoder_layers):
    theirs, config, weights = cut(name, layers, decoder_layers)
    engine = open_engine(weights, whisper.FAMILY.trainable(config), threads=2)
    mel = np.random.default_rng(0).standard_normal((1, 3000, 128), np.float32)
    given = torch.from_numpy(mel).transpose(1, 2)
    start = [50258, 50259, 50360, 50364]
    with torch.no_grad():
        expected = theirs.model.encoder(given).last_hidden_state
        tokens = theirs_greedy(theirs, given, start, 40)
    states, lengths = engine.run(whisper.encode, config, mel, np.array([3000]))
    close(states, expected)
    cross = engine.run(whisper.cross_kv, config, states, lengths)
    room = [[np.zeros((1, 448, 1280), np.float32) for _ in range(decoder_layers)] for _ in range(2)]
    cache, ours, new = base.KVCache(*room), list(start), np.array([start])
    while len(ours) < len(tokens):
        at = np.array([len(ours) - new.shape[1]])
        x, cache = engine.run(whisper.decode, config, new, at, cross, cache)
        new = engine.run(whisper.logits, config, x[:, -1:]).argmax(-1)
        ours.append(int(new[0, 0]))
    assert ours == tokens
    assert len(set(ours)) > 10


def test_a_folder_with_cantonese_and_one_layer_is_transcribed_as_openai_does(tmp_path):
    sizes = {"bins": 128, "layers": 3, "decoder_layers": 1}
    theirs = write_folder(tmp_path / "turbo", languages=100, frames=1500, **sizes)
    path = write_wav(tmp_path / "a.wav", noise(4))
    model = tynda.load(tmp_path / "turbo")
    assert "yue" in model.checkpoint.header.languages
    options = {"no_speech_threshold": None, "language": "yue"}
    transcript = model.transcribe(
        path,
        window="exact",
        temperature=(0.0,),
        max_new_tokens=20,
        speech_threshold=0,
        **options,
    )
    sound = tynda.sound.audio.load(path)
    expected = theirs.transcribe(
        sound, temperature=0.0, sample_len=20, fp16=False, verbose=None, **options
    )
    assert transcript.text == expected["text"].strip() != ""
    tokens = [t for segment in expected["segments"] for t in segment["tokens"]]
    assert [t for s in transcript.segments for t in s.to_dict()["tokens"]] == tokens
