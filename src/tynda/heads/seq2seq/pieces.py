"""Transcription with a decoder without timestamps, piece by piece.

The recording is cut at its quietest points and each piece is decoded by itself, as Moonshine's
authors do (Jeffries et al. 2024). In a piece that is longer than the training utterances, the model
omits words; the number of tokens is limited, since a text with more tokens than speech can have
repeats itself. A segment is a whole piece, since there are no times within it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.runs import Work
from tynda.errors import TyndaError
from tynda.heads import base
from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import DecodingResult, Network, decode
from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment

__all__ = ["Session", "check_options", "decode_piece", "max_samples", "max_tokens", "work"]

Floats = NDArray[np.float32]

_MAX_SECONDS = 15.0
"""Maximum length of a piece in seconds, as in the authors' own transcriber."""
_MIN_FRACTION = 1 / 3
"""Minimum length of a piece, as a share of the maximum; the cut is the quietest point between
them."""
_SUPPORTED = frozenset(
    {
        *("language", "temperature", "beam_size", "best_of", "patience", "length_penalty"),
        *("max_new_tokens", "suppress_tokens", "repetition_penalty", "no_repeat_ngram_size"),
        *("without_timestamps", "seed"),
    }
)
"""Options that a decoder without timestamps, tasks and prompts supports."""


def max_samples(model: Checkpoint) -> int:
    """Return the maximum number of samples of a piece, so that the decoder's context can hold its
    text."""
    config = model.config
    seconds = min(_MAX_SECONDS, config.context / config.tokens_per_second)
    samples = max(1, int(seconds * SAMPLE_RATE))
    if config.max_frames is None:
        return samples
    return min(samples, int(config.max_frames) * model.frontend.hop)


def max_tokens(config: Any, samples: int) -> int:
    """Return the maximum number of tokens of a piece, without the start token."""
    spoken = int(config.tokens_per_second * samples / SAMPLE_RATE)
    return max(1, min(spoken, int(config.context) - 1))


def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
    """See `Head.work`: the longest piece of the recording."""
    samples = min(samples, max_samples(model))
    wanted = max(1, round(tokens * samples / SAMPLE_RATE))
    count = min(wanted, max_tokens(model.config, samples))
    return Work(model.frontend.frames(samples), batch, 1, count)


def check_options(model: Checkpoint, options: Options) -> None:
    """Raise `TyndaError` for options that a decoder without timestamps does not support."""
    name = model.header.name
    if options.language is not None and len(model.header.languages) > 1:
        raise TyndaError(f"{name} detects the language itself: omit the option language")
    if len(options.temperature) > 1 and options.temperature != Options.temperature:
        raise TyndaError(f"{name} decodes each text once: use one temperature")
    for option in fields(options):
        if option.name in _SUPPORTED or getattr(options, option.name) == option.default:
            continue
        raise TyndaError(f"{name} does not support {option.name}: omit this option")


class Session(base.Session):
    """A session that decodes piece by piece, in bounded memory."""

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
        """See `Session.segments`: each piece with text is a segment."""
        seconds = max_samples(self._model) / SAMPLE_RATE
        for start, samples in vad.split(blocks, seconds, seconds * _MIN_FRACTION):
            result = decode_piece(self._model, self._network, samples, self._options, self._random)
            self.seconds = start + len(samples) / SAMPLE_RATE
            if result is not None and result.text:
                self.text += f" {result.text}" if self.text else result.text
                yield result.segment(start, self.seconds, result.text, result.tokens)
            if on_progress:
                on_progress(self.seconds)


def decode_piece(
    model: Checkpoint,
    network: Network,
    samples: Floats,
    options: Options,
    random: RandomSource,
    prefix: Sequence[int] = (),
) -> DecodingResult | None:
    """Decode one piece ``[n]`` whose text begins with ``prefix``; return None where it is shorter
    than one frame of the encoder."""
    features = model.frontend(samples)
    states, lengths = network.encode(features[None], np.array([len(features)]))
    if not network.engine.array(lengths)[0]:
        return None
    count = max(1, max_tokens(model.config, len(samples)) - len(prefix))
    options = replace(options, max_new_tokens=min(count, options.max_new_tokens or count))
    cross, temperature = network.cross_kv(states, lengths), options.temperature[0]
    (result,) = decode(
        network, cross, options, [None], temperature=temperature, prefix=prefix, random=random
    )
    return result
