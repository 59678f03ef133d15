"""Whisper as a recogniser: recordings through its 30 s window."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.base import Recognizer
from tynda.heads.seq2seq import batched, sliding
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network
from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment, Transcript, Word

__all__ = ["WhisperRecognizer"]

Floats = NDArray[np.float32]


class WhisperRecognizer(Recognizer[Options]):
    """A Whisper model with its front end and decoder.

    The whole recording is held in memory, as features (32 kB for a second): the published
    algorithm sets the floor of the features by the loudest spot of all.
    """

    options_type = Options

    def __init__(self, model: Checkpoint, **compute: Any) -> None:
        super().__init__(model, **compute)
        self._network = Network(
            self._engine,
            model.config,
            model.tokenizer,
            model.header.decoding["alignment_heads"],
        )

    def prepare(self, options: Options | None = None) -> None:
        """See whether the model knows the language, and Silero VAD is there if it is needed."""
        if options is not None:
            self.check_language(options.language)
            if options.vad_filter:
                vad.check()

    def _transcribe(
        self,
        blocks: Iterable[Floats],
        options: Options,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript:
        self.prepare(options)
        samples = np.concatenate([np.zeros(0, np.float32), *blocks])
        front, window = self._model.frontend, 2 * self._model.config.frames
        if options.vad_filter:
            pieces, language = batched.transcribe(
                self._network, front, samples, vad.speech(samples), options, on_progress
            )
        else:
            features = front(np.pad(samples, (0, window * front.hop)))
            pieces, language = sliding.transcribe(self._network, features, options, on_progress)
        segments = [_segment(piece) for piece in pieces]
        text = "".join(piece.text for piece in pieces).strip()
        if not self._network.tokenizer.multilingual:
            language = "en"
        return Transcript(text, segments, language, len(samples) / SAMPLE_RATE)


def _segment(piece: sliding.Piece) -> Segment:
    window = piece.window
    return Segment(
        piece.start,
        piece.end,
        piece.text.strip(),
        [Word(w.word.strip(), w.start, w.end, w.probability) for w in piece.words],
        float(np.exp(window.avg_logprob)),
        details={
            "tokens": piece.tokens,
            "temperature": window.temperature,
            "avg_logprob": round(window.avg_logprob, 4),
            "compression_ratio": round(window.compression_ratio, 4),
            "no_speech_prob": round(window.no_speech_prob, 4),
        },
    )
