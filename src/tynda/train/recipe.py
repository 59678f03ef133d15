"""Recipes: everything that a training run depends on besides the data, as one TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tynda.errors import TyndaError

__all__ = ["Augment", "Data", "NGram", "Optimizer", "Phones", "Recipe", "Source", "bundled", "load"]

C = TypeVar("C")


@dataclass(frozen=True)
class Source:
    """One manifest to train on."""

    manifest: str
    weight: float = 1.0
    """Share of its utterances used in one epoch; above 1 they are repeated."""
    join: int = 1
    """Up to this many utterances are joined into one, with pauses between them."""
    words: tuple[str, ...] = ()
    """Take only utterances that are made of these words; empty: all."""
    lm: bool = True
    """Its transcripts train the n-gram too."""

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "weight must not be negative")
        _require(self.join >= 1, "join must be at least 1")


@dataclass(frozen=True)
class Data:
    """What is heard. Paths are relative to the data folder."""

    train: tuple[Source, ...]
    dev: tuple[str, ...]
    noise: str | None = None
    rooms: str | None = None
    batch_seconds: float = 100.0
    """Longest batch, padding included."""
    exclude_speakers: tuple[str, ...] = ()
    """People never trained on, for leave-one-out tests."""
    max_seconds: float = 20.0
    """Longer utterances are left out of training."""
    dev_utterances: int = 0
    """Score only so many dev utterances (evenly taken) while training; 0: all."""


@dataclass(frozen=True)
class Augment:
    """Distortions of an utterance, each drawn anew every time that it is heard."""

    speeds: tuple[float, ...] = (1.0,)
    """Factors of tempo and pitch, one drawn at random (Ko et al. 2015)."""
    noise: float = 0.0
    """Probability of background noise."""
    snr: tuple[float, float] = (3.0, 25.0)
    """Its range of signal-to-noise ratios, decibels."""
    rooms: float = 0.0
    """Probability of a room's reverberation."""
    splice: float = 0.0
    """Probability that words of a sentence change places with others that the same person said
    (see ``train/splice.py``). Their places are found by the model that training starts from."""
    freq_masks: int = 0
    freq_width: int = 27
    """Widest mask of SpecAugment over bins (Park et al. 2019)."""
    time_masks: int = 0
    time_share: float = 0.05
    """Widest mask of SpecAugment over frames, as a share of the utterance."""

    def __post_init__(self) -> None:
        _require(len(self.speeds) > 0 and min(self.speeds) > 0, "speeds must be above 0")
        _require(self.snr[0] <= self.snr[1], "snr must be the least, then the greatest")
        _require(self.freq_width >= 0, "freq_width must not be negative")
        _require(0 <= self.time_share <= 1, "time_share must be from 0 to 1")


@dataclass(frozen=True)
class Phones:
    """A second CTC loss over phones (ARPAbet without stress) beside that over letters.

    Krishna et al. 2018, "Hierarchical multitask learning for CTC-based speech recognition".
    The head that it needs is dropped from the finished model.
    """

    weight: float = 0.3


@dataclass(frozen=True)
class Optimizer:
    """AdamW, linear warm-up, a constant rate, and a linear way down to zero at the end."""

    epochs: int
    lr: float = 1e-3
    warmup_steps: int = 500
    cooldown: float = 0.3
    """Share of all steps over which the rate falls to zero."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """Largest norm of the gradient."""
    average: float = 0.999
    """Decay per step of the running average of the weights, which is what gets scored."""
    patience: int = 0
    """Stop after so many epochs without a better dev CER; 0: never."""
    consistency: float = 0.0
    """Weight of the consistency loss between two views (CR-CTC, Yao et al. 2024); 0: one view."""
    consistency_start: float = 0.0
    """Share of all epochs after which the second view joins."""
    precision: str = "bf16"
    """``bf16`` (autocast) or ``f32``."""
    seed: int = 42

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs must be at least 1")
        _require(self.precision in ("bf16", "f32"), "precision must be 'bf16' or 'f32'")
        _require(self.seed >= 0, "seed must not be negative")


@dataclass(frozen=True)
class NGram:
    """The language model that the finished model carries, trained on the transcripts."""

    order: int = 3
    prune: tuple[int, ...] = (0, 0, 1)
    """N-grams of each order that are seen no more often than this are left out."""
    beam_size: int = 32
    tune_utterances: int = 150
    """Weights are chosen by WER on about so many dev utterances."""


@dataclass(frozen=True)
class Recipe:
    """A whole run."""

    name: str
    family: str
    model: Mapping[str, Any]
    frontend: Mapping[str, Any]
    data: Data
    optimizer: Optimizer
    augment: Augment = field(default_factory=Augment)
    phones: Phones | None = None
    lm: NGram | None = None
    language: str = "en"
    licence: str = "Apache-2.0"


_SECTIONS: dict[str, type] = {
    "data": Data,
    "optimizer": Optimizer,
    "augment": Augment,
    "phones": Phones,
    "lm": NGram,
}


def bundled() -> list[str]:
    """Names of the recipes that come with tynda."""
    folder = resources.files("tynda.train") / "recipes"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith("toml"))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by bundled name or by path; ``overrides`` maps ``section.key`` to a value.

    Raises `TyndaError` for a missing file, bad TOML, and unknown or missing settings.
    """
    if name in bundled():
        text = (resources.files("tynda.train") / "recipes" / f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise TyndaError(
                f"no recipe {name!r}: give a TOML file or one of {', '.join(bundled())}"
            ) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TyndaError(f"recipe {name}: {error}") from None
    for key, value in (overrides or {}).items():
        *path, last = key.split(".")
        section = table
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise TyndaError(f"cannot set {key}: {part} is not a section of the recipe")
        section[last] = value
    table.setdefault("name", Path(name).stem)
    try:
        data = table.get("data")
        if isinstance(data, dict) and isinstance(data.get("train"), list):
            data["train"] = [_fill(Source, s, "data.train") for s in data["train"]]
        for key, kind in _SECTIONS.items():
            if key in table:
                table[key] = _fill(kind, table[key], key)
        return _fill(Recipe, table, "the recipe")
    except TyndaError as error:
        raise TyndaError(f"recipe {name}: {error}") from None


def _fill(kind: type[C], values: Any, where: str) -> C:
    if not isinstance(values, dict):
        raise TyndaError(f"{where} should be a table")
    settings = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(settings)):
        raise TyndaError(f"unknown setting {unknown[0]!r} in {where}")
    for name, setting in settings.items():
        if name not in values and setting.default is setting.default_factory is MISSING:
            raise TyndaError(f"setting {name!r} is missing in {where}")
    filled = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in filled.items():
        if not _fits(value, hints[name]):
            raise TyndaError(f"setting {name!r} in {where} cannot be {values[name]!r}")
    try:
        return kind(**filled)
    except TyndaError as error:
        raise TyndaError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; an integer is a number, but a truth value is not."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(items) and all(map(_fits, value, items))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise TyndaError(rule)
