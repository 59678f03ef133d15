"""Networks that tell voices apart, put together from torch.nn by their papers.

The names of tensors are those of the published checkpoints of WeSpeaker and 3D-Speaker. Where
WeSpeaker is installed, `wespeaker_class` gives its own classes.
"""

import importlib
import sys
import types
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def pool(x):
    """Return mean and unbiased deviation of ``x [batch, ..., frames]`` over the frames."""
    return torch.cat([x.mean(-1).flatten(1), (x.var(-1) + 1e-7).sqrt().flatten(1)], 1)


class Block(nn.Module):
    """A residual block; ``stride`` is that of [bins, frames]."""

    def __init__(self, inputs, width, stride, bottleneck=False):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        kernels = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
        kernels = kernels if bottleneck else [(inputs, width, 3), (width, width, 3)]
        strided = 1 if bottleneck else 0
        self.count = len(kernels)
        for i, (a, b, size) in enumerate(kernels):
            step = stride if i == strided else 1
            conv = nn.Conv2d(a, b, size, step, size // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(b))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNet of Wang et al. 2023, over features ``[batch, frames, bins]``."""

    def __init__(self, bins, size, channels, blocks, bottleneck=False):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        inputs = channels
        for stage, count in enumerate(blocks):
            width, layers = channels << stage, []
            for i in range(count):
                layers.append(Block(inputs, width, 2 if stage and i == 0 else 1, bottleneck))
                inputs = 4 * width if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.seg_1 = nn.Linear(2 * inputs * (bins // 8), size)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x.transpose(1, 2)[:, None])))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.seg_1(pool(x))


def norm_relu(channels):
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))


class Masked(nn.Module):
    """Context-aware masking (Wang et al. 2023, section 2.3)."""

    def __init__(self, width, growth, dilation):
        super().__init__()
        self.linear_local = nn.Conv1d(
            width, growth, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1, self.linear2 = (
            nn.Conv1d(width, width // 2, 1),
            nn.Conv1d(width // 2, growth, 1),
        )

    def forward(self, x):
        parts = [p.mean(-1, keepdim=True).expand_as(p) for p in x.split(100, -1)]
        context = x.mean(-1, keepdim=True) + torch.cat(parts, -1)
        mask = self.linear2(torch.relu(self.linear1(context))).sigmoid()
        return self.linear_local(x) * mask


class Dense(nn.Module):
    """A layer of a dense block (section 2.2)."""

    def __init__(self, inputs, width, growth, dilation):
        super().__init__()
        self.nonlinear1 = norm_relu(inputs)
        self.linear1 = nn.Conv1d(inputs, width, 1, bias=False)
        self.nonlinear2 = norm_relu(width)
        self.cam_layer = Masked(width, growth, dilation)

    def forward(self, x):
        return torch.cat([x, self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))], 1)


class Transit(nn.Module):
    """The layer between two blocks, which halves the channels."""

    def __init__(self, inputs):
        super().__init__()
        self.nonlinear = norm_relu(inputs)
        self.linear = nn.Conv1d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x):
        return self.linear(self.nonlinear(x))


class First(nn.Module):
    """The two-dimensional convolutions at the beginning."""

    def __init__(self, m):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, m, 3, 1, 1, bias=False), nn.BatchNorm2d(m)
        self.layer1 = nn.Sequential(Block(m, m, (2, 1)), Block(m, m, 1))
        self.layer2 = nn.Sequential(Block(m, m, (2, 1)), Block(m, m, 1))
        self.conv2, self.bn2 = nn.Conv2d(m, m, 3, (2, 1), 1, bias=False), nn.BatchNorm2d(m)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x[:, None])))
        x = torch.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class CamPlusPlus(nn.Module):
    """CAM++ (Wang et al. 2023) over features ``[batch, frames, bins]``."""

    def __init__(self, bins, size, channels, filters, blocks, growth, width):
        super().__init__()
        self.head = First(filters)
        tdnn = nn.Conv1d(filters * (bins // 8), channels, 5, 2, 2, bias=False)
        layers = OrderedDict(
            tdnn=nn.Sequential(OrderedDict(linear=tdnn, nonlinear=norm_relu(channels)))
        )
        for b, (count, dilation) in enumerate(zip(blocks, (1, 2, 2), strict=True), 1):
            dense = OrderedDict()
            for i in range(count):
                dense[f"tdnnd{i + 1}"] = Dense(channels, width, growth, dilation)
                channels += growth
            layers[f"block{b}"], layers[f"transit{b}"] = nn.Sequential(dense), Transit(channels)
            channels //= 2
        layers["out_nonlinear"] = norm_relu(channels)
        self.xvector = nn.Sequential(layers)
        last = OrderedDict(batchnorm=nn.BatchNorm1d(size, affine=False))
        dense = OrderedDict(
            linear=nn.Conv1d(2 * channels, size, 1, bias=False), nonlinear=nn.Sequential(last)
        )
        self.xvector.add_module("dense", nn.Sequential(dense))

    def forward(self, x):
        x = self.head(x.transpose(1, 2))
        x = self.xvector[:-1](x)
        x = self.xvector.dense.linear(pool(x)[..., None])[..., 0]
        return self.xvector.dense.nonlinear(x)


def randomise(network, seed=0):
    """Give a network random weights and statistics, and return it for use."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1 and name.endswith("weight"):
            value.uniform_(0.5, 1.2, generator=generator)
        elif value.ndim == 1:
            value.normal_(0, 0.2, generator=generator)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    return network.eval()


def wespeaker_class(module, name):
    """Return a class of WeSpeaker, without what its package imports at once; None without it."""
    if "wespeaker" not in sys.modules:
        spec = find_spec("wespeaker")
        if spec is None or spec.origin is None:
            return None
        for package in ("wespeaker", "wespeaker.models"):
            empty = types.ModuleType(package)
            folder = Path(spec.origin).parent
            empty.__path__ = [str(folder.joinpath(*package.split(".")[1:]))]
            sys.modules[package] = empty
    return getattr(importlib.import_module(f"wespeaker.models.{module}"), name)
