"""The overlap head: a recording becomes the probability, in each frame, that several speak."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.heads.ctc.programs import runs
from tynda.heads.embedding.head import EmbeddingHead
from tynda.heads.overlap import programs
from tynda.models.overlap import SEVERAL
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["OverlapHead"]

Floats = NDArray[np.float32]
# Longer recordings are read in equal pieces, since attention costs the square of the duration.
_MAX_SECONDS = 30


class OverlapHead(EmbeddingHead):
    """The head of a model of overlap: `encode` gives probabilities, and there is no text."""

    runs = staticmethod(runs)
    forced = staticmethod(programs.forced)

    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Return the probability that several people speak, ``[frames]``, of samples ``[n]`` at
        16 kHz; `Config.stride` times ``hop`` samples of the front end are a frame.

        Raises `TyndaError` where the network computes no numbers.
        """
        self.model.check_language(language)
        frame = self.model.config.stride * self.model.frontend.hop
        count = max(1, -(-len(samples) // (_MAX_SECONDS * SAMPLE_RATE)))
        size = -(-len(samples) // (count * frame)) * frame
        pieces = [samples[i : i + size] for i in range(0, len(samples), max(1, size))]
        found = [self._probabilities(piece) for piece in pieces]
        return self.checked(np.concatenate([np.zeros(0, np.float32), *found]))

    def _probabilities(self, samples: Floats) -> Floats:
        frames = -(-self.model.frontend.frames(len(samples)) // self.model.config.stride)
        if not frames:
            return np.zeros(0, np.float32)
        found: Floats = np.exp(self.vector("encode", samples)[:frames, SEVERAL])
        return found

    def _no_text(self) -> NoReturn:
        raise TyndaError(
            f"{self.model.path or self.model.header.name} tells where several people speak at once "
            "and writes no text: use another model for text"
        )
