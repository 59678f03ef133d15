"""The dev set of a training run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.text.normalize import english_letters
from tynda.train import data as train_data
from tynda.train.objective import Objective

__all__ = ["DevSet"]


class DevSet:
    """Dev features, computed once and stored in half precision."""

    def __init__(self, corpus: train_data.Corpus, objective: Objective) -> None:
        window, front = objective.window_seconds, objective.frontend
        longest = window or math.inf
        usable = [
            i for i in range(len(corpus)) if train_data.SHORTEST <= corpus.seconds(i) <= longest
        ]
        if not usable:
            bounds = f"{train_data.SHORTEST} s" + (f" to {window:g} s" if window else "")
            raise TyndaError(f"no dev recording lasts {bounds}: check data.dev")
        if window and (left := sum(corpus.seconds(i) > window for i in range(len(corpus)))):
            warnings.warn(
                f"{left} dev recordings exceed the window of {window:g} s and are not scored",
                stacklevel=2,
            )
        self.said = [
            train_data.Said(english_letters(corpus.utterances[i].text), 0.0, corpus.seconds(i))
            for i in usable
        ]
        self.seconds = [window or said.end for said in self.said]
        self.features = [
            features.astype(np.float16)
            for i in usable
            for features in objective.fit([front(corpus.samples(i))])
        ]

    def batches(
        self, seconds: float
    ) -> Sequence[tuple[list[np.ndarray[Any, Any]], list[train_data.Said]]]:
        """Return batches of at most ``seconds`` with padding, shortest first."""
        batches = train_data.pack(np.argsort(self.seconds).tolist(), self.seconds, seconds)
        return [
            ([self.features[i] for i in part], [self.said[i] for i in part]) for part in batches
        ]
