"""Finds who spoke each utterance of a live recording, when it ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tynda.speakers.diarize import Diarizer, Turn, turns_of
from tynda.speakers.profiles import stranger
from tynda.speakers.windows import Windows

__all__ = ["LiveDiarization"]

Floats = NDArray[np.float32]
Integers = NDArray[np.integer]

_VIEW = 1200
"""The number of windows, five minutes of speech, that are grouped together: grouping takes time
with their square. Speakers who were silent for longer are recognised by their mean voices."""
_SILENCE = 0.25
"""Seconds of silence that end a span of speech: less than end an utterance, whose last windows are
needed when it ends."""


class LiveDiarization:
    """Who speaks in a live recording.

    With each utterance, the last windows of speech are grouped by voice again, all together, as
    `Diarizer` groups those of a whole recording. A group is the speaker with whose windows of
    before it shares most. What was said about an utterance is not changed later.
    """

    def __init__(self, diarizer: Diarizer) -> None:
        self._diarizer, self._embedder = diarizer, diarizer.live_embedder(_SILENCE)
        self._voices: Floats | None = None
        """Embeddings ``[windows, size]`` of the last windows."""
        self._speakers: Integers = np.zeros(0, int)
        """The speaker of each of them, counted from 0."""
        self._totals: list[Floats] = []
        """The sum of the embeddings of each speaker."""
        self._names: dict[int, str] = {}
        """The name of each speaker who is not enrolled, by the order of first words."""

    def add(self, samples: Floats) -> None:
        """Continue with float32 samples ``[n]`` at 16 kHz."""
        self._embedder.add(samples)

    def turns(self) -> list[Turn]:
        """Return the turns of the speech that has ended since the last call."""
        return self._turns(self._embedder.take())

    def finish(self) -> list[Turn]:
        """Return the turns since the last call, up to the end of the recording."""
        return self._turns(self._embedder.finish())

    def _turns(self, new: Windows) -> list[Turn]:
        count = len(new.voices)
        if not count:
            return []
        voices = new.voices if self._voices is None else np.concatenate([self._voices, new.voices])
        voices = self._voices = voices[-max(_VIEW, count) :]
        before = self._speakers[len(self._speakers) - (len(voices) - count) :]
        owners = self._owners(self._diarizer.groups(voices), before, voices)
        self._speakers = np.concatenate([before, owners[len(before) :]])
        for speaker, voice in zip(owners[len(before) :].tolist(), new.voices, strict=True):
            self._totals[speaker] = self._totals[speaker] + voice
        fresh = owners[len(before) :].tolist()
        names = {speaker: self._name(speaker) for speaker in dict.fromkeys(fresh)}
        return turns_of(new.parts, [names[speaker] for speaker in fresh])

    def _name(self, speaker: int) -> str:
        """Return the name of a speaker, who may be known only after some words."""
        known = self._diarizer.known_as(self._totals[speaker])
        return known or self._names.setdefault(speaker, stranger(len(self._names) + 1))

    def _owners(self, groups: Integers, before: Integers, voices: Floats) -> Integers:
        """Return the speaker of each window ``[n]``, of which the first have the speakers
        ``before``; a group without one is a new speaker, or one of long before."""
        from scipy.optimize import linear_sum_assignment

        shared = np.zeros((int(groups.max()) + 1, len(self._totals)), int)
        np.add.at(shared, (groups[: len(before)], before), 1)
        pairs = zip(*linear_sum_assignment(-shared), strict=True)
        speakers = {int(i): int(j) for i, j in pairs if shared[i, j]}
        for group in dict.fromkeys(groups[len(before) :].tolist()):
            if group in speakers:
                continue
            if 2 * shared[group].sum() > (groups == group).sum():  # One speaker is in two groups.
                speakers[group] = int(shared[group].argmax())
                continue
            total = voices[groups == group].sum(0)
            heard = {*before.tolist(), *speakers.values()}
            absent = [i for i in range(len(self._totals)) if i not in heard]
            # No more speakers come than there are.
            is_any = len(self._totals) == self._diarizer.count
            again = self._diarizer.most_alike(
                [self._totals[i] for i in absent], total, is_any=is_any
            )
            if again is not None:
                speakers[group] = absent[again]
                continue
            speakers[group] = len(self._totals)
            self._totals.append(np.zeros_like(total))
        return np.array([speakers.get(group, -1) for group in groups.tolist()])
