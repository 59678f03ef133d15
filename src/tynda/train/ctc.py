"""The CTC objective over letters, with a second view of each utterance if the recipe sets it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tynda.errors import TyndaError
from tynda.heads.ctc import paths
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import SAMPLE_RATE
from tynda.text.normalize import english_letters
from tynda.text.tokenizer import ENGLISH
from tynda.train.data import SHORTEST, Batch, Corpus, Said
from tynda.train.objective import Objective, Weights, ctc_loss

__all__ = ["CTC"]


class CTC(Objective):
    """Connectionist temporal classification (Graves et al. 2006) over a to z, ' and space."""

    tokenizer = ENGLISH

    def choose_tokens(self, texts: Sequence[str]) -> int:
        """See `Objective.choose_tokens`; the letters do not depend on the texts."""
        return len(ENGLISH)

    def frame_mismatch(self, samples: int) -> str:
        """See `Objective.frame_mismatch`."""
        return "" if samples == self.frame else f"the model's {self.frame}"

    def check(self, corpus: Corpus) -> None:
        """Check that texts fit: CTC needs a frame per letter, and one between equal letters."""
        frame = self.frame / SAMPLE_RATE
        spoken = short = 0
        for i, utterance in enumerate(corpus.utterances):
            letters = ENGLISH.encode(english_letters(utterance.text))
            seconds = corpus.seconds(i)
            if letters and SHORTEST <= seconds <= self.recipe.data.max_seconds:
                spoken += 1
                short += len(letters) + sum(a == b for a, b in pairwise(letters)) > seconds / frame
        problem = f"{short} of {spoken} texts are too long for their recordings"
        if spoken and short == spoken:
            raise TyndaError(f"{problem}: check the manifests, or lower the model's stride")
        if short:
            warnings.warn(f"{problem} and have no effect on training: check them", stacklevel=2)

    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """Return the letters of all utterances of an example."""
        return ENGLISH.encode(" ".join(s.text for s in said if s.text))

    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Return the sum of CTC over letters, CTC over phones, and the distance between views."""
        tapped: list[Tensor] = []  # The last entry is also the input of the output layer.
        log_probs, lengths = self.encode(TorchOps(training=True), weights, batch, tapped)
        letters = batch.label_lengths.sum().clamp(min=1)
        plain = ctc_loss(log_probs, lengths, batch.labels, batch.label_lengths) / letters
        aside = self.phone_loss(weights, tapped[-1], lengths, batch)
        loss = plain + (aside + self.distill_loss(log_probs, lengths, batch)) / letters
        if views == 2:
            weight = self.recipe.optimizer.consistency
            loss = loss + weight * _consistency(log_probs, lengths) / letters
        return loss, plain

    def evaluate(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """Decode greedily, by the most likely letter of each frame; see `Objective.evaluate`."""
        log_probs, lengths = self.encode(TorchOps(), weights, batch)
        if not log_probs.isfinite().all():
            raise FloatingPointError
        loss = float(ctc_loss(log_probs, lengths, batch.labels, batch.label_lengths))
        rows = zip(log_probs.float().cpu().numpy(), lengths, strict=True)
        texts = [paths.greedy(row[: int(length)], ENGLISH).text for row, length in rows]
        return loss, int(batch.label_lengths.sum()), texts


def _consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the divergence of each view from the other (CR-CTC, Yao et al. 2024, equation 5)."""
    first, second = log_probs.chunk(2)
    targets = torch.cat([second, first]).detach()
    divergence = F.kl_div(log_probs, targets, reduction="none", log_target=True).sum(-1)
    frames = torch.arange(divergence.shape[1], device=divergence.device)
    return (divergence * (frames < lengths[:, None])).sum()
