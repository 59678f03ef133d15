"""Coordinate descent of a rounded weight: one code, scale or zero point changes at a time.

Each takes the value with the minimum squared error of the outputs while all others are fixed, in
turn, as in QuantEase (Behdin et al. 2023), which does so for codes. A row of the weight may have a
Hessian of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tynda.quantization.learnt_rounding import repeat_groups
from tynda.weights.pack import unpack
from tynda.weights.rounding import from_codes
from tynda.weights.scales import Scales
from tynda.weights.weight import Weight

__all__ = ["Descent"]

# Number of times that all codes, scales and zero points of a row are visited.
_SWEEPS = 4
# Minimum curvature by which is divided, for inputs that are always zero.
_TINY = 1e-20


class Descent:
    """A matrix ``[out, in]`` in few bits, whose rows are improved some at a time."""

    def __init__(self, exact: Tensor, rounded: Weight) -> None:
        """``exact`` is the original weight, float32 ``[out, in]``, on the device to use;
        ``rounded``, which begins, has no table."""
        if rounded.grid is None or rounded.scales is None:
            raise ValueError("the weight is not rounded")
        device = exact.device
        self.exact, self.shape, self.grid = exact, rounded.shape, rounded.grid
        codes = unpack(rounded.rows[:], self.grid.bits, rounded.inputs)
        self._codes, self._row, self._group, self._offset = (
            torch.tensor(x, device=device).float() for x in (codes, *rounded.scales)
        )

    def values(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the values ``[n, in]`` of some rows, given by their indices."""
        inputs = self._codes.shape[1]
        group, offset = (
            repeat_groups(x[rows], self.grid, inputs) for x in (self._group, self._offset)
        )
        return self._row[rows, None] * (group * self._codes[rows] + offset)

    def rounded(self) -> Weight:
        """Return the weight as it is stored."""
        row, group, offset, codes = (
            x.cpu().numpy() for x in (self._row, self._group, self._offset, self._codes)
        )
        scales = Scales(row, group.astype("uint8"), offset.astype("int8"))
        return from_codes(self.shape, self.grid, scales, codes.astype("uint8"))

    def improve(self, rows: Tensor, hessians: Tensor) -> None:
        """Reduce the error of rows, given by their indices ``[n]``.

        ``hessians`` are ``[n, in, in]``, or ``[1, in, in]`` for all: the error of a row is that of
        its values, times the Hessian, times the error again.
        """
        codes, group, offset = (x[rows] for x in (self._codes, self._group, self._offset))
        row, last = self._row[rows], self.grid.levels - 1
        size = self.grid.group_size(codes.shape[1])
        curvature = hessians.diagonal(dim1=1, dim2=2).clamp(min=_TINY)
        # Half of the gradient of the error with respect to each value.
        gradient = _times(self.values(rows) - self.exact[rows], hessians)
        for _ in range(_SWEEPS):
            for i in range(codes.shape[1]):
                step = row * group[:, i // size]
                wanted = codes[:, i] - gradient[:, i] / (curvature[:, i] * step)
                found = wanted.round().clamp(0, last)
                change, codes[:, i] = (found - codes[:, i]) * step, found
                gradient.addcmul_(change[:, None], hessians[:, i])
            for i in range(group.shape[1]):
                inputs = slice(i * size, (i + 1) * size)
                among = hessians[:, inputs]
                for integers, direction in (
                    (offset, torch.ones_like(codes[:, inputs])),
                    (group, codes[:, inputs]),
                ):
                    # How the gradient changes, for each row, if the integer is one higher.
                    along = row[:, None] * _times(direction, among)
                    slope = row * (gradient[:, inputs] * direction).sum(1)
                    bend = row * (along[:, inputs] * direction).sum(1)
                    found = (integers[:, i] - slope / bend.clamp(min=_TINY)).round()
                    if integers is offset:
                        found = found.clamp(min=-127).minimum(127 - group[:, i] * last)
                    else:
                        found = found.minimum(((127 - offset[:, i]) / last).floor())
                        found = found.clamp(1, self.grid.max_group_scale)
                    gradient.addcmul_((found - integers[:, i])[:, None], along)
                    integers[:, i] = found
        self._codes[rows], self._group[rows], self._offset[rows] = codes, group, offset


def _times(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each row of ``x [n, in]`` by its matrix, or all by the only one."""
    return x @ matrices[0] if len(matrices) == 1 else torch.bmm(x[:, None], matrices)[:, 0]
