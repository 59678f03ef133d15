"""What can be asked of a CTC decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tynda.checks import GREATEST, number, whole
from tynda.errors import TyndaError

__all__ = ["Decoding"]


@dataclass(frozen=True)
class Decoding:
    """How log-probabilities become words. None: as the model file says."""

    beam_size: int | None = None
    """Width of the prefix beam search; 1 is greedy, without language model, hot words, n-best."""
    lm: str | Path | None = None
    """An ARPA or KenLM file in place of the model's own n-gram; ``"none"``: no n-gram."""
    alpha: float | None = None
    """Weight of the language model."""
    beta: float | None = None
    """Bonus for each word."""
    hotwords: str | Sequence[str] = ()
    """Words or phrases to expect, in any spelling that the normaliser takes; parted by commas
    in a single text."""
    hotword_boost: float = 1.0
    """Nats for each letter of a hot word."""
    n_best: int = 1
    """Hypotheses to give for each segment."""
    language: str | None = None
    """Of a model that knows several (MMS), by its code; None: that of its own head."""
    chunk_length: float | None = None
    """Seconds that the model hears at once, cut anywhere, with overlap; None: pieces of 3 s to
    8 s, cut at the quietest spots."""
    stride_length: float | None = None
    """Seconds of each chunk on either side that only lend their context; None: a sixth of it."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "n_best"):
            if (size := getattr(self, name)) is not None:
                whole(name, size)
        for name, least in (("alpha", 0), ("beta", -GREATEST), ("hotword_boost", 0)):
            if (weight := getattr(self, name)) is not None:
                number(name, weight, least)
        if self.chunk_length is not None:
            number("chunk_length", self.chunk_length, 1)
        if self.stride_length is not None:
            if self.chunk_length is None:
                raise TyndaError("stride_length is of chunks: give chunk_length as well")
            number("stride_length", self.stride_length, 0)
            if 2 * self.stride_length >= self.chunk_length:
                raise TyndaError(
                    f"chunk_length ({self.chunk_length:g}) must be more than twice the "
                    f"stride_length ({self.stride_length:g}): both sides of a chunk are left out"
                )
        if self.lm is not None and not (isinstance(self.lm, str | PathLike) and str(self.lm)):
            raise TyndaError(f"lm is the name of a file, or 'none', not {self.lm!r}")
        if not isinstance(self.hotwords, Sequence) or not all(
            isinstance(word, str) for word in self.hotwords
        ):
            raise TyndaError(f"hotwords are words, not {self.hotwords!r}")
