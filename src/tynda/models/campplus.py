"""CAM++, a small network that tells voices apart, as published by 3D-Speaker and WeSpeaker.

Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking". Two-dimensional convolutions halve the bins three times; a convolution over time halves
the frames; layers of three dense blocks each see the results of all layers before them (Huang et
al. 2017, "Densely Connected Convolutional Networks"), and weigh their channels by a mask made of
the means of the recording and of 100 frames; mean and deviation over time; a linear layer.

`convert` reads their tensors. Batch norms become parts of the layers before them where there is
one, and kernels with gaps (dilation) get zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.models.base import Array, CheckpointFolder, Family, PublishedCheckpoint, Spec
from tynda.models.foreign import Part, Translated, Voices
from tynda.models.layers import Specs, batch_norm, check_voices, fold_batch_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import KaldiFbank
from tynda.text.wordless import Wordless

__all__ = ["FAMILY", "Config", "convert", "encode", "specs"]

_SEGMENT = 100
"""Frames of a segment whose mean a mask sees."""
_DILATIONS = (1, 2, 2)
"""Frames from one tap of a kernel to the next, in each block."""
_TAPS = 3


@dataclass(frozen=True)
class Config:
    """The dimensions of the model; the defaults are those of the paper."""

    bins: int = 80
    vocab: int = 512
    """Size of the embedding."""
    channels: int = 128
    """Channels before the first block."""
    filters: int = 32
    """Channels of the two-dimensional convolutions."""
    blocks: tuple[int, ...] = (12, 24, 16)
    """Number of layers of each block."""
    growth: int = 32
    """Channels that a layer adds."""
    width: int = 128
    """Channels inside a layer."""
    cohort: int | None = None
    """Number of people whose embeddings the model file holds; None before a calibration."""

    def __post_init__(self) -> None:
        if len(self.blocks) != len(_DILATIONS):
            raise ValueError(f"there are {len(self.blocks)} blocks, not {len(_DILATIONS)}")
        if self.bins % 8:
            raise ValueError(f"{self.bins} bins are no multiple of 8")

    @property
    def layers(self) -> int:
        """Number of all layers of dense blocks."""
        return sum(self.blocks)

    @property
    def stride(self) -> int:
        """Number of front end frames for each frame of the blocks."""
        return 2


_HEAD = ("layer1.0", "layer1.1", "layer2.0", "layer2.1")
"""The residual blocks of two-dimensional convolutions."""


def _inputs(config: Config) -> list[int]:
    """Return the channels before each block, and after the last."""
    found = [config.channels]
    for count in config.blocks:
        found.append((found[-1] + count * config.growth) // 2)
    return found


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out, m, half = Specs(), config.filters, config.width // 2
    out.linear("head.conv1", m, 1, 3, 3)
    for name in _HEAD:
        out.linear(f"head.{name}.conv1", m, m, 3, 3)
        out.linear(f"head.{name}.conv2", m, m, 3, 3)
        if name.endswith(".0"):
            out.linear(f"head.{name}.shortcut", m, m, 1, 1)
    out.linear("head.conv2", m, m, 3, 3)
    out.linear("tdnn", config.channels, m * (config.bins // 8), 5)
    for block, (count, dilation, inputs) in enumerate(
        zip(config.blocks, _DILATIONS, _inputs(config), strict=False)
    ):
        for i in range(count):
            name, channels = f"blocks.{block}.{i}", inputs + i * config.growth
            out.batch_norm(f"{name}.norm", channels)
            out.linear(f"{name}.in", config.width, channels)
            kernel = (_TAPS - 1) * dilation + 1
            out.linear(f"{name}.local", config.growth, config.width, kernel, bias=False)
            out.linear(f"{name}.context", half, config.width)
            out.linear(f"{name}.mask", config.growth, half)
        channels = inputs + count * config.growth
        out.batch_norm(f"transit.{block}.norm", channels)
        out.linear(f"transit.{block}", channels // 2, channels, bias=False)
    last = _inputs(config)[-1]
    out.batch_norm("last.norm", last)
    out.linear("embedding", config.vocab, 2 * last)
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
    x = _head(ops, weights, config, ops.mask(features, lengths), lengths)
    x = ops.conv1d(x, weights["tdnn.weight"], weights["tdnn.bias"], stride=2, padding=2)
    lengths = ops.conv_lengths(lengths, kernel=5, stride=2, padding=2)
    x, done = ops.relu(x), 0
    for block, (count, dilation) in enumerate(zip(config.blocks, _DILATIONS, strict=True)):
        for i in range(count):
            y = _layer(ops, weights, f"blocks.{block}.{i}", x, lengths, dilation)
            x = ops.concat(x, y)
            if tap is not None:
                tap(done, x)
            done += 1
        x = ops.relu(batch_norm(ops, weights, f"transit.{block}.norm", x, lengths))
        x = linear(ops, weights, f"transit.{block}", x)
    x = ops.relu(batch_norm(ops, weights, "last.norm", x, lengths))
    x = linear(ops, weights, "embedding", ops.statistics(x, lengths))
    return ops.reshape(x, ops.shape(x)[0], config.vocab)


def _head(ops: Ops[T], weights: Weights[T], config: Config, x: T, lengths: T) -> T:
    """Map features to ``[batch, frames, filters * bins / 8]``, zeros past ``lengths``."""

    def conv(name: str, x: T, stride: int = 1, kernel: int = 3) -> T:
        weight, bias = weights[f"head.{name}.weight"], weights[f"head.{name}.bias"]
        padding = kernel // 2
        return ops.conv2d(x, weight, bias, stride=(1, stride), padding=(padding, padding))

    # Biases make padding non-zero, and the next convolution would read it.
    def act(x: T) -> T:
        return ops.mask(ops.relu(x), lengths)

    x = act(conv("conv1", ops.reshape(x, *ops.shape(x), 1)))
    for name in _HEAD:
        first = name.endswith(".0")
        y = conv(f"{name}.conv2", act(conv(f"{name}.conv1", x, 2 if first else 1)))
        x = act(ops.add(y, conv(f"{name}.shortcut", x, 2, 1) if first else x))
    x = act(conv("conv2", x, 2))
    batch, frames, bins, channels = ops.shape(x)
    return ops.reshape(x, batch, frames, bins * channels)


def _layer(ops: Ops[T], weights: Weights[T], name: str, x: T, lengths: T, dilation: int) -> T:
    """Return the channels that a layer adds to ``x [batch, frames, channels]`` (section 2.2)."""
    x = ops.relu(batch_norm(ops, weights, f"{name}.norm", x, lengths))
    x = ops.mask(ops.relu(linear(ops, weights, f"{name}.in", x)), lengths)
    y = ops.conv1d(x, weights[f"{name}.local.weight"], padding=dilation * (_TAPS // 2))
    return ops.glu(ops.concat(y, _mask(ops, weights, name, x, lengths)))


def _mask(ops: Ops[T], weights: Weights[T], name: str, x: T, lengths: T) -> T:
    """Return the mask ``[batch, frames, growth]`` before its sigmoid (section 2.3): one for each
    segment."""
    batch, frames, width = ops.shape(x)

    def mean(x: T, lengths: T) -> T:
        both = ops.reshape(ops.statistics(x, lengths), batch, 2, width)
        return ops.slice(both, 0, 1)

    whole, together = mean(x, lengths), None
    for start in range(0, max(frames, 1), _SEGMENT):
        segment = ops.slice(x, start, min(start + _SEGMENT, frames))
        left = ops.conv_lengths(lengths, kernel=start + 1, stride=1, padding=0)
        context = ops.add(mean(segment, left), whole)
        together = context if together is None else ops.concat(together, context)
    assert together is not None
    x = ops.reshape(together, batch, -(-max(frames, 1) // _SEGMENT), width)
    x = ops.relu(linear(ops, weights, f"{name}.context", x))
    return _repeat(ops, linear(ops, weights, f"{name}.mask", x), frames)


def _repeat(ops: Ops[T], x: T, frames: int) -> T:
    """Return ``x [batch, segments, channels]`` for each of ``frames``."""
    batch, segments, channels = ops.shape(x)
    wide, count = x, 1
    while 2 * count <= _SEGMENT:
        wide, count = ops.concat(wide, wide), 2 * count
    if rest := _SEGMENT - count:
        part = ops.reshape(wide, batch * segments, count, channels)
        part = ops.slice(part, 0, rest)
        wide = ops.concat(wide, ops.reshape(part, batch, segments, rest * channels))
    return ops.slice(ops.reshape(wide, batch, segments * _SEGMENT, channels), 0, frames)


def convert(tensors: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """Convert the tensors of WeSpeaker or 3D-Speaker to the names and layouts of `specs`.

    Raises KeyError, naming the tensor, for one that is missing.
    """
    out: dict[str, Array] = {}

    def folded(name: str, weight: str, norm: str) -> None:
        value, out[f"{name}.bias"] = fold_batch_norm(tensors, f"{weight}.weight", norm)
        # Kernels are [bins, time] there and [time, bins] here.
        out[f"{name}.weight"] = value.swapaxes(2, 3) if value.ndim == 4 else value

    def norm(name: str, at: str) -> None:
        for ours, theirs in _NORM.items():
            out[f"{name}.norm.{ours}"] = tensors[f"{at}.{theirs}"]

    def flat(value: Array) -> Array:
        return value.reshape(value.shape[:2])

    for name in ("conv1", "conv2", *(f"{n}.conv{i}" for n in _HEAD for i in (1, 2))):
        folded(f"head.{name}", f"head.{name}", f"head.{name.replace('conv', 'bn')}")
    for name in _HEAD[::2]:
        at = f"head.{name}.shortcut"
        folded(at, f"{at}.0", f"{at}.1")
    folded("tdnn", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    # The convolution reads [filters, bins] there and [bins, filters] here.
    value = out["tdnn.weight"]
    value = value.reshape(len(value), config.filters, -1, value.shape[-1]).swapaxes(1, 2)
    out["tdnn.weight"] = value.reshape(len(value), -1, value.shape[-1])
    for block, (count, dilation) in enumerate(zip(config.blocks, _DILATIONS, strict=True)):
        for i in range(count):
            name, at = f"blocks.{block}.{i}", f"xvector.block{block + 1}.tdnnd{i + 1}"
            norm(name, f"{at}.nonlinear1.batchnorm")
            folded(f"{name}.in", f"{at}.linear1", f"{at}.nonlinear2.batchnorm")
            out[f"{name}.in.weight"] = flat(out[f"{name}.in.weight"])
            local = tensors[f"{at}.cam_layer.linear_local.weight"]
            spread = np.zeros((*local.shape[:2], (local.shape[2] - 1) * dilation + 1), np.float32)
            spread[..., ::dilation] = local
            out[f"{name}.local.weight"] = spread
            for ours, theirs in (("context", "linear1"), ("mask", "linear2")):
                out[f"{name}.{ours}.weight"] = flat(tensors[f"{at}.cam_layer.{theirs}.weight"])
                out[f"{name}.{ours}.bias"] = tensors[f"{at}.cam_layer.{theirs}.bias"]
        at = f"xvector.transit{block + 1}"
        norm(f"transit.{block}", f"{at}.nonlinear.batchnorm")
        out[f"transit.{block}.weight"] = flat(tensors[f"{at}.linear.weight"])
    norm("last", "xvector.out_nonlinear.batchnorm")
    folded("embedding", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")
    out["embedding.weight"] = flat(out["embedding.weight"])
    return out


_WESPEAKER, _3D_SPEAKER = "WeSpeaker", "3D-Speaker"
"""Who made a checkpoint. The network is the same, down to the names and shapes of its tensors, but
WeSpeaker's training stores the layer of its classes, ``projection``, with it."""
_SIZE_3D_SPEAKER = 192
"""The size of the embedding of some of 3D-Speaker's models; WeSpeaker's have 512."""
_FILES_WESPEAKER = "config.yaml", "avg_model.pt"
_NORM = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


