"""A recording of any length through Whisper's window, one stretch after another.

Radford et al. 2022, section 4.5, as openai/whisper's ``transcribe.py`` and ``timing.py`` do it:
each window begins where the last whole segment of the one before it ended, is told the text so
far, and is decoded again at a higher temperature where the text looks wrong. Rules about doubtful
words and long pauses, and their numbers, are the reference's as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.seq2seq.align import Timing, align
from tynda.heads.seq2seq.candidates import Dice
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import (
    SECONDS_PER_FRAME,
    Network,
    Window,
    decode,
    detect_language,
)
from tynda.models.base import CrossKV

__all__ = ["History", "Piece", "Stretch", "clips", "encode_windows", "is_silence", "transcribe"]

Floats = NDArray[np.float32]

_RATE = 100
"""Frames of the front end in a second; the encoder has half as many."""
_SENTENCE_ENDS = ".。!！?？"


@dataclass
class Piece:
    """A segment of text; ``start`` and ``end`` in seconds of the recording."""

    start: float
    end: float
    tokens: list[int]
    """Time stamps included."""
    text: str
    """Its leading space included."""
    window: Window
    """What it was part of."""
    words: list[Timing] = field(default_factory=list)


def transcribe(
    network: Network,
    features: Floats,
    options: Options,
    on_language: Callable[[str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[Piece]:
    """The segments of a recording, those of a window as soon as it is decoded.

    ``features [frames, bins]`` end in a whole window of silence, as the reference's do: it
    belongs to no segment. ``on_language`` is called before the first segment with the
    language; ``on_progress`` with the seconds that are done. Raises `TyndaError` for options that
    do not fit the model.
    """
    size = 2 * network.config.frames
    content = len(features) - size
    language = options.language
    if network.tokenizer.multilingual and language is None:
        # As in the reference, the silence behind a short recording is silence here, not zeros.
        first = features[:size] if options.window == "exact" else features[: min(size, content)]
        (chances,) = detect_language(network, encode_windows(network, [first], options))
        language = max(chances, key=lambda code: chances[code])
    on_language(language)
    history, dice = History(network, options), Dice(options.seed)
    spoken_until = 0.0
    for begin, end in clips(options.clip_timestamps, content):
        seek = begin
        cross: CrossKV[Any] | None = None
        stretch: Stretch | None = None
        while seek < end:
            count = min(size, end - seek)
            cross = stretch = None  # keys and values of one window at a time
            cross = encode_windows(network, [features[seek : seek + count]], options)
            stretch = Stretch(network, options, language, cross, seek, count, content)
            window = stretch.decode(dice, history.prompt(), history.prefix())
            if is_silence(window, options):
                seek += count
                continue
            found, seek = stretch.cut(window)
            if options.word_timestamps:
                timed, seek = stretch.time(found, seek, spoken_until)
                if timed is None:
                    continue
                found, end_of_speech = timed, _speech_end(timed)
                spoken_until = spoken_until if end_of_speech is None else end_of_speech
            found = [p for p in found if p.start != p.end and p.text.strip()]
            yield from found
            history.add([t for p in found for t in p.tokens], stretch.tried)
            if on_progress:
                on_progress(min(seek, content) / _RATE)


def clips(times: Sequence[float], content: int) -> Iterator[tuple[int, int]]:
    """Begin and end, in frames, of each stretch to transcribe of ``content`` frames.

    Warns of one that begins where the recording has ended.
    """
    frames = [round(t * _RATE) for t in times] or [0]
    if len(frames) % 2:
        frames.append(content)
    for begin, end in zip(frames[::2], frames[1::2], strict=True):
        if begin >= max(1, content):
            warnings.warn(
                f"nothing to transcribe from {begin / _RATE:g} s on (clip_timestamps): "
                f"the recording lasts {content / _RATE:g} s",
                stacklevel=2,
            )
        yield begin, min(end, content)


class History:
    """What the decoder is told of the text before a window."""

    def __init__(self, network: Network, options: Options) -> None:
        def encode(text: str) -> list[int]:
            return network.tokenizer.encode(" " + text.strip()) if text.strip() else []

        self._options, self._half = options, network.config.context // 2
        self._initial, self._prefix = encode(options.initial_prompt), encode(options.prefix)
        hotwords = options.hotwords
        hotwords = hotwords if isinstance(hotwords, str) else ", ".join(hotwords)
        self._hot = encode(hotwords)[: self._half // 2]
        self._tokens, self._since = list(self._initial), 0

    def prompt(self) -> list[int]:
        """Tokens to put before the next window."""
        tokens = self._tokens[self._since :]
        room = self._half - 1
        if self._options.carry_initial_prompt:
            tokens = self._tokens[max(len(self._initial), self._since) :]
            left = room - len(self._initial)
            tokens = self._initial + (tokens[-left:] if left > 0 else [])
        if self._hot and not self._prefix:
            tokens = self._hot + tokens[-(room - len(self._hot)) :]
        return tokens

    def prefix(self) -> list[int]:
        """Tokens that the next window's text begins with: those of the first window only."""
        prefix, self._prefix = self._prefix, []
        return prefix

    def add(self, tokens: Sequence[int], tried: float) -> None:
        """Remember a window's text, unless a high temperature was ``tried`` to find it."""
        self._tokens += tokens
        if not self._options.condition_on_previous_text or tried > 0.5:
            self._since = len(self._tokens)


