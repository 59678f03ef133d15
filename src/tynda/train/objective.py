"""What a network is taught: how a text becomes labels, and what is minimised.

One subclass for each way of decoding: ``CTC`` in ``train/ctc.py``, ``Seq2Seq`` in
``train/seq2seq.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tynda import models
from tynda.models.layers import Specs
from tynda.ops.torch import has_bfloat16
from tynda.sound.frontend import SAMPLE_RATE, FrontEnd
from tynda.train.data import Batch, Corpus, Said
from tynda.train.phones import PHONES
from tynda.train.recipe import Recipe
from tynda.train.teacher import Teacher

__all__ = ["Objective", "Weights", "ctc_loss"]

Floats = NDArray[np.float32]
Weights = Mapping[str, Tensor]

_HEAD = "phones"


class Objective(ABC):
    """The side of the training that depends on the way of decoding."""

    tokenizer: Any
    window: int | None = None
    """Frames that every example is padded or cut to; None: each has its own length."""

    def __init__(
        self, recipe: Recipe, front: FrontEnd, vocab: int, teacher: Teacher | None = None
    ) -> None:
        """Raises `TyndaError` where the recipe's model settings do not fit family or teacher."""
        self.recipe, self.frontend, self.teacher = recipe, front, teacher
        self.family = models.family(recipe.family)
        sizes = {"bins": front.bins, "vocab": vocab}
        self.config = self.family.configure({**recipe.model, **sizes})

    @property
    def frame(self) -> int:
        """Samples in a frame of the encoder."""
        return int(self.frontend.hop * self.config.stride)

    @property
    def window_seconds(self) -> float | None:
        """The window's length."""
        return None if self.window is None else self.window * self.frontend.hop / SAMPLE_RATE

    def specs(self) -> Specs:
        """The model's tensors, and those that serve the training alone."""
        specs = Specs(self.family.specs(self.config))
        if self.recipe.phones:
            specs.dense(_HEAD, len(PHONES) + 1, self.config.channels)
        return specs

    @property
    def decoding(self) -> dict[str, Any]:
        """Settings of the decoder that the model file carries."""
        return {}

    def fit(self, features: Sequence[Floats], window: str = "exact") -> list[Floats]:
        """Features ``[frames, bins]``, filled up with zeros, or cut, to the model's window.

        ``fit`` as ``window``: the longest of them alone fills it.
        """
        if self.window is None:
            return list(features)
        size = self.window
        if window == "fit":
            size = min(size, max(map(len, features)))
        return [np.pad(f[:size], ((0, max(0, size - len(f))), (0, 0))) for f in features]

    @abstractmethod
    def check(self, corpus: Corpus) -> None:
        """Warn of, or refuse, texts that the model cannot learn."""

    @abstractmethod
    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """The labels of an example."""

    @abstractmethod
    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """The loss to minimise, and the plain one for each label to look at."""

    @abstractmethod
    def hear(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """Summed plain loss, number of labels, and the texts heard, without a search.

        Raises FloatingPointError where the model's outputs are not finite.
        """

    def autocast(self, batch: Batch) -> torch.autocast:
        """The recipe's precision, or float32 where the processor has no bfloat16."""
        device = batch.features.device.type
        bf16 = self.recipe.optimizer.precision == "bf16" and has_bfloat16(device)
        return torch.autocast(device, torch.bfloat16, enabled=bf16)

    def phone_loss(self, weights: Weights, states: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """CTC over phones on the encoder's ``states [batch, frames, channels]``, summed."""
        known = batch.phone_lengths > 0
        if not self.recipe.phones or not known.any():
            return states.new_zeros(())
        w, b = (weights[f"{_HEAD}.{part}"] for part in ("weight", "bias"))
        log_probs = F.log_softmax(F.linear(states[known].float(), w, b), -1)
        loss = ctc_loss(log_probs, lengths[known], batch.phones, batch.phone_lengths[known])
        return self.recipe.phones.weight * loss

    def distill_loss(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """Divergence of frames ``[batch, frames, symbols]`` from the teacher's, summed."""
        if self.teacher is None or self.recipe.distill is None:
            return log_probs.new_zeros(())
        taught, heard = self.teacher(batch.heard, batch.heard_lengths)
        views = len(log_probs) // len(taught)
        taught, heard = taught.repeat(views, 1, 1), heard.repeat(views)
        frames = min(log_probs.shape[1], taught.shape[1])
        divergence = F.kl_div(
            log_probs[:, :frames].float(), taught[:, :frames], reduction="none", log_target=True
        ).sum(-1)
        both = torch.minimum(lengths, heard)[:, None]
        counts = torch.arange(frames, device=divergence.device) < both
        return self.recipe.distill.weight * (divergence * counts).sum()


def ctc_loss(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Summed CTC loss of ``log_probs [batch, frames, symbols]``; labels lie end to end."""
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        labels,
        lengths,
        label_lengths,
        reduction="sum",
        zero_infinity=True,
    )
