"""The interface of front ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.sound.features import FeatureStream, WholeStream

__all__ = ["SAMPLE_RATE", "Floats", "FrontEnd"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class FrontEnd(ABC):
    """Converts samples float32 `[n]`, `n >= 0`, at 16 kHz to features float32 `[frames, bins]`."""

    kind: ClassVar[str]
    sample_rate: ClassVar[int] = SAMPLE_RATE

    @property
    @abstractmethod
    def bins(self) -> int:
        """The number of features in one frame."""

    @property
    @abstractmethod
    def hop(self) -> int:
        """The number of samples from the start of one frame to the start of the next."""

    @property
    def config(self) -> dict[str, Any]:
        """The fields and the kind as JSON-able data; `from_config` reads it."""
        return {"kind": self.kind} | {f.name: getattr(self, f.name) for f in fields(self)}

    @abstractmethod
    def frames(self, samples: int) -> int:
        """The number of frames for a number of samples."""

    def fitted(self, recordings: Iterable[Floats]) -> FrontEnd:
        """Return this front end with statistics of the ``recordings [n]`` where it needs them."""
        return self

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """Numbers and tables by which native code makes the same features without Python.

        ``docs/native.md`` has their names. Raises `TyndaError` where native code does not know
        this front end, as it knows none unless the kind says so.
        """
        raise TyndaError(f"front end: native code has no {self.kind}, so it cannot be exported")

    def __call__(self, samples: Floats) -> Floats:
        """Compute features float32 `[frames, bins]` of samples float32 `[n]`.

        No samples give `[0, bins]`. Raises ValueError when `samples` has more than one axis.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"samples must be one channel, shape [n], not {samples.shape}")
        return self._features(samples)

    def stream(self) -> FeatureStream:
        """Return a stream of the features of one recording that comes piece by piece."""
        return WholeStream(self)

    @abstractmethod
    def _features(self, samples: Floats) -> Floats: ...
