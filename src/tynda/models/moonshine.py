"""Moonshine: an encoder of waveforms of any length, and a decoder of text tokens.

Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands",
section 3: convolutions over samples, then a pre-norm transformer with rotary positional
encodings. Audio is not padded to a window, so that short audio is fast. Tensors have the names and
layouts of the checkpoints on the Hugging Face hub (``transformers``'
``MoonshineForConditionalGeneration``).

The decoder is in ``tynda.models.moonshine_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tynda.models.base import CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.decoder import cross_kv
from tynda.models.layers import Specs, layer_norm, read_feature_extractor
from tynda.models.moonshine_layers import (
    DecoderConfig,
    decode,
    decoder_specs,
    encoder_layer,
    encoder_layer_specs,
    logits,
    rotary_table,
)
from tynda.models.moonshine_published import (
    check,
    decoder_settings,
    positive_integer,
    read_tokenizer,
)
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import Raw
from tynda.text.bytepairs import BytePairTokenizer

__all__ = ["FAMILY", "Config", "encode", "settings", "specs"]

_CONVOLUTIONS = (("conv1", 127, 64), ("conv2", 7, 3), ("conv3", 3, 2))
"""Name, kernel size and stride of each convolution."""


@dataclass(frozen=True)
class Config(DecoderConfig):
    """The dimensions of the model; the defaults are those of moonshine-tiny."""

    bins: int = 1
    """Number of samples in a frame of the front end."""
    layers: int = 6
    """Number of encoder layers."""
    heads: int = 8
    hidden: int = 1152
    """Inner width of the encoder's feed-forward layers."""

    stride: ClassVar[int] = 64 * 3 * 2
    """Number of front end frames for each frame of the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins != 1:
            raise ValueError(f"bins {self.bins} is not 1: this model reads samples")
        if self.heads != self.decoder_heads:
            raise ValueError(f"heads {self.heads} differ from the decoder's {self.decoder_heads}")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `Config` in a hub checkpoint's ``config.json``.

    Raises KeyError for a missing setting, and ValueError for an unsupported variant.
    """
    layers, heads = ("num_hidden_layers", "num_attention_heads")
    for part in ("encoder", "decoder"):
        if config.get(f"{part}_num_key_value_heads") not in (None, config[f"{part}_{heads}"]):
            raise ValueError(f"grouped-query attention in the {part} is not supported")
    if config.get("encoder_hidden_act", "gelu") != "gelu":
        raise ValueError(f"activation {config['encoder_hidden_act']!r} is not gelu")
    activation = config.get("decoder_hidden_act", "silu")
    return {
        "layers": config[f"encoder_{layers}"],
        "heads": config[f"encoder_{heads}"],
        "hidden": config["intermediate_size"],
        "decoder_layers": config[f"decoder_{layers}"],
        "decoder_heads": config[f"decoder_{heads}"],
        "tied": config.get("tie_word_embeddings", True),
        **decoder_settings(config, positive_integer(config, f"decoder_{heads}"), activation, 0.9),
    }


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out, c = Specs(), config.channels
    widths = (1, c, 2 * c, c)
    for i, (name, kernel, _) in enumerate(_CONVOLUTIONS):
        out.linear(f"model.encoder.{name}", widths[i + 1], widths[i], kernel, bias=i > 0)
    out.layer_norm("model.encoder.groupnorm", c)
    for i in range(config.layers):
        encoder_layer_specs(out, f"model.encoder.layers.{i}", c, c, config.hidden)
    out.layer_norm("model.encoder.layer_norm", c, bias=False)
    decoder_specs(out, config)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Encode samples ``[batch, samples, 1]`` to states ``[batch, frames, channels]``.

    ``lengths [batch]``, integers, are the numbers of samples; the second result has those of
    frames. The first frame has a receptive field of 895 samples (56 ms); shorter audio has no
    frame. Nothing has to be masked before attention, since the convolutions have no padding: a
    valid frame only depends on valid samples.
    """
    x = features
    for name, kernel, stride in _CONVOLUTIONS:
        weight, bias = (weights.get(f"model.encoder.{name}.{part}") for part in ("weight", "bias"))
        assert weight is not None
        x = ops.conv1d(x, weight, bias, stride=stride)
        lengths = ops.conv_lengths(lengths, kernel=kernel, stride=stride, padding=0)
        if name == "conv1":
            scale, shift = (weights[f"model.encoder.groupnorm.{p}"] for p in ("weight", "bias"))
            x = ops.group_norm(ops.tanh(x), scale, shift, groups=1, lengths=lengths)
        else:
            x = ops.gelu(x)
    starts = ops.multiply_lengths(lengths, 0)
    table = rotary_table(ops, config, starts, ops.shape(x)[1])

    def attend(q: T, k: T, v: T) -> T:
        q, k = (ops.rotary(part, table, heads=config.heads) for part in (q, k))
        return ops.attention(q, k, v, heads=config.heads, lengths=lengths)

    for i in range(config.layers):
        x = encoder_layer(ops, weights, f"model.encoder.layers.{i}", x, attend)
        if tap is not None:
            tap(i, x)
    return layer_norm(ops, weights, "model.encoder.layer_norm", x), lengths


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    front = Raw(normalize=read_feature_extractor(folder).get("do_normalize", False))
    return PublishedCheckpoint(
        read_tokenizer(folder, settings, config),
        front,
        folder.card_values("language"),
        lambda tensors: tensors,
    )


FAMILY = Family(
    name="moonshine",
    config=Config,
    specs=specs,
    head="seq2seq",
    programs={"encode": encode, "cross_kv": cross_kv, "decode": decode, "logits": logits},
    tokenizer=BytePairTokenizer.from_dict,
    check=check,
    model_types=("moonshine",),
    settings=settings,
    read=_read,
)