def _translate(about: Voices) -> Translated:
    """Return the dimensions that the shapes of a checkpoint's tensors tell."""
    shapes, counts = about.shapes, []
    for block in range(1, 1 + len(_DILATIONS)):
        names = {n.split(".")[2] for n in shapes if n.startswith(f"xvector.block{block}.tdnnd")}
        counts.append(len(names))
    filters, tdnn = shapes["head.conv1.weight"][0], shapes["xvector.tdnn.linear.weight"]
    first = "xvector.block1.tdnnd1"
    settings: dict[str, Any] = {
        "bins": 8 * (tdnn[1] // filters),
        "vocab": shapes["xvector.dense.linear.weight"][0],
        **{"channels": tdnn[0], "filters": filters, "blocks": counts},
        "growth": shapes[f"{first}.cam_layer.linear_local.weight"][0],
        "width": shapes[f"{first}.linear1.weight"][0],
    }
    if any(name.startswith("projection.") for name in shapes):
        settings["maker"] = _WESPEAKER
    elif settings["vocab"] == _SIZE_3D_SPEAKER:
        settings["maker"] = _3D_SPEAKER
    return Translated(settings, {}, Part)


def _read(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: Config
) -> PublishedCheckpoint:
    maker = settings.get("maker")
    if "model" in folder.json("configuration.json", optional=True):
        maker = _3D_SPEAKER
    elif maker is None and any((folder.path / name).exists() for name in _FILES_WESPEAKER):
        maker = _WESPEAKER
    if maker is None:
        raise TyndaError(
            f"{folder.path} does not tell whether WeSpeaker or 3D-Speaker made its CAM++, and they "
            f"read sound differently: put {' or '.join(_FILES_WESPEAKER)} of the one, or "
            "configuration.json of the other, beside it"
        )
    front = KaldiFbank(bins=config.bins)
    if maker == _3D_SPEAKER:
        front = KaldiFbank(bins=config.bins, window="povey", scale=1.0)
    return PublishedCheckpoint(Wordless(), front, [], lambda tensors: convert(tensors, config))


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "maker"}


FAMILY = Family(
    name="campplus",
    config=Config,
    specs=specs,
    head="embedding",
    programs={"encode": encode},
    tokenizer=Wordless.from_dict,
    check=check_voices,
    settings=_settings,
    read=_read,
    foreign={"CAM++": _translate},
)
