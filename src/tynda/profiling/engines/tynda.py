"""tynda's own backends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda import models, quantization
from tynda import weights as quant
from tynda.compile import native
from tynda.heads import CTCRecognizer, Decoding, WhisperRecognizer, of
from tynda.heads.seq2seq import search as whisper
from tynda.heads.seq2seq.options import Options
from tynda.models import whisper as model
from tynda.profiling import memory
from tynda.profiling.case import Case, Work
from tynda.profiling.engines.base import Clock, Engine, Session, parts
from tynda.profiling.environment import digest
from tynda.profiling.operations import Ledger, Operation, least
from tynda.profiling.predict import BITS, predict
from tynda.sound.audio import SAMPLE_RATE
from tynda.store import library

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
    works: ClassVar[tuple[Work, ...]] = ("speed", "words", "operations", "cache")
    needs_folder = False
    backend: ClassVar[Any] = "native"

    def missing(self, case: Case) -> str | None:
        """As `Engine.missing`; the kernels must have been compiled."""
        if self.backend == "native" and not native.available():
            return "tynda was installed without its kernels: install it again with a C++ compiler"
        return super().missing(case)

    @property
    def version(self) -> str:
        """Of the code that rounds, too: those who change it compare what it was before."""
        folders = (*quant.__path__, *quantization.__path__)
        files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
        return digest([super().version, *(file.read_text("utf-8") for file in files)])

    def format(self, case: Case) -> str | None:
        """A file in so many bits."""
        return None if case.bits in ("stored", "32") else f"tynda-{case.bits}.safetensors"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """As ``tynda quantize --bits`` does it."""
        from tynda.quantization.run import quantize

        quantize(model, path, float(case.bits))

    def load(self) -> None:
        """Nothing is left to import: all of it was for this file."""

    def needs(self, case: Case, path: Path) -> int | None:
        """As it is predicted, of the kernels."""
        if self.backend != "native" or not case.seconds:
            return None
        return predict(library.load(path), case).total

    def open(self, case: Case, path: Path) -> Session:
        """A recogniser's parts, one after another."""
        recognizer = of(
            library.load(path),
            backend=self.backend,
            bits=BITS.get(case.bits, 8),
            threads=case.threads,
        )
        if isinstance(recognizer, CTCRecognizer):
            recognizer.prepare()  # its n-gram
        described = memory.resident()
        kind = _Whisper if isinstance(recognizer, WhisperRecognizer) else _CTC
        return kind(recognizer, case, self.bits[case.bits], described)


class Numpy(Native):
    """The reference."""

    name = "tynda-numpy"
    works = ("speed", "words")
    backend = "numpy"


class _Tynda(Session):
    def __init__(self, recognizer: Any, case: Case, kind: str, described: int) -> None:
        """``described``: bytes that were resident when the model had been opened, its weights
        still in their file; samples were there already."""
        self.kind, self._recognizer, self._case = kind, recognizer, case
        self._front, self._config = recognizer._model.frontend, recognizer._model.config
        self._described, self._opening = described, memory.peak()

    def memory(self) -> dict[str, int]:
        """Of the kernels, with what was to be foreseen of a speed case."""
        engine = self._recognizer._engine
        if not isinstance(engine, native.Native) or self._case.work != "speed":
            return {}
        foreseen = predict(self._recognizer._model, self._case)
        described = self._described - foreseen.samples
        return {
            "described": described,
            "weights": engine.weight_bytes,
            "arena": engine.arena.bytes,
            "cache": foreseen.cache,
            "data": foreseen.samples + foreseen.data,
            "predicted": max(self._opening, described + foreseen.total),
        }

    def transcribe(self, samples: Floats) -> str:
        """As ``tynda transcribe`` does."""
        text: str = self._recognizer.transcribe_samples(samples).text
        return text


