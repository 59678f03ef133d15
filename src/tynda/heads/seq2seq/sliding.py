"""Sliding-window transcription of recordings of any length.

Radford et al. 2022, section 4.5, as implemented in openai/whisper's ``transcribe.py`` and
``timing.py``: each window begins where the last complete segment of the previous one ended, has the
previous text as prompt, and is decoded again at a higher temperature where its text fails a
threshold. The rules for doubtful words and long pauses, and their constants, are the reference's.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.activity import (
    MARGIN,
    Activity,
    Evidence,
    cut_repetitions,
)
from tynda.heads.seq2seq.align import align
from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.prompt import PromptHistory
from tynda.heads.seq2seq.recording import Recording
from tynda.heads.seq2seq.rules import SECONDS_PER_FRAME
from tynda.heads.seq2seq.search import (
    DecodingResult,
    Network,
    decode,
    likeliest_languages,
)
from tynda.heads.seq2seq.thresholds import (
    is_confident,
    is_repetitive,
    is_silence,
    needs_fallback,
)
from tynda.heads.seq2seq.windows import FRAMES_PER_SECOND, encode_windows
from tynda.heads.seq2seq.words import (
    TimedSegment,
    fit_to_segment,
    is_anomalous,
    last_word_end,
    merge_punctuations,
    shorten_at_sentence_ends,
)
from tynda.models.base import CrossKV

__all__ = [
    "WindowDecoder",
    "clip_ranges",
    "transcribe",
    "warn_beyond_end",
]

Floats = NDArray[np.float32]


def transcribe(
    network: Network,
    recording: Recording,
    options: Options,
    on_language: Callable[[str | None, float | None], None],
    on_progress: Callable[[float], None] | None = None,
    activity: Activity | None = None,
) -> Iterator[TimedSegment]:
    """Yield the segments of a recording, those of a window as soon as it is decoded.

    The ``recording`` ends in one additional window of silence, as in the reference. ``on_language``
    is called with the language, and its probability where it was detected, before the first
    segment, ``on_progress`` with the number of seconds
    that have been processed. ``activity`` says where somebody speaks: there is no text elsewhere,
    and the language is that of the first window with speech; with ``multilingual``, every window
    has its own. Raises `TyndaError` for options that
    the model does not support.
    """
    size = 2 * network.config.frames
    language = options.language
    is_unknown = network.tokenizer.multilingual and language is None and not options.multilingual
    probability: float | None = None
    if is_unknown and activity is None:
        language, probability = _language(network, recording, 0, options)
        is_unknown = False
    on_language(language, probability)
    history, random = PromptHistory(network, options), RandomSource(options.seed)
    last_speech_end = 0.0
    ranges = clip_ranges(options.clip_timestamps)
    for at, (begin, end) in enumerate(ranges):
        # A later range may begin before the end of this one.
        later = min((first for first, _ in ranges[at + 1 :]), default=sys.maxsize)
        recording.forget(min(begin, later))
        if activity is not None:
            activity.skip(begin / FRAMES_PER_SECOND)
        warn_beyond_end(begin, recording.end(begin + 1))
        seek, reached, count = begin, begin - 1, 0
        cross: CrossKV[Any] | None = None
        decoder: WindowDecoder | None = None
        while seek < (stop := recording.end(min(end, seek + size))):
            if seek <= reached:  # A damaged model's timestamps, or tiny windows, do not advance.
                seek = reached + count
                continue
            recording.forget(min(seek, later))
            reached, count = seek, stop - seek
            is_last = stop == recording.end(min(end, stop + 1))
            evidence = Evidence.SPEECH
            if activity is not None:
                times = seek / FRAMES_PER_SECOND, stop / FRAMES_PER_SECOND
                evidence = activity.evidence(*times)
            if evidence is Evidence.NONE:
                # The next window begins a little earlier than this one ends, so that it has the
                # beginning of a word at the boundary.
                seek = stop if is_last else stop - round(MARGIN * FRAMES_PER_SECOND)
                if on_progress:
                    on_progress(seek / FRAMES_PER_SECOND)
                continue
            if is_unknown:
                language, probability = _language(network, recording, seek, options)
                is_unknown = False
                on_language(language, probability)
            cross = decoder = None  # Memory holds the keys and values of one window only.
            cross = encode_windows(network, [recording.window(seek, stop)], options)
            if options.multilingual:
                before, ((language, probability),) = language, likeliest_languages(network, cross)
                if before is None:
                    on_language(language, probability)
                elif language != before:  # A prompt in another language would be continued in it.
                    history.forget()
            # Whether the recording ends within a silence that counts as long is known then.
            silence = math.ceil((options.hallucination_silence_threshold or 0) * FRAMES_PER_SECOND)
            known_frames = recording.end(seek + size + silence)
            decoder = WindowDecoder(network, options, language, cross, seek, count, known_frames)
            result = decoder.decode(random, history.prompt(), history.prefix())
            doubtful = evidence is Evidence.DOUBTFUL and not is_confident(result, options)
            if doubtful or is_silence(result, options):
                seek += count
                if on_progress:
                    on_progress(seek / FRAMES_PER_SECOND)
                continue
            found, seek = decoder.split(result)
            if activity is not None and is_repetitive(result, options):
                found = cut_repetitions(found, network.tokenizer)
            if options.word_timestamps:
                timed, seek = decoder.refine_by_words(found, seek, last_speech_end)
                if timed is None:  # A silence is skipped.
                    if on_progress:
                        on_progress(seek / FRAMES_PER_SECOND)
                    continue
                found, end_of_speech = timed, last_word_end(timed)
                last_speech_end = last_speech_end if end_of_speech is None else end_of_speech
            found = [p for p in found if p.start != p.end and p.text.strip()]
            if activity is not None:
                found = [p for p in found if activity.includes(p.start - MARGIN, p.end + MARGIN)]
                if not (options.without_timestamps or options.word_timestamps):
                    for segment in found:
                        segment.start = activity.begin(segment.start, segment.end)
            yield from found
            history.add([t for p in found for t in p.tokens], decoder.last_temperature)
            if on_progress:
                on_progress(recording.end(seek) / FRAMES_PER_SECOND)
    recording.drain()


def _language(
    network: Network, recording: Recording, begin: int, options: Options
) -> tuple[str, float]:
    """Detect the language of the window from frame ``begin`` on, and its probability; see
    `transcribe`."""
    size = 2 * network.config.frames
    # A short recording is followed by features of silence here, not by zeros, as in the reference.
    end = begin + size
    if options.window != "exact":
        end = recording.end(end)
    cross = encode_windows(network, [recording.window(begin, end)], options)
    (found,) = likeliest_languages(network, cross)
    return found


def clip_ranges(times: Sequence[float]) -> list[tuple[int, int]]:
    """Return begin and end, in frames, of each part of the recording, in the order of time.

    ``times`` are the option ``clip_timestamps``. A part without an end has `sys.maxsize` as such.
    """
    frames = [round(t * FRAMES_PER_SECOND) for t in times] or [0]
    if len(frames) % 2:
        frames.append(sys.maxsize)
    return sorted(zip(frames[::2], frames[1::2], strict=True))


def warn_beyond_end(begin: int, content_frames: int) -> None:
    """Warn about a part that begins after the end of a recording of ``content_frames``."""
    if begin >= max(1, content_frames):
        start, length = begin / FRAMES_PER_SECOND, content_frames / FRAMES_PER_SECOND
        warnings.warn(
            f"nothing to transcribe from {start:g} s on (clip_timestamps): the recording lasts "
            f"{length:g} s",
            stacklevel=2,
        )


@dataclass(eq=False)
class WindowDecoder:
    """Decodes one window of a recording, and splits its text into segments."""

    network: Network
    options: Options
    language: str | None
    cross: CrossKV[Any]
    """Keys and values of the window."""
    seek: int
    """The window's first frame in the recording."""
    frames: int
    """The window's number of frames, without padding."""
    content_frames: int
    """The recording's number of frames, or those that are known, where more than
    ``hallucination_silence_threshold`` follow the window."""
    last_temperature: float = 0.0
    """The last temperature at which the text was decoded."""

    @property
    def start(self) -> float:
        """The window's begin in seconds of the recording."""
        return self.seek / FRAMES_PER_SECOND

    def decode(
        self,
        random: RandomSource,
        prompt: Sequence[int] = (),
        prefix: Sequence[int] = (),
        first: DecodingResult | None = None,
    ) -> DecodingResult:
        """Return the text at the first temperature at which it does not fail.

        If it fails at every temperature, the result is the most likely one of the texts that do not
        repeat themselves, or else of all texts. ``first`` is the result at the first temperature,
        if it exists already.
        """
        options, rejected = self.options, list[DecodingResult]()
        for temperature in options.temperature:
            self.last_temperature = temperature
            if first is not None and not rejected:
                result = first
            else:
                (result,) = decode(
                    self.network,
                    self.cross,
                    options,
                    [self.language],
                    temperature=temperature,
                    prompt=prompt,
                    prefix=prefix,
                    random=random,
                )
            if not needs_fallback(result, options):
                return result
            rejected.append(result)
        candidates = [result for result in rejected if not is_repetitive(result, options)]
        return max(candidates or rejected, key=lambda result: result.avg_logprob)

    def split(self, result: DecodingResult) -> tuple[list[TimedSegment], int]:
        """Return the window's segments, and the frame at which the next window begins."""
        tokens, zero = result.tokens, self.network.tokenizer.timestamp_begin
        stamps = [t >= zero for t in tokens]
        # Two consecutive timestamps are the end of a segment and the beginning of the next.
        cuts = [i for i in range(1, len(tokens)) if stamps[i - 1] and stamps[i]]
        ended = self._ends_with_one_timestamp(tokens)
        if cuts:
            if ended:
                cuts.append(len(tokens))
            parts = [tokens[i:j] for i, j in zip([0, *cuts[:-1]], cuts, strict=True)]
            found = [
                self._segment(p, self._seconds(p[0]), self._seconds(p[-1]), result) for p in parts
            ]
            if ended:
                return found, self.seek + self.frames
            # The segment after the last cut is incomplete: the next window begins with it.
            return found, self.seek + 2 * (tokens[cuts[-1] - 1] - zero)
        end = self.start + self.frames / FRAMES_PER_SECOND
        last = max((i for i, stamp in enumerate(stamps) if stamp), default=None)
        if last is not None and tokens[last] != zero:
            end = self._seconds(tokens[last])
        return [self._segment(tokens, self.start, end, result)], self.seek + self.frames

    def _seconds(self, stamp: int) -> float:
        stamp -= self.network.tokenizer.timestamp_begin
        return self.start + stamp * SECONDS_PER_FRAME

    def _segment(
        self, tokens: list[int], start: float, end: float, result: DecodingResult
    ) -> TimedSegment:
        text = self.network.tokenizer.decode(tokens)
        return TimedSegment(
            start, end, tokens, text, result, language=self.language, seek=self.seek
        )

    def refine_by_words(
        self, found: list[TimedSegment], seek: int, last_speech_end: float
    ) -> tuple[list[TimedSegment] | None, int]:
        """Add words to the segments ``found``, and correct the next window's beginning by them.

        With ``hallucination_silence_threshold``, doubtful segments around silence are removed; the
        segments are None where the window must be decoded again from the returned frame.
        """
        self.add_words(found, last_speech_end)
        threshold = self.options.hallucination_silence_threshold
        window_end = self.start + 2 * self.network.config.frames / FRAMES_PER_SECOND
        last = last_word_end(found)
        if (
            not self._ends_with_one_timestamp(found[0].result.tokens)
            and last is not None
            and last > self.start
        ):
            seek = round(last * FRAMES_PER_SECOND)
            if threshold is not None and window_end - last <= threshold:
                seek = self.seek + self.frames
        if threshold is None:
            return found, seek
        first = next((p for p in found if p.words), None)
        if first and is_anomalous(first) and first.start - self.start > threshold:
            return None, self.seek + max(1, round((first.start - self.start) * FRAMES_PER_SECOND))
        # A doubtful segment between silences, or between other doubtful ones, is a hallucination.
        for i, segment in enumerate(found):
            if not segment.words:
                continue
            if is_anomalous(segment):
                after = next((p for p in found[i + 1 :] if p.words), None)
                following = (
                    after.words[0].start if after else self.start + self.frames / FRAMES_PER_SECOND
                )
                silence_before = (
                    segment.start - last_speech_end > threshold
                    or segment.start < threshold
                    or segment.start - self.start < 2.0
                )
                silence_after = (
                    following - segment.end > threshold
                    or (after is not None and is_anomalous(after))
                    or window_end - segment.end < 2.0
                )
                if silence_before and silence_after:
                    seek = round(max(self.start + 1, segment.start) * FRAMES_PER_SECOND)
                    if self.content_frames / FRAMES_PER_SECOND - segment.end < threshold:
                        seek = self.content_frames
                    return found[:i], seek
            last_speech_end = segment.end
        return found, seek

    def _ends_with_one_timestamp(self, tokens: Sequence[int]) -> bool:
        """Return whether the text ends with one timestamp: no speech follows the last segment."""
        zero = self.network.tokenizer.timestamp_begin
        return [t >= zero for t in tokens[-2:]] == [False, True]

    def add_words(self, found: Sequence[TimedSegment], last_speech_end: float) -> None:
        """Add words to the segments ``found``; the speech before them ended at
        ``last_speech_end``."""
        eot = self.network.tokenizer.eot
        texts = [[t for t in segment.tokens if t < eot] for segment in found]
        words = align(
            self.network,
            self.cross,
            [t for text in texts for t in text],
            self.language,
            self.options.task,
            self.frames // 2,
        )
        durations = [w.end - w.start for w in words if w.end != w.start]
        median_duration = min(0.7, float(np.median(durations))) if durations else 0.0
        if durations:
            shorten_at_sentence_ends(words, 2 * median_duration)
        merge_punctuations(
            words, self.options.prepend_punctuations, self.options.append_punctuations
        )
        rest = iter(words)
        for segment, text in zip(found, texts, strict=True):
            count = 0
            while count < len(text) and (word := next(rest, None)):
                count += len(word.tokens)
                if word.word:
                    word.start = round(self.start + word.start, 2)
                    word.end = round(self.start + word.end, 2)
                    segment.words.append(word)
            if segment.words:
                fit_to_segment(segment, median_duration, last_speech_end)
                last_speech_end = segment.end
