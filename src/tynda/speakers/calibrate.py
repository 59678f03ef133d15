"""The cohort and the calibration of a model of voices, from recordings of known people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.heads.embedding.head import EmbeddingHead
from tynda.manifest import Utterance
from tynda.model import Model, load
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.discriminant import discriminant
from tynda.speakers.scoring import as_norm, equal_error_rate, fit_logistic, threshold_for
from tynda.store import checkpoint
from tynda.weights.weight import floats, quantize

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
_REFIT_RECORDINGS = 6
"""Maximum number of recordings of a person with which the last layer is found again."""
_PIECE_SECONDS = 2.5
"""Duration of the pieces of recordings with which the last layer is found again."""
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
    cohort: Sequence[str | Path] = (),
    refit: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Write a model of voices with a cohort, and thresholds from a manifest ``recordings``.

    The people of the manifests ``cohort`` are those with whose voices scores are normalised; by
    default, every second person of ``recordings`` is one, and only the others give the thresholds.
    ``refit`` finds the last layer again on the cohort's recordings (see `discriminant`), which
    gives back most of what few bits lose; it stays in 8 bits.

    Returns how many people each part has, and the equal error rate of all pairs of recordings of
    those for the thresholds. Raises `TyndaError` for a model of another kind, where ``output``
    exists, and for too few people.
    """
    from tynda.quantization.run import check_new, new_header

    output = Path(output)
    check_new(output)
    opened = load(model)
    header = new_header(opened.checkpoint)
    if "cohort" not in header.config:
        raise TyndaError(f"{model} is no model of voices, and has nothing to calibrate")
    given = [u for u in manifest.read(recordings) if person(u)]
    people = sorted({person(u) or "" for u in given})
    if cohort:
        own = [u for path in cohort for u in manifest.read(path) if person(u)]
        known = {person(u) for u in own}
    else:
        known = {*people[::2]}
        own = [u for u in given if person(u) in known]
    others = [u for u in given if person(u) not in known]
    counts = Counter(person(u) for u in others)
    if sum(count > _ENROLLED for count in counts.values()) < 2:
        raise TyndaError(
            f"{recordings} names {len(people)} speakers: it needs four and more, with "
            f"{_ENROLLED + 1} and more recordings each"
        )
    weights = dict(opened.checkpoint.weights)
    if refit:
        weights |= _refitted(opened, own, on_progress)
        opened = Model(replace(opened.checkpoint, weights=weights))
    weights["cohort"] = voices_of = cohort_of(opened, own, _COHORT, on_progress)
    voices = embeddings(opened, others, _RECORDINGS, on_progress)
    if not suffices(voices):
        raise TyndaError(f"too few recordings of {recordings} can be read")
    header.config = {**header.config, "cohort": len(voices_of)}
    header.decoding = {**header.decoding, **calibrated(voices, voices_of)}
    rate = rated(voices)
    header.scores = {**header.scores, Path(recordings).stem: {"eer": rate}}
    checkpoint.save_model(output, header, weights)
    return {"cohort": len(voices_of), "people": len(voices), "eer": rate}


def _refitted(
    model: Model, utterances: Sequence[Utterance], on_progress: Progress | None
) -> dict[str, Any]:
    """Return the tensors of the last layer, found again on pieces of the recordings."""
    head, family = model.head, model.checkpoint.family
    assert isinstance(head, EmbeddingHead)
    if "statistics" not in family.programs:
        raise TyndaError(f"the last layer of a {family.name} cannot be found again: leave it out")
    size = int(_PIECE_SECONDS * SAMPLE_RATE)

    def pieces(samples: Floats) -> Floats:
        starts = range(0, max(1, len(samples) - size // 2), size)
        return np.array([head.vector("statistics", samples[i : i + size])[0] for i in starts])

    found = _each(utterances, _REFIT_RECORDINGS, pieces, on_progress)
    if len(found) < 2:
        raise TyndaError("a last layer needs recordings of two people and more")
    vectors = np.concatenate(list(found.values()))
    people = np.repeat(np.arange(len(found)), [len(v) for v in found.values()])
    names = ("embedding.weight", "embedding.bias")
    old = [floats(model.checkpoint.weights[name]).copy() for name in names]
    for value, new in zip(old, discriminant(vectors, people, len(old[1])), strict=True):
        value[: len(new)] = new
    return {names[0]: quantize(old[0]), names[1]: old[1]}


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
    return _each(utterances, limit, lambda samples: model.encode(samples)[None], on_progress)


def _each(
    utterances: Sequence[Utterance],
    limit: int | None,
    embed: Callable[[Floats], Floats],
    on_progress: Progress | None,
) -> dict[str, Floats]:
    """Return the vectors ``[n, size]`` of each person's recordings."""
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
                found.append(embed(audio.load(u.audio)[: int(_MAX_SECONDS * SAMPLE_RATE)]))
        if found:
            out[name] = np.concatenate(found)
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
