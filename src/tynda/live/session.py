"""A live session: audio comes in, partial and final segments come out.

Speech is found by Silero's detector. While somebody speaks, the utterance so far is decoded again
and again; the words that are final stay as they are. A word becomes final where two decodings in a
row agree on it (local agreement: Liu et al. 2020, "Low-latency sequence-to-sequence speech
recognition and translation by partial hypothesis selection"; Macháček et al. 2023, "Turning Whisper
into real-time transcription system") and some audio follows it, since what a decoder writes for the
very end of the audio is a guess (AlignAtt: Papi et al. 2023). An utterance ends with a pause.

All decisions fall on fixed places of the audio, so that the result does not depend on the sizes of
the blocks in which audio comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.base import LiveDecoder, LiveWord
from tynda.live.endpoint import Endpointer
from tynda.live.settings import LiveSettings
from tynda.live.ticks import Ticks
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.silero import CHUNK, Detector
from tynda.transcript import Segment, Word

if TYPE_CHECKING:
    from tynda.speakers.diarize import Turn
    from tynda.speakers.live import LiveDiarization

__all__ = ["LiveSegment", "LiveSession"]

Floats = NDArray[np.float32]

_TICK = 4 * CHUNK
"""Samples between two decisions: 128 ms."""
_BEFORE = 4 * _TICK
"""Samples before the first speech that belong to an utterance, since a word may begin softly."""
_EARLY_SILENCE = 0.2
"""Seconds of silence after which the utterance is decoded as if it had ended, so that its text is
ready when it does end."""
_MAX_PAUSE = 2.0
"""Seconds of silence after which the next utterance has none of the text before as context."""
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "…")


@dataclass(frozen=True)
class LiveSegment:
    """The words of an utterance so far; a later segment of the same utterance replaces it."""

    segment: Segment
    """The words so far; ``start`` and ``end`` are seconds since the beginning of the session. Where
    speakers are wanted, the words of an utterance that has ended have them."""
    final_words: int
    """Number of the segment's words that will not change any more."""
    is_final: bool
    """Whether the utterance has ended, so that nothing of it will change."""

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as JSON-able data."""
        state = {"final": self.is_final, "final_words": self.final_words}
        return {**state, **self.segment.to_dict()}


class LiveSession:
    """The state of one live recording; only one thread at a time may use it.

    Memory holds the audio of one utterance, at most as long as the model decodes at once.
    """

    def __init__(
        self,
        decoder: LiveDecoder,
        settings: LiveSettings,
        sample_rate: int = SAMPLE_RATE,
        voices: LiveDiarization | None = None,
    ) -> None:
        """``sample_rate`` is the rate in hertz of the samples that will come; ``voices`` says who
        speaks.

        Raises `TyndaError` for a rate that is out of range.
        """
        self.settings = settings
        self._step, self._hold, self._max_hold, self._show = (
            getattr(decoder, name) if (given := getattr(settings, name)) is None else given
            for name in ("step", "hold", "max_hold", "show")
        )
        self._decoder, self._input = decoder, Ticks(_TICK, sample_rate)
        self._voices = voices
        self._turn: list[Turn] = []
        """The last turn: a short utterance without one of its own has the same speaker."""
        self._detector, self._endpointer = Detector(), Endpointer(settings)
        self._audio = np.zeros(0, np.float32)  # the utterance, or the last moments of silence
        self._ticks = self._idle = 0
        self._words: list[LiveWord] = []
        """The words of the audio: those of ended utterances, final ones, and others."""
        self._ended_count = self._final_count = 0
        self._decoded_at = 0.0
        """Seconds of the utterance that the last decoding had."""
        self._agreed_on_end = False

    @property
    def seconds(self) -> float:
        """Seconds of audio that have come so far and were looked at."""
        return self._ticks * _TICK / SAMPLE_RATE

    @property
    def language(self) -> str | None:
        """Code of the language; None until it is known."""
        return self._decoder.language

    def feed(self, samples: Any) -> list[LiveSegment]:
        """Take the next samples; return what has changed, oldest first.

        ``samples`` are an array or a tensor, as for `as_samples`, of any length. Raises
        `TyndaError` for other samples, and after `finish`.
        """
        return [each for tick in self._input.add(samples) for each in self._tick(tick)]

    def finish(self) -> list[LiveSegment]:
        """End the recording; return the last segment if it was not final."""
        if self._input.is_finished:
            return []
        found = [each for tick in self._input.finish() for each in self._tick(tick)]
        rest = self._input.rest
        if self._endpointer.is_open or len(rest):
            self._endpointer.add(self._detector.add(rest))
            self._endpointer.add(self._detector.finish())
            self._audio = np.concatenate([self._audio, rest])
            if self._voices is not None:
                self._voices.add(rest)
        return found + self._end_utterance()

    def _tick(self, samples: Floats) -> list[LiveSegment]:
        endpointer = self._endpointer
        self._ticks += 1
        endpointer.add(self._detector.add(samples))
        self._audio = np.concatenate([self._audio, samples])
        if self._voices is not None:
            self._voices.add(samples)
        if not endpointer.is_open:
            self._idle += 1
            if not self._words or self._idle * _TICK >= _MAX_PAUSE * SAMPLE_RATE:
                self._restart(self._audio[-_BEFORE:])
            return []
        self._idle = 0
        if endpointer.has_ended(ends_sentence=self._ends_sentence):
            return self._end_utterance()
        seconds = len(self._audio) / SAMPLE_RATE
        if seconds + _TICK / SAMPLE_RATE > self._decoder.max_seconds:
            return self._cut()  # The next tick would be too much.
        quiet = endpointer.silence
        # While it is quiet, one decoding is enough: with a little of the silence, and no more.
        due = seconds - self._decoded_at >= self._step and quiet < _EARLY_SILENCE
        early = quiet >= _EARLY_SILENCE and self._silence_at_decoding(seconds) < _EARLY_SILENCE
        if endpointer.is_speech and (due or early):
            self._decode()
            return self._segments(self._shown_count(seconds), is_final=False)
        return []

    def _shown_count(self, seconds: float) -> int:
        """Return the number of words to show: not those at the very end, which are guesses."""
        limit = seconds - self._show
        shown = self._final_count
        while shown < len(self._words) and self._words[shown].end <= limit:
            shown += 1
        return shown

    def _silence_at_decoding(self, seconds: float) -> float:
        """Return the seconds of silence with which the last decoded audio ended."""
        return self._endpointer.silence - (seconds - self._decoded_at)

    @property
    def _ends_sentence(self) -> bool:
        """Whether the last two decodings agree on a last word that ends a sentence: a decoder also
        ends the text of a sentence that is not over."""
        words = self._words[self._ended_count :]
        return bool(words) and words[-1].text.endswith(_SENTENCE_ENDS) and self._agreed_on_end

    def _decode(self, *, has_ended: bool = False) -> None:
        """Decode the utterance so far, and find which words are final."""
        before = self._words
        final = before[: self._final_count]
        decode = self._decoder.last_words if has_ended else self._decoder.words
        words = decode(self._audio, final)
        seconds = self._decoded_at = len(self._audio) / SAMPLE_RATE
        # The last word is never final: the next decoding may continue it.
        for i in range(self._final_count, len(words) - 1):
            follows = seconds - words[i].end
            agreed = i < len(before) and before[i].text == words[i].text
            if follows < self._max_hold and not (agreed and follows >= self._hold):
                break
            self._final_count = i + 1
        last, now = before[self._ended_count :][-1:], words[self._ended_count :][-1:]
        self._agreed_on_end = [w.text for w in last] == [w.text for w in now]
        self._words = words

    def _end_utterance(self) -> list[LiveSegment]:
        """Close the utterance; return its final segment if it has words."""
        seconds = len(self._audio) / SAMPLE_RATE
        is_early = self._silence_at_decoding(seconds) < _EARLY_SILENCE
        if self._endpointer.is_speech and (is_early or self._decoder.is_incremental):
            self._decode(has_ended=True)
        found = self._segments(len(self._words), is_final=True)
        self._endpointer.close()
        if not self._decoder.uses_context:
            self._restart(self._audio[-_BEFORE:])
        return found

    def _cut(self) -> list[LiveSegment]:
        """Shorten audio that is too long to go on, by ended utterances or else by final words."""
        found: list[LiveSegment] = []
        if not self._ended_count:
            self._decode()
            count = self._final_count
            if not count:  # Nothing was agreed on: all words but those at the very end are taken.
                limit = len(self._audio) / SAMPLE_RATE - self._hold
                count = sum(w.end < limit for w in self._words) or len(self._words)
            found = self._segments(count, is_final=True)
        count = self._ended_count
        end = self._words[count - 1].end if count else len(self._audio) / SAMPLE_RATE
        words = [replace(w, start=w.start - end, end=w.end - end) for w in self._words[count:]]
        final = self._final_count - count
        self._restart(self._audio[round(end * SAMPLE_RATE) :])
        self._words, self._final_count = words, final
        return found

    def _restart(self, audio: Floats) -> None:
        self._decoder.restart()
        self._audio = audio.copy()
        self._words, self._ended_count, self._final_count = [], 0, 0
        self._decoded_at = 0.0

    def _segments(self, stop: int, *, is_final: bool) -> list[LiveSegment]:
        """Return the segment of the words up to ``stop`` that belong to no ended utterance, or
        nothing where there are none. Final words then belong to an ended one."""
        words = self._words[self._ended_count : stop]
        if not words:
            return []
        start = self.seconds - len(self._audio) / SAMPLE_RATE
        if self._input.is_finished:  # The last samples are less than a tick.
            start += len(self._input.rest) / SAMPLE_RATE
        spoken = [Word(w.text.strip(), start + w.start, start + w.end, w.confidence) for w in words]
        known = [w.confidence for w in spoken if w.confidence is not None]
        segment = Segment(
            spoken[0].start,
            spoken[-1].end,
            "".join(w.text for w in words).strip(),
            spoken,
            float(np.mean(known)) if known else None,
        )
        count = len(words) if is_final else self._final_count - self._ended_count
        if is_final:
            self._ended_count = self._final_count = stop
            segment = self._with_speakers(segment)
        return [LiveSegment(segment, count, is_final)]

    def _with_speakers(self, segment: Segment) -> Segment:
        """Return an utterance that has ended with its speakers, where they are wanted."""
        if self._voices is None:
            return segment
        from tynda.speakers.attribution import named  # Most text has no speakers.

        turns = self._voices.finish() if self._input.is_finished else self._voices.turns()
        self._turn = (turns or self._turn)[-1:]
        return named([segment], turns or self._turn)[0]
