"""Splits recordings at quiet points, and detects speech.

`split` uses energy alone: nothing is dropped, and every sample is in exactly one piece. `speech`
uses a neural network, Silero VAD (``sound.silero``).
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tynda.sound import silero

__all__ = ["speech", "split"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE * 30 // 1000
# Frames of the moving average (0.3 s): as long as a pause between words, longer than the closure
# of a "t".
SMOOTHED = 10
CHUNK = silero.CHUNK


def split(
    blocks: Iterable[Floats], max_seconds: float = 8.0, min_seconds: float = 3.0
) -> Iterator[tuple[float, Floats]]:
    """Cut a recording, given as blocks float32 `[any length]` at 16 kHz, into pieces.

    Yields `(start, samples)`: the start in seconds, and the samples, float32 `[n]`, of at
    most `max_seconds`. Each cut is where the energy, averaged over 0.3 s, is lowest between
    `min_seconds` and `max_seconds` after the previous cut, so that words stay whole. A
    recording of at most `max_seconds` is one piece; the last piece may be shorter than
    `min_seconds`; no samples give no piece. The concatenated pieces equal the input. At most
    `max_seconds` and one block are held in memory.

    Raises ValueError unless 0 < min_seconds <= max_seconds.
    """
    if not 0 < min_seconds <= max_seconds:
        raise ValueError(
            f"0 < min_seconds <= max_seconds must hold, not {min_seconds} and {max_seconds}"
        )
    max_samples = max(1, int(max_seconds * SAMPLE_RATE))
    min_samples = max(1, int(min_seconds * SAMPLE_RATE))
    start = 0
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        # Another piece follows only if there is at least one sample more than the maximum.
        while len(waiting) > max_samples:
            cut = _quietest(waiting[:max_samples], min_samples)
            yield start / SAMPLE_RATE, waiting[:cut]
            start, waiting = start + cut, waiting[cut:]
    if len(waiting):
        yield start / SAMPLE_RATE, waiting


def speech(
    samples: Floats,
    *,
    threshold: float = 0.5,
    min_silence: float = 0.5,
    min_speech: float = 0.1,
    pad: float = 0.2,
) -> list[tuple[float, float]]:
    """Return start and end, in seconds, of each span of speech in ``samples [n]`` at 16 kHz.

    Silero VAD (Silero Team 2021) gives a probability for each 32 ms. Speech starts where it
    reaches ``threshold`` and ends where it stays 0.15 below that for ``min_silence`` seconds.
    Spans shorter than ``min_speech`` seconds are dropped; the others are extended by ``pad``
    seconds on both sides.
    """
    probabilities = [float(p) for block in silero.probabilities([samples]) for p in block]
    found: list[tuple[int, int]] = []
    begin = quiet = -1  # indices of chunks; -1 means no speech, no silence
    for i, p in enumerate(
        [*probabilities, *[0.0] * (round(min_silence * SAMPLE_RATE / CHUNK) + 1)]
    ):
        if p >= threshold:
            begin, quiet = (i if begin < 0 else begin), -1
        elif begin >= 0 and p < threshold - 0.15:
            quiet = i if quiet < 0 else quiet
            if (i - quiet) * CHUNK >= min_silence * SAMPLE_RATE:
                found.append((begin, quiet))
                begin = quiet = -1
    duration = len(samples) / SAMPLE_RATE
    stretches: list[tuple[float, float]] = []
    for first, last in found:
        if (last - first) * CHUNK < min_speech * SAMPLE_RATE:
            continue
        start = max(0.0, first * CHUNK / SAMPLE_RATE - pad)
        end = min(duration, last * CHUNK / SAMPLE_RATE + pad)
        if stretches and start < stretches[-1][1]:  # split the silence between the two spans
            start = (start + stretches[-1][1]) / 2
            stretches[-1] = stretches[-1][0], start
        stretches.append((start, end))
    return stretches


def _quietest(samples: Floats, min_samples: int) -> int:
    """Return where to cut `samples` `[n]`: the quietest point from `min_samples` to `n`."""
    window = samples[min_samples:]
    frames = len(window) // FRAME
    if frames == 0:
        return len(samples)
    energy = np.square(window[: frames * FRAME].reshape(frames, FRAME)).mean(axis=1)
    smoothed = np.convolve(energy, np.ones(min(SMOOTHED, frames)), "valid")
    # Find the quietest span; of equally quiet ones (digital silence) the last, for long pieces.
    quiet = len(smoothed) - 1 - int(smoothed[::-1].argmin())
    # Choose the quietest frame within it: a cut in the middle could hit the edge of a word.
    stretch = energy[quiet : quiet + SMOOTHED]
    lowest = np.flatnonzero(stretch == stretch.min())
    frame = quiet + int(lowest[len(lowest) // 2])
    return min_samples + frame * FRAME + FRAME // 2
