"""Whole inputs, which the cases damage: models in all formats, n-grams, recordings."""

import io
import json
import math
import struct
import subprocess
import sys

import av
import numpy as np
from safetensors.numpy import load, save

from foreign_files import write_ctranslate2, write_ggml, write_small_folder
from helpers import noise, save_tiny, write_wav
from tynda.heads.ctc import ngram
from tynda.models import family
from tynda.sound.frontend import LogMel, NemoLogMel, Raw, Spectrogram
from tynda.store import checkpoint
from tynda.text.tokenizer import ENGLISH

SENTENCES = ["ab ba", "ba ba ab", "the cat sat", "a b", "b a", "cat a"]
ARPA = ngram.train(SENTENCES, 3)
CTC = {
    "n2": (
        {"bins": 33, "filters": 2, "hidden": 6, "layers": 1},
        Spectrogram(window=64, fft=64),
    ),
    "parakeet": (
        {"bins": 16, "channels": 12, "layers": 1, "heads": 3, "hidden": 10, "kernel": 5, "stem": 3},
        NemoLogMel(bins=16),
    ),
    "wav2vec2": (
        {
            "channels": 12,
            "layers": 1,
            "heads": 3,
            "hidden": 10,
            "conv_channels": (4, 6),
            "conv_kernels": (20, 20),
            "conv_strides": (16, 20),
            "position_kernel": 4,
            "position_groups": 2,
        },
        Raw(),
    ),
}
"""Family -> settings of a small model, and its front end."""


def weights(name, config):
    """Return random weights."""
    rng = np.random.default_rng(0)
    out = {}
    for key, spec in family(name).specs(config).items():
        value = rng.uniform(-1, 1, spec.shape) * 1.5 / math.sqrt(math.prod(spec.shape[1:]))
        out[key] = np.abs(value).astype(np.float32) + np.float32(0.1)
        if not key.endswith(("variance", "running_var", "norm.weight")):
            out[key] = (value + (spec.init == "ones")).astype(np.float32)
    return out


def write_models(folder):
    """Write a model file of each kind; return their paths."""
    for name, (settings, front) in CTC.items():
        config = family(name).configure(settings | {"vocab": len(ENGLISH)})
        description = checkpoint.Header(
            name=name,
            family=name,
            config=settings | {"vocab": len(ENGLISH)},
            frontend=front.config,
            tokenizer=ENGLISH.to_dict(),
            languages=["en"],
            licence="",
        )
        path = folder / f"{name}.safetensors"
        checkpoint.save_model(path, description, weights(name, config))
    decoding = {"beam_size": 4, "alpha": 0.5, "beta": 0.5, "unknown_penalty": 3.0}
    decoding["speech_threshold"] = 0.0
    save_tiny(folder / "lm.safetensors", bits=8, lm=ngram.pack(ARPA), decoding=decoding)
    save_tiny(folder / "tiny.safetensors", frontend=LogMel(bins=8).config)
    hub = write_small_folder(folder / "hub")
    plan = folder / "coded.json"
    grid = {"bits": 8, "relative_step": 0.5}
    names = ["model.decoder.embed_tokens.weight", "model.encoder.conv2.weight"]
    plan.write_text(json.dumps(dict.fromkeys(names, grid)))
    for name, how in {
        "8": ["--bits", "8"],
        "3": ["--bits", "3"],
        "-coded": ["--plan", str(plan)],
    }.items():
        command = ["quantize", str(hub), "-o", str(folder / f"whisper{name}.safetensors"), *how]
        subprocess.run([sys.executable, "-m", "tynda", *command], check=True, capture_output=True)
    return sorted(folder.glob("*.safetensors"))


def read_model(path):
    """Return the tensors and the header of a model file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + size])["__metadata__"]["tynda"]
    return load(data), json.loads(text)


def model_bytes(tensors, header):
    """Return a model file with any tensors and any header."""
    return save(tensors, {"tynda": json.dumps(header)})


def write_folders(folder):
    """Write checkpoints in the formats of other programs; return their paths."""
    whisper = write_small_folder(folder / "whisper")
    paths = [whisper]
    for kind in ("float32", "int8", "int16"):
        paths.append(write_ctranslate2(folder / f"ct2-{kind}", whisper, kind, tokenizer=False))
    for kind in ("f16", "q5_1"):
        (folder / kind).mkdir()
        paths.append(write_ggml(folder / kind / "ggml.bin", whisper, kind).parent)
    paths.append(write_wav2vec2(folder / "wav2vec2"))
    return paths


def write_wav2vec2(folder):
    """Write a small wav2vec 2.0 as on the hub."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    config = Wav2Vec2Config(
        vocab_size=len(names),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(20, 20),
        conv_stride=(16, 20),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    return folder


def write_report(folder, model):
    """Write the report of a profile."""
    command = [sys.executable, "-m", "tynda", "profile", str(model), "--durations", "1"]
    command += ["--repeats", "1", "--budget", "0", "--no-operations", "--report", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def recordings(folder):
    """Return the bytes of a recording in many formats, by name."""
    samples = noise(0.5)
    found = {"wav": write_wav(folder / "a.wav", samples).read_bytes()}
    codecs = {
        **{"flac": "flac", "mp3": "libmp3lame", "opus": "libopus", "m4a": "aac", "aac": "aac"},
        **{"webm": "libopus", "aiff": "pcm_s16be", "caf": "pcm_s16le", "au": "pcm_mulaw"},
        **{"mka": "pcm_f32le", "ogg": "vorbis"},
    }
    for suffix, codec in codecs.items():
        layout = "stereo" if codec == "vorbis" else "mono"
        found[suffix] = _encoded(samples, suffix, codec, layout)
    for code, kind in ((3, "<f4"), (3, "<f8"), (1, "u1"), (1, "<i4")):
        data = samples if code == 3 else samples * (2.0 ** (8 * np.dtype(kind).itemsize - 2))
        body = (data + 128 if kind == "u1" else data).astype(kind).tobytes()
        width = np.dtype(kind).itemsize
        about = struct.pack("<HHIIHH", code, 1, 16000, 16000 * width, width, 8 * width)
        chunks = b"WAVEfmt " + struct.pack("<I", 16) + about + b"data"
        chunks += struct.pack("<I", len(body)) + body
        found[f"wav {kind}"] = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    return found


def _encoded(samples, suffix, codec, layout):
    data, rate = io.BytesIO(), 48_000
    formats = {"m4a": "ipod", "mka": "matroska", "opus": "ogg", "aac": "adts"}
    with av.open(data, "w", format=formats.get(suffix, suffix)) as container:
        track = container.add_stream(codec, rate=rate, layout=layout)
        track.codec_context.options = {"strict": "experimental"}
        channels = np.repeat(samples, 3)[None].repeat(2 if layout == "stereo" else 1, axis=0)
        frame = av.AudioFrame.from_ndarray(channels, "fltp", layout)
        frame.sample_rate = rate
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return data.getvalue()
