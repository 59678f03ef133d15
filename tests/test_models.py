"""Model families: one definition gives the same result with every backend."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tynda.errors import TyndaError
from tynda.models import FAMILIES, chunked_conformer, conformer, family, n2, parakeet, wav2vec2
from tynda.ops.base import conv_length
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps

torch.set_num_threads(1)
SMALL = {
    "chunked_conformer": chunked_conformer.Config(
        **{"bins": 11, "vocab": 5, "channels": 12, "layers": 2, "heads": 3, "hidden": 10},
        **{"kernel": 5, "stem": 3, "chunk": 1, "chunks": (1, 2), "window": 4},
    ),
    "conformer": conformer.Config(
        bins=11, vocab=5, channels=12, layers=2, heads=3, hidden=10, kernel=5, stem=3
    ),
    "n2": n2.Config(bins=19, vocab=5, filters=2, hidden=6, layers=2),
    "parakeet": parakeet.Config(
        bins=11, vocab=5, channels=12, layers=2, heads=3, hidden=10, kernel=5, stem=3
    ),
    "wav2vec2": wav2vec2.Config(
        vocab=5,
        channels=12,
        layers=2,
        heads=3,
        hidden=10,
        conv_channels=(4, 6),
        conv_kernels=(3, 2),
        conv_strides=(2, 1),
        position_kernel=4,
        position_groups=2,
    ),
}
BACKENDS = ("numpy", "torch")
families = pytest.mark.parametrize(
    "name", [name for name in FAMILIES if family(name).head == "ctc"]
)


def random_weights(name, config, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for key, spec in family(name).specs(config).items():
        value = rng.uniform(-1, 1, spec.shape) * 1.5 / math.sqrt(math.prod(spec.shape[1:]))
        out[key] = (value + (spec.init == "ones")).astype(np.float32)
        if key.endswith("variance"):
            out[key] = np.abs(out[key]) + np.float32(0.1)
    return out


def run(backend, name, config, weights, features, lengths):
    """Return log-probabilities and lengths of a backend as arrays."""
    encode = family(name).programs["encode"]
    if backend == "numpy":
        return encode(NumpyOps(), weights, config, features, np.array(lengths))
    tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
    with torch.no_grad():
        y, frames = encode(
            TorchOps(), tensors, config, torch.from_numpy(features), torch.tensor(lengths)
        )
    return y.numpy(), frames.numpy()


def features(batch, frames, bins, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, bins), dtype=np.float32)


def least(name, config, frames):
    """Return the minimum number of output frames."""
    if name != "wav2vec2":
        return -(-frames // config.stride)
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        frames = conv_length(frames, kernel, stride, 0)  # there is no padding
    return frames


def small_configs(name):
    if name == "wav2vec2":
        sizes = st.integers(1, 4)
        return st.builds(
            lambda width, heads, convs, norms, **sizes: wav2vec2.Config(
                channels=width * heads,
                heads=heads,
                conv_channels=tuple(conv[0] for conv in convs),
                conv_kernels=tuple(conv[1] for conv in convs),
                conv_strides=tuple(conv[2] for conv in convs),
                pre_norm=norms[0],
                adapter=norms[1],
                **sizes,
            ),
            convs=st.lists(
                st.tuples(st.integers(2, 5), sizes, st.integers(1, 2)), min_size=1, max_size=3
            ),
            width=st.sampled_from([2, 4]),
            heads=st.integers(1, 3),
            vocab=sizes,
            layers=st.integers(0, 2),
            hidden=sizes,
            conv_bias=st.booleans(),
            conv_norm=st.sampled_from(["group", "layer"]),
            projection_norm=st.booleans(),
            position_kernel=sizes,
            position_groups=st.integers(1, 2),
            norms=st.sampled_from([(False, None), (True, None), (True, 3)]),
        )
    if name == "n2":
        return st.builds(
            n2.Config,
            bins=st.sampled_from([9, 16, 19]),
            vocab=st.integers(1, 4),
            filters=st.integers(1, 3),
            hidden=st.integers(1, 5),
            layers=st.integers(1, 3),
        )
    if name == "parakeet":
        return st.builds(
            lambda width, heads, **sizes: parakeet.Config(
                channels=2 * width * heads, heads=heads, **sizes
            ),
            width=st.integers(1, 3),
            heads=st.integers(1, 3),
            bins=st.sampled_from([5, 8, 13]),
            vocab=st.integers(1, 4),
            layers=st.integers(0, 2),
            hidden=st.integers(1, 7),
            kernel=st.sampled_from([1, 3, 7]),
            stem=st.integers(1, 3),
            stride=st.sampled_from([2, 4, 8]),
            linear_bias=st.booleans(),
            conv_bias=st.booleans(),
            scale_input=st.booleans(),
        )
    if name == "chunked_conformer":
        return st.builds(
            lambda width, heads, rates, chunks, **sizes: chunked_conformer.Config(
                **{"channels": width * heads, "heads": heads},
                **{"stride": rates[0], "upsample": rates[1]},
                **{"chunk": chunks[0], "chunks": chunks, "window": 4 * chunks[0]},
                **sizes,
            ),
            rates=st.sampled_from([(4, 1), (2, 2), (8, 1), (4, 2), (2, 4)]),
            chunks=st.sampled_from([(1,), (2, 1), (3,), (1, 4)]),
            width=st.integers(2, 5),
            heads=st.integers(1, 3),
            bins=st.sampled_from([5, 8, 13]),
            vocab=st.integers(1, 4),
            layers=st.integers(0, 2),
            hidden=st.integers(1, 7),
            kernel=st.sampled_from([1, 3, 7]),
            stem=st.integers(2, 3),
        )
    assert name == "conformer", f"no strategy for the configs of {name}"
    return st.builds(
        lambda width, heads, rates, **sizes: conformer.Config(
            channels=width * heads, heads=heads, stride=rates[0], upsample=rates[1], **sizes
        ),
        rates=st.sampled_from([(2, 1), (4, 1), (2, 2), (8, 1), (4, 2), (2, 4)]),
        width=st.integers(2, 5),
        heads=st.integers(1, 3),
        bins=st.sampled_from([5, 8, 13]),
        vocab=st.integers(1, 4),
        layers=st.integers(0, 2),
        hidden=st.integers(1, 7),
        kernel=st.sampled_from([1, 3, 7]),
        stem=st.integers(2, 3),
    )


@families
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_numpy_equals_torch(name, data):
    config = data.draw(small_configs(name))
    frames = data.draw(st.sampled_from([1, 2, 7, 16, 29]))
    lengths = [frames, *data.draw(st.lists(st.integers(0, frames), max_size=2))]
    weights = random_weights(name, config, data.draw(st.integers(0, 1000)))
    x = features(len(lengths), frames, config.bins)
    ours, theirs = (run(b, name, config, weights, x, lengths) for b in BACKENDS)
    assert ours[0].dtype == np.float32
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(np.exp(ours[0]).sum(-1), 1, atol=1e-5)


@families
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_batch_gives_each_item_the_answer_it_gets_alone(name, backend):
    config = SMALL[name]
    weights = random_weights(name, config)
    lengths = [37, 1, 20, 0, 5, 36]
    x = 5 * features(len(lengths), 40, config.bins)  # random values in the padding
    together, frames = run(backend, name, config, weights, x, lengths)
    for i, n in enumerate(lengths):
        alone, (m,) = run(backend, name, config, weights, x[i : i + 1, :n], [n])
        assert m == alone.shape[1] == frames[i] >= least(name, config, n)
        np.testing.assert_allclose(together[i, :m], alone[0], atol=1e-5)


@families
@pytest.mark.parametrize("backend", BACKENDS)
def test_very_short_input(name, backend):
    config = SMALL[name]
    weights = random_weights(name, config)
    one = getattr(config, "upsample", 1) if least(name, config, 1) else 0
    for frames, expected in ((0, 0), (1, one)):
        x = features(2, frames, config.bins)
        y, lengths = run(backend, name, config, weights, x, [frames, 0])
        assert y.shape == (2, expected, config.vocab)
        assert lengths.tolist() == [expected, 0]
        assert np.isfinite(y).all()


@families
def test_specs_are_what_encode_reads(name):
    class Recorder(dict):
        def __getitem__(self, key):
            read.add(key)
            return super().__getitem__(key)

        def get(self, key, default=None):
            read.update({key} & set(self))
            return super().get(key, default)

    read = set()
    config = SMALL[name]
    weights = Recorder(random_weights(name, config))
    run("numpy", name, config, weights, features(1, 9, config.bins), [9])
    assert read == set(family(name).specs(config))


@families
def test_tap_sees_each_block(name):
    config = SMALL[name]
    seen = []
    _, frames = family(name).programs["encode"](
        NumpyOps(),
        random_weights(name, config),
        config,
        features(2, 21, config.bins),
        np.array([21, 8]),
        lambda index, x: seen.append((index, x.shape[:2])),
    )
    upsample = getattr(config, "upsample", 1)
    expected = [(i, (2, frames[0] // upsample)) for i in range(config.layers)]
    if upsample > 1:  # and the frames for the head
        expected.append((config.layers, (2, frames[0])))
    assert seen == expected


@families
def test_every_trainable_tensor_gets_a_gradient(name):
    config, module = SMALL[name], family(name)
    specs = module.specs(config)
    weights = {k: torch.from_numpy(v) for k, v in random_weights(name, config).items()}
    before = {k: v.clone() for k, v in weights.items()}
    for key, spec in specs.items():
        weights[key].requires_grad_(spec.trainable)
    x = torch.from_numpy(features(2, 33, config.bins))
    torch.manual_seed(0)
    y, _ = module.programs["encode"](
        TorchOps(training=True), weights, config, x, torch.tensor([33, 17])
    )
    y[..., 0].sum().backward()
    for key, spec in specs.items():
        if spec.trainable:
            assert torch.isfinite(weights[key].grad).all(), key
        else:  # running statistics are not trained
            assert not torch.equal(weights[key], before[key]), key


def test_n2_has_the_weights_of_the_publication():
    specs = n2.specs(n2.Config())
    trained = sum(math.prod(s.shape) for s in specs.values() if s.trainable)
    assert trained == 74_363_261
    assert f"{trained:_}".replace("_", " ") in n2.__doc__
    assert sum(math.prod(s.shape) for s in specs.values() if not s.trainable) == 256


def test_families():
    with pytest.raises(TyndaError, match=r"unknown model family 'rnn'; known: conformer, .*n2"):
        family("rnn")
    assert n2.FAMILY.configure({"hidden": 4}) == n2.Config(hidden=4)
    with pytest.raises(TyndaError, match="unknown model setting 'width'"):
        n2.FAMILY.configure({"width": 4})
    with pytest.raises(TyndaError, match="do not divide into 3 heads"):
        conformer.FAMILY.configure({"channels": 10, "heads": 3})


def load(module, weights, **names):
    """Copy weights into a torch module: its parameter's name -> ours."""
    state = {k: torch.from_numpy(weights[v]) for k, v in names.items()}
    module.load_state_dict(state, strict=False)
    return module.eval()


