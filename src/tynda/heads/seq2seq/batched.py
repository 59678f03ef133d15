"""Batched transcription: a recording is cut at silences, and several windows are decoded together.

This is faster than ``sliding``, and more robust, since an error in one window cannot affect the
next. The disadvantage is that a window does not have the previous text as context. If the text of
a window ends early, another window begins where its last complete segment ended, as in
``sliding``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import (
    DecodingResult,
    Network,
    RandomSource,
    decode,
    detect_language,
)
from tynda.heads.seq2seq.sliding import (
    PromptHistory,
    WindowDecoder,
    clip_ranges,
    encode_windows,
)
from tynda.heads.seq2seq.thresholds import is_silence
from tynda.heads.seq2seq.words import TimedSegment
from tynda.models.base import CrossKV
from tynda.sound.frontend import FrontEnd

__all__ = ["pack_windows", "transcribe"]

Floats = NDArray[np.float32]


def transcribe(
    network: Network,
    front: FrontEnd,
    samples: Floats,
    speech: Sequence[tuple[float, float]],
    options: Options,
    on_language: Callable[[str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[TimedSegment]:
    """Yield the segments of a recording, those of a batch as soon as it is decoded.

    ``samples [n]`` are float32 at 16 kHz; ``speech`` has begin and end of each stretch of speech in
    seconds, in order. ``on_language`` is called with the language before the first segment,
    ``on_progress`` with the number of seconds that have been processed. Raises `TyndaError` for
    options that the model does not support.
    """
    rate = front.sample_rate // front.hop
    max_frames = 2 * network.config.frames
    ranges = list(clip_ranges(options.clip_timestamps, len(samples) // front.hop))
    chunks = pack_windows(speech, ranges, max_frames, rate)
    language, prompt = options.language, PromptHistory(network, options).prompt()
    on_language(language)
    random = RandomSource(options.seed)
    last_end = 0.0
    cross: CrossKV[Any] | None = None
    item_cross: CrossKV[Any] | None = None
    decoder: WindowDecoder | None = None
    for at in range(0, len(chunks), options.batch_size):
        group = chunks[at : at + options.batch_size]
        windows = [front(samples[a * front.hop : b * front.hop]) for a, b in group]
        # Memory holds the keys and values of one batch only.
        cross = item_cross = decoder = None
        cross = encode_windows(network, windows, options)
        if network.tokenizer.multilingual and language is None:
            (probabilities,) = detect_language(network, _select_item(network, cross, 0))
            language = max(probabilities, key=lambda code: probabilities[code])
            on_language(language)
        results = decode(
            network,
            cross,
            options,
            [language] * len(group),
            temperature=options.temperature[0],
            prompt=prompt,
            random=random,
        )
        for i, ((begin, end), first) in enumerate(zip(group, results, strict=True)):
            item_cross = _select_item(network, cross, i)
            result: DecodingResult | None = first
            seek = begin
            while seek < end:
                if seek > begin:  # The audio that the text does not cover becomes a new window.
                    item_cross = decoder = None
                    rest = front(samples[seek * front.hop : end * front.hop])
                    item_cross = encode_windows(network, [rest], options)
                    result = None
                decoder = WindowDecoder(
                    network, options, language, item_cross, seek, end - seek, end
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
            on_progress(group[-1][1] / rate)


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
    windows: list[tuple[int, int]] = []
    for first, last in ranges:
        shared = len(windows)
        for seconds in speech:
            begin, end = (min(max(round(t * rate), first), last) for t in seconds)
            if begin >= end:
                continue
            if len(windows) > shared and end - windows[-1][0] <= max_frames:
                windows[-1] = windows[-1][0], end
                continue
            windows += pairwise([*range(begin, end, max_frames), end])
    return windows


def _select_item(network: Network, cross: CrossKV[Any], item: int) -> CrossKV[Any]:
    """Return the keys and values of one window of a batch."""
    item_cross: CrossKV[Any] = network.select(cross, np.array([item]))
    return item_cross
