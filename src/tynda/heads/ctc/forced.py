"""Forced alignment by a CTC model: when each letter of a known text was spoken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord
from tynda.heads.ctc import chunks, paths
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["align"]

Floats = NDArray[np.float32]

_MAX_CELLS = 10_000_000_000
"""Frames times states of an alignment, which take time: those of about an hour of speech."""


def align(
    samples: Floats,
    words: Sequence[str],
    log_probs: chunks.LogProbs,
    samples_per_frame: int,
    tokenizer: Any,
    spelling: Callable[[str], str],
) -> list[AlignedWord]:
    """Return the words with the times of their letters, from the first frame of each to its last.

    ``spelling`` gives the letters that the tokenizer has for a word. Raises `TyndaError` for
    letters that it does not have, and for a text that is too long for the audio.
    """
    tokens, words_of = list[int](), list[tuple[int, int]]()
    for i, word in enumerate(words):
        encoded = tokenizer.encode(f" {spelling(word)}" if i else spelling(word))
        spoken = [j for j, token in enumerate(encoded) if tokenizer.symbols[token] != " "]
        if not spoken:
            raise TyndaError(f"the model has no letters for {word!r}: spell it in its letters")
        words_of.append((len(tokens) + spoken[0], len(tokens) + spoken[-1] + 1))
        tokens += encoded
    rows, starts = list[Floats](), list[NDArray[np.int64]]()
    for chunk in chunks.quiet_chunks([samples], log_probs):
        rows.append(chunk.log_probs)
        starts.append(chunk.start + samples_per_frame * np.arange(len(chunk.log_probs)))
    found = np.concatenate(rows) if rows else np.zeros((0, len(tokenizer)), np.float32)
    seconds = len(samples) / SAMPLE_RATE
    if len(found) * (2 * len(tokens) + 1) > _MAX_CELLS:
        raise TyndaError(
            f"{seconds:.0f} s of audio with {len(words)} words are too long to be aligned at once: "
            "cut the recording and its text"
        )
    try:
        spans = paths.align(found, tokens, tokenizer.blank)
    except ValueError:
        raise TyndaError(
            f"the text is too long for the audio: {len(tokens)} letters in {seconds:.1f} s, in "
            f"which the model writes at most {len(found)}: check that it is the text of this "
            "recording"
        ) from None
    times = np.concatenate([*starts, [len(samples)]]) / SAMPLE_RATE
    ends = np.minimum(times + samples_per_frame / SAMPLE_RATE, seconds)
    confidences = paths.letter_log_probs(found, tokens, spans, tokenizer.blank)
    aligned = []
    for word, (first, last) in zip(words, words_of, strict=True):
        letters = [
            AlignedWord(
                tokenizer.symbols[tokens[i]].strip(),
                float(times[spans[i][0]]),
                float(ends[spans[i][1] - 1]),
                math.exp(confidences[i]),
            )
            for i in range(first, last)
        ]
        confidence = math.exp(sum(confidences[first:last]) / (last - first))
        aligned.append(
            AlignedWord(word, letters[0].start, letters[-1].end, confidence, tuple(letters))
        )
    return aligned
