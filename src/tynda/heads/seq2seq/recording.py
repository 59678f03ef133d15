"""A recording that is read as far as its decoding needs it, and forgotten behind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.frontend import FrontEnd
from tynda.sound.tape import Tape

__all__ = ["AHEAD", "Recording", "padded_features"]

Floats = NDArray[np.float32]

_NONE = np.zeros(1, np.float32)
"""Stands for samples that only count, and takes no memory."""

AHEAD = 600.0
"""Seconds that are read beyond the window. In a shorter recording, every window knows the loudest
energy of the whole recording, as the published algorithm does."""


def padded_features(front: FrontEnd, samples: Floats, frames: int) -> Floats:
    """Return the first ``frames`` features of samples ``[n]`` with silence after them."""
    features: Floats = front(np.pad(samples, (0, frames * front.hop)))
    return features[:frames]


class Recording:
    """The samples and features of a recording, of which memory holds only a part.

    Positions are in frames of the front end, or in samples, from the beginning of the recording.
    What was forgotten cannot be read again.
    """

    def __init__(
        self,
        blocks: Iterable[Floats],
        front: FrontEnd,
        silence: int,
        *,
        holds_samples: bool = True,
        ahead: float = AHEAD,
    ) -> None:
        """``blocks`` are consecutive samples ``[n]`` at 16 kHz, of any lengths.

        The features end in ``silence`` frames of silence. With ``holds_samples``, `samples` can be
        read too. A window's features depend on ``ahead`` seconds after it; a recording that is
        still being spoken has none.
        """
        self._blocks, self._hop = iter(blocks), front.hop
        self._stream, self._silence = front.stream(), silence * front.hop
        self._ahead, self._holds_samples = round(ahead * SAMPLE_RATE), holds_samples
        self._samples, self._features = Tape(), Tape(front.bins)
        self._is_complete = False

    def end(self, frame: int) -> int:
        """Return ``frame``, or the number of the recording's frames where it has fewer."""
        self._read(frame * self._hop)
        return min(frame, len(self._samples) // self._hop)

    def window(self, start: int, stop: int) -> Floats:
        """Return the features ``[stop - start, bins]``; those of silence follow the recording."""
        self._read(stop * self._hop)
        return self._stream.scaled(self._features.read(start, stop))

    def forget(self, frame: int) -> None:
        """Forget the features before ``frame``, which may not have been read yet."""
        self._features.forget(frame)

    def samples(self, start: int, stop: int) -> Floats:
        """Return samples ``[stop - start]``, or fewer at the end, and forget those before them."""
        self._samples.forget(start)
        self._read(stop)
        return self._samples.read(start, stop)

    def drain(self) -> None:
        """Read the rest of the recording, of which only the duration matters."""
        self._holds_samples = False
        for block in self._blocks:
            self._hold(block)

    def _read(self, samples: int) -> None:
        """Read as many samples, and those ahead, as far as there are any."""
        while not self._is_complete and (
            len(self._samples) < samples + self._ahead or not self._has_frames(samples)
        ):
            block = next(self._blocks, None)
            if block is None:
                self._is_complete = True
                self._features.append(self._stream.finish(self._silence))
            else:
                self._hold(block)
                self._features.append(self._stream.add(block))

    def _hold(self, block: Floats) -> None:
        """Append samples to those that can be read."""
        self._samples.append(block if self._holds_samples else np.broadcast_to(_NONE, block.shape))

    def _has_frames(self, samples: int) -> bool:
        """Return whether the frames of this number of samples are complete."""
        return len(self._features) * self._hop >= samples
