"""ResNets that tell voices apart, as published by WeSpeaker and used by pyannote.

He et al. 2016, "Deep Residual Learning for Image Recognition", over the features of a recording as
an image of one channel; mean and deviation over time; a linear layer. The sizes are those of Wang
et al. 2023, "WeSpeaker: A Research and Production Oriented Speaker Embedding Learning Toolkit",
section 3.1: 32 channels at first, twice as many in each of four stages, of which the last three
halve frames and bins.

`convert` reads WeSpeaker's tensors. Batch norms become parts of the convolutions before them, so
that a model is for use, or for training on, without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda.models.base import Array, CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.foreign import Part, Translated, Voices
from tynda.models.layers import Specs, check_voices, fold_batch_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import KaldiFbank
from tynda.text.wordless import Wordless

__all__ = ["FAMILY", "Config", "convert", "encode", "specs"]

_EXPANSION = 4
"""The factor of a stage's channels after a block of three convolutions."""


@dataclass(frozen=True)
class Config:
    """The dimensions of the model; the defaults are those of ResNet34."""

    bins: int = 80
    vocab: int = 256
    """Size of the embedding."""
    channels: int = 32
    """Channels of the first stage."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Number of blocks of each stage."""
    bottleneck: bool = False
    """Whether a block has three convolutions, of sizes 1, 3 and 1, instead of two of size 3."""
    cohort: int | None = None
    """Number of people whose embeddings the model file holds; None before a calibration."""

    def __post_init__(self) -> None:
        if len(self.blocks) != 4:
            raise ValueError(f"there are {len(self.blocks)} stages of blocks, not 4")
        if self.bins % self.stride:
            raise ValueError(f"{self.bins} bins are no multiple of {self.stride}")

    @property
    def layers(self) -> int:
        """Number of all blocks."""
        return sum(self.blocks)

    @property
    def stride(self) -> int:
        """Number of front end frames for each frame of the last stage."""
        return 8

    @property
    def pooled(self) -> int:
        """Number of channels that are pooled: all bins of the last stage."""
        last = 8 * self.channels * (_EXPANSION if self.bottleneck else 1)
        return self.bins // self.stride * last


def _layers(config: Config) -> list[tuple[str, int, int, int]]:
    """Return name, inputs, width and stride of each block."""
    found, inputs = [], config.channels
    for stage, count in enumerate(config.blocks):
        width = config.channels << stage
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            found.append((f"layer{stage + 1}.{i}", inputs, width, stride))
            inputs = width * (_EXPANSION if config.bottleneck else 1)
    return found


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out = Specs()
    out.linear("conv1", config.channels, 1, 3, 3)
    for name, inputs, width, stride in _layers(config):
        outputs = width * (_EXPANSION if config.bottleneck else 1)
        if config.bottleneck:
            out.linear(f"{name}.conv1", width, inputs, 1, 1)
            out.linear(f"{name}.conv2", width, width, 3, 3)
            out.linear(f"{name}.conv3", outputs, width, 1, 1)
        else:
            out.linear(f"{name}.conv1", width, inputs, 3, 3)
            out.linear(f"{name}.conv2", width, width, 3, 3)
        if stride != 1 or inputs != outputs:
            out.linear(f"{name}.shortcut", outputs, inputs, 1, 1)
    out.linear("embedding", config.vocab, 2 * config.pooled)
    out.cohort(config.cohort, config.vocab)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> T:
    """Return the embeddings ``[batch, size]`` of features ``[batch, frames, bins]``.

    ``lengths [batch]``, integers, are the numbers of frames of the items. The embeddings are not
    normalised.
    """

    def conv(name: str, x: T, kernel: int, stride: int = 1) -> T:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        padding = kernel // 2
        return ops.conv2d(x, weight, bias, stride=(stride, stride), padding=(padding, padding))

    x = ops.reshape(ops.mask(features, lengths), *ops.shape(features), 1)
    # Biases make padding non-zero, and the next convolution would read it.
    x = ops.mask(ops.relu(conv("conv1", x, 3)), lengths)
    for i, (name, _, _, stride) in enumerate(_layers(config)):
        after = ops.conv_lengths(lengths, kernel=3, stride=stride, padding=1)
        if config.bottleneck:
            y = ops.mask(ops.relu(conv(f"{name}.conv1", x, 1)), lengths)
            y = ops.relu(conv(f"{name}.conv2", y, 3, stride))
            y = conv(f"{name}.conv3", y, 1)
        else:
            y = ops.mask(ops.relu(conv(f"{name}.conv1", x, 3, stride)), after)
            y = conv(f"{name}.conv2", y, 3)
        if f"{name}.shortcut.weight" in weights:
            x = conv(f"{name}.shortcut", x, 1, stride)
        x, lengths = ops.mask(ops.relu(ops.add(y, x)), after), after
        if tap is not None:
            tap(i, x)
    batch, frames, bins, channels = ops.shape(x)
    x = ops.statistics(ops.reshape(x, batch, frames, bins * channels), lengths)
    return ops.reshape(linear(ops, weights, "embedding", x), batch, config.vocab)