def dense(weights, name, module):
    return load(module, weights, weight=f"{name}.weight", bias=f"{name}.bias")


class ConformerBlock(nn.Module):
    """The block of Gulati et al. 2020, figure 1, from torch's own modules."""

    def __init__(self, c, w, name):
        super().__init__()
        half = {
            ff: nn.Sequential(
                dense(w, f"{name}.{ff}.norm", nn.LayerNorm(c.channels)),
                dense(w, f"{name}.{ff}.in", nn.Linear(c.channels, c.hidden)),
                nn.SiLU(),
                dense(w, f"{name}.{ff}.out", nn.Linear(c.hidden, c.channels)),
            )
            for ff in ("ff1", "ff2")
        }
        self.first, self.last = half["ff1"], half["ff2"]
        self.attention_norm = dense(w, f"{name}.attention.norm", nn.LayerNorm(c.channels))
        self.attention = nn.MultiheadAttention(c.channels, c.heads, batch_first=True).eval()
        parts = [f"{name}.attention.{p}" for p in "qkv"]
        self.attention.load_state_dict(
            {
                "in_proj_weight": torch.from_numpy(
                    np.concatenate([w[f"{p}.weight"] for p in parts])
                ),
                "in_proj_bias": torch.from_numpy(np.concatenate([w[f"{p}.bias"] for p in parts])),
                "out_proj.weight": torch.from_numpy(w[f"{name}.attention.out.weight"]),
                "out_proj.bias": torch.from_numpy(w[f"{name}.attention.out.bias"]),
            }
        )
        self.conv_in = nn.Sequential(
            dense(w, f"{name}.conv.norm", nn.LayerNorm(c.channels)),
            dense(w, f"{name}.conv.in", nn.Linear(c.channels, 2 * c.channels)),
            nn.GLU(),
        )
        self.depthwise = dense(
            w,
            f"{name}.conv.depthwise",
            nn.Conv1d(c.channels, c.channels, c.kernel, padding="same", groups=c.channels),
        )
        self.conv_out = nn.Sequential(
            dense(w, f"{name}.conv.inner_norm", nn.LayerNorm(c.channels)),
            nn.SiLU(),
            dense(w, f"{name}.conv.out", nn.Linear(c.channels, c.channels)),
        )
        self.norm = dense(w, f"{name}.norm", nn.LayerNorm(c.channels))

    def forward(self, x):
        x = x + self.first(x) / 2
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv_out(self.depthwise(self.conv_in(x).mT).mT)
        x = x + self.last(x) / 2
        return self.norm(x)