def encode_windows(network: Network, windows: Sequence[Floats], options: Options) -> CrossKV[Any]:
    """Encode windows ``[frames, bins]``, filled up with zeros, for the decoder."""
    size = 2 * network.config.frames
    longest = max(map(len, windows))
    if options.window == "fit":
        least = max(longest / _RATE + options.window_margin, options.window_floor)
        size = min(size, math.ceil(least * _RATE))
    padded = np.zeros((len(windows), size, windows[0].shape[1]), np.float32)
    for row, window in zip(padded, windows, strict=True):
        row[: len(window)] = window
    return network.cross_kv(*network.encode(padded, np.full(len(windows), size)))


def is_silence(window: Window, options: Options) -> bool:
    """Likely no speech, and no likely text."""
    if options.no_speech_threshold is None:
        return False
    likely = options.logprob_threshold is not None and (
        window.avg_logprob > options.logprob_threshold
    )
    return window.no_speech_prob > options.no_speech_threshold and not likely


def _repeats(window: Window, options: Options) -> bool:
    """Whether a text compresses so well that it must repeat itself."""
    threshold = options.compression_ratio_threshold
    return threshold is not None and window.compression_ratio > threshold


def _fails(window: Window, options: Options) -> bool:
    """Whether a text is to be decoded again."""
    unlikely = options.logprob_threshold is not None and (
        window.avg_logprob < options.logprob_threshold
    )
    silent = options.no_speech_threshold is not None and (
        window.no_speech_prob > options.no_speech_threshold
    )
    if unlikely and silent:
        return False
    return unlikely or _repeats(window, options)