def convert(tensors: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """Convert WeSpeaker's tensors to the names and layouts of `specs`.

    Batch norms are folded. Kernels are ``[bins, time]`` there and ``[time, bins]`` here, and pooled
    channels ``[channels, bins]`` there and ``[bins, channels]`` here. Raises ValueError, naming the
    tensor, for one that is missing.
    """

    def folded(conv: str, norm: str) -> tuple[Array, Array]:
        weight, bias = fold_batch_norm(tensors, f"{conv}.weight", norm)
        return np.ascontiguousarray(weight.swapaxes(2, 3)), bias

    out: dict[str, Array] = {}
    for key in specs(config):
        name, _, part = key.rpartition(".")
        if part != "weight" or name == "embedding":
            continue
        conv, norm = name, name.replace("conv", "bn")
        if name.endswith("shortcut"):
            conv, norm = f"{name}.0", f"{name}.1"
        out[key], out[f"{name}.bias"] = folded(conv, norm)
    weight = tensors["seg_1.weight"]
    if weight.shape[1] == 2 * config.pooled:
        weight = weight.reshape(len(weight), 2, -1, config.bins // config.stride)
        weight = weight.swapaxes(2, 3).reshape(len(weight), -1)
    return out | {"embedding.weight": weight, "embedding.bias": tensors["seg_1.bias"]}


def _translate(about: Voices) -> Translated:
    """Return the dimensions that the shapes of a checkpoint's tensors tell."""
    shapes = about.shapes
    if any(name.startswith(("seg_2.", "pool.")) for name in shapes):
        raise ValueError("a second embedding (seg_2) or pooling with weights is not supported")
    blocks = []
    for stage in range(1, 5):
        found = {n.split(".")[1] for n in shapes if n.startswith(f"layer{stage}.")}
        blocks.append(len(found))
    bottleneck = "layer1.0.conv3.weight" in shapes
    channels, size = shapes["conv1.weight"][0], shapes["seg_1.weight"]
    last = 8 * channels * (_EXPANSION if bottleneck else 1)
    settings = {
        **{"bins": 8 * (size[-1] // (2 * last)), "vocab": size[0], "channels": channels},
        **{"blocks": blocks, "bottleneck": bottleneck},
    }
    return Translated(settings, {}, Part)


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    front = KaldiFbank(bins=config.bins)
    return PublishedCheckpoint(Wordless(), front, [], lambda tensors: convert(tensors, config))


FAMILY = Family(
    name="speaker_resnet",
    config=Config,
    specs=specs,
    head="embedding",
    programs={"encode": encode},
    tokenizer=Wordless.from_dict,
    check=check_voices,
    settings=dict,
    read=_read,
    foreign={"ResNet": _translate},
)
