"""Turns trained weights into a finished model of voices: cohort, calibration, few bits, scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.scoring import as_norm, equal_error_rate, fit_logistic, threshold_for
from tynda.store import checkpoint
from tynda.train.recipe import Recipe
from tynda.train.speakers import person
from tynda.weights.weight import floats

__all__ = ["calibrated", "finish_speakers", "rated"]

Floats = NDArray[np.float32]

_ENROLLED = 3
"""Number of recordings with which a person is enrolled in the trials of the calibration."""
_COHORT_RECORDINGS = 8
"""Maximum number of recordings whose mean stands for a person of the cohort."""
_MAX_SECONDS = 8.0
"""Maximum duration of a recording that is embedded, so that finishing takes minutes."""


def finish_speakers(recipe: Recipe, folder: Path, trained: Path, output: Path) -> Path:
    """Add the cohort and the calibration to the model at ``trained``; store and score it.

    The cohort is from people to train on, calibration and scores are from those of dev. Writes
    ``output / NAME.safetensors`` and returns its path.
    """
    read = checkpoint.load(trained)
    assert recipe.margin is not None
    utterances = _to_train_on(recipe, folder)
    cohort = _cohort(Model(read), utterances, recipe.margin.cohort)
    config = {**read.header.config, "cohort": len(cohort)}
    header = replace(read.header, config=config)
    weights = {name: floats(w) for name, w in read.weights.items()} | {"cohort": cohort}
    path = output / f"{recipe.name}.safetensors"
    checkpoint.save_model(path, header, weights, bits=recipe.bits)
    dev = [u for m in recipe.data.dev for u in manifest.read(folder / m)]
    known = {person(u) for u in utterances}
    # The finished file itself is calibrated and scored, read back from disk.
    voices = _voices(Model(checkpoint.load(path)), [u for u in dev if person(u) not in known])
    if sum(len(v) > _ENROLLED for v in voices.values()) > 1:
        decoding, scores = calibrated(voices, cohort), {"dev": {"eer": rated(voices)}}
        header = replace(header, decoding=decoding, scores=scores)
        checkpoint.save_model(path, header, weights, bits=recipe.bits)
    return path


def _to_train_on(recipe: Recipe, folder: Path) -> list[Utterance]:
    """Return the recordings of people to train on."""
    return [
        u
        for source in recipe.data.train
        for u in manifest.read(folder / source.manifest)
        if person(u) and u.speaker not in recipe.data.exclude_speakers
    ]


def _cohort(model: Model, utterances: Sequence[Utterance], limit: int) -> Floats:
    """Return the mean embeddings ``[people, size]``, of length 1, of up to ``limit`` people."""
    people = sorted({person(u) or "" for u in utterances})
    step = max(1, -(-len(people) // limit))
    chosen = set(people[::step])
    voices = _voices(model, [u for u in utterances if person(u) in chosen], _COHORT_RECORDINGS)
    means = [np.mean(found, axis=0) for _, found in sorted(voices.items())]
    if not means:
        raise TyndaError("no recording to train on can be read: check the manifests")
    return np.array([mean / np.linalg.norm(mean) for mean in means], np.float32)


def _voices(
    model: Model, utterances: Sequence[Utterance], limit: int | None = None
) -> dict[str, Floats]:
    """Return the embeddings ``[recordings, size]`` of each person, of at most ``limit``, evenly
    spaced."""
    recordings: dict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        if name := person(u):
            recordings[name].append(u)
    out: dict[str, Floats] = {}
    for name, own in recordings.items():
        step = 1 if limit is None else max(1, len(own) // limit)
        found = []
        for u in own[::step][:limit]:
            with suppress(TyndaError):  # unreadable recordings were named before the training
                found.append(model.encode(audio.load(u.audio)[: int(_MAX_SECONDS * SAMPLE_RATE)]))
        if found:
            out[name] = np.array(found)
    return out


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
