"""wav2vec 2.0, HuBERT and MMS against transformers on random weights."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import HubertConfig, HubertForCTC, Wav2Vec2Config, Wav2Vec2ForCTC

from helpers import close
from tynda.compile.count import count
from tynda.errors import TyndaError
from tynda.models import wav2vec2
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps

OPS = NumpyOps()
POSITIONS = "wav2vec2.encoder.pos_conv_embed.conv"
TINY = {
    "vocab_size": 11,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "conv_dim": [10, 12, 12, 8, 8, 8, 14],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "layer_norm_eps": 1e-3,
}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
SHORT = {"conv_dim": [10, 6], "conv_kernel": [7, 4], "conv_stride": [3, 5]}
VARIANTS = {
    "base": (Wav2Vec2ForCTC, {}),
    "large": (Wav2Vec2ForCTC, LARGE),
    "hubert-base": (HubertForCTC, {"feat_proj_layer_norm": False}),
    "hubert-large": (HubertForCTC, LARGE),
    "mms": (Wav2Vec2ForCTC, LARGE | {"adapter_attn_dim": 6}),
    "odd kernels": (Wav2Vec2ForCTC, SHORT | {"num_conv_pos_embeddings": 5}),
    "mixed": (Wav2Vec2ForCTC, SHORT | {"conv_bias": True, "do_stable_layer_norm": True}),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def shake(model, seed=0):
    """Norms and biases start at values that would hide a mistake, linear layers near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 2:
                value.copy_(noise / value.shape[1] ** 0.5)
            elif value.shape[:2] == (1, 1):  # the lengths of a weight norm
                value *= 1 + 0.2 * noise
            elif value.ndim == 1:
                value += 0.2 * noise
    return model.eval()


def make(variant="base", **changes):
    """Return a random transformers model with its weights and config as tynda reads them."""
    kind, settings = VARIANTS[variant]
    torch.manual_seed(0)
    theirs = shake(kind(kind.config_class(**TINY | settings | changes)))
    config = wav2vec2.Config(**wav2vec2.settings(theirs.config.to_dict()))
    return theirs, config, wav2vec2.convert_tensors(tensors(theirs))


def tensors(model):
    return {k: v.numpy() for k, v in model.state_dict().items()}


def noise(batch, samples, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, samples, 1), dtype=np.float32)


def encode(config, weights, x, lengths=None):
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.array(lengths)
    return wav2vec2.encode(OPS, weights, config, x, lengths)


def transform(theirs, x):
    with torch.no_grad():
        return theirs(torch.from_numpy(x[..., 0])).logits.log_softmax(-1).numpy()


@variants
def test_log_probabilities_are_those_of_transformers(variant):
    theirs, config, weights = make(variant)
    x = noise(2, 5000)
    y, lengths = encode(config, weights, x)
    close(y, transform(theirs, x))
    assert lengths.tolist() == [y.shape[1]] * 2
    for n in (400, 401, 719, 720, 4999):
        _, (ours,) = encode(config, weights, x[:1, :n])
        assert ours == theirs._get_feat_extract_output_lengths(n)


@variants
def test_specs_are_the_tensors_of_the_checkpoint(variant):
    theirs, config, weights = make(variant)
    specs = {k: s.shape for k, s in wav2vec2.specs(config).items()}
    assert specs == {k: v.shape for k, v in weights.items()}
    stored = {k.replace("hubert.", "wav2vec2.", 1) for k in tensors(theirs)}
    norm = f"{POSITIONS}.parametrizations.weight"
    gone = {f"{norm}.original0", f"{norm}.original1", "wav2vec2.masked_spec_embed"}
    assert stored - specs.keys() == gone
    assert specs.keys() - stored == {f"{POSITIONS}.weight"}


@pytest.mark.parametrize("variant", ["base", "hubert-large"])
def test_old_and_new_names_of_the_weight_norm(variant):
    theirs, _, weights = make(variant)
    new = tensors(theirs)
    parts = {"parametrizations.weight.original0": "weight_g"}
    parts["parametrizations.weight.original1"] = "weight_v"
    old = {}
    for name, value in new.items():
        prefix, _, part = name.partition("pos_conv_embed.conv.")
        old[f"{prefix}pos_conv_embed.conv.{parts[part]}" if part in parts else name] = value
    assert len(old.keys() - new.keys()) == 2
    extra = {"quantizer.codevectors": new["lm_head.bias"], "project_q.bias": new["lm_head.bias"]}
    for stored in (old, new | extra, weights):  # folded weights are not changed
        folded = wav2vec2.convert_tensors(stored)
        assert folded.keys() == weights.keys()
        assert all((folded[k] == weights[k]).all() for k in weights)
    (conv,) = (m.conv for n, m in theirs.named_modules() if n.endswith("pos_conv_embed"))
    assert weights[f"{POSITIONS}.weight"].dtype == np.float32
    np.testing.assert_allclose(
        weights[f"{POSITIONS}.weight"], conv.weight.detach().numpy(), rtol=1e-5
    )


