"""Whisper's encoder over the states of hidden Markov models.

The first layers of an encoder that has heard hundreds of thousands of hours (Radford et al. 2022,
section 2.2), with an output layer over tied states of triphones in place of a decoder. Tensors of
the encoder have the names of the family ``whisper``, so that training starts from any of its files.

The output is log-probabilities of states as if all of them were equally frequent, as that of
`tynda.models.tdnn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

from tynda.errors import TyndaError
from tynda.heads.hybrid.lexicon import Spelling
from tynda.models import whisper
from tynda.models.base import Family, Spec, check_sizes
from tynda.models.layers import linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.sound.frontend import FrontEnd

__all__ = ["FAMILY", "Config", "encode", "specs"]

_LEAST_FRAMES = 500
"""The number of encoder frames in the longest part that a recording is cut to, and more."""


@dataclass(frozen=True, kw_only=True)
class Config(whisper.EncoderConfig):
    """The dimensions of the model; the defaults are those of whisper-tiny."""

    vocab: int = 900
    """Number of acoustic states."""


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out = whisper.encoder_specs(config)
    out.linear("head", config.vocab, config.channels)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> tuple[T, T]:
    """Score the states of log-mel features ``[batch, frames, bins]``.

    ``lengths [batch]``, integers, are the numbers of frames of the items. Returns log-probabilities
    ``[batch, frames / 2, vocab]`` and their lengths ``[batch]``. ``tap`` is called after each layer
    with ``[batch, frames / 2, channels]``. Raises `TyndaError` for more frames than the encoder has
    positions, which is 30 s in published models.
    """
    if ops.shape(features)[1] > 2 * config.frames:
        raise TyndaError(
            f"the encoder reads {2 * config.frames} frames at once, not "
            f"{ops.shape(features)[1]}: encode a shorter recording"
        )
    x, lengths = whisper.encode(ops, weights, config, features, lengths, tap)
    return ops.log_softmax(linear(ops, weights, "head", x)), lengths


def _check(config: Any, tokenizer: Sized, front: FrontEnd, decoding: Mapping[str, Any]) -> None:
    """Raise `TyndaError` unless the network has one output for each state, and enough positions."""
    check_sizes(config, front, len(tokenizer))
    if front.hop != 160 or config.frames < _LEAST_FRAMES:
        raise TyndaError(
            f"the encoder has {config.frames} positions, for a front end with a hop of {front.hop} "
            f"samples: it needs {_LEAST_FRAMES} and a hop of 160"
        )


FAMILY = Family(
    name="whisper_states",
    config=Config,
    specs=specs,
    head="hybrid",
    programs={"encode": encode},
    tokenizer=Spelling.from_dict,
    check=_check,
    same_tensors=("whisper",),
)