class Stretch:
    """The stretch of a recording that one window sees."""

    def __init__(
        self,
        network: Network,
        options: Options,
        language: str | None,
        cross: CrossKV[Any],
        seek: int,
        count: int,
        content: int,
    ) -> None:
        self._network, self._options, self._language = network, options, language
        self._cross, self._seek, self._count, self._content = cross, seek, count, content
        self._start = seek / _RATE
        self.tried = 0.0
        """The last temperature at which the text was decoded."""

    def decode(
        self,
        dice: Dice,
        prompt: Sequence[int] = (),
        prefix: Sequence[int] = (),
        first: Window | None = None,
    ) -> Window:
        """The text at the first temperature at which it does not fail.

        Where it fails at every temperature, the likeliest of the texts that do not repeat
        themselves is taken, or of all texts. ``first`` is the text at the first temperature, if it
        was decoded already.
        """
        options, failed = self._options, list[Window]()
        for temperature in options.temperature:
            self.tried = temperature
            if first is not None and not failed:
                window = first
            else:
                (window,) = decode(
                    self._network,
                    self._cross,
                    options,
                    [self._language],
                    temperature=temperature,
                    prompt=prompt,
                    prefix=prefix,
                    dice=dice,
                )
            if not _fails(window, options):
                return window
            failed.append(window)
        steady = [window for window in failed if not _repeats(window, options)]
        return max(steady or failed, key=lambda window: window.avg_logprob)

    def cut(self, window: Window) -> tuple[list[Piece], int]:
        """The window's segments, and the frame at which the next window begins."""
        tokens, zero = window.tokens, self._network.tokenizer.timestamp_begin
        stamps = [t >= zero for t in tokens]
        # Two time stamps side by side: the end of a segment and the beginning of the next.
        cuts = [i for i in range(1, len(tokens)) if stamps[i - 1] and stamps[i]]
        ended = self._ended(tokens)
        if cuts:
            if ended:
                cuts.append(len(tokens))
            parts = [tokens[i:j] for i, j in zip([0, *cuts[:-1]], cuts, strict=True)]
            found = [self._piece(p, self._at(p[0]), self._at(p[-1]), window) for p in parts]
            if ended:
                return found, self._seek + self._count
            # The segment after the last cut is unfinished: the next window begins with it.
            return found, self._seek + 2 * (tokens[cuts[-1] - 1] - zero)
        end = self._start + self._count / _RATE
        last = max((i for i, stamp in enumerate(stamps) if stamp), default=None)
        if last is not None and tokens[last] != zero:
            end = self._at(tokens[last])
        return [self._piece(tokens, self._start, end, window)], self._seek + self._count

    def _at(self, stamp: int) -> float:
        stamp -= self._network.tokenizer.timestamp_begin
        return self._start + stamp * SECONDS_PER_FRAME

    def _piece(self, tokens: list[int], start: float, end: float, window: Window) -> Piece:
        return Piece(start, end, tokens, self._network.tokenizer.decode(tokens), window)

    def time(
        self, found: list[Piece], seek: int, spoken_until: float
    ) -> tuple[list[Piece] | None, int]:
        """Give ``found`` its words; by their times the next window's beginning is clearer.

        None where the window is to be heard again, from that frame on.
        """
        self.add_words(found, spoken_until)
        threshold = self._options.hallucination_silence_threshold
        window_end = self._start + 2 * self._network.config.frames / _RATE
        last = _speech_end(found)
        if not self._ended(found[0].window.tokens) and last is not None and last > self._start:
            seek = round(last * _RATE)
            if threshold is not None and window_end - last <= threshold:
                seek = self._seek + self._count
        if threshold is None:
            return found, seek
        first = next((p for p in found if p.words), None)
        if first and _is_doubtful(first) and first.start - self._start > threshold:
            return None, self._seek + max(1, round((first.start - self._start) * _RATE))
        # A doubtful segment between silences, or others as doubtful, was not said.
        for i, piece in enumerate(found):
            if not piece.words:
                continue
            if _is_doubtful(piece):
                after = next((p for p in found[i + 1 :] if p.words), None)
                following = after.words[0].start if after else self._start + self._count / _RATE
                silence_before = (
                    piece.start - spoken_until > threshold
                    or piece.start < threshold
                    or piece.start - self._start < 2.0
                )
                silence_after = (
                    following - piece.end > threshold
                    or (after is not None and _is_doubtful(after))
                    or window_end - piece.end < 2.0
                )
                if silence_before and silence_after:
                    seek = round(max(self._start + 1, piece.start) * _RATE)
                    if self._content / _RATE - piece.end < threshold:
                        seek = self._content
                    return found[:i], seek
            spoken_until = piece.end
        return found, seek

    def _ended(self, tokens: Sequence[int]) -> bool:
        """Whether nothing is said after the last segment."""
        zero = self._network.tokenizer.timestamp_begin
        return [t >= zero for t in tokens[-2:]] == [False, True]

    def add_words(self, found: Sequence[Piece], spoken_until: float) -> None:
        """Give each segment its words; nothing was said since ``spoken_until`` before them."""
        eot = self._network.tokenizer.eot
        texts = [[t for t in piece.tokens if t < eot] for piece in found]
        words = align(
            self._network,
            self._cross,
            [t for text in texts for t in text],
            self._language,
            self._options.task,
            self._count // 2,
        )
        durations = [w.end - w.start for w in words if w.end != w.start]
        usual = min(0.7, float(np.median(durations))) if durations else 0.0
        if durations:
            _shorten_at_sentence_ends(words, 2 * usual)
        _join_punctuation(
            words, self._options.prepend_punctuations, self._options.append_punctuations
        )
        rest = iter(words)
        for piece, text in zip(found, texts, strict=True):
            count = 0
            while count < len(text) and (word := next(rest, None)):
                count += len(word.tokens)
                if word.word:
                    word.start = round(self._start + word.start, 2)
                    word.end = round(self._start + word.end, 2)
                    piece.words.append(word)
            if piece.words:
                _fit_to_segment(piece, usual, spoken_until)
                spoken_until = piece.end


