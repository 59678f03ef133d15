"""The engines of tynda itself: its native backend and NumPy."""

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
from tynda.heads.ctc.head import CTCHead
from tynda.heads.ctc.options import CTCOptions
from tynda.heads.seq2seq import pieces, rules, search
from tynda.heads.seq2seq.head import Seq2SeqHead
from tynda.heads.seq2seq.options import Options
from tynda.model import Model
from tynda.profiling import memory
from tynda.profiling.case import Case, Work
from tynda.profiling.engines.base import Clock, Engine, Session, parts
from tynda.profiling.environment import digest
from tynda.profiling.operations import Ledger, Operation, fastest
from tynda.profiling.predict import BITS, predict
from tynda.sound.audio import SAMPLE_RATE
from tynda.store import library

__all__ = ["Native", "Numpy"]

Floats = NDArray[np.float32]


class Native(Engine):
    """The native backend."""

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
        """See `Engine.missing`; the kernels must have been compiled."""
        if self.backend == "native" and not native.available():
            return "tynda was installed without its kernels: install it again with a C++ compiler"
        return super().missing(case)

    @property
    def version(self) -> str:
        """The version, including the code that rounds: a change to it is measured again."""
        folders = (*quant.__path__, *quantization.__path__)
        files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
        return digest([super().version, *(file.read_text("utf-8") for file in files)])

    def format(self, case: Case) -> str | None:
        """Return the name of a model file with the case's bits, or None for no conversion."""
        return None if case.bits in ("stored", "32") else f"tynda-{case.bits}.safetensors"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Quantise the model as ``tynda quantize --bits`` does."""
        from tynda.quantization.run import quantize

        quantize(model, path, float(case.bits))

    def load(self) -> None:
        """Do nothing: importing this module has imported all that is needed."""

    def needs(self, case: Case, path: Path) -> int | None:
        """Return the predicted memory; there is a prediction for the kernels only."""
        if self.backend != "native" or not case.seconds:
            return None
        return predict(library.load(path), case).total

    def open(self, case: Case, path: Path) -> Session:
        """Load the model for a session that runs its stages one after another."""
        bits = BITS.get(case.bits, 8)
        model = Model(library.load(path), backend=self.backend, bits=bits, threads=case.threads)
        model.prepare()
        described = memory.resident()
        kind: type[_Tynda] = _SESSIONS[model.checkpoint.family.head]
        return kind(model, case, self.bits[case.bits], described)


class Numpy(Native):
    """The NumPy backend, the reference."""

    name = "tynda-numpy"
    works = ("speed", "words")
    backend = "numpy"


class _Tynda(Session):
    fills = True
    """Whether a window is filled up where the sound is shorter."""

    def __init__(self, model: Model, case: Case, kind: str, described: int) -> None:
        """``described`` is the resident memory in bytes after the model was opened: samples are
        included, but weights are still in their file."""
        self.kind, self.model, self._case = kind, model, case
        self._checkpoint, self._engine = model.checkpoint, model.head.engine
        self._described, self._opening = described, memory.peak()

    def memory(self) -> dict[str, int]:
        """Return the bytes that the kernels hold, and for speed the predicted bytes."""
        engine = self._engine
        if not isinstance(engine, native.Native) or self._case.work != "speed":
            return {}
        predicted = predict(self._checkpoint, self._case)
        described = self._described - predicted.samples
        return {
            "described": described,
            "weights": engine.weight_bytes,
            "arena": engine.arena_bytes,
            "cache": predicted.cache,
            "data": predicted.samples + predicted.data,
            "predicted": max(self._opening, described + predicted.total),
        }

    def transcribe(self, samples: Floats) -> str:
        """Transcribe as ``tynda transcribe`` does."""
        return self.model.transcribe(samples).text

    def operations(self, samples: Floats, tokens: float) -> dict[str, list[Operation]]:
        """See `Session.operations`."""
        assert isinstance(self._engine, native.Native)
        ledger, checkpoint = Ledger(self._engine), self._checkpoint
        for part, _ in parts(samples, self.window, tokens):
            work = self.model.head.work(checkpoint, part.shape[1], tokens, len(part))
            runs = self.model.head.runs(checkpoint.family, checkpoint.config, work)
            ledger.play(runs, self._features(part))
        return {stage: ledger.operations.get(stage, []) for stage in ("encoder", "decoder")}

    def _features(self, samples: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Features of a batch, padded to a whole window if there is one, and how many count."""
        front, size = self._checkpoint.frontend, samples.shape[1]
        if self.window is not None and self.fills:
            size = round(self.window * SAMPLE_RATE)
        features = np.stack([front(np.pad(x, (0, size - len(x)))) for x in samples])
        return features, np.full(len(features), features.shape[1])


