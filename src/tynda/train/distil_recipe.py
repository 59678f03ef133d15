"""The recipe of a label-free distillation: everything except the recordings and the first file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tynda.errors import TyndaError
from tynda.train.recipe import (
    AtLeastOne,
    Augment,
    Count,
    FileName,
    NotNegative,
    Positive,
    Source,
    build,
)

__all__ = ["Distillation", "Speech", "is_distillation", "load"]


@dataclass(frozen=True)
class Speech:
    """The recordings, whose texts are not used. Paths are relative to the data folder."""

    train: tuple[Source, ...]
    dev: tuple[str, ...] = ()
    """Manifests on which the divergence is measured; the student never learns from them."""
    noise: str | None = None
    max_seconds: Positive = 29.0
    """Maximum duration of the recordings that are joined in one window."""
    dev_utterances: Count = 0
    """Number of dev utterances, evenly spaced, that are used; 0 means all."""


@dataclass(frozen=True)
class Distillation:
    """All settings of a distillation."""

    name: FileName
    teacher: str
    """Name, file or folder of the model in full precision."""
    data: Speech
    learn: tuple[Literal["output", "encoder", "decoder"], ...] = ("output", "encoder", "decoder")
    """The parts that learn, in this order. ``output`` is the output layer, which is rounded again
    at once (`fit_output_layer`); it belongs to the decoder too, whose updates are cheap, since the
    states of an encoder that does not learn are computed only once."""
    augment: Augment = field(default_factory=Augment)
    """Distortions of the sound; each window is distorted once."""
    samples: Count = 1
    """Number of texts for each window that the teacher samples, in addition to the most likely
    one."""
    updates: AtLeastOne = 400
    batch: AtLeastOne = 8
    """Number of windows for each update."""
    rate: Positive = 1.0
    """Learning rate relative to that of ``tynda quantize --method learnt``. After a short rise, it
    falls linearly to 0."""
    damping: NotNegative = 1.0
    """Damping of steps where gradients are small (`DampedAdam`)."""
    states: NotNegative = 1.0
    """Weight of the relative squared error of the encoder's states, where the encoder learns."""
    report: AtLeastOne = 50
    """Number of updates between two reports, each with a checkpoint and a model file."""
    seed: Count = 42

    def __post_init__(self) -> None:
        if not self.learn:
            raise TyndaError("learn must name a part of the model: output, encoder or decoder")
        if self.augment.noise and not self.data.noise:
            raise TyndaError("augment.noise needs data.noise, a manifest of background sounds")
        for name in ("splice", "freq_masks", "time_masks"):
            if getattr(self.augment, name):
                raise TyndaError(f"augment.{name} is for training on texts: remove it")


_SECTIONS: dict[str, type] = {"data": Speech, "augment": Augment}


def is_distillation(table: Mapping[str, Any]) -> bool:
    """Return whether the table of a recipe is that of a distillation."""
    return "teacher" in table


def load(name: str, table: dict[str, Any]) -> Distillation:
    """Return the recipe of a table; errors are those of `recipe.build`."""
    return build(Distillation, name, table, _SECTIONS)
