"""Training of models of voices: crops of people's recordings, and pairs to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tynda.manifest import Utterance
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import SAMPLE_RATE, FrontEnd
from tynda.speakers.calibrate import person
from tynda.speakers.discriminant import discriminant
from tynda.speakers.scoring import equal_error_rate
from tynda.store import checkpoint
from tynda.train import data as train_data
from tynda.train.augment import distort, mask_spectrum
from tynda.train.codecs import coded
from tynda.train.data import Batch, Corpus, Sounds, collate
from tynda.train.margin import CLASSES, Margin
from tynda.train.objective import Objective, Weights
from tynda.train.people import PeopleTrainer, names_of
from tynda.train.recipe import Augment
from tynda.weights.weight import dequantize_all

__all__ = ["SpeakerTrainer", "Voices"]

Floats = NDArray[np.float32]

_LAST_LAYER = "embedding.weight", "embedding.bias"
_DEV_SECONDS = 3.0
"""Duration of the middle of each dev recording, which is scored after an epoch."""


@dataclass
class Voices:
    """The batches of one epoch: crops of one duration, each of one person at one speed."""

    corpus: Corpus
    members: Sequence[NDArray[np.int64]]
    """The recordings of each person."""
    batches: Sequence[Sequence[int]]
    """People, by their indices."""
    seconds: Sequence[float]
    """The duration of each batch's crops."""
    frontend: FrontEnd
    augment: Augment
    noises: Corpus | None
    rooms: Corpus | None
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([*self.seed, index])
        noises, rooms = Sounds(self.noises), Sounds(self.rooms)
        features, labels = [], []
        speeds = self.augment.speeds
        for one in self.batches[index]:
            speed = int(rng.integers(len(speeds)))
            size = int(self.seconds[index] * speeds[speed] * SAMPLE_RATE)
            augment = replace(self.augment, speeds=(speeds[speed],))
            samples = distort(self._crop(one, size, rng), augment, noises, rooms, rng)
            features.append(mask_spectrum(self.frontend(samples), augment, rng))
            labels.append([one * len(speeds) + speed])
        return collate(features, labels, [[] for _ in labels])

    def _crop(self, one: int, size: int, rng: np.random.Generator) -> Floats:
        """Return ``size`` samples of a person; short recordings follow one another."""
        parts: list[Floats] = []
        missing = size
        while missing > 0:
            samples = self.corpus.samples(int(rng.choice(self.members[one])))
            start = int(rng.integers(max(0, len(samples) - missing) + 1))
            parts.append(samples[start : start + missing])
            missing -= len(parts[-1])
        return np.concatenate(parts)