@variants
def test_a_padded_batch_gives_each_item_what_it_gets_alone(variant):
    _, config, weights = make(variant)
    lengths = [4000, 0, 1, 399, 400, 2777, 720]
    x = 5 * noise(len(lengths), 4100)  # random values in the padding
    together, frames = encode(config, weights, x, lengths)
    for i, n in enumerate(lengths):
        alone, (m,) = encode(config, weights, x[i : i + 1, :n], [n])
        assert m == alone.shape[1] == frames[i]
        close(together[i, :m], alone[0])


def test_very_short_input():
    _, config, weights = make()
    for samples, frames in ((0, 0), (1, 0), (399, 0), (400, 1), (719, 1), (720, 2)):
        y, lengths = encode(config, weights, noise(1, samples))
        assert y.shape == (1, frames, config.vocab)
        assert lengths.tolist() == [frames]
        assert np.isfinite(y).all()


@variants
def test_torch_gives_the_same_and_trains(variant):
    _, config, weights = make(variant)
    x, lengths = noise(3, 3000), np.array([3000, 300, 1111])
    expected, frames = encode(config, weights, x, lengths)
    ours = {k: torch.from_numpy(v).requires_grad_() for k, v in weights.items()}
    y, theirs = wav2vec2.encode(
        TorchOps(training=True),
        ours,
        replace(config, dropout=0.0),
        torch.from_numpy(x),
        torch.from_numpy(lengths),
    )
    assert theirs.tolist() == frames.tolist()
    close(expected, y.detach().numpy())
    y[..., 0].mean().backward()
    assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in ours.values())


@pytest.mark.parametrize("variant", ["base", "hubert-large"])
def test_a_checkpoint_on_disk(variant, tmp_path):
    theirs, config, _ = make(variant)
    theirs.save_pretrained(tmp_path)
    read = wav2vec2.settings(json.loads((tmp_path / "config.json").read_text()))
    assert wav2vec2.FAMILY.configure(read) == config
    weights = wav2vec2.convert_tensors(load_file(tmp_path / "model.safetensors"))
    x = noise(1, 2000)
    close(encode(config, weights, x)[0], transform(theirs, x))


def test_another_language_swaps_adapters_and_head():
    theirs, config, weights = make("mms")
    other = shake(Wav2Vec2ForCTC(Wav2Vec2Config(**theirs.config.to_dict() | {"vocab_size": 7})), 1)
    adapter = {k: v.detach().numpy() for k, v in other._get_adapters().items()}
    adapted = wav2vec2.adapt(weights, adapter)
    assert adapted.keys() == weights.keys()
    theirs.lm_head = torch.nn.Linear(config.channels, 7)  # as transformers' load_adapter does
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in adapter.items()}, strict=False)
    x = noise(2, 3000)
    y, _ = encode(replace(config, vocab=7), adapted, x)
    close(y, transform(theirs, x))
    assert np.abs(y[..., :7] - encode(config, weights, x)[0][..., :7]).max() > 0.1


def test_an_adapter_that_does_not_fit_is_refused():
    _, _, weights = make("mms")
    names = [k for k in weights if ".adapter_layer." in k or k.startswith("lm_head.")]
    adapter = {k: weights[k] for k in names}
    assert len(names) == 3 * 6 + 2
    for name in names:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            wav2vec2.adapt(weights, {k: v for k, v in adapter.items() if k != name})
        with pytest.raises(ValueError, match=rf"tensor {name.split('.')[0]}.* should be"):
            wav2vec2.adapt(weights, adapter | {name: adapter[name][:-1]})
    with pytest.raises(ValueError, match=r"lm_head.weight is \(11, 23\), should be \(11, 24\)"):
        wav2vec2.adapt(weights, adapter | {"lm_head.weight": weights["lm_head.weight"][:, 1:]})
    foreign = f"{POSITIONS}.bias"
    with pytest.raises(ValueError, match=f"{foreign} does not belong"):
        wav2vec2.adapt(weights, adapter | {foreign: weights[foreign]})
    with pytest.raises(ValueError, match="no adapters"):
        wav2vec2.adapt(make()[2], adapter)


