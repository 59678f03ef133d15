"""The embedding of voices: against a network of torch's modules, and the same on all backends."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import tynda
from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.models import mfa_conformer
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import LogMel
from tynda.store import checkpoint

torch.set_num_threads(1)
SMALL = mfa_conformer.Config(
    **{"bins": 12, "vocab": 6, "channels": 12, "layers": 2, "heads": 3, "hidden": 10},
    **{"kernel": 5, "stem": 3, "pool_heads": 4, "pool_width": 3, "cohort": 5},
)


def random_weights(config, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for key, spec in mfa_conformer.specs(config).items():
        value = rng.uniform(-1, 1, spec.shape) * 1.5 / math.sqrt(math.prod(spec.shape[1:]))
        out[key] = (value + (spec.init == "ones")).astype(np.float32)
    return out


def features(batch, frames, bins, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, bins), dtype=np.float32)


def model_file(path, seed=0, **header):
    """Write a small model of voices with random weights."""
    settings = {"bins": 8, "vocab": 6, "channels": 12, "layers": 2, "heads": 3, "hidden": 10}
    settings |= {"kernel": 5, "stem": 3, "pool_heads": 4, "pool_width": 3, "cohort": 5}
    config = mfa_conformer.Config(**settings)
    described = {
        "name": "voices",
        "family": "mfa_conformer",
        "config": settings,
        "frontend": LogMel(bins=8).config,
        "tokenizer": {},
        "languages": [],
        "licence": "none",
    }
    weights = random_weights(config, seed)
    checkpoint.save_model(path, checkpoint.Header(**{**described, **header}), weights)
    return path


class Reference(nn.Module):
    """The network from the papers' equations, for one recording without padding."""

    def __init__(self, config, weights):
        super().__init__()
        self.c = config
        self.w = {name: torch.from_numpy(w).double() for name, w in weights.items()}

    def norm(self, name, x):
        return nn.functional.layer_norm(
            x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        )

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def feed_forward(self, name, x):
        hidden = self.linear(f"{name}.in", self.norm(f"{name}.norm", x))
        return self.linear(f"{name}.out", hidden * torch.sigmoid(hidden))

    def attention(self, name, x):
        x = self.norm(f"{name}.norm", x)
        q, k, v = (self.linear(f"{name}.{part}", x) for part in "qkv")
        width = self.c.channels // self.c.heads
        out = []
        for h in range(self.c.heads):
            part = slice(h * width, (h + 1) * width)
            weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), -1)
            out.append(weights @ v[:, part])
        return self.linear(f"{name}.out", torch.cat(out, -1))

    def convolution(self, name, x):
        a, b = self.linear(f"{name}.in", self.norm(f"{name}.norm", x)).chunk(2, -1)
        x = nn.functional.conv1d(
            (a * torch.sigmoid(b)).T[None],
            self.w[f"{name}.depthwise.weight"],
            self.w[f"{name}.depthwise.bias"],
            padding=self.c.kernel // 2,
            groups=self.c.channels,
        )[0].T
        x = self.norm(f"{name}.inner_norm", x)
        return self.linear(f"{name}.out", x * torch.sigmoid(x))

    def pool(self, name, x):
        """Return the mean of each group of channels, then the asinh of ten times the variance."""
        keys = torch.tanh(self.linear(f"{name}.keys", x))
        means, variances = [], []
        width, heads = self.c.pool_width, self.c.pool_heads
        channels = x.shape[-1] // heads
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = keys[:, part] @ self.w[f"{name}.query"][0, part] / math.sqrt(width)
            weights = torch.softmax(scores, 0)[:, None]
            own = x[:, h * channels : (h + 1) * channels]
            means.append((weights * own).sum(0))
            variances.append((weights * (own - means[-1]) ** 2).sum(0))
        return torch.cat([*means, *(torch.asinh(10 * v) for v in variances)])

    def forward(self, x):
        bins = self.pool("bins", x.double())
        x = x.double()[None, None]
        for i in range(3):
            weight, bias = self.w[f"stem.convs.{i}.weight"], self.w[f"stem.convs.{i}.bias"]
            x = torch.relu(nn.functional.conv2d(x, weight, bias, stride=2, padding=1))
        x = x[0].permute(1, 2, 0).flatten(1)  # [frames, bins * channels]
        x = self.norm("stem.norm", self.linear("stem.out", x))
        outputs = []
        for i in range(self.c.layers):
            name = f"blocks.{i}"
            x = x + self.feed_forward(f"{name}.ff1", x) / 2
            x = x + self.attention(f"{name}.attention", x)
            x = x + self.convolution(f"{name}.conv", x)
            x = x + self.feed_forward(f"{name}.ff2", x) / 2
            x = self.norm(f"{name}.norm", x)
            outputs.append(x)
        x = self.norm("aggregate.norm", torch.cat(outputs, -1))
        pooled = torch.cat([self.pool("pool", x), bins])
        return self.linear("embedding", self.norm("pooled.norm", pooled))


