"""A grammar in the hands of a model: utterances become answers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.commands.settings import CommandSettings
from tynda.heads.base import CommandDecoder
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.samples import as_samples

__all__ = ["Answer", "CommandRecognizer"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A command, or an utterance that is not one."""

    sentence: str | None
    """The words of the command, normalised; None where the utterance is not a command."""
    intent: str | None = None
    slots: Mapping[str, Any] = field(default_factory=dict)
    confidence: float = 0.0
    """From 0 to 1; that of the most probable sentence where the utterance is not a command."""
    start: float = 0.0
    """Seconds from the beginning of the recording to the utterance."""
    end: float = 0.0

    @property
    def is_command(self) -> bool:
        """Whether the utterance is a command."""
        return self.sentence is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-able data, with times rounded to milliseconds."""
        return {
            "command": self.is_command,
            "sentence": self.sentence,
            "intent": self.intent,
            "slots": dict(self.slots),
            "confidence": round(self.confidence, 4),
            "start": round(self.start, 3),
            "end": round(self.end, 3),
        }


class CommandRecognizer:
    """Recognises the sentences of a grammar; immutable, and safe to share between threads."""

    def __init__(
        self, graph: WordGraph, decoder: CommandDecoder, settings: CommandSettings
    ) -> None:
        self.graph, self.settings, self._decoder = graph, settings, decoder
        given = settings.threshold
        self.threshold = decoder.threshold if given is None else given

    def with_threshold(self, threshold: float) -> CommandRecognizer:
        """Return a recogniser that differs in its threshold; infinity accepts nothing."""
        other = copy(self)
        other.threshold = threshold
        return other

    def exported(self) -> dict[str, Any]:
        """Return the model's search: see `CommandDecoder.exported`."""
        return self._decoder.exported()

    @property
    def max_seconds(self) -> float:
        """Maximum duration of a command."""
        return self._decoder.max_seconds

    def recognize(self, samples: Any, sample_rate: int = SAMPLE_RATE) -> Answer:
        """Return the answer to one utterance; ``samples`` are as for `as_samples`, at
        ``sample_rate`` hertz. Audio that is longer than any command is not a command."""
        floats: Floats = as_samples(samples, sample_rate)
        seconds = len(floats) / SAMPLE_RATE
        if seconds > self.max_seconds or (match := self._decoder.find(floats)) is None:
            return Answer(None, end=seconds)
        meaning = self.graph.meaning(match.text)
        if meaning is None or match.confidence < self.threshold:
            return Answer(None, confidence=match.confidence, end=seconds)
        return Answer(meaning.words, meaning.intent, meaning.slots, match.confidence, end=seconds)
