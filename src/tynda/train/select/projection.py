"""A random projection of gradients, which preserves their inner products in expectation.

Each element is multiplied by a random sign and added to one of a few sums (count sketch: Charikar
et al. 2002; as a projection, Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
Learning", lemma 2). Elements of one row of ``size`` go to different sums, and each row begins at a
random one, so that a matrix with large columns does not fill a few sums. Time grows with the number
of elements, and memory is a number for each, where a dense projection would need ``size`` of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["Projection"]


class Projection:
    """Maps tensors, by name, to ``size`` numbers; ``scales`` multiply the elements before."""

    def __init__(self, scales: Mapping[str, Tensor], size: int, seed: int) -> None:
        """The same names, shapes, ``size`` and ``seed`` give the same projection."""
        self.size = size
        rng = np.random.default_rng(seed)
        self._factors: dict[str, Tensor] = {}
        self._starts: dict[str, list[int]] = {}
        for name in sorted(scales):
            scale = scales[name].flatten()
            bits = np.unpackbits(np.frombuffer(rng.bytes(-(-len(scale) // 8)), np.uint8))
            signs = torch.from_numpy(bits[: len(scale)]).float().mul_(2).sub_(1)
            self._factors[name] = signs.mul_(scale)
            self._starts[name] = rng.integers(size, size=-(-len(scale) // size)).tolist()

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the projection ``[size]`` of tensors, of which some may be missing."""
        out = torch.zeros(2 * self.size)
        for name, tensor in tensors.items():
            rows = torch.split(tensor.flatten() * self._factors[name], self.size)
            for start, row in zip(self._starts[name], rows, strict=True):
                out[start : start + len(row)] += row
        return out[: self.size] + out[self.size :]
