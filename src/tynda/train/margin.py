"""The objective of models of voices: an additive angular margin between people."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tynda.errors import TyndaError
from tynda.models.layers import Specs
from tynda.ops.torch import TorchOps
from tynda.text.wordless import Wordless
from tynda.train.data import Batch, Corpus, Said
from tynda.train.objective import Objective, Weights

__all__ = ["CLASSES", "Margin"]

CLASSES = "classes.weight"
"""The name of the vectors of the classes, which only training has."""


class Margin(Objective):
    """ArcFace (Deng et al. 2019): the angle to one's own class is less by a margin.

    Each person at each speed is a class of its own; the classes are not part of the finished
    model.
    """

    tokenizer = Wordless()
    progress = 1.0
    """Share of the margin that applies now; it grows while the training begins."""

    def choose_tokens(self, texts: Sequence[str]) -> int:
        """Return the size of the embedding; ``texts`` are the names of the people."""
        assert self.recipe.margin is not None  # recipes of this family have the section
        self.settings = self.recipe.margin
        self.people = list(texts)
        return self.settings.size

    def frame_mismatch(self, samples: int) -> str:
        """See `Objective.frame_mismatch`."""
        return "and an embedding has no frames"

    def specs(self) -> Specs:
        """See `Objective.specs`; training needs a vector for each class too."""
        specs = super().specs()
        classes = len(self.people) * len(self.recipe.augment.speeds)
        specs.linear(CLASSES.removesuffix(".weight"), classes, self.settings.size, bias=False)
        return specs

    def check(self, corpus: Corpus) -> None:
        """Raise `TyndaError` where there are no two people."""
        if len(self.people) < 2:
            raise TyndaError("voices are told apart by training on two people or more")

    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """See `Objective.labels`; the labels of voices are classes, not texts."""
        return []

    def embeddings(self, ops: TorchOps, weights: Weights, batch: Batch) -> Tensor:
        """Return the embeddings ``[batch, size]`` with length 1."""
        encode = self.family.programs["encode"]
        with self.autocast(batch):
            found: Tensor = encode(ops, weights, self.config, batch.features, batch.lengths)
        return F.normalize(found.float())

    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Return the cross entropy with the margin, and the one without it."""
        found = self.embeddings(TorchOps(training=True), weights, batch)
        cosines = found @ F.normalize(weights[CLASSES]).T
        own = cosines.gather(1, batch.labels[:, None])
        margin = self.settings.margin * self.progress
        near = own * math.cos(margin) - (1 - own**2).clamp(min=1e-7).sqrt() * math.sin(margin)
        # Beyond pi - margin the angle cannot grow; the cosine goes on falling in a straight line.
        far = own - margin * math.sin(margin)
        moved = torch.where(own > -math.cos(margin), near, far)
        scores = cosines.scatter(1, batch.labels[:, None], moved) * self.settings.scale
        plain = F.cross_entropy(cosines.detach() * self.settings.scale, batch.labels)
        return F.cross_entropy(scores, batch.labels), plain

    def evaluate(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """Raise NotImplementedError: voices are scored in pairs, by their trainer."""
        raise NotImplementedError
