"""Turns trained weights into a finished model of voices: cohort, calibration, few bits, scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tynda import manifest
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.speakers.calibrate import (
    calibrated,
    cohort_of,
    embeddings,
    person,
    rated,
    suffices,
)
from tynda.store import checkpoint
from tynda.train.recipe import Recipe
from tynda.weights.weight import floats, stored_bits

__all__ = ["finish_speakers"]


def finish_speakers(recipe: Recipe, folder: Path, trained: Path, output: Path) -> Path:
    """Add the cohort and the calibration to the model at ``trained``; store and score it.

    The cohort is from people to train on, calibration and scores are from those of dev. Writes
    ``output / NAME.safetensors`` and returns its path.
    """
    read = checkpoint.load(trained)
    assert recipe.margin is not None
    utterances = _to_train_on(recipe, folder)
    cohort = cohort_of(Model(read), utterances, recipe.margin.cohort)
    config = {**read.header.config, "cohort": len(cohort)}
    header = replace(read.header, config=config)
    # Weights that training has rounded already are not rounded again.
    weights = {name: w if stored_bits(w) < 8 else floats(w) for name, w in read.weights.items()}
    weights["cohort"] = cohort
    path = output / f"{recipe.name}.safetensors"
    checkpoint.save_model(path, header, weights, bits=recipe.bits)
    dev = [u for m in recipe.data.dev for u in manifest.read(folder / m)]
    known = {person(u) for u in utterances}
    # The finished file itself is calibrated and scored, read back from disk.
    voices = embeddings(Model(checkpoint.load(path)), [u for u in dev if person(u) not in known])
    if suffices(voices):
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
