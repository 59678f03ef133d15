"""Parakeet with a CTC head against transformers on random weights."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetForCTC

from helpers import close
from tynda.compile.count import count
from tynda.models import parakeet
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps

OPS = NumpyOps()
TINY = {
    "num_mel_bins": 16,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 6,
}
VARIANTS = {
    "plain": {},
    "without biases": {"attention_bias": False, "convolution_bias": False, "scale_input": False},
    "fourfold": {"subsampling_factor": 4, "conv_kernel_size": 9},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def shake(model, seed=0):
    """Norms, statistics and biases start at values that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype != torch.float32:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs())
            elif value.ndim > 1 and "bias_" not in name:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value += 0.2 * noise
    return model.eval()


def build(vocab=11, blank=None, **encoder):
    """A random model of transformers; its blank is the last symbol, unless said."""
    config = ParakeetCTCConfig(
        vocab_size=vocab,
        pad_token_id=vocab - 1 if blank is None else blank,
        encoder_config=ParakeetEncoderConfig(**encoder),
    )
    torch.manual_seed(0)
    return shake(ParakeetForCTC(config))


def make(variant="plain", **changes):
    """The same, with its weights and settings as tynda reads them."""
    theirs = build(**TINY | VARIANTS[variant] | changes)
    config = parakeet.FAMILY.configure(parakeet.settings(theirs.config.to_dict()))
    return theirs, config, parakeet.fold(tensors(theirs), config, order(theirs.config))


def order(config):
    """The published outputs, the blank first."""
    blank = config.pad_token_id
    return [blank, *(i for i in range(config.vocab_size) if i != blank)]


def tensors(model):
    return {k: v.numpy() for k, v in model.state_dict().items() if v.ndim}


def noise(batch, frames, bins, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, bins), dtype=np.float32)


def encode(config, weights, x, lengths=None):
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.array(lengths)
    return parakeet.encode(OPS, weights, config, x, lengths)


def transform(theirs, x, lengths=None):
    """Log-probabilities by transformers, the blank first."""
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.array(lengths)
    mask = torch.from_numpy(np.arange(x.shape[1]) < lengths[:, None])
    with torch.no_grad():
        y = theirs(torch.from_numpy(x), attention_mask=mask).logits.log_softmax(-1).numpy()
    return y[..., order(theirs.config)]


