"""CTC models that encode audio while it is recorded: each chunk once, when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine
from tynda.errors import TyndaError
from tynda.heads.base import LiveDecoder, LiveWord
from tynda.heads.ctc.paths import Hypothesis
from tynda.models.base import Streaming
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["IncrementalEncoder", "IncrementalLiveDecoder", "live_words", "with_look_ahead"]

Floats = NDArray[np.float32]


def with_look_ahead(model: Checkpoint, seconds: float | None) -> Checkpoint:
    """Return the model with the look-ahead that is nearest to ``seconds``; None means its own.

    Raises `TyndaError` for a model that has to have the whole recording.
    """
    if seconds is None:
        return model
    streaming = model.family.streaming
    if streaming is None:
        raise TyndaError(
            f"{model.header.name} encodes whole recordings, so that it has no look-ahead: omit it"
        )
    variants = streaming.variants(model.config)
    chosen = min(variants, key=lambda c: abs(_chunk_seconds(model, streaming, c) - seconds))
    return replace(model, config=chosen)


def _chunk_seconds(model: Checkpoint, streaming: Streaming, config: Any) -> float:
    return streaming.frames(config) * model.frontend.hop / SAMPLE_RATE


def live_words(
    final: Sequence[LiveWord], best: Hypothesis, first: int, frame: float
) -> list[LiveWord]:
    """Return the final words, and those of ``best``, the text of the frames from ``first`` on.

    A ``frame`` lasts so many seconds.
    """
    return [
        *final,
        *(
            LiveWord(f" {w.text}", (first + w.start) * frame, (first + w.end) * frame, w.confidence)
            for w in best.words
        ),
    ]


class IncrementalEncoder:
    """The encoder of one recording, which comes piece by piece.

    All log-probabilities together are those of the whole recording. They do not depend on the
    pieces, since every run of the encoder has one chunk.
    """

    def __init__(self, model: Checkpoint, engine: Engine) -> None:
        """``model`` is one of a family that has ``streaming``."""
        assert model.family.streaming is not None
        self._streaming, self._engine, self._model = model.family.streaming, engine, model
        self._stream = model.frontend.stream()
        self._state = self._streaming.start(model.config, 1)
        self._pending = np.zeros((0, model.config.bins), np.float32)
        self._frames = self._returned = 0

    def add(self, samples: Floats) -> Floats:
        """Return the log-probabilities ``[frames, vocab]`` that ``samples [n]``, float32 at 16 kHz,
        complete."""
        return self._encode(self._stream.add(samples))

    def finish(self) -> Floats:
        """Return the last log-probabilities; the recording has no more samples."""
        found, rest = self._encode(self._stream.finish(0)), len(self._pending)
        if rest:
            # The last chunk is filled up with zeros, as if the mean of all features followed.
            missing = self._streaming.frames(self._model.config) - rest
            silence = np.zeros((missing, self._model.config.bins), np.float32)
            last = self._run(np.concatenate([self._pending, silence]))
            found, self._pending = np.concatenate([found, last]), self._pending[:0]
            self._returned += len(last)
        # The number of frames is rounded up to whole frames of the blocks.
        config = self._model.config
        block = self._streaming.reduction(config)
        whole = -(-self._frames // block) * (block // config.stride)
        return found[: len(found) - (self._returned - whole)]

    def _encode(self, raw: Floats) -> Floats:
        features, size = self._stream.scaled(raw), self._streaming.frames(self._model.config)
        self._frames += len(features)
        self._pending = np.concatenate([self._pending, features])
        whole = len(self._pending) // size * size
        found = [np.zeros((0, self._model.config.vocab), np.float32)]
        found += [self._run(self._pending[i : i + size]) for i in range(0, whole, size)]
        self._pending = self._pending[whole:]
        result = np.concatenate(found)
        self._returned += len(result)
        return result

    def _run(self, features: Floats) -> Floats:
        program = self._model.family.programs["encode_chunks"]
        log_probs, self._state = self._engine.run(
            program, self._model.config, features[None], self._state
        )
        result: Floats = self._engine.array(log_probs)[0]
        return result


class IncrementalLiveDecoder(LiveDecoder):
    """Encodes only the audio that is new, and searches the frames after the final words."""

    uses_context = False
    is_incremental = True
    max_seconds = 30.0
    step, hold, max_hold, show = 0.1, 0.2, 0.4, 0.2

    def __init__(
        self,
        model: Checkpoint,
        engine: Engine,
        language: str | None,
        search: Callable[[Floats], Sequence[Hypothesis]],
    ) -> None:
        """``search`` maps log-probabilities ``[frames, vocab]`` to hypotheses, best first."""
        self.language = language
        self._model, self._engine, self._search = model, engine, search
        self._frame = model.frontend.hop * model.config.stride / SAMPLE_RATE
        self.restart()

    def restart(self) -> None:
        """See `LiveDecoder.restart`."""
        self._encoder = IncrementalEncoder(self._model, self._engine)
        self._log_probs = np.zeros((0, self._model.config.vocab), np.float32)
        self._samples = 0
        self._found: list[LiveWord] = []

    def words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """See `LiveDecoder.words`: nothing is searched before a chunk is whole."""
        return self._words(self._encoded(samples), final)

    def last_words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """See `LiveDecoder.last_words`: the last chunk need not be whole."""
        new = self._encoded(samples)
        return self._words(np.concatenate([new, self._encoder.finish()]), final)

    def _encoded(self, samples: Floats) -> Floats:
        """Return the log-probabilities of the utterance's new samples."""
        new = self._encoder.add(samples[self._samples :])
        self._samples = len(samples)
        return new

    def _words(self, new: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        if not len(new):
            return self._found
        self._log_probs = np.concatenate([self._log_probs, new])
        first = round(final[-1].end / self._frame) if final else 0
        best, *_ = self._search(self._log_probs[first:])
        self._found = live_words(final, best, first, self._frame)
        return self._found
