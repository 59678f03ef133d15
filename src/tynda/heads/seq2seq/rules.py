"""The rules of a decoder's text: time stamps in order, and tokens that are never written.

Source: the logit filters of openai/whisper's ``decoding.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.options import Options
from tynda.ops.numpy import NumpyOps

__all__ = ["SECONDS_PER_FRAME", "Rules", "log_softmax", "suppressed_tokens"]

Floats = NDArray[np.float32]

SECONDS_PER_FRAME = 0.02
"""Seconds of a frame of the encoder, which is also the unit of time stamps."""
log_softmax = NumpyOps().log_softmax
"""Logits are NumPy's by the time that they are chosen from, whatever the backend."""


def suppressed_tokens(tokenizer: Any, vocab: int, options: Options) -> tuple[list[int], list[int]]:
    """The tokens that a text never has, and those that it does not begin with."""
    t = tokenizer
    never = {x for x in options.suppress_tokens if x >= 0}
    if -1 in options.suppress_tokens:
        never |= t.non_speech
    if options.suppress_tokens:
        never |= t.unwritten
    first = list(t.blanks) if options.suppress_blank else []
    return sorted(x for x in never if x < vocab), first


class Rules:
    """Forbid tokens by those before them."""

    def __init__(self, tokenizer: Any, vocab: int, options: Options) -> None:
        t = self._tokenizer = tokenizer
        self._options = options
        self._never, self._first = suppressed_tokens(t, vocab, options)
        self._with_timestamps = not options.without_timestamps and t.timestamp_begin is not None
        self._max_first_timestamp = (
            None
            if options.max_initial_timestamp is None or not self._with_timestamps
            else t.timestamp_begin + round(options.max_initial_timestamp / SECONDS_PER_FRAME)
        )

    def apply(self, logits: Floats, texts: Sequence[Sequence[int]]) -> None:
        """Set forbidden tokens to minus infinity in ``logits [rows, vocab]``."""
        if not texts[0]:
            logits[:, self._first] = -np.inf
        logits[:, self._never] = -np.inf
        for row, text in zip(logits, texts, strict=True):
            self._against_repetition(row, text)
            if self._with_timestamps:
                self._timestamps(row, text)

    def _against_repetition(self, row: Floats, text: Sequence[int]) -> None:
        penalty, size = self._options.repetition_penalty, self._options.no_repeat_ngram_size
        if penalty != 1 and text:
            seen = sorted(set(text))
            row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        if size and len(text) >= size:
            tail = list(text[len(text) - size + 1 :])
            for i in range(len(text) - size + 1):
                if list(text[i : i + size - 1]) == tail:
                    row[text[i + size - 1]] = -np.inf

    def _timestamps(self, row: Floats, text: Sequence[int]) -> None:
        t = self._tokenizer
        begin = t.timestamp_begin
        row[t.no_timestamps] = -np.inf
        if not text:  # a window begins with its first time stamp
            row[:begin] = -np.inf
            if self._max_first_timestamp is not None:
                row[self._max_first_timestamp + 1 :] = -np.inf
        stamps = [x for x in text if x >= begin]
        if stamps:
            after_stamp = text[-1] >= begin
            paired = len(text) < 2 or text[-2] >= begin
            if after_stamp and paired:
                row[begin:] = -np.inf
            elif after_stamp:  # the end of a segment, the beginning of the next or of nothing
                row[: t.eot] = -np.inf
            # Time goes on, and no segment is empty.
            row[begin : stamps[-1] + (0 if after_stamp and not paired else 1)] = -np.inf
        # Time stamps compete as one: if together they beat every word, it is time for one.
        logs = log_softmax(row[None])[0]
        if np.logaddexp.reduce(logs[begin:]) > logs[:begin].max():
            row[:begin] = -np.inf
