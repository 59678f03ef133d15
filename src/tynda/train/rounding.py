"""Quantisation-aware training: a model is trained with the rounded weights that it will have.

The loss is computed with rounded weights, and its gradients are applied to the weights that they
were rounded from (straight-through estimator, Bengio et al. 2013, section 3.1). The scale of a
group follows the mean absolute weight, as in BitNet b1.58 (Ma et al. 2024), times a factor that
is learnt (Esser et al. 2020, "Learned step size quantization").
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor

from tynda.models.base import Spec
from tynda.quantization.learnt_rounding import repeat_groups
from tynda.train.recipe import Rounding
from tynda.weights.grid import MIN_SCALE, Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.scales import Scales
from tynda.weights.weight import Weight, is_matrix_product

__all__ = ["Rounder", "round_weight"]


class Rounder:
    """Holds which weights of a model are rounded, to which grids, and the factors of scales.

    All bit widths share the weights; each has factors of its own (Yu et al. 2021, "Any-precision
    deep neural networks").
    """

    def __init__(self, recipe: Rounding, specs: Mapping[str, Spec]) -> None:
        self.grids = [Grid(bits, recipe.group) for bits in recipe.bits]
        self.names = [
            name
            for name, spec in specs.items()
            if is_matrix_product(spec.shape, spec.trainable)
            and not any(fnmatchcase(name, pattern) for pattern in recipe.keep)
        ]
        self.factors = {
            f"{name}.step{grid.bits:g}": torch.ones(
                specs[name].shape[0], grid.groups(int(np.prod(specs[name].shape[1:])))
            )
            for name in self.names
            for grid in self.grids
        }
        """The factors by name; they are trained together with the model's own weights."""

    def __call__(self, weights: Mapping[str, Tensor], grid: Grid) -> dict[str, Tensor]:
        """Return the model's weights, rounded; ``weights`` contains the factors too."""
        rounded = dict(weights)
        for name in self.names:
            factors = weights[f"{name}.step{grid.bits:g}"]
            rounded[name] = round_weight(weights[name], factors, grid)
        return rounded

    def coded(self, weights: Mapping[str, Tensor], grid: Grid) -> dict[str, Weight]:
        """Return the weights that are rounded, in the form in which they are stored."""
        found = {}
        for name in self.names:
            weight = weights[name].detach().cpu()
            factors = weights[f"{name}.step{grid.bits:g}"].detach().cpu()
            rows = weight.movedim(1, -1).flatten(1)
            row, group, offset, _ = _scales(rows, factors, grid)
            scales = Scales(
                row[:, 0].numpy(),
                group.numpy().astype(np.uint8),
                offset.numpy().astype(np.int8),
            )
            found[name] = round_to_nearest(weight.numpy(), grid, scales)
        return found


def round_weight(weight: Tensor, factors: Tensor, grid: Grid) -> Tensor:
    """Return ``weight [out, ...]`` with the values that it has when it is read from a file.

    ``factors [out, groups]`` multiply the scales. Gradients flow to both.
    """
    rows = weight.movedim(1, -1).flatten(1)
    inputs = rows.shape[1]
    with torch.no_grad():
        row, group, offset, sizes = _scales(rows, factors, grid)
        group, offset = (repeat_groups(v, grid, inputs) for v in (group, offset))
        codes = ((rows / row - offset) / group).round().clamp(0, grid.levels - 1)
        exact = row * (codes * group + offset)
        half = (grid.levels - 1) / 2
    # Compute the same in floating point, only for the gradients.
    scale = repeat_groups(factors * sizes, grid, inputs)
    quotients = (rows / scale).clamp(-half - 0.5, half + 0.5)
    smooth = scale * (quotients + (codes - half - quotients).detach())
    rounded = smooth + (exact - smooth).detach()
    return rounded.reshape(len(weight), *weight.shape[2:], weight.shape[1]).movedim(-1, 1)


def _scales(rows: Tensor, factors: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the scales of rows ``[out, 1]``, integer scales and offsets of groups ``[out,
    groups]``, and the exact scales of groups for a factor of 1. The result matches
    ``tynda.weights.scales.round_scales``."""
    inputs = rows.shape[1]
    size = grid.group_size(inputs)
    count = factors.shape[1]
    padded = torch.nn.functional.pad(rows.abs(), (0, count * size - inputs))
    members = torch.full((count,), float(size))
    members[-1] = inputs - (count - 1) * size
    sizes = grid.gaussian_scale * padded.reshape(-1, count, size).sum(-1) / members.to(rows.device)
    sizes = sizes.clamp(min=MIN_SCALE * 0.1)
    wanted = factors * sizes
    largest = wanted.amax(1, keepdim=True)
    row = (largest / grid.max_group_scale).clamp(min=MIN_SCALE).half().float()
    group = (wanted / row).round().clamp(1, grid.max_group_scale)
    offset = -torch.floor(group * (grid.levels - 1) / 2)
    return row, group, offset, sizes
