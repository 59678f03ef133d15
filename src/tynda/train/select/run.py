"""The implementation of ``tynda select``: a manifest in, the part of it that teaches most out.

LESS (Xia et al. 2024, "LESS: Selecting Influential Data for Targeted Instruction Tuning") for
speech: a step of Adam on one recording changes the loss of another by about the inner product of
their gradients, each element divided by the root of Adam's second moment. The features of a
recording are its gradients divided by the fourth root of the moment, projected at random, so that
the inner product of two recordings' features is that change, and their cosine is 1 for a recording
and itself. Adam's first moment is the same for all recordings, and left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.manifest import Utterance
from tynda.sound import audio
from tynda.store import library
from tynda.train.select.features import FeatureFile, key_of

if TYPE_CHECKING:
    from torch import Tensor

    from tynda.train.select.learner import Learner

__all__ = ["SIZE", "By", "Selection", "Unit", "select"]

Floats = NDArray[np.float32]
Scores = NDArray[np.float64]
By = Literal["gradients", "embeddings", "random"]
Unit = Literal["utterances", "hours"]

SIZE = 8192
"""Number of dimensions to which gradients are projected, as in the paper."""
_SAMPLE = 64
"""Number of recordings from which Adam's second moments are estimated."""
_DAMPING = 0.1
"""The share of a tensor's root mean square gradient that is added to the root of each moment. The
moment of a token that the sample does not have is about 0, and its gradient would be all that
counts."""
_VERSION = 1


@dataclass(frozen=True)
class Selection:
    """The result of `select`."""

    chosen: int
    """Number of recordings that were chosen."""
    total: int
    """Number of recordings in the manifest."""
    seconds: float
    """Duration of what was chosen, as far as the manifest states it."""
    left_out: Mapping[str, int]
    """How many recordings of the manifest and the target have no features, by reason."""
    features: Path | None
    """The file of the features; None for a choice by chance."""