@torch.no_grad()
def test_conformer_is_the_papers_block_in_torch_modules():
    config = SMALL["conformer"]
    weights = random_weights("conformer", config)
    x = features(2, 50, config.bins)
    taps = []
    y, _ = conformer.encode(
        NumpyOps(), weights, config, x, np.array([50, 50]), lambda _, block: taps.append(block)
    )
    z = torch.from_numpy(x)[:, None]
    for i in range(3):
        conv = nn.Conv2d(z.shape[1], config.stem, 3, 2, 1)
        z = dense(weights, f"stem.convs.{i}", conv)(z).relu()
    # The layout is channels-last: within a frame, all channels of the first bin come first.
    z = z.permute(0, 2, 3, 1).flatten(2)
    z = dense(weights, "stem.out", nn.Linear(z.shape[2], config.channels))(z)
    z = dense(weights, "stem.norm", nn.LayerNorm(config.channels))(z)
    *blocks, upsampled = taps
    for i, tapped in enumerate(blocks):
        z = ConformerBlock(config, weights, f"blocks.{i}")(z)
        np.testing.assert_allclose(tapped, z.numpy(), atol=1e-4)
    z = dense(weights, "upsample", nn.Linear(config.channels, 2 * config.channels))(z)
    z = nn.functional.silu(z.unflatten(2, (2, -1)).flatten(1, 2))  # frames 2 t and 2 t + 1
    z = dense(weights, "upsample.norm", nn.LayerNorm(config.channels))(z)
    np.testing.assert_allclose(upsampled, z.numpy(), atol=1e-4)
    z = dense(weights, "head", nn.Linear(config.channels, config.vocab))(z)
    np.testing.assert_allclose(y, z.log_softmax(-1).numpy(), atol=1e-4)


