"""A recording as pieces that a CTC model has read, of any length in bounded memory.

`quiet` cuts the sound first, where nobody speaks, and lets the model read piece by piece.
`strided` lets it read chunks that overlap, keeps what it made of the middle of each, where it
heard both sides (as ``transformers``' pipeline for speech does), and cuts behind the model,
where it read nothing for the longest time: a word that lies where two chunks meet is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["LEAST", "MOST", "Piece", "quiet", "strided"]

Floats = NDArray[np.float32]
LogProbs = Callable[[Floats], Floats]
"""Samples ``[n]`` -> log-probabilities ``[frames, vocab]``."""

LEAST, MOST = 3.0, 8.0
"""Seconds of a piece. Longer ones made models that learnt from short utterances leave whole
sentences out."""


@dataclass(frozen=True)
class Piece:
    """Log-probabilities ``[frames, vocab]`` of the samples from ``start`` up to ``end``."""

    start: int
    end: int
    log_probs: Floats


def quiet(blocks: Iterable[Floats], log_probs: LogProbs) -> Iterator[Piece]:
    """Pieces of sound cut at the quietest spots, each read by itself."""
    start = 0
    for _, samples in vad.split(blocks, MOST, LEAST):
        end = start + len(samples)
        yield Piece(start, end, log_probs(samples))
        start = end


def strided(
    blocks: Iterable[Floats],
    log_probs: LogProbs,
    frame: int,
    silent: Callable[[Floats], NDArray[np.bool_]],
    chunk: float,
    stride: float,
) -> Iterator[Piece]:
    """Chunks of ``chunk`` seconds, of which ``stride`` on either side only lend their context.

    A frame of the model has ``frame`` samples; in ``silent(log_probs)`` frames it read nothing.
    """
    least, most = (int(s * SAMPLE_RATE / frame) for s in (LEAST, MOST))
    waiting, start, end = np.zeros((0, 1), np.float32), 0, 0
    for read, samples in _overlapping(blocks, log_probs, frame, chunk, stride):
        waiting = np.concatenate([waiting, read]) if len(waiting) else read
        end += samples
        while len(waiting) > most:
            cut = _widest(silent(waiting[:most]), least)
            yield Piece(start, start + cut * frame, waiting[:cut])
            start, waiting = start + cut * frame, waiting[cut:]
    if end > start:
        yield Piece(start, end, waiting)


def _overlapping(
    blocks: Iterable[Floats], log_probs: LogProbs, frame: int, chunk: float, stride: float
) -> Iterator[tuple[Floats, int]]:
    """The frames of the whole recording, chunk by chunk, and of how many samples they are."""
    # Whole frames, or the chunks' frames would not lie on one grid.
    side = max(1, round(stride * SAMPLE_RATE / frame))
    size = max(2 * side + 1, round(chunk * SAMPLE_RATE / frame))
    skip, waiting = 0, np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > size * frame:
            kept = log_probs(waiting[: size * frame])[skip : size - side]
            yield kept, (size - side - skip) * frame
            waiting = waiting[(size - 2 * side) * frame :]
            skip = side
    if len(waiting):
        yield log_probs(waiting)[skip:], len(waiting) - skip * frame


def _widest(silent: NDArray[np.bool_], least: int) -> int:
    """Where to cut: amid the longest run of ``silent [frames]`` from ``least`` on, or behind."""
    edges = np.flatnonzero(np.diff(np.r_[False, silent[least:], False]))
    if not len(edges):
        return len(silent)
    begins, ends = edges[::2], edges[1::2]
    run = int((ends - begins).argmax())
    return least + int(begins[run] + ends[run] + 1) // 2