class _Whisper(_Tynda):
    def __init__(self, recognizer: Any, *about: Any) -> None:
        super().__init__(recognizer, *about)
        self._network = recognizer._network
        self.window = self._config.frames * whisper.SECONDS_PER_FRAME
        self.most = self._config.context // 2

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """All windows of a batch at once."""
        for part, count in parts(samples, self.window, tokens):
            clock.tokens += self._window(part, count, clock)

    def _window(self, samples: Floats, count: int, clock: Clock) -> int:
        """How many tokens each says of one; what it took is given back for the next."""
        network = self._network
        with clock.stage("frontend"):
            mel = self._features(samples)
        with clock.stage("encoder"):
            sound = network.encode(mel, np.full(len(mel), mel.shape[1]))
        with clock.stage("decoder"):
            options = Options(
                without_timestamps=True,
                max_new_tokens=min(count, self.most),
                suppress_tokens=[network.tokenizer.eot],
            )
            heard = network.listen(*sound)
            found = whisper.decode(network, heard, options, [self._language] * len(mel))
        return len(found[0].tokens)

    def operations(self, samples: Floats, tokens: float) -> dict[str, list[Operation]]:
        """See `Session.operations`."""
        engine, config = self._recognizer._engine, self._config
        encoder, decoder = Ledger(engine), Ledger(engine)
        for part, count in parts(samples, self.window, tokens):
            mel = self._features(part)
            sound = encoder.run(model.encode, config, mel, np.full(len(mel), mel.shape[1]))
            heard = decoder.run(model.listen, config, *sound)
            start = self._start
            text = [start, *[start[-1:]] * (min(count, self.most) - 1)]
            caches, seen = self._cache(len(mel), len(start) + len(text)), 0
            for new in text:
                inputs = np.tile(new, (len(mel), 1)), np.full(len(mel), seen), heard
                seen += len(new)
                room = model.Cache(*([x[:, :seen] for x in half] for half in caches))
                cache = model.Cache(*caches)
                counted = (*inputs, room)
                decoder.run(model.advance, config, *inputs, cache, counted=counted)
        return {"encoder": encoder.operations, "decoder": decoder.operations}

    def steps(self, samples: Floats, positions: Sequence[int], cached: bool) -> list[float]:
        """See `Session.steps`."""
        engine, config = self._recognizer._engine, self._config
        part, _ = next(parts(samples, self.window, 1.0))
        mel = self._features(part)
        heard = self._network.listen(*self._network.encode(mel, np.array([mel.shape[1]])))
        found = []
        for position in positions:
            tokens = np.resize(self._start, (1, position))
            starts, cache = np.array([0]), None
            if cached:
                tokens, starts = tokens[:, -1:], np.array([position - 1])
                cache = model.Cache(*self._cache(1, positions[-1]))
            step = partial(engine.run, model.advance, config, tokens, starts, heard, cache)
            found.append(least(step))
        return found

    @property
    def _language(self) -> str | None:
        tokenizer = self._network.tokenizer
        return next(iter(tokenizer.languages)) if tokenizer.multilingual else None

    @property
    def _start(self) -> list[int]:
        """What a text starts with, without time stamps."""
        tokenizer = self._network.tokenizer
        start = whisper.start_tokens(tokenizer, self._language, "transcribe")
        return [*start, tokenizer.no_timestamps]

    def _features(self, samples: Floats) -> Floats:
        """Of a full window, one recording after another."""
        assert self.window is not None
        size = round(self.window * SAMPLE_RATE)
        return np.stack([self._front(np.pad(x, (0, size - len(x)))) for x in samples])

    def _cache(self, rows: int, room: int) -> list[list[Floats]]:
        """Keys and values of nothing yet, for each layer."""
        shape, layers = (rows, room, self._config.channels), range(self._config.decoder_layers)
        return [[np.zeros(shape, np.float32) for _ in layers] for _ in range(2)]


class _CTC(_Tynda):
    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """A recording in one piece, however long, decoded as ``tynda transcribe`` does: words and
        speed are of the same work."""
        engine = self._recognizer._engine
        with clock.stage("frontend"):
            features, lengths = self._features(samples)
        with clock.stage("encoder"):
            states, frames = engine.run(self._encode, self._config, features, lengths)
            log_probs, counts = engine.array(states), engine.array(frames)
        with clock.stage("decoder"):
            for row, count in zip(log_probs, counts, strict=True):
                self._recognizer._decode(row[: int(count)], Decoding())

    def operations(self, samples: Floats, tokens: float) -> dict[str, list[Operation]]:
        """See `Session.operations`."""
        encoder = Ledger(self._recognizer._engine)
        encoder.run(self._encode, self._config, *self._features(samples))
        return {"encoder": encoder.operations, "decoder": []}

    @property
    def _encode(self) -> Any:
        return models.family(self._recognizer.header.family).encode

    def _features(self, samples: Floats) -> tuple[Floats, Any]:
        features = np.stack([self._front(x) for x in samples])
        return features, np.full(len(features), features.shape[1])
