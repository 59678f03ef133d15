"""Recognisers trained with CTC: a piece of sound, a search over its log-probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.checks import GREATEST, number, whole
from tynda.errors import TyndaError
from tynda.heads.base import Recognizer
from tynda.heads.ctc import chunks, ngram
from tynda.heads.ctc import paths as ctc
from tynda.heads.ctc.beam import beam_search
from tynda.heads.ctc.ngram import LanguageModel
from tynda.sound.audio import SAMPLE_RATE
from tynda.store import huggingface
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment, Transcript, Word

__all__ = ["CTCRecognizer", "Decoding"]

Floats = NDArray[np.float32]
# Width of a search that is asked for where the model file names none.
_BEAM_SIZE = 32


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


class CTCRecognizer(Recognizer[Decoding]):
    """A model with its front end and a CTC decoder."""

    options_type = Decoding

    def __init__(self, model: Checkpoint, **compute: Any) -> None:
        super().__init__(model, **compute)
        self.tokenizer = model.tokenizer
        self._own, languages = model, model.header.languages
        self._adapts = bool(languages) and getattr(model.config, "adapter", None) is not None
        self._language = languages[0] if self._adapts or len(languages) == 1 else None
        self._family = models.family(model.header.family)
        self._foreign_lms: dict[str, LanguageModel] = {}

    def _transcribe(
        self,
        blocks: Iterable[Floats],
        options: Decoding,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript:
        """Piece by piece, in bounded memory."""
        self._speak(options.language)
        segments: list[Segment] = []
        seconds = 0.0
        for piece in self._pieces(blocks, options):
            segments += self._segment(piece, options)
            seconds = piece.end / SAMPLE_RATE
            if on_progress:
                on_progress(seconds)
        text = " ".join(s.text for s in segments)
        return Transcript(text, segments, self._language, seconds)

    def _speak(self, language: str | None) -> None:
        """Change to a language of the model's; None: that of its own head."""
        self.check_language(language)
        known = self.header.languages
        if not self._adapts or (language or known[0]) == self._language:
            return
        language = language or known[0]
        model = self._own if language == known[0] else huggingface.adapt(self._own, language)
        self._engine = self._open(model)
        self._model, self.tokenizer, self._language = model, model.tokenizer, language

    def _pieces(self, blocks: Iterable[Floats], options: Decoding) -> Iterator[chunks.Piece]:
        if options.chunk_length is None:
            return chunks.quiet(blocks, self.log_probs)
        stride = options.stride_length
        return chunks.strided(
            blocks,
            self.log_probs,
            self._frame,
            self._silent,
            options.chunk_length,
            options.chunk_length / 6 if stride is None else stride,
        )

    @property
    def _frame(self) -> int:
        """Samples in a frame of log-probabilities."""
        return int(self._model.frontend.hop * self._model.config.stride)

    def _silent(self, log_probs: Floats) -> NDArray[np.bool_]:
        """Frames ``[n]`` in which no letter is likeliest."""
        return np.isin(log_probs.argmax(1), (self.tokenizer.blank, self.tokenizer.space_id))

    def _segment(self, piece: chunks.Piece, decoding: Decoding) -> list[Segment]:
        """One segment, or none without words."""
        best, *others = self._decode(piece.log_probs, decoding)
        if not best.words:
            return []
        frame, start, end = self._frame, piece.start, piece.end
        last = (end - start - 1) // frame  # a model may give one frame beyond the sound's end
        words = [
            Word(
                w.text,
                (start + min(w.start, last) * frame) / SAMPLE_RATE,
                min(start + w.end * frame, end) / SAMPLE_RATE,
                w.confidence,
            )
            for w in best.words
        ]
        letters = [len(w.text) for w in words]
        confidence = float(np.average([w.confidence for w in best.words], weights=letters))
        return [
            Segment(
                words[0].start,
                words[-1].end,
                best.text,
                words,
                confidence,
                [other.text for other in others],
            )
        ]

    def prepare(self, options: Decoding | None = None) -> None:
        """Load adapters and language model now, not with the first recording."""
        self._speak(options.language if options else None)
        self._decode(np.zeros((0, len(self.tokenizer)), np.float32), options or Decoding())

    def log_probs(self, samples: Floats) -> Floats:
        """Log-probabilities ``[frames, vocab]`` of float32 samples ``[n]`` at 16 kHz."""
        features = self._model.frontend(samples)
        if not len(features):
            return np.zeros((0, self._model.config.vocab), np.float32)
        # A backend may plan for each length that comes: half seconds leave few.
        step = max(1, SAMPLE_RATE // 2 // self._model.frontend.hop)
        room = np.pad(features, ((0, -len(features) % step), (0, 0)))
        engine, lengths = self._engine, np.array([len(features)])
        log_probs, frames = engine.run(self._family.encode, self._model.config, room[None], lengths)
        result: Floats = engine.array(log_probs)[0, : int(engine.array(frames)[0])]
        return result

    def _decode(self, log_probs: Floats, decoding: Decoding) -> Sequence[ctc.Hypothesis]:
        tokenizer, own = self.tokenizer, self.header.decoding
        hotwords: Sequence[str] = decoding.hotwords
        if isinstance(hotwords, str):
            hotwords = hotwords.split(",")
        hotwords = [w for word in hotwords if (w := self._spelling(word))]
        beam_size = decoding.beam_size or own.get("beam_size", 1)
        weighed = decoding.alpha is not None or decoding.beta is not None
        if hotwords or decoding.n_best > 1 or decoding.lm not in (None, "none") or weighed:
            if decoding.beam_size == 1:
                raise TyndaError(
                    "a beam size of 1 is greedy, without n-gram and its weights, hot words or "
                    "alternatives: take a wider beam or leave them out"
                )
            beam_size = _BEAM_SIZE if beam_size == 1 else beam_size
        if beam_size == 1:
            return [ctc.greedy(log_probs, tokenizer)]
        lm = self._lm(decoding)
        if weighed and lm is None:
            raise TyndaError(
                "alpha and beta are the weights of an n-gram, and there is none: "
                "leave them out, or name one (--lm FILE)"
            )
        return beam_search(
            log_probs,
            tokenizer,
            beam_size=max(beam_size, decoding.n_best),
            lm=lm,
            alpha=own.get("alpha", 0.5) if decoding.alpha is None else decoding.alpha,
            beta=own.get("beta", 0.5) if decoding.beta is None else decoding.beta,
            unknown_penalty=own.get("unknown_penalty", 5.0),
            hotwords=hotwords,
            hotword_boost=decoding.hotword_boost,
            n_best=decoding.n_best,
        )

    def _spelling(self, text: str) -> str:
        """``text`` in the letters that the model writes."""
        text = self.normalize(text)
        capitals = not any(symbol.islower() for symbol in self.tokenizer.symbols[1:])
        return text.upper() if capitals else text

    def _lm(self, decoding: Decoding) -> LanguageModel | None:
        if decoding.lm is None:
            return self._own_lm
        if decoding.lm == "none":
            return None
        name = str(decoding.lm)
        if name not in self._foreign_lms:
            self._foreign_lms[name] = LanguageModel.load(name)
        return self._foreign_lms[name]

    @cached_property
    def _own_lm(self) -> LanguageModel | None:
        if self._model.lm is None:
            return None
        if not ngram.available():
            warnings.warn(
                'decoding without the n-gram, with more errors: pip install "tynda[lm]"',
                stacklevel=2,
            )
            return None
        try:
            return LanguageModel.from_arpa(ngram.unpack(self._model.lm))
        except TyndaError:
            raise TyndaError(
                f"{self._model.path or self.header.name}: the n-gram in it is damaged: "
                "get the model again, or leave the n-gram out (--lm none)"
            ) from None