class SpeakerTrainer(PeopleTrainer):
    """A `Trainer` for models of voices; the best epoch has the least equal error rate on dev."""

    objective: Margin

    def _choose_objective(self, utterances: Sequence[Utterance]) -> Objective:
        return Margin(self.recipe, self.frontend, names_of(utterances))

    def run(self, max_epochs: int | None = None) -> Path:
        """See `Trainer.run`; where the recipe says so, the last layer is found in closed form
        before the first epoch, and again after the last."""
        if self.objective.settings.discriminant and self.at.epoch == 0:
            self._begin()
        path = super().run(max_epochs)
        if self.objective.settings.discriminant:
            self._fit_last_layer(path)
        return path

    def _examples(self, rng: np.random.Generator, views: int) -> Voices:
        """Return crops of all people in random order, of one duration in each batch."""
        o, settings = self.recipe.optimizer, self.objective.settings
        self.objective.progress = min(1.0, self.at.epoch / max(1.0, settings.rise * o.epochs))
        return self._crops(rng, settings.crops, self.recipe.augment, self.at.epoch)

    def _crops(self, rng: np.random.Generator, count: int, augment: Augment, epoch: int) -> Voices:
        """Return ``count`` crops of an average person."""
        settings = self.objective.settings
        counts = rng.poisson(self.shares * count)
        draws = rng.permutation(np.repeat(np.arange(len(self.people)), counts)).tolist()
        batches, seconds = [], []
        while draws:
            seconds.append(float(rng.uniform(settings.shortest, settings.longest)))
            size = max(2, int(self.recipe.data.batch_seconds / seconds[-1]))
            batches.append(draws[:size])
            draws = draws[size:]
        return Voices(
            self.corpus,
            self.people,
            batches,
            seconds,
            self.frontend,
            augment,
            self.noises,
            self.rooms,
            (self.recipe.optimizer.seed, epoch),
        )

    @torch.no_grad()
    def _begin(self) -> None:
        """Find the last layer, and the vector of each class, from the network as it is."""
        settings = self.objective.settings
        vectors, classes = self._statistics(
            self.weights, self.recipe.augment.speeds, settings.crops
        )
        speeds = len(self.recipe.augment.speeds)
        weight, bias = discriminant(vectors, classes // speeds, settings.size)
        found = vectors @ weight.T + bias
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        means = self.weights[CLASSES].detach().cpu().numpy().copy()
        for one in np.unique(classes):
            means[one] = found[classes == one].mean(0)
        for state in (self.weights, self.average):
            _set_last_layer(state, weight, bias)
            state[CLASSES].copy_(torch.from_numpy(means))
        if self.dev_corpus:
            self._say(f"before the first epoch  dev_eer {self._dev_eer(self.average):.4f}")

    @torch.no_grad()
    def _fit_last_layer(self, path: Path) -> None:
        """Replace the last layer of the model at ``path`` by that of `discriminant`, unless dev
        says that the trained one is better."""
        read = checkpoint.load(path)
        weights = {k: torch.from_numpy(v) for k, v in dequantize_all(read.weights).items()}
        settings = self.objective.settings
        vectors, people = self._statistics(weights, (1.0,), settings.discriminant)
        _set_last_layer(weights, *discriminant(vectors, people, settings.size))
        before = read.header.training.get("dev_eer", 1.0)
        after = self._dev_eer(weights) if self.dev_corpus else 0.0
        self._say(f"last layer in closed form  dev_eer {before:.4f} to {after:.4f}")
        if after < before:
            training = {**read.header.training, "dev_eer": after, "last_layer": "discriminant"}
            header = replace(read.header, training=training)
            layer = {name: weights[name].numpy() for name in _LAST_LAYER}
            checkpoint.save_model(path, header, {**read.weights, **layer})

    def _statistics(
        self, weights: Weights, speeds: tuple[float, ...], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the inputs ``[crops, channels]`` of the last layer for ``count`` crops of an
        average person, and the class of each."""
        codecs = self.objective.settings.discriminant_codecs
        augment = replace(
            self.recipe.augment, speeds=speeds, freq_masks=0, time_masks=0, codecs=codecs
        )
        rng = np.random.default_rng([self.recipe.optimizer.seed, self.at.epoch, 1])
        # The seed is that of no epoch.
        crops = self._crops(rng, count, augment, 10**6)
        program, config = self.objective.family.programs["statistics"], self.objective.config
        vectors, classes = [], []
        for batch in train_data.iterate(crops, self.workers):
            here = batch.to(self.device)
            found = program(TorchOps(), weights, config, here.features, here.lengths)
            vectors.append(found[:, 0].float().cpu().numpy())
            classes.append(batch.labels.numpy())
        return np.concatenate(vectors), np.concatenate(classes)

    def _rank(self, entry: dict[str, float]) -> tuple[float, float]:
        return entry.get("dev_eer", entry["loss"]), entry["loss"]

    def _train_epoch(self) -> dict[str, float]:
        entry = super()._train_epoch()
        if self.dev_corpus is None:
            return entry
        return entry | {"dev_eer": self._dev_eer(self._rounded(self.average, self.grids[0]))}

    @torch.no_grad()
    def _dev_eer(self, weights: Weights) -> float:
        """Return the equal error rate over all pairs of dev recordings, of which a share goes
        through codecs."""
        assert self.dev_corpus is not None
        corpus = self.dev_corpus
        size = int(_DEV_SECONDS * SAMPLE_RATE)
        usable = [i for i in range(len(corpus)) if corpus.seconds(i) >= train_data.SHORTEST]
        order = sorted(usable, key=corpus.seconds)
        found: list[Tensor] = []
        for first in range(0, len(order), 32):
            part = order[first : first + 32]
            sounds = [self._heard(i, _middle(corpus.samples(i), size)) for i in part]
            batch = collate(
                [self.frontend(s) for s in sounds], [[] for _ in part], [[]] * len(part)
            )
            found.append(
                self.objective.embeddings(TorchOps(), weights, batch.to(self.device)).cpu()
            )
        voices = torch.cat(found).numpy()
        if not np.isfinite(voices).all():
            raise self._diverged()
        names = np.array([person(corpus.utterances[i]) for i in order])
        scores = voices @ voices.T
        pairs = np.triu(np.ones_like(scores, bool), 1)
        same = names[:, None] == names[None]
        return equal_error_rate(scores[pairs & same], scores[pairs & ~same])

    def _heard(self, index: int, samples: Floats) -> Floats:
        """Return a dev recording, through the same codec in each epoch or through none."""
        rng = np.random.default_rng([self.recipe.optimizer.seed, index])
        share = self.objective.settings.discriminant_codecs
        return coded(samples, rng) if rng.random() < share else samples


def _middle(samples: Floats, size: int) -> Floats:
    start = max(0, (len(samples) - size) // 2)
    return samples[start : start + size]


def _set_last_layer(
    weights: Mapping[str, Tensor], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    """Change the first outputs of the last layer, where few people give fewer than it has."""
    for name, value in zip(_LAST_LAYER, (weight, bias), strict=True):
        weights[name][: len(value)] = torch.from_numpy(value)