def select(
    pool: Path,
    output: Path,
    *,
    target: Path | None = None,
    model: str | Path | None = None,
    fraction: float = 0.1,
    by: By = "gradients",
    unit: Unit = "utterances",
    seed: int = 42,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Write the lines of the manifest ``pool`` that teach ``model`` most about ``target``.

    ``target`` is a manifest of speech like that which the model is to recognise. Each source in it
    is a task of its own, and a recording has the score of the task that it helps most. ``fraction``
    is the share of the ``unit`` that is chosen. ``by`` gradients is LESS; embeddings are mean
    states of the encoder, for which no texts are needed; random needs neither target nor model.
    Lines stay in order and get the key ``score``.

    Features are stored beside ``output``, for other targets and fractions, and for a run that goes
    on where an earlier one was interrupted.

    Raises `TyndaError` for a manifest that is empty or not valid, for a model that has no such
    features, and where no recording can be used.
    """
    if not 0 < fraction <= 1:
        raise TyndaError(f"the fraction must be above 0 and up to 1, not {fraction:g}")
    if output.exists() and any(p and p.exists() and output.samefile(p) for p in (pool, target)):
        raise TyndaError(f"{output} is read here: choose another name for the output")
    utterances = _read(pool, by)
    left_out: Counter[str] = Counter()
    path = None
    if by == "random":
        scores = np.random.default_rng(seed).random(len(utterances))
    else:
        if target is None or model is None:
            missing = "manifest of the target" if target is None else "model"
            raise TyndaError(f"choosing by {by} needs a {missing}")
        targets = _read(target, by)
        features = _Features(output.parent / pool.stem, by, model, utterances, seed, threads)
        try:
            path = features.file.path
            features.compute([*targets, *utterances], on_progress)
            left_out += features.reasons([*targets, *utterances])
            groups = _tasks(features, targets, target)
            scores = _scores(features, utterances, groups, pool)
        finally:
            features.file.close()
    chosen = _choose(utterances, scores, fraction, unit, pool)
    _write(pool, output, utterances, {i: scores[i] for i in chosen}, with_scores=by != "random")
    seconds = sum(utterances[i].duration or 0.0 for i in chosen)
    return Selection(len(chosen), len(utterances), seconds, dict(left_out.most_common()), path)


def _read(path: Path, by: By) -> list[Utterance]:
    found = list(manifest.stream(path, texts=by == "gradients"))
    if not found:
        raise TyndaError(f"{path}: empty manifest, write one JSON object per line and recording")
    return found


class _Features:
    """The features of recordings by one model, and the file that has them."""

    def __init__(
        self,
        prefix: Path,
        by: By,
        model: str | Path,
        pool: Sequence[Utterance],
        seed: int,
        threads: int | None,
    ) -> None:
        import torch

        from tynda.train.select.learner import learner_of

        if threads:
            torch.set_num_threads(threads)
        self.learner: Learner = learner_of(library.load(model))
        self.by, self._seed = by, seed
        identity = {"version": _VERSION, "by": by, "model": self.learner.digest}
        size = int(self.learner.model.config.channels)
        if by == "gradients":
            size = SIZE
            # The sample does not depend on the order of the lines.
            self._sample = sorted({key_of(u): u for u in pool}.items())
            keys = b"".join(key for key, _ in self._sample[:_SAMPLE])
            identity |= {"seed": seed, "sample": hashlib.sha256(keys).hexdigest()}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.file = FeatureFile(
            prefix.with_name(f"{prefix.name}.{by}-{digest}.f16"), identity, size
        )

    def compute(
        self, utterances: Sequence[Utterance], on_progress: Callable[[int, int], None] | None
    ) -> None:
        """Compute the features that the file does not have."""
        for done, utterance in enumerate(utterances):
            if on_progress:
                on_progress(done, len(utterances))
            if (key := key_of(utterance)) not in self.file:
                self.file.add(key, self._compute(utterance))

    def _compute(self, utterance: Utterance) -> Floats | str:
        """Return the features of a recording, or why it has none."""
        from tynda.train.select.learner import UnusableError

        try:
            if self.by == "embeddings":
                vector = self.learner.states(_samples(utterance)).mean(0)
            else:
                vector = self._projection(self._gradients(utterance))
        except UnusableError as reason:
            return str(reason)
        found: Floats = vector.numpy()
        return found if np.isfinite(found).all() else "features are not finite"

    def _gradients(self, utterance: Utterance) -> Mapping[str, Tensor]:
        return self.learner.gradients(_samples(utterance), utterance.text, utterance.language)

    @cached_property
    def _projection(self) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """The projection of gradients over the fourth root of Adam's second moment."""
        import torch

        from tynda.train.select.learner import UnusableError
        from tynda.train.select.projection import Projection

        moments = {n: torch.zeros_like(w) for n, w in self.learner.weights.items()}
        used = 0
        for _, utterance in self._sample:
            try:
                found = self._gradients(utterance)
            except UnusableError:
                continue
            for name, gradient in found.items():
                moments[name].addcmul_(gradient, gradient)
            used += 1
            if used == _SAMPLE:
                break
        return Projection(
            {name: _scale(moment / max(used, 1)) for name, moment in moments.items()},
            SIZE,
            self._seed,
        )

    def reasons(self, utterances: Sequence[Utterance]) -> Counter[str]:
        """Return how many recordings have no features, by reason."""
        found = (self.file.reason(key_of(u)) for u in utterances)
        return Counter(reason for reason in found if reason)

    def usable(self, utterances: Sequence[Utterance], path: Path) -> list[tuple[int, bytes]]:
        """Return index and key of the recordings that have features.

        Raises `TyndaError` where there is none.
        """
        keys = [(i, key_of(u)) for i, u in enumerate(utterances)]
        usable = [(i, key) for i, key in keys if self.file.reason(key) is None]
        if not usable:
            reasons = ", ".join(f"{why} {n}" for why, n in self.reasons(utterances).items())
            raise TyndaError(f"{path}: the model can learn from no recording ({reasons})")
        return usable


def _samples(utterance: Utterance) -> Floats:
    from tynda.train.select.learner import UnusableError

    try:
        return audio.load(utterance.audio)
    except TyndaError:
        raise UnusableError("unreadable") from None


def _scale(moment: Tensor) -> Tensor:
    """Return the factors of a tensor's gradients; where all are 0, there is nothing to divide."""
    root = moment.sqrt()
    floor = _DAMPING * float(moment.mean()) ** 0.5
    return root.add_(floor).clamp_(min=1e-30).rsqrt_() if floor > 0 else root.zero_()


def _tasks(features: _Features, targets: Sequence[Utterance], path: Path) -> dict[str, list[bytes]]:
    """Return the keys of the target's recordings by source."""
    groups: dict[str, list[bytes]] = {}
    for i, key in features.usable(targets, path):
        groups.setdefault(targets[i].source, []).append(key)
    return groups


def _scores(
    features: _Features, pool: Sequence[Utterance], tasks: Mapping[str, list[bytes]], path: Path
) -> Scores:
    """Return the score of each recording: the mean cosine with the best task; NaN for none."""
    usable = features.usable(pool, path)
    keys, file = [key for _, key in usable], features.file
    # Mean states have much in common, which says nothing about a recording.
    common = (
        np.float32(0)
        if features.by == "gradients"
        else sum(block.sum(0) for block in file.blocks(keys)) / np.float32(len(keys))
    )

    def unit(block: Floats) -> Floats:
        block = block - common
        length = np.linalg.norm(block, axis=1, keepdims=True)
        return np.asarray(block / np.maximum(length, 1e-12), np.float32)

    means = np.stack(
        [sum(unit(b).sum(0) for b in file.blocks(task)) / len(task) for task in tasks.values()]
    )
    scores = np.full(len(pool), np.nan)
    rated = [unit(block) @ means.T for block in file.blocks(keys)]
    scores[[i for i, _ in usable]] = found = np.concatenate(rated).max(1)
    if not np.isfinite(found).all():
        raise TyndaError(f"{file.path} is damaged: remove it")
    return scores


def _choose(
    utterances: Sequence[Utterance], scores: Scores, fraction: float, unit: Unit, path: Path
) -> list[int]:
    """Return the indices of the best, at least one, in the order of the manifest."""
    order = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    if unit == "utterances":
        return sorted(order[: max(1, round(fraction * len(utterances)))])
    seconds = [u.duration for u in utterances]
    if None in seconds:
        number = seconds.index(None) + 1
        raise TyndaError(f"{path}: recording {number} has no duration: choose by utterances")
    wanted = fraction * sum(s or 0.0 for s in seconds)
    chosen, sum_so_far = order[:1], seconds[order[0]] or 0.0
    for i in order[1:]:
        if sum_so_far >= wanted:
            break
        chosen.append(i)
        sum_so_far += seconds[i] or 0.0
    return sorted(chosen)


def _write(
    pool: Path,
    output: Path,
    utterances: Sequence[Utterance],
    chosen: Mapping[int, Any],
    *,
    with_scores: bool,
) -> None:
    """Write the chosen lines, with all their keys."""
    lines = []
    for i, entry in enumerate(manifest.entries(pool)):
        if i in chosen:
            entry["audio_filepath"] = manifest.name_in(output.parent, utterances[i].audio)
            if with_scores:
                entry["score"] = round(float(chosen[i]), 6)
            lines.append(manifest.line(entry))
    write_whole(output, b"".join(lines))
