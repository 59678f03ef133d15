"""The same random Whisper in openai-whisper and in tynda."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from helpers import gather
from tynda.compile.engine import open_engine
from tynda.heads.seq2seq import sliding
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.recording import Recording
from tynda.heads.seq2seq.search import Network
from tynda.models.base import sinusoids
from tynda.models.whisper import FAMILY, Config
from tynda.sound.frontend import LogMel
from tynda.text.whisper import WhisperTokenizer

# Numba compiles on import: modules that need it are imported late.
openai = pytest.importorskip("whisper", reason="openai-whisper is not installed")

# Hub name -> openai's, longest match first.
_NAMES = {
    "model.encoder.layers": "encoder.blocks",
    "model.decoder.layers": "decoder.blocks",
    "model.encoder.layer_norm": "encoder.ln_post",
    "model.decoder.layer_norm": "decoder.ln",
    "model.encoder.embed_positions.weight": "encoder.positional_embedding",
    "model.decoder.embed_positions.weight": "decoder.positional_embedding",
    "model.decoder.embed_tokens": "decoder.token_embedding",
    "model.encoder": "encoder",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}


def openai_name(name):
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def to_openai(config, weights):
    """openai-whisper's model with our weights."""
    from whisper.model import ModelDimensions, Whisper

    sizes = {
        "n_mels": config.bins,
        "n_audio_ctx": config.frames,
        "n_audio_state": config.channels,
        "n_audio_head": config.heads,
        "n_audio_layer": config.layers,
        "n_vocab": config.vocab,
        "n_text_ctx": config.context,
        "n_text_state": config.channels,
        "n_text_head": config.decoder_heads,
        "n_text_layer": config.decoder_layers,
    }
    model = Whisper(ModelDimensions(**sizes)).eval()
    state = {openai_name(k): torch.from_numpy(np.array(v)) for k, v in weights.items()}
    model.load_state_dict(state)
    return model


@cache
def published_tokenizer(multilingual=True, languages=99):
    """The vocabulary of the openai-whisper package, as tynda's tokenizer."""
    from test_whisper_tokenizer import from_openai

    _, vocab, merges, special = from_openai(multilingual, languages)
    return WhisperTokenizer.from_vocab(vocab, merges, special, multilingual=multilingual)


def random_weights(config, tokenizer, seed, ends=1.0):
    """Return weights that generate varied text; the end is ``ends`` times as likely."""
    from tynda.models import whisper

    rng = np.random.default_rng(seed)
    out = {}
    for name, spec in whisper.specs(config).items():
        if spec.init == "sinusoids":
            out[name] = sinusoids(*spec.shape)
            continue
        fan_in = spec.shape[-1] if "embed" in name else np.prod(spec.shape[1:])
        value = rng.standard_normal(spec.shape) * (1.7 / np.sqrt(fan_in))
        if len(spec.shape) == 1:
            value = (spec.init == "ones") + 0.2 * rng.standard_normal(spec.shape)
        out[name] = value.astype(np.float32)
    out["model.decoder.embed_positions.weight"] *= 3
    table = out["model.decoder.embed_tokens.weight"]
    table[tokenizer.eot] *= ends
    table[tokenizer.timestamp_begin :] *= 0.8
    return out


SMALL = Config(
    frames=40,
    channels=32,
    layers=2,
    heads=2,
    hidden=128,
    decoder_layers=2,
    decoder_heads=2,
    decoder_hidden=128,
)


def write_folder(folder, seed=0, multilingual=True, dtype=np.float32, languages=99, **changes):
    """A random model as the hub has them; gives openai's, for comparison."""
    config = replace(SMALL, vocab=51766 + languages if multilingual else 51864, **changes)
    tokenizer = published_tokenizer(multilingual, languages)
    weights = random_weights(config, tokenizer, seed, 1.3)
    weights = {name: value.astype(dtype) for name, value in weights.items()}
    names, description = tokenizer.names, tokenizer.to_dict()
    settings = {
        "model_type": "whisper",
        "num_mel_bins": config.bins,
        "vocab_size": config.vocab,
        "d_model": config.channels,
        "encoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.hidden,
        "decoder_layers": config.decoder_layers,
        "decoder_attention_heads": config.decoder_heads,
        "decoder_ffn_dim": config.decoder_hidden,
        "max_source_positions": config.frames,
        "max_target_positions": config.context,
        "eos_token_id": tokenizer.eot,
    }
    added = [{"content": name, "id": i} for name, i in description["special"].items()]
    merges = [f"{names[left]} {names[right]}" for left, right in tokenizer.merges.tolist()]
    model = {"vocab": {name: i for i, name in enumerate(names)}, "merges": merges}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    save_file(weights, folder / "model.safetensors")
    return to_openai(config, weights)


