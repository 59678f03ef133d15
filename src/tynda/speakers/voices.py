"""Enrols people and recognises their voices later, in any words; strangers are refused."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.model import Model, load
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.samples import as_samples, is_samples
from tynda.sound.vad import speech
from tynda.speakers.profiles import Profile, Profiles, ProfileStore, is_stranger
from tynda.speakers.scoring import as_norm, probability
from tynda.store.checkpoint import FALSE_ACCEPTANCE
from tynda.weights.weight import floats

__all__ = ["DEFAULT", "Answer", "Speakers", "speech_of"]

Floats = NDArray[np.float32]

DEFAULT = "speakers"
"""The bundled model of voices."""
_MAX_SECONDS = 60.0
"""Speech after this duration adds nothing to an embedding, and is not used."""
_MAX_NAME = 200
_EDGE = 0.2
"""Seconds before and after speech that are embedded with it."""


@dataclass(frozen=True)
class Answer:
    """The answer to whose voice a recording has."""

    kind: Literal["known", "unknown", "too little speech"]
    name: str | None
    """The enrolled person, unless the answer is ``unknown`` or ``too little speech``."""
    probability: float | None
    """Probability that the most similar person spoke, where that is as likely as not before."""
    score: float | None
    """Normalised score of the most similar person; see ``speakers.scoring``."""
    seconds: float
    """Duration of the speech."""

    def __str__(self) -> str:
        return self.name or self.kind


class Speakers:
    """The people whom somebody has enrolled, in a file of profiles.

    >>> speakers = Speakers()
    >>> speakers.enrol("Aliya", ["first.wav", "second.wav"])
    >>> print(speakers.identify("door.wav"))
    """

    def __init__(
        self,
        model: Model | str | Path = DEFAULT,
        store: Profiles | None = None,
        *,
        false_acceptance: float = 0.01,
        min_seconds: float = 0.5,
    ) -> None:
        """``false_acceptance`` is the rate at which a stranger may be taken for an enrolled person.

        Recordings with less than ``min_seconds`` of speech are not judged. Raises `TyndaError` for
        a model of another kind, or one without cohort and calibration, and for other values.
        """
        if not 0 < false_acceptance < 1:
            raise TyndaError(f"false_acceptance must be between 0 and 1, not {false_acceptance!r}")
        if not 0 <= min_seconds < math.inf:
            raise TyndaError(f"min_seconds must be 0 or more, not {min_seconds!r}")
        self.model = model if isinstance(model, Model) else load(model)
        self.store: Profiles = ProfileStore() if store is None else store
        self._rate, self._min_seconds = false_acceptance, min_seconds
        about = self.model.header.decoding
        weights = self.model.checkpoint.weights
        if "cohort" not in weights or "slope" not in about:
            name = self.model.checkpoint.path or self.model.header.name
            if hasattr(self.model.checkpoint.config, "cohort"):
                raise TyndaError(
                    f"{name} has no thresholds: `tynda speakers calibrate` makes a model with them"
                )
            raise TyndaError(f"{name} is no model of voices: use {DEFAULT}")
        self.cohort: Floats = floats(weights["cohort"])
        self._calibration = float(about["slope"]), float(about["offset"])
        self._thresholds = [float(about[f"threshold_{rate:g}"]) for rate in FALSE_ACCEPTANCE]
        self._fingerprint = _fingerprint(self.model)

    def enrol(self, name: str, recordings: Sequence[Any]) -> Profile:
        """Add the recordings of a person, who may be enrolled already; return the profile.

        A recording is what `tynda.Model.transcribe` takes. Warns where the voice is that of
        somebody with another name. Raises `TyndaError` for a name that is empty or has control
        characters, for no recording, and for one with too little speech; nothing is then changed.
        """
        profile, twin = self.add(name, recordings)
        if twin is not None:
            warnings.warn(
                f"{name} has the voice of {twin}, who is enrolled: one person needs one name",
                stacklevel=2,
            )
        return profile

    def add(self, name: str, recordings: Sequence[Any]) -> tuple[Profile, str | None]:
        """Enrol as `enrol` does, without a warning; return the profile, and the name of somebody
        else with the same voice."""
        _check_name(name)
        if not recordings:
            raise TyndaError(f"no recording of {name}: give one or more")
        people = self.store.read(self._fingerprint)
        found = [self._embedding(recording) for recording in recordings]
        for (voice, seconds), recording in zip(found, recordings, strict=True):
            if voice is None:
                where = recording if isinstance(recording, str | Path) else "a recording"
                raise TyndaError(
                    f"{where}: too little speech to enrol {name}: {seconds:.1f} s, and "
                    f"{self._min_seconds:g} s are needed"
                )
        voices = [voice for voice, _ in found if voice is not None]
        added = Profile(name, np.sum(voices, axis=0), len(voices), sum(s for _, s in found))
        twin = self._twin(added, people)
        if (old := people.get(name)) is not None:
            added = replace(
                added,
                total=old.total + added.total,
                recordings=old.recordings + added.recordings,
                seconds=old.seconds + added.seconds,
            )
        self.store.write(self._fingerprint, {**people, name: added})
        return added, twin

    def identify(self, recording: Any) -> Answer:
        """Return who of the enrolled people speaks in a recording, or that it is a stranger.

        Raises `TyndaError` where nobody is enrolled, and where the recording cannot be read.
        """
        people = self.store.read(self._fingerprint)
        if not people:
            raise TyndaError("nobody is enrolled: `tynda speakers enrol NAME FILE...`")
        return self._answer(recording, people)

    def verify(self, name: str, recording: Any) -> Answer:
        """Return whether the person with this name speaks in a recording.

        The answer is ``known`` or ``unknown``. Raises `TyndaError` for a name that is not enrolled.
        """
        people = self.store.read(self._fingerprint)
        if name not in people:
            raise TyndaError(_nobody(name, people))
        return self._answer(recording, {name: people[name]})

    def people(self) -> list[Profile]:
        """Return the enrolled people, by name."""
        return [p for _, p in sorted(self.store.read(self._fingerprint).items())]

    def remove(self, name: str) -> None:
        """Delete a person's profile. Raises `TyndaError` for a name that is not enrolled."""
        people = self.store.read(self._fingerprint)
        if name not in people:
            raise TyndaError(_nobody(name, people))
        self.store.write(self._fingerprint, {k: p for k, p in people.items() if k != name})

    def threshold(self, people: int) -> float:
        """Return the least score of an enrolled person, with so many ``people`` to choose from.

        A stranger is compared with each of them, so that each comparison has a part of the rate of
        false acceptance. Between the rates of the model file, the threshold is interpolated over
        the logarithm of the rate.
        """
        rate = min(max(self._rate / people, FALSE_ACCEPTANCE[0]), FALSE_ACCEPTANCE[-1])
        return float(np.interp(math.log(rate), np.log(FALSE_ACCEPTANCE), self._thresholds))

    def scores(self, voices: Sequence[Floats], voice: Floats) -> NDArray[np.floating[Any]]:
        """Return the normalised score ``[n]`` of a voice ``[size]`` with each of ``voices``; all
        have length 1."""
        scores: NDArray[np.floating[Any]] = as_norm(np.array(voices), voice[None], self.cohort)
        return scores[:, 0]

    def most_alike(
        self, voices: Sequence[Floats], voice: Floats, *, is_any: bool = False
    ) -> int | None:
        """Return which of ``voices`` is of the same person as ``voice``, see `scores`, where one
        is, or ``is_any`` says so."""
        if not voices:
            return None
        scores = self.scores(voices, voice)
        best = int(scores.argmax())
        return best if is_any or scores[best] >= self.threshold(len(voices)) else None

    def _answer(self, recording: Any, people: Mapping[str, Profile]) -> Answer:
        voice, seconds = self._embedding(recording)
        if voice is None:
            return Answer("too little speech", None, None, None, seconds)
        scores = self.scores([p.voice for p in people.values()], voice)
        best = int(scores.argmax())
        score = float(scores[best])
        chance = probability(score, *self._calibration)
        if score < self.threshold(len(people)):
            return Answer("unknown", None, chance, score, seconds)
        return Answer("known", list(people)[best], chance, score, seconds)

    def _embedding(self, recording: Any) -> tuple[Floats | None, float]:
        """Return the embedding of the speech in a recording, None for too little, and the seconds
        of speech."""
        samples = _samples(recording)
        spoken, seconds = speech_of(samples)
        if not seconds or seconds < self._min_seconds:
            return None, seconds
        return self.model.encode(spoken[: int(_MAX_SECONDS * SAMPLE_RATE)]), seconds

    def _twin(self, added: Profile, people: Mapping[str, Profile]) -> str | None:
        """Return the name of somebody else with the voice of a profile."""
        others = [p for p in people.values() if p.name != added.name]
        twin = self.most_alike([p.voice for p in others], added.voice)
        return None if twin is None else others[twin].name