class _Seq2Seq(_Tynda):
    def __init__(self, model: Model, *about: Any) -> None:
        super().__init__(model, *about)
        assert isinstance(model.head, Seq2SeqHead)
        self._network, config = model.head.network, self._checkpoint.config
        self.fills = config.frames is not None
        if self.fills:
            self.window = config.frames * rules.SECONDS_PER_FRAME
            self.max_tokens = config.context // 2
        else:
            self.window = pieces.max_samples(self._checkpoint) / SAMPLE_RATE
            self.max_tokens = pieces.max_tokens(config, pieces.max_samples(self._checkpoint))

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """Run window by window, each for the whole batch."""
        for part, count in parts(samples, self.window, tokens):
            clock.tokens += self._window(part, count, clock)

    def _window(self, samples: Floats, count: int, clock: Clock) -> int:
        """Run one window; return the tokens of each recording. Its memory is freed afterwards."""
        network = self._network
        with clock.stage("frontend"):
            features = self._features(samples)
        with clock.stage("encoder"):
            encoded = network.encode(*features)
        with clock.stage("decoder"):
            options = Options(
                without_timestamps=True,
                max_new_tokens=min(count, self.max_tokens),
                suppress_tokens=[network.tokenizer.eot],
            )
            cross = network.cross_kv(*encoded)
            found = search.decode(network, cross, options, [self._language] * len(samples))
        return len(found[0].tokens)

    def steps(self, samples: Floats, positions: Sequence[int], cached: bool) -> list[float]:
        """See `Session.steps`."""
        network = self._network
        part, _ = next(parts(samples, self.window, 1.0))
        cross = network.cross_kv(*network.encode(*self._features(part)))
        found = []
        for position in positions:
            tokens = np.resize(self._start, (1, position))
            starts, cache = np.array([0]), None
            if cached:
                tokens, starts = tokens[:, -1:], np.array([position - 1])
                cache = network.cache(1, positions[-1])
            step = network.stepper(tokens, starts, cross, cache)
            found.append(fastest(partial(step, tokens, starts)))
        return found

    @property
    def _language(self) -> str | None:
        tokenizer = self._network.tokenizer
        return next(iter(tokenizer.languages)) if tokenizer.multilingual else None

    @property
    def _start(self) -> list[int]:
        """The start tokens of a text without timestamps."""
        tokenizer = self._network.tokenizer
        start = search.start_tokens(tokenizer, self._language, "transcribe")
        return start if tokenizer.timestamp_begin is None else [*start, tokenizer.no_timestamps]


class _CTC(_Tynda):
    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """Run each recording in one piece, whatever its length, decoded as ``tynda transcribe``
        does, so that words and speed are measured on the same work."""
        engine, head, family = self._engine, self.model.head, self._checkpoint.family
        assert isinstance(head, CTCHead)
        with clock.stage("frontend"):
            features = self._features(samples)
        with clock.stage("encoder"):
            encode, config = family.programs["encode"], self._checkpoint.config
            log_probs, frames = map(engine.array, engine.run(encode, config, *features))
        with clock.stage("decoder"):
            for row, count in zip(log_probs, frames, strict=True):
                head.decode(row[: int(count)], CTCOptions())


_SESSIONS: dict[str, type[_Tynda]] = {"ctc": _CTC, "seq2seq": _Seq2Seq}
"""The session that times the stages of each kind of head."""