@torch.no_grad()
def test_n2_in_torch_modules():
    config = SMALL["n2"]
    weights = random_weights("n2", config)
    x = features(2, 30, config.bins)
    y, _ = n2.encode(NumpyOps(), weights, config, x, np.array([30, 30]))

    z = torch.from_numpy(x)[:, None]
    shapes = [(1, 2, (11, 41), (2, 2)), (2, 2, (11, 21), (1, 2)), (2, 4, (11, 21), (1, 2))]
    for i, (inner, outer, kernel, stride) in enumerate(shapes):
        padding = tuple(k // 2 for k in kernel)
        conv = nn.Conv2d(inner, outer, kernel, stride, padding, bias=False)
        parts = {"weight": "weight", "bias": "bias", "running_mean": "mean"}
        parts["running_var"] = "variance"
        norm = {k: f"convs.{i}.norm.{v}" for k, v in parts.items()}
        z = load(conv, weights, weight=f"convs.{i}.weight")(z)
        z = load(nn.BatchNorm2d(outer), weights, **norm)(z).relu()
    z = z.permute(0, 2, 3, 1).flatten(2)

    lstm = nn.LSTM(z.shape[2], config.hidden, 2, bidirectional=True, batch_first=True)
    names = {
        f"{part}_l{i}{suffix}": f"lstms.{i}.{direction}.{part}"
        for i in range(2)
        for direction, suffix in (("forward", ""), ("backward", "_reverse"))
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    z = load(lstm, weights, **names)(z)[0]
    width = 2 * config.hidden
    z = dense(weights, "dense", nn.Linear(width, width))(z).relu()
    z = dense(weights, "head", nn.Linear(width, config.vocab))(z)
    np.testing.assert_allclose(y, z.log_softmax(-1).numpy(), atol=1e-4)


@pytest.mark.slow
@families
def test_full_size(name):
    config = family(name).config()
    weights = random_weights(name, config)
    frames = max(200, 25 * config.stride)
    x = features(2, frames, config.bins)
    ours, theirs = (run(b, name, config, weights, x, [frames, frames - 50]) for b in BACKENDS)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