def speech_of(samples: Floats) -> tuple[Floats, float]:
    """Return the speech of ``samples [n]`` at 16 kHz, and its duration in seconds without edges."""
    parts: list[Floats] = []
    seconds = last = 0.0
    for start, end in speech(samples, pad=0.0):
        seconds += end - start
        first = max(last, start - _EDGE)
        last = end + _EDGE
        parts.append(samples[int(first * SAMPLE_RATE) : int(last * SAMPLE_RATE)])
    return (np.concatenate(parts) if parts else samples[:0]), seconds


def _samples(recording: Any) -> Floats:
    if is_samples(recording):
        return as_samples(recording, SAMPLE_RATE)
    return audio.load(recording)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > _MAX_NAME:
        raise TyndaError(f"a name has 1 to {_MAX_NAME} characters, not {str(name)[:40]!r}")
    if not name.isprintable():
        raise TyndaError(f"the name {name!r} has control characters: leave them out")
    if is_stranger(name):
        raise TyndaError(f"{name!r} is what strangers are called: choose another name")


def _nobody(name: str, people: Mapping[str, Profile]) -> str:
    known = ", ".join(sorted(people)) or "nobody"
    return f"{name!r} is not enrolled; enrolled: {known}"


def _fingerprint(model: Model) -> str:
    """Return a number of the weights, since embeddings of two models cannot be compared."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.checkpoint.weights.items()):
        if name.startswith(("embedding", "cohort")):
            digest.update(np.ascontiguousarray(floats(weight)).tobytes())
    return digest.hexdigest()[:32]
