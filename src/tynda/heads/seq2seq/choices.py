"""The choice of the next tokens of a decoder's rows: the likeliest, a sample, or a beam search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["BeamSearch", "RandomSource", "Sampler"]

Floats = NDArray[np.float32]


class RandomSource:
    """The random numbers with which the tokens of a recording are sampled above temperature 0."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @cached_property
    def generator(self) -> np.random.Generator:
        """The generator, created on first use, since importing NumPy's generators is slow."""
        return np.random.default_rng(self._seed)


class Sampler:
    """Greedy search at temperature 0, else sampling; rows do not depend on each other."""

    def __init__(self, temperature: float, random: RandomSource, eot: int) -> None:
        self._temperature, self._random, self._eot = temperature, random, eot

    def choose(
        self, log_probs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """Select the next tokens by ``log_probs [rows, vocab]``.

        Adds the log-probabilities of these tokens to ``sums [rows]`` in place. Returns the index of
        the row that each new row continues, its token, and whether all rows have ended.
        """
        tokens = []
        for i, (row, text) in enumerate(zip(log_probs, texts, strict=True)):
            if text and text[-1] == self._eot:
                tokens.append(self._eot)
                continue
            token = int(np.argmax(self._with_gumbel_noise(row)))
            sums[i] += row[token]
            tokens.append(token)
        return list(range(len(texts))), tokens, all(t == self._eot for t in tokens)

    def _with_gumbel_noise(self, row: Floats) -> Floats:
        """Add Gumbel noise: the argmax is then a sample of the softmax (Gumbel 1954)."""
        if self._temperature == 0:
            return row
        noise = self._random.generator.gumbel(size=len(row)).astype(np.float32)
        # Nearly 0 is as good as 0, and must not overflow.
        return row / np.float32(max(self._temperature, 1e-3)) + noise

    def going(self, texts: Sequence[Sequence[int]], rows_per_window: int) -> list[int]:
        """Return the indices of the windows of which a row has not ended."""
        rows = range(0, len(texts), rows_per_window)
        return [
            i
            for i, row in enumerate(rows)
            if any(text[-1] != self._eot for text in texts[row : row + rows_per_window])
        ]

    def finish(
        self, texts: list[list[int]], sums: Floats, rows_per_window: int
    ) -> list[list[tuple[list[int], float]]]:
        """Return the candidates of each window: texts with their sums of log-probabilities."""
        rows = [
            (text[: text.index(self._eot)] if self._eot in text else text, float(total))
            for text, total in zip(texts, sums, strict=True)
        ]
        return [rows[i : i + rows_per_window] for i in range(0, len(rows), rows_per_window)]


class BeamSearch:
    """Beam search with ``size`` beams for each window."""

    def __init__(self, size: int, patience: float, eot: int) -> None:
        self._size, self._eot = size, eot
        self._max_finished = max(1, round(size * patience))
        self._finished: list[dict[tuple[int, ...], float]] = []

    def choose(
        self, log_probs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """Select the best continuations by ``log_probs [rows, vocab]``.

        ``sums [rows]`` is updated to the new rows in place. Returns the index of the row that each
        new row continues, its token, and whether the search has ended.
        """
        size = self._size
        if not self._finished:
            self._finished = [{} for _ in range(len(texts) // size)]
        sources, tokens, new_sums = [], [], []
        for item, finished in enumerate(self._finished):
            # Rows may have the same text, as all have at first: each continuation counts once.
            candidates: dict[tuple[int, ...], tuple[float, int]] = {}
            for row in range(item * size, (item + 1) * size):
                best = np.argpartition(-log_probs[row], size)[: size + 1]
                for token in best[np.argsort(-log_probs[row][best], kind="stable")]:
                    key = (*texts[row], int(token))
                    candidates[key] = float(sums[row] + log_probs[row][token]), row
            retained, ended = 0, []
            for key, (total, row) in sorted(candidates.items(), key=lambda c: -c[1][0]):
                if key[-1] == self._eot:
                    ended.append((key[:-1], total))
                    continue
                sources.append(row)
                tokens.append(key[-1])
                new_sums.append(total)
                retained += 1
                if retained == size:
                    break
            for text, total in ended[: self._max_finished - len(finished)]:
                finished[text] = total
        sums[:] = new_sums
        return sources, tokens, all(len(f) >= self._max_finished for f in self._finished)

    def going(self, texts: Sequence[Sequence[int]], rows_per_window: int) -> list[int]:
        """Return the indices of all windows: what has ended of each is held here, by its index."""
        return list(range(len(self._finished)))

    def finish(
        self, texts: list[list[int]], sums: Floats, rows_per_window: int
    ) -> list[list[tuple[list[int], float]]]:
        """Return the candidates of each window; unfinished texts replace missing finished ones."""
        result = []
        for item, finished in enumerate(self._finished):
            rows = range(item * rows_per_window, (item + 1) * rows_per_window)
            for row in sorted(rows, key=lambda r: -sums[r]):
                if len(finished) >= rows_per_window:
                    break
                finished[tuple(texts[row])] = float(sums[row])
            result.append([(list(text), total) for text, total in finished.items()])
        return result
