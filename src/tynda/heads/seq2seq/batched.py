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

from tynda.heads.seq2seq.candidates import Dice
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network, Window, decode, detect_language
from tynda.heads.seq2seq.sliding import History, Piece, Stretch, clips, encode_windows, is_silence
from tynda.models.base import CrossKV
from tynda.sound.frontend import FrontEnd

__all__ = ["pack", "transcribe"]

Floats = NDArray[np.float32]


def transcribe(
    network: Network,
    front: FrontEnd,
    samples: Floats,
    speech: Sequence[tuple[float, float]],
    options: Options,
    on_language: Callable[[str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[Piece]:
    """The segments of a recording, those of a batch as soon as it is decoded.

    ``samples [n]`` at 16 kHz; ``speech`` are the begin and end of each stretch of it, in
    seconds, in order. ``on_language`` is called before the first segment with the language;
    ``on_progress`` with the seconds that are done. Raises `TyndaError` for options that do not fit
    the model.
    """
    rate = front.sample_rate // front.hop
    most = 2 * network.config.frames
    wanted = list(clips(options.clip_timestamps, len(samples) // front.hop))
    chunks = pack(speech, wanted, most, rate)
    language, prompt = options.language, History(network, options).prompt()
    on_language(language)
    dice = Dice(options.seed)
    last_end = 0.0
    cross: CrossKV[Any] | None = None
    one: CrossKV[Any] | None = None
    stretch: Stretch | None = None
    for at in range(0, len(chunks), options.batch_size):
        group = chunks[at : at + options.batch_size]
        windows = [front(samples[a * front.hop : b * front.hop]) for a, b in group]
        cross = one = stretch = None  # keys and values of one batch at a time
        cross = encode_windows(network, windows, options)
        if network.tokenizer.multilingual and language is None:
            (chances,) = detect_language(network, _only(network, cross, 0))
            language = max(chances, key=lambda code: chances[code])
            on_language(language)
        texts = decode(
            network,
            cross,
            options,
            [language] * len(group),
            temperature=options.temperature[0],
            prompt=prompt,
            dice=dice,
        )
        for i, ((begin, end), first) in enumerate(zip(group, texts, strict=True)):
            one = _only(network, cross, i)
            text: Window | None = first
            seek = begin
            while seek < end:
                if seek > begin:  # what the window's text left out is a window of its own
                    one = stretch = None
                    rest = front(samples[seek * front.hop : end * front.hop])
                    one = encode_windows(network, [rest], options)
                    text = None
                stretch = Stretch(network, options, language, one, seek, end - seek, end)
                window = stretch.decode(dice, prompt, first=text)
                if is_silence(window, options):
                    break
                found, seek = stretch.cut(window)
                if options.word_timestamps:
                    stretch.add_words(found, last_end)
                found = [p for p in found if p.start != p.end and p.text.strip()]
                yield from found
                last_end = found[-1].end if found else last_end
        if on_progress:
            on_progress(group[-1][1] / rate)


def pack(
    speech: Sequence[tuple[float, float]],
    wanted: Sequence[tuple[int, int]],
    most: int,
    rate: int,
) -> list[tuple[int, int]]:
    """Begin and end of each window in frames, ``rate`` to the second.

    Of each of the ``wanted`` stretches, in frames too, the speech. What follows each other there
    shares a window while it holds ``most`` frames; a longer stretch of speech is cut.
    """
    windows: list[tuple[int, int]] = []
    for first, last in wanted:
        shared = len(windows)
        for seconds in speech:
            begin, end = (min(max(round(t * rate), first), last) for t in seconds)
            if begin >= end:
                continue
            if len(windows) > shared and end - windows[-1][0] <= most:
                windows[-1] = windows[-1][0], end
                continue
            windows += pairwise([*range(begin, end, most), end])
    return windows


def _only(network: Network, cross: CrossKV[Any], item: int) -> CrossKV[Any]:
    """One of several windows."""
    one: CrossKV[Any] = network.select(cross, np.array([item]))
    return one
