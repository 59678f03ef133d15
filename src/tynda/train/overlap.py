"""Training of models of overlap: how many people speak in each frame of made-up conversations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.models.overlap import SEVERAL
from tynda.ops.torch import TorchOps
from tynda.text.wordless import Wordless
from tynda.train import data as train_data
from tynda.train.conversations import Conversations
from tynda.train.data import Batch, Corpus, Said
from tynda.train.objective import Objective, Weights
from tynda.train.people import PeopleTrainer, names_of, recordings_of
from tynda.train.recipe import Augment

__all__ = ["Counting", "OverlapTrainer"]

_DEV_SECONDS = 1200.0
"""Duration of the conversations of dev people on which an epoch is scored."""


class Counting(Objective):
    """The cross entropy of the number of people who speak in a frame: none, one, or several."""

    tokenizer = Wordless()

    def choose_tokens(self, texts: Sequence[str]) -> int:
        """Return the number of outputs."""
        return SEVERAL + 1

    def frame_mismatch(self, samples: int) -> str:
        """See `Objective.frame_mismatch`."""
        return "and a model of overlap learns from no teacher"

    def check(self, corpus: Corpus) -> None:
        """Raise `TyndaError` where there are no two people."""
        if len(names_of(corpus.utterances)) < 2:
            raise TyndaError("conversations are made of the recordings of two people or more")

    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """See `Objective.labels`; the labels are numbers of people, not texts."""
        return []

    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of a frame, twice."""
        log_probs, labels = self._frames(TorchOps(training=True), weights, batch)
        loss = F.nll_loss(log_probs, labels)
        return loss, loss

    def evaluate(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """See `Objective.evaluate`; there are no texts."""
        log_probs, labels = self._frames(TorchOps(), weights, batch)
        if not log_probs.isfinite().all():
            raise FloatingPointError
        return float(F.nll_loss(log_probs, labels, reduction="sum")), len(labels), []

    def _frames(self, ops: TorchOps, weights: Weights, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[frames, 3]`` and labels ``[frames]`` of a whole batch, whose
        conversations have one duration."""
        encode = self.family.programs["encode"]
        with self.autocast(batch):
            found: Tensor = encode(ops, weights, self.config, batch.features, batch.lengths)
        return found.float().flatten(0, 1), batch.labels


class OverlapTrainer(PeopleTrainer):
    """A `Trainer` for models of overlap; the best epoch has the least loss, on dev if there is."""

    objective: Counting

    def _choose_objective(self, utterances: Sequence[Utterance]) -> Objective:
        return Counting(self.recipe, self.frontend, names_of(utterances))

    def _examples(self, rng: np.random.Generator, views: int) -> Conversations:
        assert self.recipe.mixing is not None
        seconds, seed = 3600 * self.recipe.mixing.hours, (self.recipe.optimizer.seed, self.at.epoch)
        return self._conversations(self.corpus, self.people, self.shares, seconds, seed)

    def _conversations(
        self,
        corpus: Corpus,
        people: Sequence[np.ndarray],
        shares: np.ndarray,
        seconds: float,
        seed: tuple[int, ...],
        augment: Augment | None = None,
    ) -> Conversations:
        mixing, data = self.recipe.mixing, self.recipe.data
        assert mixing is not None
        return Conversations(
            corpus,
            people,
            shares,
            count=max(1, round(seconds / data.batch_seconds)),
            size=max(1, int(data.batch_seconds / mixing.seconds)),
            mixing=mixing,
            stride=self.objective.config.stride,
            frontend=self.frontend,
            augment=augment or self.recipe.augment,
            noises=self.noises,
            rooms=self.rooms,
            seed=seed,
        )

    def _rank(self, entry: dict[str, float]) -> tuple[float, float]:
        return entry.get("dev_loss", entry["loss"]), entry["loss"]

    def _train_epoch(self) -> dict[str, float]:
        entry = super()._train_epoch()
        return entry if self.dev_corpus is None else entry | {"dev_loss": self._dev_loss()}

    @torch.no_grad()
    def _dev_loss(self) -> float:
        """Return the loss of a frame of conversations of dev people, the same after each epoch."""
        assert self.dev_corpus is not None
        people = recordings_of(self.dev_corpus, names_of(self.dev_corpus.utterances))
        weights = self._rounded(self.average, self.grids[0])
        plain = Augment(noise=self.recipe.augment.noise, rooms=self.recipe.augment.rooms)
        shares, loss, count = np.ones(len(people)), 0.0, 0
        # The seed is that of no epoch.
        seed = (self.recipe.optimizer.seed, 10**6)
        examples = self._conversations(self.dev_corpus, people, shares, _DEV_SECONDS, seed, plain)
        for batch in train_data.iterate(examples, self.workers):
            try:
                part, frames, _ = self.objective.evaluate(weights, batch.to(self.device))
            except FloatingPointError:
                raise self._diverged() from None
            loss, count = loss + part, count + frames
        return loss / count
