"""The texts that a decoder goes on with: the likeliest, drawn ones, or the best of a beam search.

The rules are those of openai/whisper's ``decoding.py``: a step's scores choose the row that each
new row continues and its token; in the end each window has candidates with their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Beams", "Dice", "Draws"]

Floats = NDArray[np.float32]


class Dice:
    """The random numbers of a recording, by which its tokens are drawn above temperature 0."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @cached_property
    def generator(self) -> np.random.Generator:
        """The generator, made on first use, since NumPy is slow to import its generators."""
        return np.random.default_rng(self._seed)


class Draws:
    """The best token, or one drawn at random, for every row on its own."""

    def __init__(self, temperature: float, dice: Dice, eot: int) -> None:
        self._temperature, self._dice, self._eot = temperature, dice, eot

    def choose(
        self, logs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """The row that each new row continues, its token, and whether all rows have ended."""
        tokens = []
        for i, (row, text) in enumerate(zip(logs, texts, strict=True)):
            if text and text[-1] == self._eot:
                tokens.append(self._eot)
                continue
            token = int(np.argmax(self._perturbed(row)))
            sums[i] += row[token]
            tokens.append(token)
        return list(range(len(texts))), tokens, all(t == self._eot for t in tokens)

    def _perturbed(self, row: Floats) -> Floats:
        """The largest of logits with Gumbel noise is a draw from their softmax (Gumbel 1954)."""
        if self._temperature == 0:
            return row
        noise = self._dice.generator.gumbel(size=len(row)).astype(np.float32)
        return row / np.float32(self._temperature) + noise

    def finish(
        self, texts: list[list[int]], sums: Floats, group: int
    ) -> list[list[tuple[list[int], float]]]:
        """The candidates of each window: text and sum of log-probabilities."""
        rows = [
            (text[: text.index(self._eot)] if self._eot in text else text, float(total))
            for text, total in zip(texts, sums, strict=True)
        ]
        return [rows[i : i + group] for i in range(0, len(rows), group)]


class Beams:
    """Beam search: the best ``size`` continuations of each window go on."""

    def __init__(self, size: int, patience: float, eot: int) -> None:
        self._size, self._eot = size, eot
        self._enough = max(1, round(size * patience))
        self._finished: list[dict[tuple[int, ...], float]] = []

    def choose(
        self, logs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """The row that each new row continues, its token, and whether the search has ended.

        ``sums`` become those of the new rows.
        """
        size = self._size
        if not self._finished:
            self._finished = [{} for _ in range(len(texts) // size)]
        sources, tokens, new_sums = [], [], []
        for item, finished in enumerate(self._finished):
            # Rows may say the same, as all do at first: each continuation counts once.
            candidates: dict[tuple[int, ...], tuple[float, int]] = {}
            for row in range(item * size, (item + 1) * size):
                best = np.argpartition(-logs[row], size)[: size + 1]
                for token in best[np.argsort(-logs[row][best], kind="stable")]:
                    key = (*texts[row], int(token))
                    candidates[key] = float(sums[row] + logs[row][token]), row
            kept, ended = 0, []
            for key, (total, row) in sorted(candidates.items(), key=lambda c: -c[1][0]):
                if key[-1] == self._eot:
                    ended.append((key[:-1], total))
                    continue
                sources.append(row)
                tokens.append(key[-1])
                new_sums.append(total)
                kept += 1
                if kept == size:
                    break
            for text, total in ended[: self._enough - len(finished)]:
                finished[text] = total
        sums[:] = new_sums
        return sources, tokens, all(len(f) >= self._enough for f in self._finished)

    def finish(
        self, texts: list[list[int]], sums: Floats, group: int
    ) -> list[list[tuple[list[int], float]]]:
        """The candidates of each window; those that did not end fill up the missing ones."""
        result = []
        for item, finished in enumerate(self._finished):
            rows = range(item * group, (item + 1) * group)
            for row in sorted(rows, key=lambda r: -sums[r]):
                if len(finished) >= group:
                    break
                finished[tuple(texts[row])] = float(sums[row])
            result.append([(list(text), total) for text, total in finished.items()])
        return result
