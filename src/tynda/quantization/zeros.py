"""Steps with zero points: a group's values may lie about any number, not about 0 alone.

Published weights have groups whose means are far from 0. A grid about 0 then spends half of its
values where there are no weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tynda.quantization.fit import clipped, group_rows, shares
from tynda.weights.grid import Grid
from tynda.weights.steps import Steps, nearest, settle
from tynda.weights.weight import Floats

__all__ = ["fitted", "shifted", "worth"]

# Shares of a group's range that the search for its grid begins with.
_BEGINNINGS = (1.0, 0.9, 0.8, 0.7, 0.6)
# Rounds of the search from each of them.
_ROUNDS = 4
# Numbers at a time, in whole rows, so that what is tried stays near the processor.
_NUMBERS = 1 << 16


def fitted(rows: Floats, grid: Grid, weight: Floats | None = None) -> Steps:
    """The steps about 0 (`clipped`), or with zero points (`shifted`) where those are `worth` it.

    ``rows``: float32 ``[out, in]``; ``weight``: float32 ``[in]``, how much an input counts. A
    whole row keeps a grid about 0, whose step is known and takes no room.
    """
    plain = clipped(rows, grid, weight)
    if grid.table or grid.bits == 8 or not grid.group:
        return plain
    other = shifted(rows, grid, weight)
    return other if worth(rows, grid, plain, other, weight) else plain


def worth(
    rows: Floats, grid: Grid, plain: Steps, other: Steps, weight: Floats | None = None
) -> bool:
    """Whether zero points save more error than the bytes they take would by finer steps.

    A bit more for each input makes the squared error a quarter; a byte for a group is ``8 / size``
    bits more for each of its inputs.
    """
    bits = 8 / grid.group_size(rows.shape[1])
    before, after = (_error(rows, grid, steps, weight) for steps in (plain, other))
    return after < before * 4**-bits


def shifted(rows: Floats, grid: Grid, weight: Floats | None = None) -> Steps:
    """Steps and offsets of the least squared error that the search finds.

    From several shares of a group's range, values are given the nearest codes, and the codes the
    step and offset of the least squares, in turns (Lloyd's algorithm on an even grid). The whole
    numbers that are stored are then chosen beside those, for the least error as it will be.
    """
    count = max(1, _NUMBERS // max(1, rows.shape[1]))
    inputs = shares(rows, grid, weight)
    found = [
        _shifted(group_rows(rows[i : i + count], grid), grid, inputs)
        for i in range(0, len(rows), count)
    ]
    steps = [Steps(*part) for part in found]
    return Steps(*(np.concatenate(part) for part in zip(*steps, strict=True)))


def _shifted(parts: Floats, grid: Grid, weight: Floats) -> Steps:
    """Return the steps of ``parts [out, groups, size]``; ``weight [groups, size]``."""
    half = np.float32((grid.levels - 1) / 2)
    low, high = _ends(parts, weight)
    widths = np.maximum(high - low, np.float32(1e-12))
    best: tuple[Any, Any] = widths / (2 * half), (high + low) / 2
    least = np.full(low.shape, np.inf, np.float32)
    total = np.maximum(weight.sum(1), np.float32(1e-30))
    mean = np.einsum("ogi,gi->og", parts, weight) / total
    for share in _BEGINNINGS:
        step, middle = (high - low) * np.float32(share) / (2 * half), (high + low) / 2
        for _ in range(_ROUNDS):
            step = np.maximum(step, np.float32(1e-12))
            codes = np.rint((parts - middle[..., None]) / step[..., None] + half)
            codes = np.clip(codes, 0, grid.levels - 1) - half
            error = _weighed(codes * step[..., None] + middle[..., None] - parts, weight)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, step, best[0]), np.where(better, middle, best[1])
            # The line through codes and values with the least squares.
            centre = np.einsum("ogi,gi->og", codes, weight) / total
            apart = codes - centre[..., None]
            spread = _weighed(apart, weight)
            slope = np.einsum("ogi,ogi,gi->og", apart, parts, weight)
            step = np.where(spread > 0, slope / np.maximum(spread, np.float32(1e-30)), step)
            middle = mean - step * centre
    return _whole(parts, grid, weight, settle(grid, *best), best)


def _whole(
    parts: Floats, grid: Grid, weight: Floats, steps: Steps, exact: tuple[Floats, Floats]
) -> Steps:
    """The whole steps and offsets beside the settled ones that err least."""
    scale, last = steps.scale[:, None], grid.levels - 1
    middle = exact[1] / scale
    best, least = (steps.step, steps.offset), np.full(steps.step.shape, np.inf, np.float32)
    for more in (0, -1, 1):
        step = np.clip(steps.step.astype(np.int32) + more, 1, grid.max_step)
        for beside in (0, -1, 1):
            offset = np.rint(middle - step * (last / 2)).astype(np.int32) + beside
            offset = np.clip(offset, -127, 127 - step * last)
            numbers = step[..., None].astype(np.float32), offset[..., None].astype(np.float32)
            codes = nearest(parts, grid, scale[..., None], *numbers)
            values = (codes * numbers[0] + numbers[1]) * scale[..., None]
            error = _weighed(values - parts, weight)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, step, best[0]), np.where(better, offset, best[1])
    return Steps(steps.scale, best[0].astype(np.uint8), best[1].astype(np.int8))


def _ends(parts: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The least and the largest number of each group ``[out, groups]``; filling does not count."""
    real = np.flip(np.maximum.accumulate(np.flip(weight, 1), 1), 1) > 0
    first = parts[..., :1]
    filled = np.where(real, parts, first)
    return filled.min(2), filled.max(2)


def _weighed(difference: Floats, weight: Floats) -> Floats:
    error: Floats = np.einsum("ogi,ogi,gi->og", difference, difference, weight)
    return error


def _error(rows: Floats, grid: Grid, steps: Steps, weight: Floats | None) -> float:
    parts, inputs = group_rows(rows, grid), shares(rows, grid, weight)
    total = 0.0
    count = max(1, _NUMBERS // max(1, rows.shape[1]))
    for i in range(0, len(rows), count):
        few = steps.rows(slice(i, i + count))
        step, offset, scale = (
            few.step[..., None].astype(np.float32),
            few.offset[..., None].astype(np.float32),
            few.scale[:, None, None],
        )
        some = parts[i : i + count]
        values = (nearest(some, grid, scale, step, offset) * step + offset) * scale
        total += float(_weighed(values - some, inputs).sum(dtype=np.float64))
    return total
