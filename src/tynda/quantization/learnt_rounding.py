"""Learnt rounding: codes, scales, zero points and row scales of a weight learn by gradients.

Codes, group scales and offsets are rounded in the forward pass; gradients ignore the rounding
(straight-through estimator, Bengio et al. 2013, section 3.1). All begin with the result of GPTQ.
AdaRound (Nagel et al. 2020) learns whether to round up or down, LSQ (Esser et al. 2020) the scales;
OmniQuant (Shao et al. 2023) and EfficientQAT (Chen et al. 2024) learn several of them together, as
here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tynda.weights.grid import MIN_SCALE, Grid
from tynda.weights.pack import unpack
from tynda.weights.rounding import from_codes
from tynda.weights.scales import Scales
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["LearntWeight"]

# Learning rate of codes with 16 levels, and, times 5, of integer scales and offsets of groups.
_CODE_RATE = 0.004
# Learning rate of the logarithms of row scales.
_SCALE_RATE = 2e-4
# Initial distance of a code from its integer, as a share of the distance to the unrounded code. At
# 0.5 the nearest integer would change after a single update.
_INITIAL_SHARE = 0.4


class LearntWeight:
    """A weight in few bits whose rounding is being learnt."""

    def __init__(
        self, exact: Floats, rounded: Weight, grid: Grid, device: torch.device | str = "cpu"
    ) -> None:
        """``exact``, float32 ``[out, ...]``, is the original weight; ``rounded`` is its initial
        rounding to ``grid``."""
        self.shape, self.grid = rounded.shape, grid
        scales, codes = _scales_and_codes(rounded, grid)
        self._row = torch.from_numpy(scales.row.copy()).clamp(min=MIN_SCALE).log()[:, None]
        self._group = torch.from_numpy(scales.group.astype(np.float32))
        self._offset = torch.from_numpy(scales.offset.astype(np.float32))
        inputs = codes.shape[1]
        group, offset = (repeat_groups(x, grid, inputs) for x in (self._group, self._offset))
        integers = torch.from_numpy(codes.astype(np.float32))
        unrounded = (torch.from_numpy(by_tap(exact)) / self._row.exp() - offset) / group
        self._codes = integers + _INITIAL_SHARE * (unrounded - integers).clamp(-1, 1)
        self._row, self._group, self._offset, self._codes = (
            tensor.to(device).requires_grad_()
            for tensor in (self._row, self._group, self._offset, self._codes)
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, for an optimizer of torch."""
        rate = _CODE_RATE * self.grid.levels / 16
        groups = [{"params": [self._codes], "lr": rate}]
        if self.grid.bits < 8:
            groups.append({"params": [self._group, self._offset], "lr": _CODE_RATE * 5})
        return [*groups, {"params": [self._row], "lr": _SCALE_RATE}]

    def values(self) -> Tensor:
        """Return the values to be stored, ``[out, ...]``, with gradients to all parameters."""
        group, offset = self._integers()
        exact = self._row.exp()
        row = _straight_through(exact, exact.clamp(min=MIN_SCALE).half().float())
        size = self.grid.group_size(self._codes.shape[1])
        rows: Tensor = _Dequantize.apply(  # type: ignore[no-untyped-call]
            self._codes, group, offset, row, self.grid.levels, size
        )
        return rows.reshape(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1)

    def rounded(self) -> Weight:
        """Return the weight as it is stored."""
        with torch.no_grad():
            group, offset = self._integers()
            row = self._row.exp().clamp(min=MIN_SCALE).half().float()
            codes = self._codes.round().clamp(0, self.grid.levels - 1)
        scales = Scales(
            row[:, 0].cpu().numpy(),
            group.round().cpu().numpy().astype(np.uint8),
            offset.round().cpu().numpy().astype(np.int8),
        )
        return from_codes(self.shape, self.grid, scales, codes.cpu().numpy().astype(np.uint8))

    def _integers(self) -> tuple[Tensor, Tensor]:
        """Return integer group scales and offsets, with which all values are from -127 to 127."""
        last = self.grid.levels - 1
        group = _straight_through(
            self._group, self._group.round().clamp(1, self.grid.max_group_scale)
        )
        lowest = torch.full_like(group, -127).detach()
        offset = self._offset.round().clamp(min=-127)
        offset = torch.maximum(torch.minimum(offset, 127 - group.detach() * last), lowest)
        return group, _straight_through(self._offset, offset)


class _Dequantize(torch.autograd.Function):
    """Computes values ``[out, in]`` from codes, with a straight-through gradient for the codes.

    One function for all needs less memory than the operations that it consists of.
    """

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        group: Tensor,
        offset: Tensor,
        row: Tensor,
        levels: int,
        size: int,
    ) -> Tensor:
        integers = codes.round().clamp_(0, levels - 1)
        ctx.save_for_backward(codes, integers, group, offset, row)
        ctx.levels, ctx.size = levels, size
        values = (_by_group(integers, size) * group[..., None]).add_(offset[..., None])
        return values.flatten(1)[:, : codes.shape[1]] * row

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, integers, group, offset, row = ctx.saved_tensors
        by_group = _by_group(gradient, ctx.size)
        # All other gradients follow from two sums over each group.
        to_group, to_offset = (by_group * _by_group(integers, ctx.size)).sum(2), by_group.sum(2)
        to_row = (group * to_group + offset * to_offset).sum(1, keepdim=True)
        to_codes = (by_group * (row * group)[..., None]).flatten(1)[:, : codes.shape[1]]
        inside = (codes > -0.5) & (codes < ctx.levels - 0.5)  # Clamped codes have no gradient.
        return to_codes * inside, row * to_group, row * to_offset, to_row, None, None


def _by_group(values: Tensor, size: int) -> Tensor:
    """Reshape ``[out, inputs]`` to ``[out, groups, size]``, with zeros after the last input."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % size))
    return padded.reshape(len(values), -1, size)


def repeat_groups(values: Tensor, grid: Grid, inputs: int) -> Tensor:
    """Repeat values of groups ``[out, groups]`` for their inputs: ``[out, inputs]``."""
    return values.repeat_interleave(grid.group_size(inputs), 1)[:, :inputs]


def _straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    return exact + (rounded - exact).detach()


def _scales_and_codes(weight: Weight, grid: Grid) -> tuple[Scales, Any]:
    """Return the scales of a weight in ``grid``, and its codes from 0 on, ``[out, inputs]``."""
    if weight.scales is None or weight.grid is None:
        raise ValueError("the weight is not rounded")
    if grid.bits == 8:
        codes, row = weight.integers()
        ones = np.ones((len(row), 1))
        scales = Scales(row, ones.astype(np.uint8), (-127 * ones).astype(np.int8))
        return scales, by_tap(codes).astype(np.int16) + 127
    return weight.scales, unpack(weight.rows[:], grid.bits, weight.inputs)
