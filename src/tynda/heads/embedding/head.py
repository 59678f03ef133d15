"""The embedding head: a recording becomes one vector, in which people are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.compile.runs import Work
from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord, CommandDecoder, Exported, Head, LiveDecoder, Session
from tynda.heads.embedding import programs
from tynda.heads.embedding.options import EmbeddingOptions
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["EmbeddingHead"]

Floats = NDArray[np.float32]
# Longer recordings are embedded in equal pieces, since attention costs the square of the duration.
_MAX_SECONDS = 16


class EmbeddingHead(Head[EmbeddingOptions]):
    """The head of a model of voices: `encode` gives the embedding, and there is no text."""

    options_type = EmbeddingOptions
    has_decoder = False
    runs = staticmethod(programs.runs)
    forced = staticmethod(programs.forced)

    @staticmethod
    def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
        """See `Head.work`: one piece."""
        return Work(model.frontend.frames(min(samples, _MAX_SECONDS * SAMPLE_RATE)), batch)

    @staticmethod
    def working_bytes(model: Checkpoint, work: Work, samples: int) -> int:
        """See `Head.working_bytes`: features, and copies of samples and features."""
        features = 4 * work.frames * model.config.bins
        return int((2 * work.batch + 1) * features + 4 * samples)

    @staticmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """See `Head.exported`. Raises `TyndaError`: exported programs write text."""
        raise TyndaError(f"{_named(model)} writes no text, so it cannot be exported")

    @staticmethod
    def features(model: Checkpoint, samples: Floats) -> Floats:
        """See `Head.features`: those of one piece."""
        return model.frontend(samples[: _MAX_SECONDS * SAMPLE_RATE])

    window_features = features

    @staticmethod
    def reference_tokens(model: Checkpoint, text: str) -> list[list[int]]:
        """See `Head.reference_tokens`."""
        return []

    def generated_tokens(
        self, features: Floats, count: int, language: str | None = None
    ) -> list[list[int]]:
        """See `Head.generated_tokens`."""
        return []

    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Return the embedding ``[size]``, of length 1, of samples ``[n]`` at 16 kHz.

        A long recording has the mean of its pieces' embeddings. Raises `TyndaError` for a recording
        without frames, and where the network computes no numbers.
        """
        self.model.check_language(language)
        count = max(1, -(-len(samples) // (_MAX_SECONDS * SAMPLE_RATE)))
        pieces = np.array([self._embedding(piece) for piece in np.array_split(samples, count)])
        total = pieces.sum(0)
        return self.checked(total / np.linalg.norm(total))

    def checked(self, numbers: Floats) -> Floats:
        """Return what the network computed. Raises `TyndaError` where it is not finite."""
        if not np.isfinite(numbers).all():
            raise TyndaError(
                f"{_named(self.model)} computes no numbers (NaN) from this recording: its weights "
                "are damaged, or too large for float32"
            )
        return numbers

    def vector(self, program: str, samples: Floats) -> Floats:
        """Return the result ``[...]`` of one of the family's programs for one piece of speech.

        Raises `TyndaError` for a recording without frames.
        """
        front, config, programs = self.model.frontend, self.model.config, self.model.family.programs
        features = front(samples)
        if not len(features):
            raise TyndaError("the recording is too short for a voice: it has no frame")
        # A backend makes a plan for each length: rounding up to half seconds limits their number.
        step = max(1, SAMPLE_RATE // 2 // front.hop)
        padded = np.pad(features, ((0, -len(features) % step), (0, 0)))
        lengths = np.array([len(features)])
        found = self.engine.run(programs[program], config, padded[None], lengths)
        vector: Floats = self.engine.array(found)[0].astype(np.float32)
        return vector

    def _embedding(self, samples: Floats) -> Floats:
        """Return the embedding ``[size]``, of length 1, of one piece."""
        vector = self.vector("encode", samples)
        result: Floats = vector / np.linalg.norm(vector)
        return result

    def prepare(self, options: EmbeddingOptions) -> None:
        """See `Head.prepare`. Raises `TyndaError`: only text is decoded with options."""
        self._no_text()

    def session(self, options: EmbeddingOptions) -> Session:
        """See `Head.session`. Raises `TyndaError`."""
        self._no_text()

    def live(self, options: EmbeddingOptions) -> LiveDecoder:
        """See `Head.live`. Raises `TyndaError`."""
        self._no_text()

    def commands(self, graph: WordGraph, options: EmbeddingOptions) -> CommandDecoder:
        """See `Head.commands`. Raises `TyndaError`."""
        self._no_text()

    def align(
        self, samples: Floats, words: Sequence[str], language: str | None = None
    ) -> list[AlignedWord]:
        """See `Head.align`. Raises `TyndaError`."""
        self._no_text()

    def spelling_doubt(self, word: str) -> str | None:
        """See `Head.spelling_doubt`."""
        return "the model writes no words"

    def _no_text(self) -> NoReturn:
        raise TyndaError(
            f"{_named(self.model)} tells voices apart and writes no text: use it with `tynda "
            "speakers`, and another model for text"
        )


def _named(model: Checkpoint) -> str:
    return str(model.path or model.header.name)
