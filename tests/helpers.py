"""Shared helpers of tests: a tiny model with fixed weights, and recordings on disk."""

import json
import math
import wave
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from tynda.models import conformer
from tynda.ops.numpy import NumpyOps
from tynda.sound.frontend import LogMel
from tynda.store import checkpoint
from tynda.text.tokenizer import ENGLISH

RATE = 16_000
CONFIG = {
    "bins": 8,
    "vocab": 29,
    "channels": 16,
    "layers": 1,
    "heads": 2,
    "hidden": 16,
    "kernel": 5,
    "stem": 4,
}


@cache
def _weights(seed):
    rng = np.random.default_rng(seed)
    config = conformer.Config(**CONFIG)
    out = {}
    for name, spec in conformer.specs(config).items():
        value = rng.uniform(-3, 3, spec.shape) / math.sqrt(math.prod(spec.shape[1:]))
        out[name] = (value + (spec.init == "ones")).astype(np.float32)
    # Every symbol gets the same mean and deviation over noise, so that all of them are decoded.
    features = LogMel(bins=CONFIG["bins"])(noise(10, seed))
    tapped = []
    conformer.encode(
        NumpyOps(),
        out,
        config,
        features[None],
        np.array([len(features)]),
        lambda _, x: tapped.append(x[0]),
    )
    logits = tapped[-1] @ out["head.weight"].T
    out["head.weight"] *= 2 / logits.std(0)[:, None]
    out["head.bias"] = -2 * logits.mean(0) / logits.std(0)
    out["head.bias"][[0, ENGLISH.space_id]] += 1
    return out


def weights(seed=0):
    """Return random weights of a model that decodes noise to words with all letters."""
    return {name: value.copy() for name, value in _weights(seed).items()}


def header(**changes):
    values = {
        "name": "tiny",
        "family": "conformer",
        "config": CONFIG,
        "frontend": LogMel(bins=8).config,
        "tokenizer": ENGLISH.to_dict(),
        "languages": ["en"],
        "licence": "Apache-2.0",
        "decoding": {"speech_threshold": 0.0},  # These weights hear words in noise.
    }
    return checkpoint.Header(**(values | changes))


def save_tiny(path, *, bits=32, lm=None, **changes):
    """Write the tiny model; gives its path."""
    checkpoint.save_model(path, header(**changes), weights(), bits=bits, lm=lm)
    return path


def read_raw(path):
    """The tensors and the header of a model file, unchecked."""
    with safe_open(path, framework="np") as file:
        text = file.metadata()["tynda"]
    return load(Path(path).read_bytes()), json.loads(text)


def write_raw(path, tensors, values):
    """A safetensors file with anything for a header."""
    text = values if isinstance(values, str) else json.dumps(values)
    Path(path).write_bytes(save(tensors, {"tynda": text}))
    return path


def noise(seconds, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def tone(hertz, seconds, level=0.3):
    t = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def write_wav(path, samples, rate=RATE):
    """16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_manifest(path, rows):
    """Rows are (file name, text) or (file name, text, other keys)."""
    lines = [
        json.dumps({"audio_filepath": str(audio), "text": text} | dict(*more))
        for audio, text, *more in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_tones(folder, texts, *, pause):
    """``m.jsonl`` and a recording of each text: a tone for each word, pauses of some seconds."""
    hertz = {"do": 400, "mi": 1100, "so": 3000}
    silence = np.zeros(round(pause * RATE), np.float32)
    for i, text in enumerate(texts):
        parts = [part for word in text.split() for part in (silence, tone(hertz[word], 0.3))]
        write_wav(folder / f"{i}.wav", np.concatenate([*parts, silence]))
    write_manifest(folder / "m.jsonl", [(f"{i}.wav", text) for i, text in enumerate(texts)])


def close(ours, theirs):
    """Within 1e-4 of the greatest value; ``theirs`` may be a torch tensor."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max(initial=0))


def gather(transcribe, *arguments, on_progress=None):
    """All pieces of a recording, and its language, from what gives them one by one."""
    languages = []
    pieces = list(transcribe(*arguments, lambda code, _: languages.append(code), on_progress))
    return pieces, languages[-1]


def norm_rounding(x, eps):
    """Return the error of a norm over the last axis of nearly equal numbers: that of their mean,
    a few units in the last place, over their deviation."""
    deviation = np.sqrt(x.astype(np.float64).var(-1) + eps)
    return 3e-7 * float((np.abs(x).max(-1, initial=0) / deviation).max(initial=0))


class LoudDetector:
    """A detector for which a loud chunk is speech."""

    def __init__(self):
        self.rest = np.zeros(0, np.float32)

    def add(self, samples):
        samples = np.concatenate([self.rest, samples])
        count = len(samples) // 512
        self.rest = samples[count * 512 :]
        return (np.abs(samples[: count * 512]).reshape(count, 512).max(1) > 0.01) * np.float32(1)

    def finish(self):
        return self.add(np.zeros(-len(self.rest) % 512, np.float32))