def pair(seed=0, multilingual=True, ends=1.0, **changes):
    """openai's model and tynda's network, of the same random weights."""
    config = replace(SMALL, vocab=51865 if multilingual else 51864, **changes)
    tokenizer = published_tokenizer(multilingual)
    weights = random_weights(config, tokenizer, seed, ends)
    layers, heads = range(config.decoder_layers // 2, config.decoder_layers), config.decoder_heads
    alignment = [(layer, head) for layer in layers for head in range(heads)]  # openai's default
    network = Network(open_engine(weights, {}), FAMILY, config, tokenizer, alignment)
    return to_openai(config, weights), network


FRONT = LogMel(fft=400, normalize="whisper")


def features(samples, seconds=30.0):
    """Return a recording that is followed by a window of silence."""
    return Recording([samples], FRONT, round(seconds * 100))


@pytest.fixture
def same_dice(monkeypatch):
    """Make openai-whisper draw with tynda's random numbers, which restart for each recording."""
    dice = {"recording": False}

    class Dice:
        def __init__(self, logits):
            self.logits = logits.numpy()

        def sample(self):
            noises = [dice["rng"].gumbel(size=row.size).astype(np.float32) for row in self.logits]
            return torch.from_numpy(np.argmax(self.logits + np.stack(noises), axis=-1))

    run = openai.decoding.DecodingTask.run

    def roll():
        dice["rng"] = np.random.default_rng(Options.seed)

    def begin(task, mel):
        if not dice["recording"]:
            roll()
        return run(task, mel)

    whole = openai.Whisper.transcribe

    def transcribe(*arguments, **options):
        roll()
        dice["recording"] = True
        try:
            return whole(*arguments, **options)
        finally:
            dice["recording"] = False

    monkeypatch.setattr(openai.Whisper, "transcribe", transcribe)

    monkeypatch.setattr(openai.decoding, "Categorical", Dice)
    monkeypatch.setattr(openai.decoding.DecodingTask, "run", begin)


def same_as_openai(models, samples, options):
    """Return tynda's transcript, after checking that it equals openai-whisper's."""
    theirs, network = models
    seconds = network.config.frames / 50
    pieces, language = gather(
        sliding.transcribe, network, features(samples, seconds), Options(window="exact", **options)
    )
    renamed = {"max_new_tokens": "sample_len"}
    options = {renamed.get(k, k): v for k, v in options.items()}
    if "clip_timestamps" in options:
        options["clip_timestamps"] = list(options["clip_timestamps"])
    expected = theirs.transcribe(samples, fp16=False, verbose=None, **options)
    assert (language or "en") == expected["language"]
    others = [s for s in expected["segments"] if s["tokens"]]
    assert [p.tokens for p in pieces] == [s["tokens"] for s in others]
    for piece, other in zip(pieces, others, strict=True):
        assert piece.text == other["text"]
        assert (piece.start, piece.end) == pytest.approx((other["start"], other["end"]))
        assert piece.result.temperature == other["temperature"]
        assert piece.result.avg_logprob == pytest.approx(other["avg_logprob"], rel=1e-3)
        words = other.get("words", [])
        assert [w.word for w in piece.words] == [w["word"] for w in words]
        for mine, word in zip(piece.words, words, strict=True):
            assert (mine.start, mine.end) == pytest.approx((word["start"], word["end"]))
            assert mine.probability == pytest.approx(word["probability"], rel=1e-2, abs=1e-6)
    return pieces
