"""Turns trained weights into a finished model: n-gram, decoder settings, few bits, scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from tynda import manifest
from tynda.errors import TyndaError
from tynda.evaluation import evaluate
from tynda.heads.ctc import ngram
from tynda.heads.ctc.beam import beam_search
from tynda.heads.ctc.ngram import LanguageModel
from tynda.model import Model, load
from tynda.score import score
from tynda.sound import audio
from tynda.store import checkpoint
from tynda.text.normalize import english_letters
from tynda.train.data import read_sources
from tynda.train.recipe import NGram, Recipe
from tynda.weights.weight import floats, stored_bits

__all__ = ["check", "finish", "transcripts", "tune"]

_GRID = {
    "alpha": (0.3, 0.4, 0.5, 0.7, 1.0),
    "beta": (-0.5, 0.0, 0.5, 1.0, 2.0),
    "unknown_penalty": (3.0, 6.0, 9.0),
}


def check(recipe: Recipe, folder: Path) -> None:
    """Raise `TyndaError`, before the training starts, for all that would stop `finish`."""
    if not recipe.lm:
        return
    if not transcripts(recipe, folder):
        raise TyndaError("[lm] has no training texts: no source with lm = true has words")


def finish(recipe: Recipe, folder: Path, trained: Path, output: Path) -> Path:
    """Add an n-gram, tuned on dev, to the model at ``trained``; store and score the model.

    Writes ``output / NAME.safetensors`` and returns its path; a model called ``best-3bit``
    instead of ``best`` becomes ``NAME-3bit``.
    """
    model = checkpoint.load(trained)
    header, lm = model.header, None
    # A model of overlap writes no text that could be scored.
    dev = [] if recipe.mixing else [folder / m for m in recipe.data.dev]
    if recipe.lm:
        arpa = ngram.train(transcripts(recipe, folder), recipe.lm.order, recipe.lm.prune)
        lm = ngram.pack(arpa)
        decoding: dict[str, Any] = {"beam_size": recipe.lm.beam_size}
        if dev:
            decoding |= tune(Model(model), recipe.lm, dev, LanguageModel.from_arpa(arpa))
        header = replace(header, decoding=decoding)
    path = output / f"{recipe.name}{trained.stem.removeprefix('best')}.safetensors"
    # Weights that training has rounded already are not rounded again.
    weights = {name: w if stored_bits(w) < 8 else floats(w) for name, w in model.weights.items()}
    checkpoint.save_model(path, header, weights, bits=recipe.bits, lm=lm)
    if dev:
        # Score the finished file itself, read back from disk.
        header = replace(header, scores=_scores(load(path), dev))
        checkpoint.save_model(path, header, weights, bits=recipe.bits, lm=lm)
    return path


def transcripts(recipe: Recipe, folder: Path) -> list[str]:
    """Return the distinct training sentences of the sources that train the n-gram.

    Repeats are dropped: a prompt that a hundred people read aloud is not more frequent in speech.
    """
    sources = [s for s in recipe.data.train if s.lm]
    utterances, _ = read_sources(folder, sources, recipe.data.exclude_speakers)
    return sorted({text for u in utterances if (text := english_letters(u.text))})


def tune(
    model: Model, settings: NGram, manifests: Sequence[Path], lm: LanguageModel
) -> dict[str, float]:
    """Return the beam search settings with the minimum WER on the manifests, by grid search."""
    utterances = [u for path in manifests for u in manifest.read(path)]
    step = max(1, len(utterances) // settings.tune_utterances)
    outputs = []
    for u in utterances[::step]:
        with suppress(TyndaError):  # unreadable recordings were named before the training
            outputs.append((english_letters(u.text), model.encode(audio.load(u.audio))))
    grid = [dict(zip(_GRID, values, strict=True)) for values in itertools.product(*_GRID.values())]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        rated = [
            (_wer(model, outputs, lm, settings.beam_size, point), i)
            for i, point in enumerate(progress.track(grid, description="tuning the beam search"))
        ]
    return grid[min(rated)[1]]


def _wer(
    model: Model,
    outputs: Sequence[tuple[str, NDArray[np.float32]]],
    lm: LanguageModel,
    beam_size: int,
    point: dict[str, Any],
) -> float:
    pairs = []
    for text, log_probs in outputs:
        best = beam_search(
            log_probs, model.checkpoint.tokenizer, beam_size=beam_size, lm=lm, **point
        )
        pairs.append((text, best[0].text))
    return score(pairs).wer or 0.0


def _scores(model: Model, manifests: Sequence[Path]) -> dict[str, Any]:
    """Return the scores by source, as ``tynda evaluate`` computes them.

    Scores of greedy decoding are added where the default is a search with a language model.
    """
    ways: dict[str, Any] = {"": None}
    if model.head.options_without_lm:
        ways["greedy_"] = model.options(**model.head.options_without_lm)
    out: dict[str, dict[str, float | None]] = {}
    for prefix, options in ways.items():
        for source, rates in evaluate(model, manifests, options).sources.items():
            out.setdefault(source, {})
            out[source] |= {f"{prefix}wer": rates.wer, f"{prefix}cer": rates.cer}
    return out
