"""Where utterances begin and end, by the probability of speech in each 32 ms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.live.settings import LiveSettings
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.silero import CHUNK, HYSTERESIS, MIN_SPEECH

__all__ = ["Endpointer"]


class Endpointer:
    """Follows one utterance after another."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._speech_chunks = self._silent_chunks = 0

    @property
    def is_open(self) -> bool:
        """Whether an utterance, or a noise, has begun and not ended."""
        return self._speech_chunks > 0

    @property
    def is_speech(self) -> bool:
        """Whether the utterance has enough speech to be decoded."""
        return self._speech_chunks >= MIN_SPEECH

    @property
    def silence(self) -> float:
        """Seconds of silence at the end of the utterance."""
        return self._silent_chunks * CHUNK / SAMPLE_RATE

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Take the probabilities ``[n]`` of the next chunks."""
        threshold = self._settings.speech
        for probability in probabilities:
            if probability >= threshold:
                self._speech_chunks += 1
                self._silent_chunks = 0
            elif self.is_open:
                # Below half of a low threshold is silence, whatever the hysteresis.
                is_silent = probability < max(threshold - HYSTERESIS, threshold / 2)
                self._silent_chunks = self._silent_chunks + 1 if is_silent else 0

    def has_ended(self, *, ends_sentence: bool) -> bool:
        """Return whether the silence is long enough to end the utterance."""
        settings = self._settings
        wanted = settings.silence
        if ends_sentence:
            wanted = min(wanted, settings.sentence_silence)
        return self.is_open and self.silence >= wanted

    def close(self) -> None:
        """End the utterance."""
        self._speech_chunks = self._silent_chunks = 0
