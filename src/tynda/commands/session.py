"""A live session of commands: audio comes in, an answer comes out for each utterance.

Speech is found by Silero's detector, as for live text. A command is answered after a short pause if
no longer sentence of the grammar begins with it and it is certain, and else at the end of the
utterance. A word between two pauses is not a command where other speech came shortly before it:
somebody who talks says words of a grammar as well.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.recognizer import Answer, CommandRecognizer
from tynda.live.endpoint import Endpointer
from tynda.live.settings import LiveSettings
from tynda.live.ticks import Ticks
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.silero import CHUNK, Detector

__all__ = ["CommandSession"]

Floats = NDArray[np.float32]

_TICK = 2 * CHUNK
"""Samples between two decisions: 64 ms."""
_BEFORE = 8 * _TICK
"""Samples before the first speech that belong to an utterance, since a word may begin softly."""


class CommandSession:
    """The state of one live recording; only one thread at a time may use it."""

    def __init__(self, recognizer: CommandRecognizer, sample_rate: int = SAMPLE_RATE) -> None:
        """``sample_rate`` is the rate in hertz of the samples that will come.

        Raises `TyndaError` for a rate that is out of range.
        """
        self._recognizer, self._input = recognizer, Ticks(_TICK, sample_rate)
        settings = recognizer.settings
        self._pause, self._apart = settings.pause, settings.apart * SAMPLE_RATE
        endings = LiveSettings(
            silence=settings.silence, sentence_silence=settings.silence, speech=settings.speech
        )
        self._detector, self._endpointer = Detector(), Endpointer(endings)
        self._audio = np.zeros(0, np.float32)  # the utterance, or the last moments of silence
        self._samples = 0
        self._best = 0.0
        """The highest threshold at which a pause of the utterance would have given a command."""
        self._has_tried = False
        self._began = 0
        """The sample at which the utterance began."""
        self._refused = -math.inf
        """The sample at which the last utterance that is not a command ended."""

    def feed(self, samples: Any) -> list[Answer]:
        """Take the next samples; return the answers to the utterances that ended, oldest first.

        ``samples`` are an array or a tensor, as for `as_samples`, of any length. Raises
        `TyndaError` for other samples, and after `finish`.
        """
        return [each for tick in self._input.add(samples) for each in self._tick(tick)]

    def finish(self) -> list[Answer]:
        """End the recording; return the answer to the last utterance if it had not ended."""
        if self._input.is_finished:
            return []
        found = [each for tick in self._input.finish() for each in self._tick(tick)]
        rest = self._input.rest
        self._endpointer.add(self._detector.add(rest))
        self._endpointer.add(self._detector.finish())
        self._samples += len(rest)
        self._audio = np.concatenate([self._audio, rest])
        return found + (self._end() if self._endpointer.is_open else [])

    def _tick(self, samples: Floats) -> list[Answer]:
        endpointer = self._endpointer
        if not endpointer.is_open:
            self._began = self._samples
        endpointer.add(self._detector.add(samples))
        self._samples += len(samples)
        self._audio = np.concatenate([self._audio, samples])
        if not endpointer.is_open:
            self._audio = self._audio[-_BEFORE:].copy()
            return []
        # The audio of an utterance that is too long is no command; a part of it is enough to know.
        self._audio = self._audio[-self._max_samples - _TICK :]
        if endpointer.has_ended(ends_sentence=False):
            return self._end()
        if endpointer.silence < self._pause:
            self._has_tried = False
        elif endpointer.is_speech and not self._has_tried and self._is_apart:
            self._has_tried = True
            answer = self._recognizer.recognize(self._audio)
            # A model that may only write whole sentences completes one that is still being said:
            # doubts count twice.
            certainty = 2 * answer.confidence - 1
            self._best = max(self._best, certainty)
            if certainty >= self._recognizer.threshold and self._is_complete(answer):
                return self._close(answer)
        return []

    @property
    def _max_samples(self) -> int:
        return int(self._recognizer.max_seconds * SAMPLE_RATE)

    @property
    def _is_apart(self) -> bool:
        """Whether no other speech came shortly before the utterance."""
        return self._began - self._refused >= self._apart

    def _is_complete(self, answer: Answer) -> bool:
        """Return whether an answer is a command that no longer one begins with."""
        sentence = answer.sentence
        return sentence is not None and not self._recognizer.graph.goes_on(sentence)

    def _end(self) -> list[Answer]:
        """Return the answer to an utterance that has ended, and nothing for a noise."""
        if not self._endpointer.is_speech:
            self._close(Answer(None))
            return []
        if not self._is_apart:
            return self._close(Answer(None))
        answer = self._recognizer.recognize(self._audio)
        if not answer.is_command:
            answer = replace(answer, confidence=max(self._best, answer.confidence))
        return self._close(answer)

    def _close(self, answer: Answer) -> list[Answer]:
        """Begin to wait for the next utterance."""
        end = self._samples / SAMPLE_RATE
        start = end - len(self._audio) / SAMPLE_RATE
        if self._endpointer.is_speech and not answer.is_command:
            self._refused = self._samples - round(self._endpointer.silence * SAMPLE_RATE)
        self._endpointer.close()
        self._audio = self._audio[-_BEFORE:].copy()
        self._best, self._has_tried = 0.0, False
        return [replace(answer, start=start, end=end)]
