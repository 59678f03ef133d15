"""A recording of any length as chunks for a CTC model, in bounded memory.

`quiet_chunks` cuts the audio at its quietest spots and encodes each chunk by itself.
`overlapping_chunks` encodes chunks that overlap and retains the middle of each, which had context
on both sides, as the speech pipeline of ``transformers`` does. It cuts the log-probabilities in
their longest pause, so that no word is cut where two encoded chunks meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["MAX_SECONDS", "MIN_SECONDS", "Chunk", "overlapping_chunks", "quiet_chunks"]

Floats = NDArray[np.float32]
LogProbs = Callable[[Floats], Floats]
"""Samples ``[n]`` -> log-probabilities ``[frames, vocab]``."""

MIN_SECONDS, MAX_SECONDS = 3.0, 8.0
"""Bounds of a chunk's length. With longer chunks, models that were trained on short utterances
left whole sentences out."""


@dataclass(frozen=True)
class Chunk:
    """Log-probabilities ``[frames, vocab]`` of ``samples [n]``, whose first is ``start``."""

    start: int
    samples: Floats
    log_probs: Floats

    @property
    def end(self) -> int:
        """The position of the sample after the last."""
        return self.start + len(self.samples)


def quiet_chunks(blocks: Iterable[Floats], log_probs: LogProbs) -> Iterator[Chunk]:
    """Cut audio at its quietest spots and encode each chunk by itself."""
    start = 0
    for _, samples in vad.split(blocks, MAX_SECONDS, MIN_SECONDS):
        yield Chunk(start, samples, log_probs(samples))
        start += len(samples)


def overlapping_chunks(
    blocks: Iterable[Floats],
    log_probs: LogProbs,
    frame: int,
    is_silent: Callable[[Floats], NDArray[np.bool_]],
    chunk: float,
    stride: float,
) -> Iterator[Chunk]:
    """Encode chunks of ``chunk`` seconds whose outer ``stride`` seconds are only context.

    ``frame`` is the number of samples for each frame of the model. ``is_silent`` maps
    log-probabilities ``[frames, vocab]`` to whether each frame has no symbol ``[frames]``.
    """
    min_frames, max_frames = (int(s * SAMPLE_RATE / frame) for s in (MIN_SECONDS, MAX_SECONDS))
    pending, audio, start = np.zeros((0, 1), np.float32), np.zeros(0, np.float32), 0
    for encoded, samples in _encode_overlapping(blocks, log_probs, frame, chunk, stride):
        pending = np.concatenate([pending, encoded]) if len(pending) else encoded
        audio = np.concatenate([audio, samples])
        while len(pending) > max_frames:
            cut = _cut_position(is_silent(pending[:max_frames]), min_frames)
            yield Chunk(start, audio[: cut * frame], pending[:cut])
            start += cut * frame
            pending, audio = pending[cut:], audio[cut * frame :]
    if len(audio):
        yield Chunk(start, audio, pending)


def _encode_overlapping(
    blocks: Iterable[Floats], log_probs: LogProbs, frame: int, chunk: float, stride: float
) -> Iterator[tuple[Floats, Floats]]:
    """Yield the retained frames of each chunk ``[frames, vocab]`` and their samples ``[n]``."""
    # Lengths are multiples of a frame, so that the frames of all chunks lie on one grid.
    side = max(1, round(stride * SAMPLE_RATE / frame))
    size = max(2 * side + 1, round(chunk * SAMPLE_RATE / frame))
    skip, pending = 0, np.zeros(0, np.float32)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) > size * frame:
            retained = log_probs(pending[: size * frame])[skip : size - side]
            yield retained, pending[skip * frame : (size - side) * frame]
            pending = pending[(size - 2 * side) * frame :]
            skip = side
    if len(pending):
        yield log_probs(pending)[skip:], pending[skip * frame :]


def _cut_position(silent: NDArray[np.bool_], min_frames: int) -> int:
    """Return the middle of the longest run of ``silent [frames]`` after ``min_frames``.

    Without such a run, the position is the end.
    """
    edges = np.flatnonzero(np.diff(np.r_[False, silent[min_frames:], False]))
    if not len(edges):
        return len(silent)
    begins, ends = edges[::2], edges[1::2]
    run = int((ends - begins).argmax())
    return min_frames + int(begins[run] + ends[run] + 1) // 2