def _speech_end(pieces: Sequence[Piece]) -> float | None:
    """The end of the last word, or of the last segment if there are no words."""
    ends = [word.end for piece in pieces for word in piece.words]
    return ends[-1] if ends else pieces[-1].end if pieces else None


def _is_doubtful(piece: Piece) -> bool:
    """Whether most of its first words are unlikely, very short or very long."""
    marks = Options.prepend_punctuations + Options.append_punctuations
    words = [w for w in piece.words if w.word not in marks][:8]
    score = 0.0
    for word in words:
        seconds = word.end - word.start
        score += (
            (word.probability < 0.15) + max(0.0, 0.133 - seconds) * 15 + max(0.0, seconds - 2.0)
        )
    return score >= 3 or score + 0.01 >= len(words)


def _shorten_at_sentence_ends(words: Sequence[Timing], most: float) -> None:
    """A pause is no part of the mark that ends a sentence, nor of the word that begins one."""
    for before, word in pairwise(words):
        if word.end - word.start > most:
            if word.word in _SENTENCE_ENDS:
                word.end = word.start + most
            elif before.word in _SENTENCE_ENDS:
                word.start = word.end - most


def _join_punctuation(words: Sequence[Timing], prepended: str, appended: str) -> None:
    """Give marks to the words that they belong to; a word that was given away is empty."""
    following = len(words) - 1
    for i in range(len(words) - 2, -1, -1):
        mark, word = words[i], words[following]
        if mark.word.startswith(" ") and mark.word.strip() in prepended:
            word.word, word.tokens = mark.word + word.word, mark.tokens + word.tokens
            mark.word, mark.tokens = "", []
        else:
            following = i
    previous = 0
    for i in range(1, len(words)):
        word, mark = words[previous], words[i]
        if not word.word.endswith(" ") and mark.word in appended:
            word.word, word.tokens = word.word + mark.word, word.tokens + mark.tokens
            mark.word, mark.tokens = "", []
        else:
            previous = i


def _fit_to_segment(piece: Piece, usual: float, spoken_until: float) -> None:
    """Make the segment and its outer words agree; a word after a pause is not the pause."""
    first, last, most = piece.words[0], piece.words[-1], 2 * usual
    second = piece.words[1] if len(piece.words) > 1 else None
    too_long = first.end - first.start > most or (
        second is not None and second.end - first.start > 2 * most
    )
    if first.end - spoken_until > 4 * usual and too_long:
        if second is not None and second.end - second.start > most:
            first.end = second.start = max(second.end / 2, second.end - most)
        first.start = max(0.0, first.end - most)
    if piece.start < first.end and piece.start - 0.5 > first.start:
        first.start = max(0.0, min(first.end - usual, piece.start))
    else:
        piece.start = first.start
    if piece.end > last.start and piece.end + 0.5 < last.end:
        last.end = max(last.start + usual, piece.end)
    else:
        piece.end = last.end
