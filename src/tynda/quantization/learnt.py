"""Rounding that is learnt: a weight's codes, steps, zero points and scales by gradients.

The codes of a weight are numbers that are rounded on the way forward, and learn as if they were
not (straight-through, Bengio et al. 2013, section 3.1); so do the whole steps and offsets of its
groups. All begin where GPTQ left them. Nagel et al. 2020, "AdaRound", learn which way to round;
Esser et al. 2020, "LSQ", the steps; Shao et al. 2023, "OmniQuant", and Chen et al. 2024,
"EfficientQAT", all of it at once, as here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tynda.weights.grid import MIN_SCALE, Grid
from tynda.weights.pack import unpack
from tynda.weights.rounding import from_codes
from tynda.weights.steps import Steps
from tynda.weights.weight import Floats, Weight, by_tap

__all__ = ["LearntWeight"]

# How far a code of 16 values may move in one step of learning, and a step or offset in theirs.
_CODE_RATE = 0.004
# Likewise for the logarithm of a scale.
_SCALE_RATE = 2e-4
# A code begins so far on the way to the number that it was rounded from. Half a code is the border
# of the next one: nothing flips before many steps of learning agree.
_BEGINS = 0.4


class LearntWeight:
    """A weight on its way to few bits, from one that is rounded already.

    ``exact``: float32 ``[out, ...]``, as it was before; ``rounded``: the same weight on ``grid``.
    """

    def __init__(self, exact: Floats, rounded: Weight, grid: Grid) -> None:
        self.shape, self.grid = rounded.shape, grid
        steps, codes = _coded(rounded, grid)
        rows = torch.from_numpy(by_tap(exact))
        self._scale = torch.from_numpy(steps.scale.copy()).clamp(min=MIN_SCALE).log()[:, None]
        self._step = torch.from_numpy(steps.step.astype(np.float32))
        self._offset = torch.from_numpy(steps.offset.astype(np.float32))
        size, inputs = grid.group_size(codes.shape[1]), codes.shape[1]
        whole, zero = (_wide(x, size, inputs) for x in (self._step, self._offset))
        near = torch.from_numpy(codes.astype(np.float32))
        wanted = (rows / self._scale.exp() - zero) / whole - near
        self._codes = near + _BEGINS * wanted.clamp(-1, 1)
        for tensor in (self._scale, self._step, self._offset, self._codes):
            tensor.requires_grad_()

    def learners(self) -> list[dict[str, Any]]:
        """The groups of parameters for an optimizer of torch, with their rates."""
        rate = _CODE_RATE * self.grid.levels / 16
        learners = [{"params": [self._codes], "lr": rate}]
        if self.grid.bits < 8:
            learners.append({"params": [self._step, self._offset], "lr": _CODE_RATE * 5})
        return [*learners, {"params": [self._scale], "lr": _SCALE_RATE}]

    def values(self) -> Tensor:
        """The weight as it will be stored, ``[out, ...]``, with gradients to all that is learnt."""
        step, offset = self._whole()
        half = self._scale.exp()
        scale = half + (half.clamp(min=MIN_SCALE).half().float() - half).detach()
        size = self.grid.group_size(self._codes.shape[1])
        rows: Tensor = _Rounded.apply(  # type: ignore[no-untyped-call]
            self._codes, step, offset, scale, self.grid.levels, size
        )
        return rows.reshape(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1)

    def weight(self) -> Weight:
        """The weight as it is stored."""
        with torch.no_grad():
            step, offset = self._whole()
            scale = self._scale.exp().clamp(min=MIN_SCALE).half().float()
            codes = self._codes.round().clamp(0, self.grid.levels - 1)
        steps = Steps(
            scale[:, 0].numpy(),
            step.round().numpy().astype(np.uint8),
            offset.round().numpy().astype(np.int8),
        )
        return from_codes(self.shape, self.grid, steps, codes.numpy().astype(np.uint8))

    def _whole(self) -> tuple[Tensor, Tensor]:
        """Step and offset in whole numbers, such that all values lie from -127 to 127."""
        last = self.grid.levels - 1
        step = _straight(self._step, self._step.round().clamp(1, self.grid.max_step))
        lowest = torch.full_like(step, -127).detach()
        offset = self._offset.round().clamp(min=-127)
        offset = torch.maximum(torch.minimum(offset, 127 - step.detach() * last), lowest)
        return step, _straight(self._offset, offset)


class _Rounded(torch.autograd.Function):
    """Values ``[out, in]`` of codes, whose gradients pass the rounding by; one pass each way."""

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        step: Tensor,
        offset: Tensor,
        scale: Tensor,
        levels: int,
        size: int,
    ) -> Tensor:
        inputs, ctx.size = codes.shape[1], size
        whole = codes.round().clamp_(0, levels - 1)
        ctx.save_for_backward(codes, whole, step, offset, scale)
        ctx.levels = levels
        return (whole * _wide(step, size, inputs) + _wide(offset, size, inputs)) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, whole, step, offset, scale = ctx.saved_tensors
        inputs, size = codes.shape[1], ctx.size
        wide = _wide(step, size, inputs)
        scaled = gradient * scale
        of_scale = (gradient * (whole * wide + _wide(offset, size, inputs))).sum(1, keepdim=True)
        of_step = _summed(scaled * whole, size)
        of_offset = _summed(scaled, size)
        inside = (codes > -0.5) & (codes < ctx.levels - 0.5)
        return scaled.mul_(wide).mul_(inside), of_step, of_offset, of_scale, None, None


def _wide(parts: Tensor, size: int, inputs: int) -> Tensor:
    return parts.repeat_interleave(size, 1)[:, :inputs]


def _summed(values: Tensor, size: int) -> Tensor:
    short = -values.shape[1] % size
    padded = torch.nn.functional.pad(values, (0, short))
    return padded.reshape(len(values), -1, size).sum(2)


def _straight(exact: Tensor, rounded: Tensor) -> Tensor:
    return exact + (rounded - exact).detach()


def _coded(weight: Weight, grid: Grid) -> tuple[Steps, Any]:
    """The steps of a weight in ``grid``, and its codes ``[out, inputs]``."""
    if weight.steps is None or weight.grid is None:
        raise ValueError("the weight is not rounded")
    if grid.bits == 8:
        whole, scale = weight.integers()
        ones = np.ones((len(scale), 1))
        steps = Steps(scale, ones.astype(np.uint8), (-127 * ones).astype(np.int8))
        return steps, by_tap(whole).astype(np.int16) + 127
    return weight.steps, unpack(weight.rows[:], grid.bits, weight.inputs)
