"""Training objectives: how a text becomes labels, and which loss is minimised.

There is one subclass for each kind of head: ``CTC`` in ``train/ctc.py``, ``Seq2Seq`` in
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
from tynda.errors import TyndaError
from tynda.models.layers import Specs
from tynda.ops.torch import TorchOps, has_bfloat16
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
    """The part of training that depends on the kind of head."""

    tokenizer: Any

    def __init__(
        self,
        recipe: Recipe,
        front: FrontEnd,
        texts: Sequence[str],
        teacher: Teacher | None = None,
    ) -> None:
        """``texts`` are those of the training set, normalised.

        Raises `TyndaError` where the recipe's model does not match family, front end or teacher.
        """
        self.recipe, self.frontend, self.teacher = recipe, front, teacher
        self.family = models.family(recipe.family)
        sizes = {"bins": front.bins, "vocab": self.choose_tokens(texts)}
        self.config = self.family.configure({**recipe.model, **sizes})
        if teacher is not None and (mismatch := self.frame_mismatch(teacher.frame)):
            raise TyndaError(
                f"{teacher.name} cannot teach this model: its frames have {teacher.frame} samples, "
                f"{mismatch}"
            )

    @abstractmethod
    def choose_tokens(self, texts: Sequence[str]) -> int:
        """Set ``tokenizer`` for the training set's ``texts``; return the number of outputs."""

    @abstractmethod
    def frame_mismatch(self, samples: int) -> str:
        """Return why the model cannot learn from a teacher whose frames have ``samples``, or ""."""

    @property
    def window(self) -> int | None:
        """Number of frames to which examples are padded or cut; None means that lengths vary."""
        return None

    @property
    def frame(self) -> int:
        """The number of samples for one frame of the encoder."""
        return int(self.frontend.hop * self.config.stride)

    @property
    def window_seconds(self) -> float | None:
        """The window's length in seconds, or None where lengths vary."""
        return None if self.window is None else self.window * self.frontend.hop / SAMPLE_RATE

    def specs(self) -> Specs:
        """Return the tensors of the model, and those that only training needs."""
        specs = Specs(self.family.specs(self.config))
        if self.recipe.phones:
            specs.linear(_HEAD, len(PHONES) + 1, self.config.channels)
        return specs

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoder settings to store in the model file."""
        return {}

    def fit(self, features: Sequence[Floats], window: str = "exact") -> list[Floats]:
        """Pad features ``[frames, bins]`` with zeros, or cut them, to the model's window.

        With ``window="fit"`` they are padded to the longest of them only.
        """
        if self.window is None:
            return list(features)
        size = self.window
        if window == "fit":
            size = min(size, max(map(len, features)))
        return [np.pad(f[:size], ((0, max(0, size - len(f))), (0, 0))) for f in features]

    @abstractmethod
    def check(self, corpus: Corpus) -> None:
        """Warn of texts that the model cannot learn, or raise `TyndaError`."""

    @abstractmethod
    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """Return the labels of an example."""

    @abstractmethod
    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, and the plain loss per label for the log."""

    @abstractmethod
    def evaluate(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """Return summed plain loss, number of labels, and hypotheses, decoded greedily.

        Raises FloatingPointError where the model's outputs are not finite.
        """

    def autocast(self, batch: Batch) -> torch.autocast:
        """Return a context with the recipe's precision; float32 if bfloat16 is not supported."""
        device = batch.features.device.type
        bf16 = self.recipe.optimizer.precision == "bf16" and has_bfloat16(device)
        return torch.autocast(device, torch.bfloat16, enabled=bf16)

    def encode(
        self, ops: TorchOps, weights: Weights, batch: Batch, tapped: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the encoder with the recipe's precision: its outputs and their lengths ``[batch]``.

        The outputs of the encoder's layers are appended to ``tapped``.
        """
        tap = None if tapped is None else lambda _, x: tapped.append(x)
        encode, config = self.family.programs["encode"], self.config
        if ops.training and self.family.streaming:
            # The weights are to fit all look-aheads, so each batch draws one.
            variants = self.family.streaming.variants(config)
            config = variants[int(torch.randint(len(variants), ()))]
        with self.autocast(batch):
            encoded: tuple[Tensor, Tensor] = encode(
                ops, weights, config, batch.features, batch.lengths, tap
            )
        return encoded

    def phone_loss(self, weights: Weights, states: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """Return the summed CTC loss over phones of ``states [batch, frames, channels]``."""
        known = batch.phone_lengths > 0
        if not self.recipe.phones or not known.any():
            return states.new_zeros(())
        w, b = (weights[f"{_HEAD}.{part}"] for part in ("weight", "bias"))
        log_probs = F.log_softmax(F.linear(states[known].float(), w, b), -1)
        loss = ctc_loss(log_probs, lengths[known], batch.phones, batch.phone_lengths[known])
        return self.recipe.phones.weight * loss

    def distill_loss(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """Return the summed divergence of frames ``[batch, frames, symbols]`` from the teacher."""
        if self.teacher is None or self.recipe.distill is None:
            return log_probs.new_zeros(())
        taught, taught_lengths = self.teacher(batch.teacher_features, batch.teacher_lengths)
        views = len(log_probs) // len(taught)
        taught, taught_lengths = taught.repeat(views, 1, 1), taught_lengths.repeat(views)
        frames = min(log_probs.shape[1], taught.shape[1])
        divergence = F.kl_div(
            log_probs[:, :frames].float(), taught[:, :frames], reduction="none", log_target=True
        ).sum(-1)
        both = torch.minimum(lengths, taught_lengths)[:, None]
        counts = torch.arange(frames, device=divergence.device) < both
        return self.recipe.distill.weight * (divergence * counts).sum()


def ctc_loss(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Return the summed CTC loss of ``log_probs [batch, frames, symbols]``, labels concatenated."""
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        labels,
        lengths,
        label_lengths,
        reduction="sum",
        zero_infinity=True,
    )
