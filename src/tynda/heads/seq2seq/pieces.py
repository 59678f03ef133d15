"""A recording of any length through a decoder without time stamps, piece by piece.

The sound is cut where it is quietest and each piece is decoded by itself, as Moonshine's authors
do (Jeffries et al. 2024): a piece that is longer than what such a model learnt from loses words,
and a text of more tokens than anybody speaks is one that repeats itself. A segment is a piece: what
was said when within it is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.runs import Work
from tynda.errors import TyndaError
from tynda.heads import base
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import DecodingResult, Network, RandomSource, decode
from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment

__all__ = ["Session", "check_options", "max_samples", "max_tokens", "work"]

Floats = NDArray[np.float32]

_MAX_SECONDS = 15.0
"""Seconds of a piece: as much as the authors' own transcriber gives these models at once."""
_MIN_FRACTION = 1 / 3
"""The least part of a piece's maximum length: the cut is the quietest spot behind it."""
_SUPPORTED = frozenset(
    {
        *("language", "temperature", "beam_size", "best_of", "patience", "length_penalty"),
        *("max_new_tokens", "suppress_tokens", "repetition_penalty", "no_repeat_ngram_size"),
        *("without_timestamps", "seed"),
    }
)
"""Options that mean something without time stamps, tasks and prompts."""


def max_samples(model: Checkpoint) -> int:
    """Samples of the longest piece, whose text has room in the decoder's context."""
    config = model.config
    seconds = min(_MAX_SECONDS, config.context / config.tokens_per_second)
    samples = max(1, int(seconds * SAMPLE_RATE))
    if config.max_frames is None:
        return samples
    return min(samples, int(config.max_frames) * model.frontend.hop)


def max_tokens(config: Any, samples: int) -> int:
    """The most tokens that are written for a piece; the token that a text starts from is none."""
    spoken = int(config.tokens_per_second * samples / SAMPLE_RATE)
    return max(1, min(spoken, int(config.context) - 1))


def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
    """See `Head.work`: the longest piece of the recording."""
    samples = min(samples, max_samples(model))
    wanted = max(1, round(tokens * samples / SAMPLE_RATE))
    count = min(wanted, max_tokens(model.config, samples))
    return Work(model.frontend.frames(samples), batch, 1, count)


def check_options(model: Checkpoint, options: Options) -> None:
    """Raise `TyndaError` for options that a decoder of text alone cannot honour."""
    name = model.header.name
    if options.language is not None and len(model.header.languages) > 1:
        raise TyndaError(f"{name} cannot be told the language: it writes what it hears")
    if len(options.temperature) > 1 and options.temperature != Options.temperature:
        raise TyndaError(f"{name} decodes a text once: give one temperature")
    for option in fields(options):
        if option.name in _SUPPORTED or getattr(options, option.name) == option.default:
            continue
        raise TyndaError(f"{option.name} is not for {name}, which writes text alone: leave it out")


class Session(base.Session):
    """Piece by piece, in bounded memory."""

    def __init__(self, model: Checkpoint, network: Network, options: Options) -> None:
        """``options`` passed `check_options`. Of several temperatures, the first is used."""
        super().__init__()
        languages = model.header.languages
        self.language = languages[0] if len(languages) == 1 else None
        self._model, self._network, self._options = model, network, options
        self._random = RandomSource(options.seed)

    def segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Iterator[Segment]:
        """See `Session.segments`: a piece with words is a segment."""
        seconds = max_samples(self._model) / SAMPLE_RATE
        for start, samples in vad.split(blocks, seconds, seconds * _MIN_FRACTION):
            result = self._decode(samples)
            self.seconds = start + len(samples) / SAMPLE_RATE
            if result is not None and result.text:
                self.text += f" {result.text}" if self.text else result.text
                yield result.segment(start, self.seconds, result.text, result.tokens)
            if on_progress:
                on_progress(self.seconds)

    def _decode(self, samples: Floats) -> DecodingResult | None:
        """The text of a piece; None where it is too short to make a frame of the encoder."""
        network, config = self._network, self._model.config
        features = self._model.frontend(samples)
        states, lengths = network.encode(features[None], np.array([len(features)]))
        if not network.engine.array(lengths)[0]:
            return None
        count = max_tokens(config, len(samples))
        options = replace(
            self._options, max_new_tokens=min(count, self._options.max_new_tokens or count)
        )
        cross = network.cross_kv(states, lengths)
        (result,) = decode(
            network, cross, options, [None], temperature=options.temperature[0], random=self._random
        )
        return result
