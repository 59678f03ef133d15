"""Batched transcription: a recording is cut at silences, and several windows are decoded together.

This is faster than ``sliding``, and more robust, since an error in one window cannot affect the
next. The disadvantage is that a window does not have the previous text as context. If the text of
a window ends early, another window begins where its last complete segment ended, as in
``sliding``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.prompt import PromptHistory
from tynda.heads.seq2seq.search import (
    DecodingResult,
    Network,
    decode,
    likeliest_languages,
)
from tynda.heads.seq2seq.sliding import (
    WindowDecoder,
    clip_ranges,
    warn_beyond_end,
)
from tynda.heads.seq2seq.thresholds import is_silence
from tynda.heads.seq2seq.windows import encode_windows
from tynda.heads.seq2seq.words import TimedSegment
from tynda.models.base import CrossKV
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.frontend import FrontEnd
from tynda.sound.tape import Tape
from tynda.sound.vad import SpeechDetector

__all__ = ["Windows", "pack_windows", "speech_windows", "transcribe"]

Floats = NDArray[np.float32]


def transcribe(
    network: Network,
    front: FrontEnd,
    blocks: Iterable[Floats],
    speech: SpeechDetector,
    options: Options,
    on_language: Callable[[str | None, float | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[TimedSegment]:
    """Yield the segments of a recording, those of a batch as soon as it is decoded.

    ``blocks`` are consecutive samples ``[n]`` at 16 kHz, of any lengths, in which ``speech`` is
    detected; memory holds the windows of a batch. ``on_language`` is called with the language, and
    its probability where it was detected, before the first segment, ``on_progress`` with the number
    of seconds that have been processed.
    With ``multilingual``, every window has its own language. Raises `TyndaError` for options that
    the model does not support.
    """
    rate = front.sample_rate // front.hop
    ranges = clip_ranges(options.clip_timestamps)
    windows = speech_windows(blocks, speech, ranges, 2 * network.config.frames, front.hop)
    language, prompt = options.language, PromptHistory(network, options).prompt()
    on_language(language, None)
    random = RandomSource(options.seed)
    last_end = 0.0
    cross: CrossKV[Any] | None = None
    item_cross: CrossKV[Any] | None = None
    decoder: WindowDecoder | None = None
    while group := list(islice(windows, options.batch_size)):
        # Memory holds the keys and values of one batch only.
        cross = item_cross = decoder = None
        cross = encode_windows(network, [front(samples) for _, samples in group], options)
        detected: list[tuple[str, float]] = []
        if options.multilingual:
            detected = likeliest_languages(network, cross)
        elif network.tokenizer.multilingual and language is None:
            detected = likeliest_languages(network, _select_item(network, cross, 0)) * len(group)
        languages = [language] * len(group)
        if detected:
            languages = [code for code, _ in detected]
        if language is None and detected:
            language = languages[0]
            on_language(*detected[0])
        results = decode(
            network,
            cross,
            options,
            languages,
            temperature=options.temperature[0],
            prompt=prompt,
            random=random,
        )
        for i, ((begin, samples), first) in enumerate(zip(group, results, strict=True)):
            end = begin + len(samples) // front.hop
            item_cross = _select_item(network, cross, i)
            result: DecodingResult | None = first
            seek = begin
            while seek < end:
                if seek > begin:  # The audio that the text does not cover becomes a new window.
                    item_cross = decoder = None
                    rest = samples[(seek - begin) * front.hop :]
                    item_cross = encode_windows(network, [front(rest)], options)
                    result = None
                decoder = WindowDecoder(
                    network, options, languages[i], item_cross, seek, end - seek, end
                )
                result = decoder.decode(random, prompt, first=result)
                if is_silence(result, options):
                    break
                found, seek = decoder.split(result)
                if options.word_timestamps:
                    decoder.add_words(found, last_end)
                found = [p for p in found if p.start != p.end and p.text.strip()]
                yield from found
                last_end = found[-1].end if found else last_end
        if on_progress:
            on_progress(end / rate)


def speech_windows(
    blocks: Iterable[Floats],
    speech: SpeechDetector,
    ranges: Sequence[tuple[int, int]],
    max_frames: int,
    hop: int,
) -> Iterator[tuple[int, Floats]]:
    """Yield the first frame and the samples of each window, as soon as it is known.

    The arguments are those of `transcribe` and `pack_windows`. Warns about a range that begins
    after the end of the recording.
    """
    in_order = all(before <= begin for (_, before), (begin, _) in pairwise(ranges))
    rate = SAMPLE_RATE // hop
    windows, tape = Windows(ranges, max_frames, rate), Tape()
    spans: list[tuple[float, float]] = []
    for block in blocks:
        tape.append(block)
        spans += speech.add(block)
        if in_order:  # A range that begins before the end of another is packed after all blocks.
            settled = int(speech.settled * rate) - 1
            for begin, end in windows.add(spans, settled):
                yield begin, tape.read(begin * hop, end * hop)
            spans = []
            tape.forget(min(settled, windows.begin) * hop)
    spans += speech.finish()
    content = len(tape) // hop
    for begin, _ in ranges:
        warn_beyond_end(begin, content)
    ends = [(begin, min(end, content)) for begin, end in ranges]
    last = (
        windows.add(spans, sys.maxsize) if in_order else pack_windows(spans, ends, max_frames, rate)
    )
    for begin, end in last:
        if begin < (end := min(end, content)):
            yield begin, tape.read(begin * hop, end * hop)


def pack_windows(
    speech: Sequence[tuple[float, float]],
    ranges: Sequence[tuple[int, int]],
    max_frames: int,
    rate: int,
) -> list[tuple[int, int]]:
    """Return begin and end of each window in frames; a second has ``rate`` frames.

    Windows cover the ``speech`` (in seconds) inside the ``ranges`` (in frames). Consecutive
    stretches of speech in one range share a window of at most ``max_frames``; a longer stretch is
    cut.
    """
    packed = [Windows([wanted], max_frames, rate).add(speech, sys.maxsize) for wanted in ranges]
    return [window for windows in packed for window in windows]


class Windows:
    """Packs stretches of speech as they come; see `pack_windows`.

    No range begins before the end of the one before it.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], max_frames: int, rate: int) -> None:
        self._ranges, self._max_frames, self._rate = ranges, max_frames, rate
        self._open: tuple[int, int, int] | None = None  # begin, end, and index of the range

    @property
    def begin(self) -> int:
        """The first frame of a window to which more may be added."""
        return sys.maxsize if self._open is None else self._open[0]

    def add(self, speech: Sequence[tuple[float, float]], settled: int) -> list[tuple[int, int]]:
        """Return the windows that are complete after ``speech``.

        The stretches to come begin at frame ``settled`` or later; `sys.maxsize`: there are none.
        """
        found: list[tuple[int, int]] = []
        for seconds in speech:
            for at, (first, last) in enumerate(self._ranges):
                begin, end = (min(max(round(t * self._rate), first), last) for t in seconds)
                if begin < end:
                    found += self._pack(begin, end, at)
        if self._open is not None and settled - self._open[0] > self._max_frames:
            found, self._open = [*found, self._open[:2]], None
        return found

    def _pack(self, begin: int, end: int, at: int) -> list[tuple[int, int]]:
        """Extend the open window or open another; return those that are complete."""
        found: list[tuple[int, int]] = []
        if self._open is not None:
            if at == self._open[2] and end - self._open[0] <= self._max_frames:
                self._open = self._open[0], end, at
                return found
            found.append(self._open[:2])
        *whole, (begin, end) = pairwise([*range(begin, end, self._max_frames), end])
        self._open = begin, end, at
        return found + whole


def _select_item(network: Network, cross: CrossKV[Any], item: int) -> CrossKV[Any]:
    """Return the keys and values of one window of a batch."""
    item_cross: CrossKV[Any] = network.select(cross, np.array([item]))
    return item_cross
