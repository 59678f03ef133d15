"""Finds who speaks when in a recording of several voices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.extras import install
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.samples import as_samples, is_samples
from tynda.speakers.clusters import VoiceSpace, assign
from tynda.speakers.profiles import stranger
from tynda.speakers.voices import Speakers
from tynda.speakers.windows import WindowEmbedder, Windows

__all__ = ["Diarization", "Diarizer", "Turn", "turns_of"]

Floats = NDArray[np.float32]

_OVERLAP = Path(__file__).with_name("overlap.safetensors")
"""The model that says where several people speak at once."""
_SEVERAL = 0.7
"""The least probability that several people speak with which there is a second speaker: where they
do in three of a hundred frames, a mistake costs more than a miss."""
_BLOCK = 30 * SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Turn:
    """A span in which one person speaks; ``start`` and ``end`` are in seconds."""

    start: float
    end: float
    speaker: str
    is_second: bool = False
    """Whether somebody else has the turn, and this person speaks at the same time."""


class Diarizer:
    """Finds who speaks when, and names those who are enrolled.

    >>> Diarizer().turns("meeting.wav")
    [Turn(start=0.4, end=3.2, speaker='Aliya'), Turn(start=3.2, end=5.0, speaker='speaker 1')]
    """

    def __init__(self, people: Speakers | None = None, count: int | None = None) -> None:
        """``people`` are those who may be known, by default those in the user's profiles.

        ``count`` is the number of speakers; None means that it is estimated. Raises `TyndaError`
        for another number than 1 or more, where the profiles cannot be read, and without ``scipy``.
        """
        if find_spec("scipy") is None:
            raise TyndaError(f"telling speakers apart needs scipy: {install('speakers')}")
        if count is not None and (
            not isinstance(count, int) or isinstance(count, bool) or count < 1
        ):
            raise TyndaError(f"the number of speakers must be 1 or more, not {count!r}")
        self._people = Speakers() if people is None else people
        self._known, self.count = self._people.people(), count
        self._space = VoiceSpace.of(self._people.cohort)
        self._overlap = self._people.model.beside(_OVERLAP)

    def session(self) -> Diarization:
        """Return the state of one recording, which comes block by block."""
        return Diarization(self)

    def turns(self, recording: Any) -> list[Turn]:
        """Return the turns of a recording, which is what `tynda.Model.transcribe` takes.

        Raises `TyndaError` where it cannot be read.
        """
        session = self.session()
        for block in _blocks(recording):
            session.add(block)
        return session.finish()

    def embedder(self) -> WindowEmbedder:
        """Return what embeds the speech of a recording, and finds overlap in it."""
        size = self._people.cohort.shape[1]
        return WindowEmbedder(self._people.model.encode, size, self._overlap.encode)

    def live_embedder(self, min_silence: float) -> WindowEmbedder:
        """Return what embeds the speech of a live recording; see `Spans` for ``min_silence``."""
        size = self._people.cohort.shape[1]
        return WindowEmbedder(self._people.model.encode, size, min_silence=min_silence)

    def groups(self, voices: Floats) -> NDArray[np.integer]:
        """Return the speaker ``[windows]``, counted from 0, of the embeddings of windows in the
        order of time, ``[windows, size]``."""
        owned = assign(voices, self._space, self.count)
        found: NDArray[np.integer] = owned.argmax(1) if len(owned) else np.zeros(0, int)
        return found

    def turns_of(self, windows: Windows) -> list[Turn]:
        """Return the turns of the windows of a recording, in the order of time."""
        speakers = self.groups(windows.voices)
        names = self._names(windows.voices, speakers)
        turns = turns_of(windows.parts, [names[speaker] for speaker in speakers.tolist()])
        pairs = enumerate(zip(_seconds(speakers, windows).tolist(), speakers.tolist(), strict=True))
        # Two speakers with one name are one person, who was taken for two.
        also = {i: names[b] for i, (b, a) in pairs if b >= 0 and names[a] != names[b]}
        second = turns_of(windows.parts[[*also]], [*also.values()])
        turns += [replace(turn, is_second=True) for turn in second]
        return sorted(turns, key=lambda turn: turn.start)

    def _names(self, voices: Floats, speakers: NDArray[np.integer]) -> dict[int, str]:
        """Return the name of each speaker: an enrolled person's, or a number by first appearance.

        One person may have been taken for two speakers, who then get the same name.
        """
        names: dict[int, str] = {}
        strangers = 0
        for speaker in dict.fromkeys(speakers.tolist()):
            known = self.known_as(voices[speakers == speaker].sum(0))
            strangers += known is None
            names[speaker] = known or stranger(strangers)
        return names

    def known_as(self, total: Floats) -> str | None:
        """Return who is enrolled with the voice of the sum ``total [size]`` of embeddings."""
        best = self.most_alike([person.total for person in self._known], total)
        return None if best is None else self._known[best].name

    def most_alike(
        self, totals: Sequence[Floats], total: Floats, *, is_any: bool = False
    ) -> int | None:
        """Return which of ``totals [n][size]`` is of the same person as ``total [size]``, where
        one is, or ``is_any`` says so; all are sums of embeddings."""
        voices = [_unit(each) for each in totals]
        return self._people.most_alike(voices, _unit(total), is_any=is_any)


def turns_of(parts: NDArray[np.float64], names: Sequence[str]) -> list[Turn]:
    """Return the turns of windows: their parts ``[n, 2]`` in seconds, and who speaks in each."""
    turns: list[Turn] = []
    for (start, end), name in zip(parts.tolist(), names, strict=True):
        if turns and turns[-1].speaker == name and start - turns[-1].end < 1e-6:
            start = turns.pop().start
        turns.append(Turn(start, end, name))
    return turns


def _seconds(speakers: NDArray[np.integer], windows: Windows) -> NDArray[np.integer]:
    """Return the second speaker ``[windows]``, -1 for none, where several people speak at once: of
    all others, who has the turn before or after, whichever is nearer (Otterson & Ostendorf 2007,
    "Efficient use of overlap information in speaker diarization")."""
    found = np.full(len(speakers), -1)
    changes = np.flatnonzero(np.diff(speakers))
    middles = windows.parts.mean(1)
    for i in np.flatnonzero(windows.overlaps >= _SEVERAL):
        after = np.searchsorted(changes, i)
        near = [*changes[max(0, after - 1) : after], *(changes[after : after + 1] + 1)]
        if near:
            found[i] = speakers[min(near, key=lambda j: abs(middles[j] - middles[i]))]
    return found


def _unit(vector: Floats) -> Floats:
    unit: Floats = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return unit


class Diarization:
    """Who speaks when in one recording, which comes block by block; see `Diarizer.session`."""

    def __init__(self, diarizer: Diarizer) -> None:
        self._diarizer, self._embedder = diarizer, diarizer.embedder()

    def add(self, samples: Floats) -> None:
        """Continue with float32 samples ``[n]`` at 16 kHz."""
        self._embedder.add(samples)

    def finish(self) -> list[Turn]:
        """Return the turns of the whole recording, in the order of time."""
        return self._diarizer.turns_of(self._embedder.finish())


def _blocks(recording: Any) -> Iterable[Floats]:
    if not is_samples(recording):
        return audio.stream(recording)
    samples = as_samples(recording)
    return (samples[i : i + _BLOCK] for i in range(0, len(samples), _BLOCK))
