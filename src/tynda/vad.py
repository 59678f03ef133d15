"""Long recordings to pieces that a model can take, cut where it is quiet.

By energy alone: nothing is thrown away, and every sample lies in exactly one piece.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["split"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE * 30 // 1000
# Frames of a moving average (0.3 s): a pause between words, not the closure of a "t".
SMOOTHED = 10


def split(
    blocks: Iterable[Floats], max_seconds: float = 20.0, min_seconds: float = 8.0
) -> Iterator[tuple[float, Floats]]:
    """Cut a sound, given as blocks float32 `[any length]` at 16 kHz, into pieces.

    Yields `(start, samples)`: the start in seconds, and the samples, float32 `[n]`, of at
    most `max_seconds`. A cut is made where the energy, averaged over 0.3 s, is lowest
    between `min_seconds` and `max_seconds` after the one before, so that words stay whole.
    Sound that fits into `max_seconds` is one piece; the last piece may be shorter than
    `min_seconds`; of no samples there is no piece. Joined, the pieces are the input. At
    most `max_seconds` and one block are held in memory.

    Raises ValueError unless 0 < min_seconds <= max_seconds.
    """
    if not 0 < min_seconds <= max_seconds:
        raise ValueError(
            f"0 < min_seconds <= max_seconds must hold, not {min_seconds} and {max_seconds}"
        )
    most = max(1, int(max_seconds * SAMPLE_RATE))
    least = max(1, int(min_seconds * SAMPLE_RATE))
    start = 0
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        # One sample more than a piece may have: only then is there another piece.
        while len(waiting) > most:
            cut = _quietest(waiting[:most], least)
            yield start / SAMPLE_RATE, waiting[:cut]
            start, waiting = start + cut, waiting[cut:]
    if len(waiting):
        yield start / SAMPLE_RATE, waiting


def _quietest(samples: Floats, least: int) -> int:
    """Where to cut `samples` `[n]`: in the quietest spot of `least` to `n` samples."""
    window = samples[least:]
    frames = len(window) // FRAME
    if frames == 0:
        return len(samples)
    energy = np.square(window[: frames * FRAME].reshape(frames, FRAME)).mean(axis=1)
    smoothed = np.convolve(energy, np.ones(min(SMOOTHED, frames)), "valid")
    # The quietest stretch; of equally quiet ones (digital silence) the last, for long pieces.
    quiet = len(smoothed) - 1 - int(smoothed[::-1].argmin())
    # Within it the quietest frame, or a cut in its middle could fall on a word's edge.
    stretch = energy[quiet : quiet + SMOOTHED]
    lowest = np.flatnonzero(stretch == stretch.min())
    frame = quiet + int(lowest[len(lowest) // 2])
    return least + frame * FRAME + FRAME // 2
