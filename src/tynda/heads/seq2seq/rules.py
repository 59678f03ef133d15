"""Rules that suppress tokens: those that are never generated, and timestamps out of order.

Source: the logit filters of openai/whisper's ``decoding.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.options import Options
from tynda.ops.numpy import NumpyOps

__all__ = ["SECONDS_PER_FRAME", "Rules", "log_softmax", "suppressed_tokens"]

Floats = NDArray[np.float32]

SECONDS_PER_FRAME = 0.02
"""Duration of an encoder frame, which is also the unit of timestamps."""
log_softmax = NumpyOps().log_softmax
"""The function for logits, which the search converts to NumPy from any backend."""


def suppressed_tokens(tokenizer: Any, vocab: int, options: Options) -> tuple[list[int], list[int]]:
    """Return the tokens that a text never has, and those with which it does not begin."""
    t = tokenizer
    never = {x for x in options.suppress_tokens if x >= 0}
    if -1 in options.suppress_tokens:
        never |= t.non_speech
    if options.suppress_tokens:
        never |= t.unwritten
    first = list(t.blanks) if options.suppress_blank else []
    return sorted(x for x in never if x < vocab), first


class Rules:
    """Suppresses tokens depending on the previous ones."""

    def __init__(self, tokenizer: Any, vocab: int, options: Options) -> None:
        t = self._tokenizer = tokenizer
        self._options = options
        never, first = suppressed_tokens(t, vocab, options)
        # Arrays, since NumPy would convert lists for each token.
        self._suppressed = np.array(never, np.int64)
        self._suppressed_first = np.array(first, np.int64)
        self._with_timestamps = not options.without_timestamps and t.timestamp_begin is not None
        self._max_first_timestamp = (
            None
            if options.max_initial_timestamp is None or not self._with_timestamps
            else t.timestamp_begin + round(options.max_initial_timestamp / SECONDS_PER_FRAME)
        )

    def timestamps(self) -> dict[str, int]:
        """Return the token of a window's beginning, the one that stands for no timestamps, and the
        last one with which a window may begin; nothing where the model writes none."""
        if not self._with_timestamps or self._max_first_timestamp is None:
            return {}
        t = self._tokenizer
        numbers = t.timestamp_begin, t.no_timestamps, self._max_first_timestamp
        return dict(zip(("begin", "none", "last_first"), numbers, strict=True))

    def apply(self, logits: Floats, texts: Sequence[Sequence[int]]) -> None:
        """Set the ``logits [rows, vocab]`` of suppressed tokens to minus infinity, in place.

        ``texts`` has the previous tokens of each row, without the prompt.
        """
        if not texts[0]:
            logits[:, self._suppressed_first] = -np.inf
        logits[:, self._suppressed] = -np.inf
        for row, text in zip(logits, texts, strict=True):
            self._penalize_repetition(row, text)
            if self._with_timestamps:
                self._restrict_timestamps(row, text)

    def _penalize_repetition(self, row: Floats, text: Sequence[int]) -> None:
        penalty, size = self._options.repetition_penalty, self._options.no_repeat_ngram_size
        if penalty != 1 and text:
            penalty = max(penalty, 1e-3)  # The quotient must not overflow.
            seen = sorted(set(text))
            row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        if size and len(text) >= size:
            tail = list(text[len(text) - size + 1 :])
            for i in range(len(text) - size + 1):
                if list(text[i : i + size - 1]) == tail:
                    row[text[i + size - 1]] = -np.inf

    def _restrict_timestamps(self, row: Floats, text: Sequence[int]) -> None:
        t = self._tokenizer
        begin = t.timestamp_begin
        row[t.no_timestamps] = -np.inf
        if not text:  # A window begins with a timestamp.
            row[:begin] = -np.inf
            if self._max_first_timestamp is not None:
                row[self._max_first_timestamp + 1 :] = -np.inf
        timestamps = [x for x in text if x >= begin]
        if timestamps:
            after_timestamp = text[-1] >= begin
            paired = len(text) < 2 or text[-2] >= begin
            if after_timestamp and paired:
                row[begin:] = -np.inf
            elif after_timestamp:  # The next segment begins, or the text ends.
                row[: t.eot] = -np.inf
            # Timestamps do not decrease, and no segment is empty.
            row[begin : timestamps[-1] + (0 if after_timestamp and not paired else 1)] = -np.inf
        # A timestamp is next if the total probability of timestamps exceeds that of any text token.
        word, times = float(row[:begin].max()), row[begin:]
        top = float(times.max())
        # The total of so many is between their maximum and this many times as much, which mostly
        # decides.
        most = top + math.log(len(times))
        if word < top or (word < most and word < top + math.log(np.exp(times - top).sum())):
            row[:begin] = -np.inf
