"""Live text by local agreement on faster-whisper, the peer of ``bench/streaming.py``.

Written from Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System", sections 2
and 3, with its settings: whenever a second of audio has come, all audio since the last cut is
transcribed with a beam of 5 and the words before the cut as prompt. Words that two transcriptions
in a row begin with are final. Where the audio is longer than 15 s, it is cut at the end of the last
segment whose words are all final. There is no detector of speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

RATE = 16_000
CHUNK = 1.0
"""Seconds of new audio before the next transcription."""
MAX_BUFFER = 15.0
PROMPT = 200
"""Letters of the text before the audio that are its prompt."""
SAME = 5
"""The maximum number of words that a transcription may repeat from the final ones."""


@dataclass(frozen=True)
class Heard:
    """A word with its times in the recording, in seconds."""

    text: str
    start: float
    end: float


class LocalAgreement:
    """The state of one recording; its results have the form of those of `LiveSession`."""

    def __init__(self, whisper: Any, beam_size: int = 5) -> None:
        self._whisper, self._beam_size = whisper, beam_size
        self._audio, self._offset, self._new = np.zeros(0, np.float32), 0.0, 0
        self._final: list[Heard] = []
        self._before: list[Heard] = []
        """The words of the last transcription that are not final."""

    def feed(self, samples: Any) -> list[Any]:
        """Add samples at 16 kHz; return the words so far if they were transcribed again."""
        self._audio = np.concatenate([self._audio, samples])
        self._new += len(samples)
        if self._new < CHUNK * RATE:
            return []
        self._new = 0
        return self._step()

    def finish(self) -> list[Any]:
        """Return all words, which are final now."""
        if self._new:
            self._step()
        self._final += self._before
        self._before = []
        return [self._result(is_final=True)]

    def _step(self) -> list[Any]:
        spoken = "".join(w.text for w in self._final if w.end <= self._offset)
        segments, _ = self._whisper.transcribe(
            self._audio,
            language="en",
            beam_size=self._beam_size,
            word_timestamps=True,
            condition_on_previous_text=True,
            initial_prompt=spoken[-PROMPT:] or None,
        )
        ends, words = list[float](), list[Heard]()
        for segment in segments:
            ends.append(self._offset + segment.end)
            words += [
                Heard(w.word, self._offset + w.start, self._offset + w.end) for w in segment.words
            ]
        words = self._not_final(words)
        agreed = 0
        while (
            agreed < min(len(words), len(self._before))
            and words[agreed].text == self._before[agreed].text
        ):
            agreed += 1
        self._final += words[:agreed]
        self._before = words[agreed:]
        if len(self._audio) > MAX_BUFFER * RATE:
            self._cut(ends)
        return [self._result(is_final=False)]

    def _not_final(self, words: list[Heard]) -> list[Heard]:
        """Return the words after the final ones, of which they may repeat some."""
        last = self._final[-1].end if self._final else 0.0
        words = [w for w in words if w.start > last - 0.1]
        for count in range(min(SAME, len(words), len(self._final)), 0, -1):
            if [w.text for w in words[:count]] == [w.text for w in self._final[-count:]]:
                return words[count:]
        return words

    def _cut(self, ends: list[float]) -> None:
        last = self._final[-1].end if self._final else 0.0
        if done := [end for end in ends[:-1] if end <= last]:
            self._audio = self._audio[round((done[-1] - self._offset) * RATE) :]
            self._offset = done[-1]

    def _result(self, *, is_final: bool) -> Any:
        words = [SimpleNamespace(text=w.text.strip()) for w in [*self._final, *self._before]]
        segment = SimpleNamespace(words=words)
        return SimpleNamespace(segment=segment, final_words=len(self._final), is_final=is_final)


def open_whisper(folder: str, threads: int) -> Any:
    """Return faster-whisper's model in 8 bits."""
    from faster_whisper import WhisperModel

    return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)


def whole_text(whisper: Any, samples: Any) -> str:
    """Return the text of a whole recording."""
    segments, _ = whisper.transcribe(samples, language="en", beam_size=5)
    return "".join(segment.text for segment in segments)
