"""wav2vec 2.0, HuBERT and MMS with a CTC head: from the waveform to symbols.

Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
Representations", section 2: convolutions over samples, a grouped convolution for relative
positions, a transformer. Hsu et al. 2021, "HuBERT", trains the same network with another
objective; Pratap et al. 2023, "Scaling Speech Technology to 1,000+ Languages" (MMS), adds a small
adapter for the language to each layer, which `adapt` inserts.

Tensors have the names and layouts of the checkpoints on the Hugging Face hub (``transformers``'
``Wav2Vec2ForCTC``). `convert_tensors` converts checkpoints, also HuBERT's, to those of `specs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.models.base import Array, CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.layers import Specs, check_ctc, layer_norm, linear, read_feature_extractor
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import Raw
from tynda.text.symbols import read_languages, read_symbols
from tynda.text.tokenizer import CharTokenizer

__all__ = ["FAMILY", "Config", "adapt", "convert_tensors", "encode", "settings", "specs"]

_STEM = "wav2vec2.feature_extractor.conv_layers"
_PROJECTION = "wav2vec2.feature_projection"
_ENCODER = "wav2vec2.encoder"
_POSITIONS = f"{_ENCODER}.pos_conv_embed.conv"
_HEAD = "lm_head"
_PRETRAINING = ("quantizer.", "project_hid.", "project_q.")
_WEIGHT_NORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class Config:
    """The dimensions of the model; the defaults are those of wav2vec2-base-960h."""

    bins: int = 1
    """Number of samples in a frame of the front end."""
    vocab: int = 32
    """Number of symbols, including the blank."""
    channels: int = 768
    layers: int = 12
    """Number of transformer layers."""
    heads: int = 12
    hidden: int = 3072
    """Inner width of the feed-forward layers."""
    conv_channels: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    """Output channels of each convolution over samples."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "group"
    """``group``: only the first convolution has a norm, of each channel over time; ``layer``:
    every convolution has a layer norm over the channels."""
    projection_norm: bool = True
    """Whether layer norm precedes the projection of the convolutions' output to ``channels``."""
    position_kernel: int = 128
    """Kernel size of the convolution for positions, in frames."""
    position_groups: int = 16
    pre_norm: bool = False
    """Whether norms precede each sub-layer ("stable layer norm") instead of following each sum."""
    norm_eps: float = 1e-5
    """The constant added to variances, except in the convolutions and adapters (1e-5)."""
    adapter: int | None = None
    """Inner width of the adapters; None for a model without adapters."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.bins != 1:
            raise ValueError(f"bins {self.bins} is not 1: this model reads samples")
        sizes = len(self.conv_channels), len(self.conv_kernels), len(self.conv_strides)
        if not sizes[0] == sizes[1] == sizes[2] > 0:
            raise ValueError(f"convolutions have {sizes} channels, kernels and strides")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm {self.conv_norm!r} is not group or layer")
        for name in ("heads", "position_groups"):
            if self.channels % getattr(self, name):
                raise ValueError(
                    f"channels {self.channels} do not divide into {getattr(self, name)} {name}"
                )
        if self.adapter is not None and not self.pre_norm:
            raise ValueError("adapters need pre_norm")
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps {self.norm_eps} is not in (0, 1)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")

    @property
    def stride(self) -> int:
        """Number of samples between the starts of two consecutive output frames."""
        return math.prod(self.conv_strides)


_SETTINGS = {
    "vocab_size": "vocab",
    "hidden_size": "channels",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "conv_dim": "conv_channels",
    "conv_kernel": "conv_kernels",
    "conv_stride": "conv_strides",
    "conv_bias": "conv_bias",
    "feat_extract_norm": "conv_norm",
    "feat_proj_layer_norm": "projection_norm",
    "num_conv_pos_embeddings": "position_kernel",
    "num_conv_pos_embedding_groups": "position_groups",
    "do_stable_layer_norm": "pre_norm",
    "layer_norm_eps": "norm_eps",
    "adapter_attn_dim": "adapter",
    "hidden_dropout": "dropout",
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `Config` in a hub checkpoint's ``config.json``.

    Missing settings have the default of ``transformers``, which is that of `Config`. Raises
    KeyError without a ``model_type``, and ValueError for an unsupported variant.
    """
    if config["model_type"] not in ("wav2vec2", "hubert"):
        raise ValueError(f"model type {config['model_type']!r} is not wav2vec2 or hubert")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise ValueError(f"architectures {architectures!r} is not a list")
    for architecture in architectures:
        if architecture not in ("Wav2Vec2ForCTC", "HubertForCTC"):
            raise ValueError(f"{architecture} has no CTC head")
    for name in ("hidden_act", "feat_extract_activation"):
        if config.get(name, "gelu") != "gelu":
            raise ValueError(f"{name} {config[name]!r} is not gelu")
    if config.get("add_adapter", False):
        raise ValueError("convolutions after the transformer (add_adapter) are not supported")
    if config.get("conv_pos_batch_norm", False):
        raise ValueError("batch norm before the positions (conv_pos_batch_norm) is not supported")
    if config.get("vocab_size", 0) is None:
        raise ValueError("vocab_size is null: the checkpoint has no CTC head")
    found = {ours: config[theirs] for theirs, ours in _SETTINGS.items() if theirs in config}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    c = config.channels
    out = Specs()

    inputs = 1
    for i, (width, kernel) in enumerate(
        zip(config.conv_channels, config.conv_kernels, strict=True)
    ):
        out.linear(f"{_STEM}.{i}.conv", width, inputs, kernel, bias=config.conv_bias)
        if i == 0 or config.conv_norm == "layer":
            out.layer_norm(f"{_STEM}.{i}.layer_norm", width)
        inputs = width
    if config.projection_norm:
        out.layer_norm(f"{_PROJECTION}.layer_norm", inputs)
    out.linear(f"{_PROJECTION}.projection", c, inputs)
    out.linear(_POSITIONS, c, c // config.position_groups, config.position_kernel)
    out.layer_norm(f"{_ENCODER}.layer_norm", c)
    for i in range(config.layers):
        name = f"{_ENCODER}.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out.linear(f"{name}.attention.{part}", c, c)
        out.layer_norm(f"{name}.layer_norm", c)
        out.linear(f"{name}.feed_forward.intermediate_dense", config.hidden, c)
        out.linear(f"{name}.feed_forward.output_dense", c, config.hidden)
        out.layer_norm(f"{name}.final_layer_norm", c)
        if config.adapter is not None:
            out.layer_norm(f"{name}.adapter_layer.norm", c)
            out.linear(f"{name}.adapter_layer.linear_1", config.adapter, c)
            out.linear(f"{name}.adapter_layer.linear_2", c, config.adapter)
    out.linear(_HEAD, config.vocab, c)
    return out


def convert_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Convert a checkpoint's tensors to the names of `specs`.

    The weight norm of the positional convolution ``[out, in / groups, taps]`` is replaced by its
    value in float32, ``g v / |v|`` with one length for each tap (Salimans & Kingma 2016). The names
    of old and new PyTorch versions are known. ``hubert.`` becomes ``wav2vec2.``. Tensors that only
    pre-training needs are dropped; all others are returned unchanged.
    """
    out = {}
    for name, value in tensors.items():
        if name.startswith("hubert."):
            name = name.replace("hubert.", "wav2vec2.", 1)
        if name != "wav2vec2.masked_spec_embed" and not name.startswith(_PRETRAINING):
            out[name] = value
    for parts in _WEIGHT_NORMS:
        length, direction = (f"{_POSITIONS}.{part}" for part in parts)
        if length in out and direction in out:
            v = out.pop(direction).astype(np.float64)
            scale = np.sqrt(np.square(v).sum((0, 1), keepdims=True))
            out[f"{_POSITIONS}.weight"] = (v * (out.pop(length) / scale)).astype(np.float32)
    return out


def adapt(weights: Mapping[str, Array], adapter: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``weights`` with the adapters and the head of another language (Pratap et al. 2023).

    ``adapter`` has the tensors of a checkpoint's ``adapter.LANGUAGE.safetensors``. Each language
    has its own symbols, so that ``vocab`` becomes the length of the new ``lm_head.bias``. Raises
    ValueError, naming the tensor, for one that is missing, unknown or of a wrong shape.
    """
    adapter = convert_tensors(adapter)
    replaced = {name for name in weights if ".adapter_layer." in name}
    if not replaced:
        raise ValueError("this model has no adapters")
    replaced |= {f"{_HEAD}.weight", f"{_HEAD}.bias"}
    for name in sorted(replaced | set(adapter)):
        if name not in adapter:
            raise ValueError(f"tensor {name} is missing in the adapter")
        if name not in replaced:
            raise ValueError(f"tensor {name} does not belong in an adapter of this model")
        shape = weights[name].shape
        if name.startswith(_HEAD):
            shape = adapter[f"{_HEAD}.bias"].shape[:1] + shape[1:]
        if adapter[name].shape != shape:
            raise ValueError(f"tensor {name} is {adapter[name].shape}, should be {shape}")
    return {**weights, **adapter}


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Encode samples ``[batch, samples, 1]`` for CTC.

    ``lengths [batch]``, integers, are the numbers of samples of the items. Returns
    log-probabilities ``[batch, frames, vocab]`` and their lengths ``[batch]``: one frame for each
    ``stride`` samples. The convolutions have no padding: with the defaults, the first frame needs
    400 samples, and shorter items have no frame.
    """
    x, lengths = _stem(ops, weights, config, features, lengths)
    if config.projection_norm:
        x = layer_norm(ops, weights, f"{_PROJECTION}.layer_norm", x, config.norm_eps)
    # The positional convolution reads beyond an item's end, where it must find zeros.
    x = ops.mask(linear(ops, weights, f"{_PROJECTION}.projection", x), lengths)
    x = ops.add(x, _positions(ops, weights, config, x))
    if not config.pre_norm:
        x = layer_norm(ops, weights, f"{_ENCODER}.layer_norm", x, config.norm_eps)
    x = ops.dropout(x, config.dropout)
    for i in range(config.layers):
        x = _layer(ops, weights, config, f"{_ENCODER}.layers.{i}", x, lengths)
        if tap is not None:
            tap(i, x)
    if config.pre_norm:
        x = layer_norm(ops, weights, f"{_ENCODER}.layer_norm", x, config.norm_eps)
    return ops.log_softmax(linear(ops, weights, _HEAD, x)), lengths


def _stem(ops: Ops[T], weights: Weights[T], config: Config, x: T, lengths: T) -> tuple[T, T]:
    """Map samples to ``[batch, frames, conv_channels[-1]]``.

    Nothing is masked, since the convolutions have no padding: a valid frame only depends on valid
    samples.
    """
    for i, (kernel, stride) in enumerate(
        zip(config.conv_kernels, config.conv_strides, strict=True)
    ):
        name = f"{_STEM}.{i}"
        weight, bias = weights[f"{name}.conv.weight"], weights.get(f"{name}.conv.bias")
        x = ops.conv1d(x, weight, bias, stride=stride)
        lengths = ops.conv_lengths(lengths, kernel=kernel, stride=stride, padding=0)
        if config.conv_norm == "layer":
            x = layer_norm(ops, weights, f"{name}.layer_norm", x)
        elif i == 0:
            scale, shift = (weights[f"{name}.layer_norm.{part}"] for part in ("weight", "bias"))
            x = ops.group_norm(x, scale, shift, groups=config.conv_channels[0], lengths=lengths)
        x = ops.gelu(x)
    return x, lengths


def _positions(ops: Ops[T], weights: Weights[T], config: Config, x: T) -> T:
    """Return relative positional encodings (section 2), of the shape of ``x``."""
    weight, bias = weights[f"{_POSITIONS}.weight"], weights[f"{_POSITIONS}.bias"]
    kernel, groups = config.position_kernel, config.position_groups
    y = ops.conv1d(x, weight, bias, padding=kernel // 2, groups=groups)
    # An even kernel gives one additional frame at the end, which is dropped.
    return ops.gelu(ops.slice(y, 0, ops.shape(x)[1]))


def _layer(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, lengths: T) -> T:
    """Apply one transformer layer, with its adapter if there is one."""

    def attention(x: T) -> T:
        q, k, v = (linear(ops, weights, f"{name}.attention.{part}_proj", x) for part in "qkv")
        x = ops.attention(q, k, v, heads=config.heads, lengths=lengths)
        return linear(ops, weights, f"{name}.attention.out_proj", x)

    def feed_forward(x: T) -> T:
        x = ops.gelu(linear(ops, weights, f"{name}.feed_forward.intermediate_dense", x))
        return linear(ops, weights, f"{name}.feed_forward.output_dense", x)

    x = _residual(ops, weights, config, f"{name}.layer_norm", x, attention)
    x = _residual(ops, weights, config, f"{name}.final_layer_norm", x, feed_forward)
    if config.adapter is None:
        return x
    y = layer_norm(ops, weights, f"{name}.adapter_layer.norm", x)
    y = ops.relu(linear(ops, weights, f"{name}.adapter_layer.linear_1", y))
    return ops.add(x, linear(ops, weights, f"{name}.adapter_layer.linear_2", y))


def _residual(
    ops: Ops[T], weights: Weights[T], config: Config, at: str, x: T, sublayer: Callable[[T], T]
) -> T:
    """Add ``sublayer(x)`` to ``x``; the norm ``at`` precedes the sub-layer or follows the sum."""
    y = layer_norm(ops, weights, at, x, config.norm_eps) if config.pre_norm else x
    x = ops.add(x, ops.dropout(sublayer(y), config.dropout))
    return x if config.pre_norm else layer_norm(ops, weights, at, x, config.norm_eps)


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    """Read a published checkpoint; one with adapters (MMS) in the language of its own head."""
    languages = read_languages(folder)
    tokenizer, order = read_symbols(folder, languages[0] if languages else None)
    if len(tokenizer) != config.vocab:
        raise TyndaError(
            f"{folder.path}: {config.vocab} outputs do not fit {len(tokenizer)} symbols"
        )
    front = Raw(normalize=read_feature_extractor(folder).get("do_normalize", True))
    return PublishedCheckpoint(
        tokenizer, front, languages, lambda found: _reorder(convert_tensors(found), order)
    )


def _adapt(
    folder: CheckpointFolder,
    language: str,
    config: Config,
    weights: Mapping[str, Array],
    adapter: Mapping[str, Array],
) -> tuple[Config, CharTokenizer, dict[str, Array]]:
    """See ``models.base.LoadAdapter``."""
    tokenizer, order = read_symbols(folder, language)
    adapted = adapt(weights, adapter)
    if (count := len(adapted[f"{_HEAD}.bias"])) != len(order):
        raise TyndaError(f"{folder.path}: {count} outputs do not fit {len(order)} symbols")
    return replace(config, vocab=len(tokenizer)), tokenizer, _reorder(adapted, order)


def _reorder(tensors: Mapping[str, Array], order: list[int]) -> dict[str, Array]:
    """Reorder the rows of the output layer by ``order``, so that the blank is first.

    An output layer with another number of rows, and all other tensors, are unchanged.
    """
    names = [f"{_HEAD}.{part}" for part in ("weight", "bias")]
    head = {n: tensors[n] for n in names if n in tensors and len(tensors[n]) == len(order)}
    return {**tensors, **{name: value[order] for name, value in head.items()}}


FAMILY = Family(
    name="wav2vec2",
    config=Config,
    specs=specs,
    head="ctc",
    programs={"encode": encode},
    tokenizer=CharTokenizer.from_dict,
    check=check_ctc,
    model_types=("wav2vec2", "hubert"),
    settings=settings,
    read=_read,
    adapt=_adapt,
)
