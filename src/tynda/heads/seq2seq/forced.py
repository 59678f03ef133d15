"""Forced alignment by a decoder's attention: when each word of a known text was spoken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord
from tynda.heads.seq2seq.align import align as align_tokens
from tynda.heads.seq2seq.recording import padded_features
from tynda.heads.seq2seq.search import Network
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.frontend import FrontEnd

__all__ = ["align"]

Floats = NDArray[np.float32]


def align(
    network: Network, front: FrontEnd, samples: Floats, words: Sequence[str], language: str | None
) -> list[AlignedWord]:
    """Return the words with their times. The decoder is forced to write them after one window.

    Raises `TyndaError` for a recording that is longer than a window, a text that is longer than the
    decoder's context, and a model without windows.
    """
    config = network.config
    if config.frames is None:
        raise TyndaError("the model does not tell when words are spoken: align with a CTC model")
    window, seconds = config.stride * config.frames, len(samples) / SAMPLE_RATE
    if len(samples) > window * front.hop:
        raise TyndaError(
            f"{seconds:.1f} s of audio are longer than the model's window of "
            f"{window * front.hop / SAMPLE_RATE:g} s: cut the recording, or align with a CTC model"
        )
    encoded = [network.tokenizer.encode(f" {word}") for word in words]
    tokens = [token for part in encoded for token in part]
    room = config.context - 8
    if len(tokens) > room:
        raise TyndaError(
            f"the text has {len(tokens)} tokens, and the model's context {room}: cut the recording "
            "and its text"
        )
    features = padded_features(front, samples, window)
    cross = network.cross_kv(*network.encode(features[None], np.array([len(features)])))
    frames = -(-front.frames(len(samples)) // config.stride)
    pieces = align_tokens(network, cross, tokens, language, "transcribe", frames)
    aligned, i = list[AlignedWord](), 0
    for word, part in zip(words, encoded, strict=True):
        # A word with punctuation or apostrophes in it is several pieces.
        first, count, probabilities = i, 0, list[float]()
        while count < len(part) and i < len(pieces):
            count += len(pieces[i].tokens)
            probabilities.append(pieces[i].probability)
            i += 1
        start, end = pieces[first].start, pieces[i - 1].end
        confidence = float(np.mean(probabilities))
        aligned.append(AlignedWord(word, min(start, seconds), min(end, seconds), confidence))
    return aligned
