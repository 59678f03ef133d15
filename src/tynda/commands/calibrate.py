"""The threshold at which a grammar finds so many commands an hour in recordings that have none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.commands.recognizer import CommandRecognizer
from tynda.commands.session import CommandSession
from tynda.errors import TyndaError
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["Calibration", "calibrate", "confidences"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it was found with."""

    threshold: float
    false_accepts: int
    """The number of utterances of the recordings that the threshold accepts."""
    hours: float
    """Duration of the recordings."""


def calibrate(
    recognizer: CommandRecognizer,
    recordings: Iterable[Iterable[Floats]],
    false_accepts: float,
) -> Calibration:
    """Return the lowest threshold that accepts at most ``false_accepts`` utterances an hour.

    ``recordings`` have no commands; each is consecutive samples ``[n]``, float32 at 16 kHz. A
    threshold of 1 accepts what the model would write without a grammar as well, so that even this
    one may accept more. Raises `TyndaError` for recordings without any audio.
    """
    found, seconds = list[float](), 0.0
    for blocks in recordings:
        some, duration = confidences(recognizer, blocks)
        found += some
        seconds += duration
    if not seconds:
        raise TyndaError("the recordings to calibrate with are empty: name others")
    hours = seconds / 3600
    allowed = math.floor(false_accepts * hours)
    found.sort(reverse=True)
    # The next number above the highest confidence that must not be accepted.
    lowest = found[allowed] if allowed < len(found) else 0.0
    threshold = min(1.0, float(np.nextafter(lowest, 2.0)))
    return Calibration(threshold, sum(c >= threshold for c in found), hours)


def confidences(
    recognizer: CommandRecognizer, blocks: Iterable[Floats]
) -> tuple[list[float], float]:
    """Return the highest confidence of each utterance of a recording, and its seconds."""
    # No utterance is a command, so that each is followed to its end.
    deaf = CommandSession(recognizer.with_threshold(math.inf))
    found, samples = list[float](), 0
    for block in blocks:
        samples += len(block)
        found += [answer.confidence for answer in deaf.feed(block)]
    found += [answer.confidence for answer in deaf.finish()]
    return found, samples / SAMPLE_RATE
