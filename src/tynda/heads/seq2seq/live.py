"""Live decoding: an utterance that grows is decoded again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tynda.heads.base import LiveDecoder, LiveWord
from tynda.heads.seq2seq import pieces
from tynda.heads.seq2seq.activity import without_repetitions
from tynda.heads.seq2seq.align import align
from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import (
    DecodingResult,
    Network,
    decode,
    likeliest_languages,
)
from tynda.heads.seq2seq.thresholds import is_repetitive, is_silence
from tynda.heads.seq2seq.windows import encode_windows
from tynda.heads.seq2seq.words import merge_punctuations
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["PieceLiveDecoder", "WindowLiveDecoder", "count_again"]

Floats = NDArray[np.float32]

_SAME_WORD_SECONDS = 0.7
"""The maximum difference of the times that two decodings give the same word."""


class WindowLiveDecoder(LiveDecoder):
    """Decodes with a model that has windows, whose cross-attention gives the words' times."""

    uses_context = True
    hold, max_hold, show = 0.4, 1.0, 0.3

    def __init__(self, model: Checkpoint, network: Network, options: Options) -> None:
        self._network, self._front = network, model.frontend
        self._options = replace(options, without_timestamps=True)
        self._window = model.config.stride * model.config.frames
        self.max_seconds = self._window * model.frontend.hop / SAMPLE_RATE
        self.language = options.language if network.tokenizer.multilingual else "en"

    def words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """See `LiveDecoder.words`."""
        network, options = self._network, self._options
        features = self._front(samples)[: self._window]
        cross = encode_windows(network, [features], options)
        if self.language is None:
            ((self.language, _),) = likeliest_languages(network, cross)
        language = self.language if network.tokenizer.multilingual else None
        # The decoder writes all words again: where it is forced to begin with words that it would
        # now write in another way, what it writes next is worse.
        (result,) = decode(network, cross, options, [language])
        if not final and is_silence(result, options):
            return []
        new = _new_tokens(result, options)
        frames = min(len(samples) // self._front.hop, self._window) // 2
        words = align(network, cross, new, language, options.task, frames)
        merge_punctuations(words, options.prepend_punctuations, options.append_punctuations)
        found = [LiveWord(w.word, w.start, w.end, w.probability, w.tokens) for w in words if w.word]
        return [*final, *found[count_again(found, final) :]]


class PieceLiveDecoder(LiveDecoder):
    """Decodes with a model whose decoder has no times: words share the audio by their lengths."""

    uses_context = False

    def __init__(self, model: Checkpoint, network: Network, options: Options) -> None:
        self._model, self._network, self._options = model, network, options
        self._random = RandomSource(options.seed)
        self.max_seconds = pieces.max_samples(model) / SAMPLE_RATE
        languages = model.header.languages
        self.language = languages[0] if len(languages) == 1 else None

    def words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """See `LiveDecoder.words`."""
        prefix = [token for word in final for token in word.tokens]
        options = _continuing(self._options, prefix)
        result = pieces.decode_piece(
            self._model, self._network, samples, options, self._random, prefix
        )
        if result is None:
            return list(final)
        tokenizer, groups = self._network.tokenizer, list[list[int]]()
        for token in _new_tokens(result, options):
            if not groups or tokenizer.decode([*groups[-1], token]).count(" ") > 0:
                groups.append([])
            groups[-1].append(token)
        start = final[-1].end if final else 0.0
        texts = [f" {tokenizer.decode(tokens).strip()}" for tokens in groups]
        ends = np.cumsum([len(text) for text in texts], dtype=float)
        seconds = len(samples) / SAMPLE_RATE
        times = start + (seconds - start) * np.concatenate([[0.0], ends]) / max(
            ends[-1:], default=1
        )
        confidence = float(np.exp(result.avg_logprob))
        return [
            *final,
            *(
                LiveWord(text, float(times[i]), float(times[i + 1]), confidence, tokens)
                for i, (text, tokens) in enumerate(zip(texts, groups, strict=True))
            ),
        ]


def _continuing(options: Options, prefix: Sequence[int]) -> Options:
    """Return options with which a text that begins with ``prefix`` may end at once."""
    return replace(options, suppress_blank=False) if prefix else options


def count_again(found: Sequence[LiveWord], final: Sequence[LiveWord]) -> int:
    """Return how many of the words ``found`` are the ``final`` ones, which may be others now."""
    if not final:
        return 0
    last, end = _plain(final[-1]), final[-1].end
    same = [i for i, word in enumerate(found) if _plain(word) == last]
    nearest = min(same, key=lambda i: abs(found[i].end - end), default=-1)
    if nearest >= 0 and abs(found[nearest].end - end) < _SAME_WORD_SECONDS:
        return nearest + 1
    return sum((word.start + word.end) / 2 < end for word in found)


def _plain(word: LiveWord) -> str:
    """Return the letters and digits of a word, in lower case."""
    return "".join(filter(str.isalnum, word.text.lower()))


def _new_tokens(result: DecodingResult, options: Options) -> list[int]:
    """Return the tokens after the prefix; a phrase that repeats itself comes once."""
    return without_repetitions(result.tokens) if is_repetitive(result, options) else result.tokens
