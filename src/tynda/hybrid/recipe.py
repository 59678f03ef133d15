"""The recipe of a hybrid model: everything except the recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from tynda.checks import Range
from tynda.errors import TyndaError
from tynda.models import family
from tynda.train.recipe import (
    AtLeastOne,
    Augment,
    Bits,
    Data,
    Family,
    FileName,
    Language,
    NGram,
    Optimizer,
    Positive,
    Rounding,
    build,
)

__all__ = ["Boltzmann", "Hybrid", "MixtureSettings", "is_hybrid", "load"]


@dataclass(frozen=True)
class MixtureSettings:
    """The Gaussian mixtures, whose alignment the network learns."""

    states: Annotated[int, Range(120, 20_000)] = 900
    """Approximate number of tied states of triphones."""
    components: AtLeastOne = 8
    """Maximum number of Gaussians of a state."""


@dataclass(frozen=True)
class Boltzmann:
    """Pre-training of a plain network, layer by layer, without texts (Hinton et al. 2006)."""

    epochs: AtLeastOne = 2
    lr: Positive = 0.02
    """Learning rate of binary units; that of the first layer, whose inputs are numbers, is a tenth.
    """


@dataclass(frozen=True)
class Hybrid:
    """All settings of the training of a hybrid model."""

    name: FileName
    family: Family
    model: Mapping[str, Any]
    frontend: Mapping[str, Any]
    data: Data
    optimizer: Optimizer
    dictionary: str | None = None
    """A file with a word and its phones on each line, relative to the data folder, in place of the
    CMU Pronouncing Dictionary."""
    mixtures: MixtureSettings = field(default_factory=MixtureSettings)
    augment: Augment = field(default_factory=Augment)
    views: AtLeastOne = 3
    """Number of different augmentations of each recording, one of which is drawn in each epoch."""
    pretrain: Boltzmann | None = None
    rounding: Rounding | None = None
    lm: NGram = field(default_factory=NGram)
    bits: Bits = 8
    language: Language = "en"
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        if family(self.family).head != "hybrid":
            raise TyndaError(f"{self.family} has no states of phones: [mixtures] is not for it")
        for key in ("bins", "vocab"):
            if key in self.model:
                raise TyndaError(f"model.{key} follows from other settings: remove it")
        for name in ("splice", "rooms", "noise"):
            if getattr(self.augment, name):
                raise TyndaError(f"augment.{name} is not for hybrid models: remove it")
        if self.pretrain and not (self.model.get("plain") and self.model.get("width") == 1):
            raise TyndaError("[pretrain] needs model.plain = true and model.width = 1")
        if self.rounding and len(self.rounding.bits) > 1:
            raise TyndaError("rounding.bits has one width for hybrid models")
        if not self.data.dev:
            raise TyndaError("a hybrid model needs data.dev, on which its n-gram is tuned")


_SECTIONS: dict[str, type] = {
    "data": Data,
    "optimizer": Optimizer,
    "mixtures": MixtureSettings,
    "augment": Augment,
    "pretrain": Boltzmann,
    "rounding": Rounding,
    "lm": NGram,
}


def is_hybrid(table: Mapping[str, Any]) -> bool:
    """Return whether the table of a recipe is that of a hybrid model."""
    return "mixtures" in table


def load(name: str, table: dict[str, Any]) -> Hybrid:
    """Return the recipe of a table; errors are those of `recipe.build`."""
    return build(Hybrid, name, table, _SECTIONS)
