"""tynda's own backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.audio import SAMPLE_RATE
from tynda.decode import ctc, whisper
from tynda.decode.options import Options
from tynda.ops import native
from tynda.profiling.case import Case
from tynda.profiling.engines.base import Clock, Engine, Session, parts
from tynda.recognizers import CTCRecognizer, Recognizer, WhisperRecognizer, load

__all__ = ["Native", "Numpy"]

Floats = NDArray[np.float32]


class Native(Engine):
    """The native engine."""

    name = "tynda"
    bits: ClassVar = {
        "stored": "stored",
        "32": "f32",
        "16": "f16 weights",
        **{x: f"int{x}" for x in ("8", "6", "5", "4", "3", "2", "1.58")},
    }
    families = models.FAMILIES
    needs_folder = False
    backend: ClassVar[Any] = "native"

    def missing(self, case: Case) -> str | None:
        """As `Engine.missing`; the kernels must have been compiled."""
        if self.backend == "native" and not native.available():
            return "tynda was installed without its kernels: install it again with a C++ compiler"
        return super().missing(case)

    def format(self, case: Case) -> str | None:
        """A file in so many bits."""
        return None if case.bits in ("stored", "32") else f"tynda-{case.bits}.safetensors"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """As ``tynda quantize --bits`` does it."""
        from tynda.quantization.run import quantize

        quantize(model, path, float(case.bits))

    def load(self) -> None:
        """Nothing is left to import: all of it was for this file."""

    def open(self, case: Case, path: Path) -> Session:
        """A recogniser's parts, one after another."""
        bits = {"stored": None, "32": 32, "16": 32}.get(case.bits, 8)
        recognizer: Recognizer[Any] = load(
            path, backend=self.backend, bits=bits, threads=case.threads
        )
        kind = self.bits[case.bits]
        if isinstance(recognizer, WhisperRecognizer):
            return _Whisper(recognizer, kind)
        assert isinstance(recognizer, CTCRecognizer)
        return _CTC(recognizer, kind)


class Numpy(Native):
    """The reference."""

    name = "tynda-numpy"
    backend = "numpy"


class _Tynda(Session):
    def __init__(self, recognizer: Any, kind: str) -> None:
        self.kind, self._recognizer = kind, recognizer
        self._front, self._config = recognizer._model.frontend, recognizer._model.config

    def transcribe(self, samples: Floats) -> str:
        """As ``tynda transcribe`` does."""
        text: str = self._recognizer.transcribe_samples(samples).text
        return text


class _Whisper(_Tynda):
    def __init__(self, recognizer: WhisperRecognizer, kind: str) -> None:
        super().__init__(recognizer, kind)
        self._network = recognizer._network
        self.window = self._config.frames * whisper.SECONDS_PER_FRAME

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """All windows of a batch at once."""
        network, tokenizer = self._network, self._network.tokenizer
        language = next(iter(tokenizer.languages)) if tokenizer.multilingual else None
        assert self.window is not None
        size = round(self.window * SAMPLE_RATE)
        for part, count in parts(samples, self.window, tokens):
            with clock.stage("frontend"):
                full = np.pad(part, ((0, 0), (0, size - part.shape[1])))
                mel = np.stack([self._front(x) for x in full])
            with clock.stage("encoder"):
                sound = network.encode(mel, np.full(len(mel), mel.shape[1]))
            with clock.stage("decoder"):
                options = Options(
                    without_timestamps=True,
                    max_new_tokens=min(count, self._config.context // 2),
                    suppress_tokens=[tokenizer.eot],
                )
                heard = network.listen(*sound)
                found = whisper.decode(network, heard, options, [language] * len(mel))
            clock.tokens += len(found[0].tokens)


class _CTC(_Tynda):
    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """A recording in one piece, however long."""
        model, engine = self._recognizer._model, self._recognizer._engine
        family = models.family(model.header.family)
        with clock.stage("frontend"):
            features = np.stack([self._front(x) for x in samples])
        with clock.stage("encoder"):
            lengths = np.full(len(features), features.shape[1])
            states, frames = engine.run(family.encode, self._config, features, lengths)
            log_probs, counts = engine.array(states), engine.array(frames)
        with clock.stage("decoder"):
            for row, count in zip(log_probs, counts, strict=True):
                ctc.greedy(row[: int(count)], self._recognizer.tokenizer)
