"""A loaded model: sound in, transcript out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tynda import audio, checkpoint, library, models, vad
from tynda.audio import SAMPLE_RATE, Source
from tynda.checkpoint import Checkpoint
from tynda.decode import ctc, ngram
from tynda.decode.ngram import LanguageModel
from tynda.errors import TyndaError
from tynda.ops.numpy import NumpyOps
from tynda.text.normalize import basic, english_letters
from tynda.transcript import Segment, Transcript, Word

__all__ = ["Backend", "Decoding", "Recognizer", "load"]

Floats = NDArray[np.float32]
# Width of a search that is asked for where the model file names none.
_BEAM_SIZE = 32
Backend = Literal["numpy", "torch"]


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
    hotwords: Sequence[str] = ()
    """Words or phrases to expect, in any spelling that the normaliser takes."""
    hotword_boost: float = 1.0
    """Nats for each letter of a hot word."""
    n_best: int = 1
    """Hypotheses to give for each segment."""


def load(name: str | Path = library.DEFAULT, *, backend: Backend = "numpy") -> Recognizer:
    """Load a model: a bundled or cached name, or a ``.safetensors`` file.

    Raises `TyndaError` when there is no such model or its file is damaged.
    """
    return Recognizer(checkpoint.load(library.find(name)), backend)


class Recognizer:
    """A model with its front end and decoder. Not safe to share between threads."""

    def __init__(self, model: Checkpoint, backend: Backend = "numpy") -> None:
        self.header, self.bytes, self.tokenizer = model.header, model.bytes, model.tokenizer
        self._model = model
        self._family = models.family(model.header.family)
        self._encode = {"numpy": self._numpy, "torch": self._torch}[backend]()
        self._foreign_lms: dict[str, LanguageModel] = {}

    def transcribe(
        self,
        source: Source,
        decoding: Decoding | None = None,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """The words in ``source``: a path, bytes, a binary file, or ``"-"`` for stdin.

        A long recording is cut at its quietest spots and read piece by piece, in bounded
        memory; ``on_progress`` hears how many seconds are done. Raises `TyndaError` where
        `audio.stream` or the decoder does.
        """
        return self._transcribe(audio.stream(source), decoding, on_progress)

    def transcribe_samples(self, samples: Floats, decoding: Decoding | None = None) -> Transcript:
        """The same for float32 mono samples ``[n]`` at 16 kHz."""
        return self._transcribe([samples], decoding, None)

    def _transcribe(
        self,
        blocks: Iterable[Floats],
        decoding: Decoding | None,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript:
        segments: list[Segment] = []
        seconds = 0.0
        for start, samples in vad.split(blocks):
            segments += self._segment(samples, decoding or Decoding(), start)
            seconds = start + len(samples) / SAMPLE_RATE
            if on_progress:
                on_progress(seconds)
        text = " ".join(s.text for s in segments)
        languages = self.header.languages
        return Transcript(text, segments, languages[0] if len(languages) == 1 else None, seconds)

    def _segment(self, samples: Floats, decoding: Decoding, start: float) -> list[Segment]:
        """One piece that begins at ``start`` seconds: one segment, or none without words."""
        best, *others = self._decode(self.log_probs(samples), decoding)
        if not best.words:
            return []
        frame = self._model.frontend.hop * self._model.config.stride
        last = (len(samples) - 1) // frame  # a model may give one frame beyond the sound's end
        words = [
            Word(
                w.text,
                start + min(w.start, last) * frame / SAMPLE_RATE,
                start + min(w.end * frame, len(samples)) / SAMPLE_RATE,
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

    def prepare(self, decoding: Decoding | None = None) -> None:
        """Load the language model now, not with the first recording.

        Raises `TyndaError` where decoding by these settings would.
        """
        self._decode(np.zeros((0, len(self.tokenizer)), np.float32), decoding or Decoding())

    def log_probs(self, samples: Floats) -> Floats:
        """Log-probabilities ``[frames, vocab]`` of float32 samples ``[n]`` at 16 kHz."""
        features = self._model.frontend(samples)
        if not len(features):
            return np.zeros((0, self._model.config.vocab), np.float32)
        return self._encode(features)

    @property
    def normalize(self) -> Callable[[str], str]:
        """Brings a text to the spelling that the model writes."""
        return english_letters if self.header.languages == ["en"] else basic

    def _decode(self, log_probs: Floats, decoding: Decoding) -> Sequence[ctc.Hypothesis]:
        tokenizer, own = self.tokenizer, self.header.decoding
        hotwords = [w for word in decoding.hotwords if (w := self.normalize(word))]
        beam_size = decoding.beam_size or own.get("beam_size", 1)
        if hotwords or decoding.n_best > 1 or decoding.lm not in (None, "none"):
            if decoding.beam_size == 1:
                raise TyndaError(
                    "a beam size of 1 is greedy, without n-gram, hot words or alternatives: "
                    "take a wider beam or leave them out"
                )
            beam_size = _BEAM_SIZE if beam_size == 1 else beam_size
        if beam_size == 1:
            return [ctc.greedy(log_probs, tokenizer)]
        return ctc.beam_search(
            log_probs,
            tokenizer,
            beam_size=max(beam_size, decoding.n_best),
            lm=self._lm(decoding),
            alpha=own.get("alpha", 0.5) if decoding.alpha is None else decoding.alpha,
            beta=own.get("beta", 0.5) if decoding.beta is None else decoding.beta,
            unknown_penalty=own.get("unknown_penalty", 5.0),
            hotwords=hotwords,
            hotword_boost=decoding.hotword_boost,
            n_best=decoding.n_best,
        )

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
        return LanguageModel.from_arpa(ngram.unpack(self._model.lm))

    def _numpy(self) -> Callable[[Floats], Floats]:
        ops, encode, model = NumpyOps(), self._family.encode, self._model

        def run(features: Floats) -> Floats:
            lengths = np.array([len(features)])
            log_probs, _ = encode(ops, model.weights, model.config, features[None], lengths)
            return np.asarray(log_probs[0])

        return run

    def _torch(self) -> Callable[[Floats], Floats]:
        try:
            import torch
        except ImportError:
            raise TyndaError("the torch backend needs torch: pip install 'tynda[train]'") from None

        from tynda.ops.torch import TorchOps

        ops, encode, config = TorchOps(), self._family.encode, self._model.config
        weights: dict[str, Any] = {k: torch.from_numpy(v) for k, v in self._model.weights.items()}

        @torch.inference_mode()
        def run(features: Floats) -> Floats:
            lengths = torch.tensor([len(features)])
            log_probs, _ = encode(ops, weights, config, torch.from_numpy(features)[None], lengths)
            return np.asarray(log_probs[0].numpy())

        return run
