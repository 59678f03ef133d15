"""A recording through Whisper's window at its silences, several windows side by side.

Faster than ``sliding``, since windows are decoded together, and steadier: no window waits for
another or is led astray by it. The price is what the text so far would have told. A window whose
text ends early is followed by another, from where its last whole segment ended, as in ``sliding``.
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
    TimedSegment,
    WindowDecoder,
    clip_ranges,
    encode_windows,
    is_silence,
)
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
    """The segments of a recording, those of a batch as soon as it is decoded.

    ``samples [n]`` at 16 kHz; ``speech`` are the begin and end of each stretch of it, in
    seconds, in order. ``on_language`` is called before the first segment with the language;
    ``on_progress`` with the seconds that are done. Raises `TyndaError` for options that do not fit
    the model.
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
        cross = item_cross = decoder = None  # keys and values of one batch at a time
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
                if seek > begin:  # what the window's text left out is a window of its own
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
    """Begin and end of each window in frames, ``rate`` to the second.

    Of each of the ``wanted`` stretches, in frames too, the speech. What follows each other there
    shares a window while it holds ``most`` frames; a longer stretch of speech is cut.
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
    """One of several windows."""
    item_cross: CrossKV[Any] = network.select(cross, np.array([item]))
    return item_cross
