"""The cohort and the calibration of a model of voices, from recordings of known people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.model import Model, load
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.scoring import as_norm, equal_error_rate, fit_logistic, threshold_for
from tynda.store import checkpoint

__all__ = ["calibrate", "calibrated", "cohort_of", "embeddings", "person", "rated", "suffices"]

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

_ENROLLED = 3
"""Number of recordings with which a person is enrolled in the trials of the calibration."""
_COHORT = 400
"""Maximum number of people in the cohort of `calibrate`."""
_COHORT_RECORDINGS = 8
"""Maximum number of recordings whose mean stands for a person of the cohort."""
_RECORDINGS = 12
"""Maximum number of recordings of a person that `calibrate` uses for trials."""
_MAX_SECONDS = 8.0
"""Maximum duration of a recording that is embedded, so that finishing takes minutes."""


def person(utterance: Utterance) -> str | None:
    """Return the name of the person, unique over all sources, or None where it is unknown."""
    unknown = utterance.speaker in (None, "", "-")
    return None if unknown else f"{utterance.source}/{utterance.speaker}"


def calibrate(
    model: str | Path,
    recordings: str | Path,
    output: str | Path,
    *,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Write a model of voices with a cohort and thresholds from a manifest ``recordings``.

    Every second person is in the cohort, with whose voices scores are normalised; the recordings of
    the others give the thresholds. Returns how many people each part has, and the equal error rate
    of all pairs of the others' recordings. Raises `TyndaError` for a model of another kind, where
    ``output`` exists, and for too few people.
    """
    from tynda.quantization.run import check_new, new_header

    output = Path(output)
    check_new(output)
    opened = load(model)
    header = new_header(opened.checkpoint)
    if "cohort" not in header.config:
        raise TyndaError(f"{model} is no model of voices, and has nothing to calibrate")
    utterances = [u for u in manifest.read(recordings) if person(u)]
    people = sorted({person(u) or "" for u in utterances})
    of_cohort = set(people[::2])
    own = [u for u in utterances if person(u) in of_cohort]
    others = [u for u in utterances if person(u) not in of_cohort]
    counts = [sum(person(u) == name for u in others) for name in people[1::2]]
    if sum(count > _ENROLLED for count in counts) < 2:
        raise TyndaError(
            f"{recordings} names {len(people)} speakers: it needs four and more, with "
            f"{_ENROLLED + 1} and more recordings each"
        )
    cohort = cohort_of(opened, own, _COHORT, on_progress)
    voices = embeddings(opened, others, _RECORDINGS, on_progress)
    if not suffices(voices):
        raise TyndaError(f"too few recordings of {recordings} can be read")
    header.config = {**header.config, "cohort": len(cohort)}
    header.decoding = {**header.decoding, **calibrated(voices, cohort)}
    rate = rated(voices)
    header = replace(header, scores={**header.scores, Path(recordings).stem: {"eer": rate}})
    weights = {**opened.checkpoint.weights, "cohort": cohort}
    checkpoint.save_model(output, header, weights)
    return {"cohort": len(cohort), "people": len(voices), "eer": rate}


def cohort_of(
    model: Model,
    utterances: Sequence[Utterance],
    limit: int,
    on_progress: Progress | None = None,
) -> Floats:
    """Return the mean embeddings ``[people, size]``, of length 1, of up to ``limit`` people."""
    people = sorted({person(u) or "" for u in utterances})
    step = max(1, -(-len(people) // limit))
    chosen = set(people[::step])
    own = [u for u in utterances if person(u) in chosen]
    voices = embeddings(model, own, _COHORT_RECORDINGS, on_progress)
    means = [np.mean(found, axis=0) for _, found in sorted(voices.items())]
    if not means:
        raise TyndaError("no recording of the cohort can be read: check the manifests")
    return np.array([mean / np.linalg.norm(mean) for mean in means], np.float32)


def embeddings(
    model: Model,
    utterances: Sequence[Utterance],
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Floats]:
    """Return the embeddings ``[recordings, size]`` of each person, of at most ``limit``, evenly
    spaced."""
    recordings: dict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        if name := person(u):
            recordings[name].append(u)
    out: dict[str, Floats] = {}
    for done, (name, own) in enumerate(recordings.items(), 1):
        step = 1 if limit is None else max(1, len(own) // limit)
        found = []
        for u in own[::step][:limit]:
            with suppress(TyndaError):  # unreadable recordings are left out
                found.append(model.encode(audio.load(u.audio)[: int(_MAX_SECONDS * SAMPLE_RATE)]))
        if found:
            out[name] = np.array(found)
        if on_progress is not None:
            on_progress(done, len(recordings))
    return out


def suffices(voices: Mapping[str, Floats]) -> bool:
    """Return whether these people and recordings are enough for `calibrated`."""
    return sum(len(v) > _ENROLLED for v in voices.values()) > 1


def rated(voices: Mapping[str, Floats]) -> float:
    """Return the equal error rate over all pairs of recordings ``[recordings, size]`` of people."""
    vectors = np.concatenate(list(voices.values()))
    names = np.repeat(np.arange(len(voices)), [len(v) for v in voices.values()])
    scores = vectors @ vectors.T
    pairs = np.triu(np.ones_like(scores, bool), 1)
    same = names[:, None] == names[None]
    return equal_error_rate(scores[pairs & same], scores[pairs & ~same])


def calibrated(voices: Mapping[str, Floats], cohort: Floats) -> dict[str, float]:
    """Return slope, offset and thresholds of the normalised scores, for a header's ``decoding``.

    The first recordings of each person enrol; all others are trials against all people.
    """
    people = [v for v in voices.values() if len(v) > _ENROLLED]
    means = np.array([v[:_ENROLLED].mean(0) for v in people])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    trials = np.concatenate([v[_ENROLLED:] for v in people])
    names = np.repeat(np.arange(len(people)), [len(v) - _ENROLLED for v in people])
    scores = as_norm(means, trials, cohort)
    same = np.arange(len(people))[:, None] == names[None]
    slope, offset = fit_logistic(scores[same], scores[~same])
    found = {"slope": slope, "offset": offset}
    for rate in checkpoint.FALSE_ACCEPTANCE:
        found[f"threshold_{rate:g}"] = threshold_for(scores[~same], rate)
    return {name: round(value, 4) for name, value in found.items()}