@pytest.mark.parametrize("frames", [1, 8, 53])
def test_embedding_equals_the_reference(frames):
    weights, x = random_weights(SMALL), features(1, frames, SMALL.bins)
    expected = Reference(SMALL, weights)(torch.from_numpy(x[0])).numpy()
    found = mfa_conformer.encode(NumpyOps(), weights, SMALL, x, np.array([frames]))
    assert found.shape == (1, SMALL.vocab)
    assert found[0] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_agree_with_numpy(backend):
    config = mfa_conformer.Config()
    weights, lengths = random_weights(config), np.array([150, 90])
    x = features(2, 150, config.bins)
    expected = mfa_conformer.encode(NumpyOps(), weights, config, x, lengths)
    if backend == "torch":
        tensors = {name: torch.from_numpy(w) for name, w in weights.items()}
        with torch.no_grad():
            found = mfa_conformer.encode(
                TorchOps(), tensors, config, torch.from_numpy(x), torch.from_numpy(lengths)
            ).numpy()
    else:
        trainable = mfa_conformer.FAMILY.trainable(config)
        engine = open_engine(weights, trainable, "native", 32, 1)
        found = engine.array(engine.run(mfa_conformer.encode, config, x, lengths))
    assert found == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))


def test_eight_bits_change_the_embedding_little():
    config = mfa_conformer.Config()
    weights, lengths, x = random_weights(config), np.array([300]), features(1, 300, config.bins)
    trainable = mfa_conformer.FAMILY.trainable(config)
    found = []
    for bits in (32, 8):
        engine = open_engine(weights, trainable, "native", bits, 1)
        found.append(engine.array(engine.run(mfa_conformer.encode, config, x, lengths))[0])
    a, b = (v / np.linalg.norm(v) for v in found)
    assert a @ b > 0.995


def test_padding_changes_nothing():
    weights, x = random_weights(SMALL), features(1, 61, SMALL.bins)
    alone = mfa_conformer.encode(NumpyOps(), weights, SMALL, x[:, :40], np.array([40]))
    padded = mfa_conformer.encode(NumpyOps(), weights, SMALL, x, np.array([40]))
    assert padded == pytest.approx(alone, abs=5e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"upsample": 2}, "upsample"), ({"pool_heads": 3}, "groups"), ({"kernel": 4}, "odd")],
)
def test_bad_dimensions_are_refused(settings, message):
    with pytest.raises(TyndaError, match=message):
        mfa_conformer.FAMILY.configure(settings)


def test_a_loaded_model_embeds_and_writes_no_text(tmp_path):
    model = tynda.load(model_file(tmp_path / "v.safetensors"))
    sound = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    voice = model.encode(sound)
    assert voice.shape == (6,)
    assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
    long = model.encode(np.tile(sound, 10))
    assert np.linalg.norm(long) == pytest.approx(1, abs=1e-5)
    with pytest.raises(TyndaError, match="writes no text"):
        model.transcribe(sound)
    with pytest.raises(TyndaError, match="too short"):
        model.encode(sound[:0])
    with pytest.raises(TyndaError, match="no option beam_size"):
        model.transcribe(sound, beam_size=3)


def test_damaged_weights_are_named(tmp_path):
    path = model_file(tmp_path / "v.safetensors")
    model = tynda.load(path)
    broken = {name: w.copy() for name, w in model.checkpoint.weights.items()}
    broken["embedding.bias"] = broken["embedding.bias"] * np.float32(np.inf)
    model.checkpoint.weights = broken
    with np.errstate(invalid="ignore"), pytest.raises(TyndaError, match="no numbers"):
        tynda.Model(model.checkpoint).encode(np.ones(8000, np.float32))


def test_a_file_of_another_front_end_or_with_a_tokenizer_is_refused(tmp_path):
    for header in ({"frontend": LogMel(bins=9).config}, {"tokenizer": {"symbols": "ab"}}):
        path = model_file(tmp_path / "v.safetensors", **header)
        with pytest.raises(TyndaError, match="damaged"):
            tynda.load(path)
