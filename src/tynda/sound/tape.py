"""The last part of a long array: it grows at its end and is forgotten at its beginning."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tape"]

Floats = NDArray[np.float32]


class Tape:
    """Rows ``[n, ...]`` that are appended block by block, of which the first may be forgotten.

    Positions count from the first row that was ever appended.
    """

    def __init__(self, *row: int) -> None:
        """``row`` is the shape of a row."""
        self._blocks: deque[tuple[int, Floats]] = deque([(0, np.zeros((0, *row), np.float32))])
        self._first = 0
        self._end = 0

    def __len__(self) -> int:
        """Return the number of rows that were appended, including forgotten ones."""
        return self._end

    def append(self, block: Floats) -> None:
        """Append rows. A block is held as it is, without a copy, until all of it is forgotten."""
        self._blocks.append((self._end, block))
        self._end += len(block)
        self.forget(self._first)

    def forget(self, position: int) -> None:
        """Forget the rows before ``position``, which may lie beyond the end."""
        self._first = max(self._first, position)
        while len(self._blocks) > 1 and self._blocks[1][0] <= self._first:
            self._blocks.popleft()

    def read(self, start: int, stop: int) -> Floats:
        """Return a copy of the rows from ``start``, which must not be forgotten, to ``stop``.

        There are fewer where the tape ends earlier.
        """
        if start < self._first:
            raise ValueError(f"row {start} is forgotten; the first one is {self._first}")
        parts = [
            block[max(0, start - begin) : max(0, stop - begin)]
            for begin, block in self._blocks
            if begin < stop and begin + len(block) > start
        ]
        return np.concatenate(parts or [self._blocks[-1][1][:0]])