def test_what_a_checkpoint_leaves_out_has_the_default_of_transformers():
    for kind, name in ((Wav2Vec2Config, "wav2vec2"), (HubertConfig, "hubert")):
        assert wav2vec2.settings({"model_type": name}) == {}
        full = wav2vec2.settings(kind().to_dict())
        assert wav2vec2.Config(**full) == wav2vec2.Config()
        written = wav2vec2.settings(json.loads(kind().to_json_string(use_diff=False)))
        assert wav2vec2.Config(**written) == wav2vec2.Config()
    with pytest.raises(KeyError, match="model_type"):
        wav2vec2.settings({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wav2vec2-conformer"}, "model type 'wav2vec2-conformer' is not"),
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, "Wav2Vec2ForPreTraining has no CTC head"),
        ({"vocab_size": None}, "no CTC head"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not gelu"),
        ({"feat_extract_activation": "gelu_new"}, "feat_extract_activation 'gelu_new' is not"),
        ({"add_adapter": True}, "add_adapter"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        ({"feat_extract_norm": "batch"}, "'batch' is not group or layer"),
        ({"adapter_attn_dim": 16}, "adapters need pre_norm"),
        ({"conv_kernel": [10, 3]}, r"convolutions have \(7, 2, 7\)"),
        ({"conv_dim": [], "conv_kernel": [], "conv_stride": []}, "convolutions have"),
        ({"num_attention_heads": 7}, "do not divide into 7 heads"),
        ({"num_conv_pos_embedding_groups": 5}, "do not divide into 5 position_groups"),
        ({"layer_norm_eps": 0.0}, "norm_eps"),
        ({"hidden_dropout": 1.0}, "dropout"),
    ],
)
def test_what_the_definition_does_not_cover_is_refused(change, message):
    values = Wav2Vec2Config(architectures=["Wav2Vec2ForCTC"]).to_dict()
    wav2vec2.Config(**wav2vec2.settings(values))
    with pytest.raises(ValueError, match=message):
        wav2vec2.Config(**wav2vec2.settings(values | change))


def test_settings_survive_json():
    for variant in VARIANTS:
        _, config, _ = make(variant)
        assert wav2vec2.FAMILY.configure(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bins": 80}, "bins 80 is not 1"),
        ({"conv_kernels": 3}, "conv_kernels must be a list"),
        ({"conv_kernels": [10, 0]}, "conv_kernels must be a whole number from 1"),
        ({"conv_strides": [5, "2"]}, "conv_strides must be a whole number"),
        ({"conv_bias": 1}, "conv_bias must be true or false, not 1"),
        ({"pre_norm": "no"}, "pre_norm must be true or false"),
        ({"conv_norm": ["group"]}, "is not group or layer"),
        ({"adapter": 0, "pre_norm": True}, "adapter must be a whole number from 1"),
        ({"norm_eps": "1e-5"}, "norm_eps must be a number"),
        ({"norm_eps": float("nan")}, "norm_eps nan"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(values, message):
    with pytest.raises(TyndaError, match=message):
        wav2vec2.FAMILY.configure(values)


def test_multiply_adds_of_the_published_base():
    # wav2vec2-base over 10 s: seven convolutions over samples; the projection; 128 taps of 16
    # groups of 48 channels (one frame more than is kept); twelve layers of four 768 x 768
    # products, two 768 x 3072 and two of 499 x 768; the head.
    frames = [31999, 15999, 7999, 3999, 1999, 999, 499]
    stem = frames[0] * 10 * 512 + 512 * 512 * (3 * sum(frames[1:5]) + 2 * sum(frames[5:]))
    ends = 499 * (512 * 768 + 768 * 32) + 500 * 128 * 48 * 768
    linear = 12 * 499 * (4 * 768 * 768 + 2 * 768 * 3072)
    attention = 12 * 2 * 499 * 499 * 768
    report = count(wav2vec2.FAMILY, wav2vec2.Config(), 160000)
    assert report.total_macs == stem + ends + linear + attention


@pytest.mark.slow
@pytest.mark.parametrize("size", ["base", "large"])
def test_full_size(size):
    large = LARGE | {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    torch.manual_seed(0)
    theirs = shake(Wav2Vec2ForCTC(Wav2Vec2Config(**large if size == "large" else {})))
    config = wav2vec2.Config(**wav2vec2.settings(theirs.config.to_dict()))
    x = noise(1, 48000)
    y, lengths = encode(config, wav2vec2.convert_tensors(tensors(theirs)), x)
    assert lengths.tolist() == [149]
    close(y, transform(theirs, x))