@variants
@pytest.mark.parametrize("blank", [None, 0, 4])
def test_log_probabilities_are_those_of_transformers(variant, blank):
    theirs, config, weights = make(variant, blank=blank)
    for frames in (1, 7, 8, 9, 64, 101):
        x = noise(2, frames, config.bins)
        y, lengths = encode(config, weights, x)
        close(y, transform(theirs, x))
        assert lengths.tolist() == [y.shape[1]] * 2 == [-(-frames // config.stride)] * 2


@variants
def test_states_are_those_of_transformers(variant):
    theirs, config, weights = make(variant)
    x, seen = noise(1, 50, config.bins), []
    parakeet.encode(OPS, weights, config, x, np.array([50]), lambda _, state: seen.append(state))
    with torch.no_grad():
        states = theirs.encoder(torch.from_numpy(x), output_hidden_states=True).hidden_states
    for ours, their in zip(seen, states[-len(seen) :], strict=True):
        close(ours, their)


@variants
def test_specs_are_the_tensors_of_the_checkpoint(variant):
    theirs, config, weights = make(variant)
    specs = {k: s.shape for k, s in parakeet.specs(config).items()}
    assert specs == {k: v.shape for k, v in weights.items()}
    assert specs.keys() == tensors(theirs).keys()


@variants
def test_a_padded_batch_gives_each_item_what_it_gets_alone(variant):
    theirs, config, weights = make(variant)
    lengths = [100, 0, 1, 8, 9, 77, 16]
    x = 5 * noise(len(lengths), 105, config.bins)  # rubbish in the padding
    together, frames = encode(config, weights, x, lengths)
    for i, n in enumerate(lengths):
        alone, (m,) = encode(config, weights, x[i : i + 1, :n], [n])
        assert m == alone.shape[1] == frames[i] == -(-n // config.stride)
        close(together[i, :m], alone[0])
    x[np.arange(105) >= np.array(lengths)[:, None]] = 0  # as their feature extractor leaves it
    theirs = transform(theirs, x, lengths)
    for i, m in enumerate(frames):
        close(together[i, :m], theirs[i, :m])


def test_very_short_input():
    _, config, weights = make()
    for frames, expected in ((0, 0), (1, 1), (8, 1), (9, 2)):
        y, lengths = encode(config, weights, noise(1, frames, config.bins))
        assert y.shape == (1, expected, config.vocab)
        assert lengths.tolist() == [expected]
        assert np.isfinite(y).all()


@variants
def test_torch_gives_the_same(variant):
    _, config, weights = make(variant)
    x, lengths = noise(3, 90, config.bins), np.array([90, 17, 64])
    expected, frames = encode(config, weights, x, lengths)
    ours = {k: torch.from_numpy(v) for k, v in weights.items()}
    inputs = torch.from_numpy(x), torch.from_numpy(lengths)
    y, theirs = parakeet.encode(TorchOps(), ours, config, *inputs)
    assert theirs.tolist() == frames.tolist()
    close(expected, y.numpy())


def test_every_trainable_tensor_gets_a_gradient():
    _, config, weights = make()
    ours = {k: torch.from_numpy(v) for k, v in weights.items()}
    specs = parakeet.specs(config)
    for name, spec in specs.items():
        ours[name].requires_grad_(spec.trainable)
    before = {k: v.clone() for k, v in ours.items()}
    x = torch.from_numpy(noise(2, 90, config.bins))
    ops, plain = TorchOps(training=True), replace(config, dropout=0.0)
    y, _ = parakeet.encode(ops, ours, plain, x, torch.tensor([90, 17]))
    y[..., 0].mean().backward()
    for name, spec in specs.items():
        if spec.trainable:
            assert torch.isfinite(ours[name].grad).all(), name
        else:
            assert not torch.equal(ours[name], before[name]), name


def test_what_a_checkpoint_leaves_out_has_the_default_of_transformers():
    assert parakeet.settings({"model_type": "parakeet_ctc"}) == {}
    for text in (
        ParakeetCTCConfig().to_json_string(use_diff=False),
        ParakeetCTCConfig().to_json_string(),
    ):
        found = parakeet.settings(json.loads(text))
        assert parakeet.FAMILY.configure(found) == parakeet.Config()
    with pytest.raises(KeyError, match="model_type"):
        parakeet.settings({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "parakeet_tdt"}, "model type 'parakeet_tdt' is not"),
        ({"encoder_config": [1]}, "encoder_config"),
        ({"encoder_config": {"hidden_act": "relu"}}, "hidden_act 'relu' is not silu"),
        ({"encoder_config": {"subsampling_conv_kernel_size": 5}}, "kernel_size 5 is not 3"),
        ({"encoder_config": {"subsampling_conv_stride": 4}}, "conv_stride 4 is not 2"),
        ({"encoder_config": {"num_attention_heads": 7}}, "1024 are no even multiple of 7 heads"),
        (
            {"encoder_config": {"hidden_size": 15, "num_attention_heads": 3}},
            "15 are no even multiple",
        ),
        ({"encoder_config": {"subsampling_factor": 6}}, "stride 6 is not a power of 2"),
        ({"encoder_config": {"conv_kernel_size": 8}}, "kernel 8 is not odd"),
        ({"encoder_config": {"dropout": 1.0}}, "dropout"),
    ],
)
def test_what_the_definition_does_not_cover_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parakeet.Config(**parakeet.settings({"model_type": "parakeet_ctc"} | change))


def test_settings_survive_json():
    for variant in VARIANTS:
        _, config, _ = make(variant)
        assert parakeet.FAMILY.configure(json.loads(json.dumps(asdict(config)))) == config


def test_a_checkpoint_on_disk(tmp_path):
    theirs, config, _ = make()
    theirs.save_pretrained(tmp_path)
    read = parakeet.settings(json.loads((tmp_path / "config.json").read_text()))
    assert parakeet.FAMILY.configure(read) == config
    weights = parakeet.fold(load_file(tmp_path / "model.safetensors"), config, order(theirs.config))
    x = noise(1, 77, config.bins)
    close(encode(config, weights, x)[0], transform(theirs, x))


def test_multiply_adds_of_the_published_size():
    # Ten seconds, 1000 frames: the stem has 500 x 40, 250 x 20 and 125 x 10 places of 256 channels,
    # nine taps each and, but for the first, 256 inputs; then 10 * 256 inputs of 1024 channels.
    stem = 256 * (9 * (500 * 40 + 250 * 20 + 125 * 10) + 256 * (250 * 20 + 125 * 10))
    stem += 125 * 10 * 256 * 1024
    # A block: two feed-forward modules, q, k, v and the output, 249 distances, and the convolution
    # module with 9 taps; attention to 125 keys, 249 distances and 125 values.
    c, frames = 1024, 125
    linear = frames * (4 * 4 * c * c + 4 * c * c + 3 * c * c + 9 * c) + 249 * c * c
    attention = frames * c * (frames + 249 + frames)
    report = count(parakeet.FAMILY, parakeet.Config(), 1000)
    assert report.total_macs == stem + 24 * (linear + attention) + frames * 1025 * c


@pytest.mark.slow
@pytest.mark.parametrize("layers", [24, 42])
def test_full_size(layers):
    """As parakeet-ctc-0.6b and -1.1b."""
    theirs = build(1025, num_hidden_layers=layers)
    config = parakeet.FAMILY.configure(parakeet.settings(theirs.config.to_dict()))
    weights = parakeet.fold(tensors(theirs), config, order(theirs.config))
    x = noise(1, 500, 80)
    y, lengths = encode(config, weights, x)
    assert lengths.tolist() == [63]
    expected = transform(theirs, x)
    close(y, expected)
    assert (y.argmax(-1) == expected.argmax(-1)).all()
