"""Recipes: everything that a training run depends on besides the data, as one TOML file."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tynda.checks import Range, Rule, describe, fits, schema
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.models import FAMILIES, family
from tynda.weights.grid import GroupSize, Width
from tynda.weights.weight import POSITIONS

__all__ = [
    "Augment",
    "Data",
    "Distill",
    "NGram",
    "Optimizer",
    "Phones",
    "Recipe",
    "Rounding",
    "Source",
    "bundled",
    "load",
]

C = TypeVar("C")


Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Speed = Annotated[float, Range(0.5, 2)]
Count = Annotated[int, Range(0)]
AtLeastOne = Annotated[int, Range(1)]
Order = Annotated[int, Range(2, 6)]
Tokens = Annotated[int, Range(256, 50000)]
Precision = Literal["bf16", "f32"]
Window = Literal["exact", "fit"]
Family = Annotated[str, Rule(f"one of {', '.join(FAMILIES)}", lambda x: x in FAMILIES)]
Language = Annotated[str, Rule("'en': training writes English letters only", lambda x: x == "en")]
Bits = Annotated[int, Rule("8, 16 or 32", lambda x: x in (8, 16, 32))]
FileName = Annotated[
    str,
    Rule(
        "a plain file name of letters, digits, '.', '_' and '-' that does not begin with '.'",
        lambda x: re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", x) is not None,
    ),
]


@dataclass(frozen=True)
class Source:
    """One manifest to train on."""

    manifest: str
    weight: Positive = 1.0
    """Share of its utterances used in one epoch; above 1 they are repeated."""
    join: AtLeastOne = 1
    """Up to this many utterances are joined into one, with pauses between them."""
    words: tuple[str, ...] = ()
    """Take only utterances that are made of these words; empty: all."""
    lm: bool = True
    """Its transcripts train the n-gram too."""


@dataclass(frozen=True)
class Data:
    """What is heard. Paths are relative to the data folder."""

    train: tuple[Source, ...]
    dev: tuple[str, ...]
    noise: str | None = None
    rooms: str | None = None
    batch_seconds: Positive = 100.0
    """Longest batch, padding included."""
    exclude_speakers: tuple[str, ...] = ()
    """People never trained on, for leave-one-out tests."""
    window: Window = "exact"
    """Of a family that has one (Whisper). ``exact``: every example fills it, with silence
    behind; ``fit``: no longer than the longest of a batch needs, which is faster."""
    max_seconds: Positive = 20.0
    """Longer utterances are left out of training."""
    dev_utterances: Count = 0
    """Score only so many dev utterances (evenly taken) while training; 0: all."""


@dataclass(frozen=True)
class Augment:
    """Distortions of an utterance, each drawn anew every time that it is heard."""

    speeds: tuple[Speed, ...] = (1.0,)
    """Factors of tempo and pitch, one drawn at random (Ko et al. 2015)."""
    filter: Share = 0.0
    """Probability of another microphone's frequency response (Nam et al. 2022)."""
    filter_db: NotNegative = 10.0
    """Its strongest boost or cut, decibels."""
    noise: Share = 0.0
    """Probability of background noise."""
    snr: tuple[float, float] = (3.0, 25.0)
    """Its range of signal-to-noise ratios, decibels."""
    rooms: Share = 0.0
    """Probability of a room's reverberation."""
    splice: Share = 0.0
    """Probability that words of a sentence change places with others that the same person said
    (see ``train/splice.py``). Their places are found by the model that training starts from."""
    freq_masks: Count = 0
    freq_width: Count = 27
    """Widest mask of SpecAugment over bins (Park et al. 2019)."""
    time_masks: Count = 0
    time_share: Share = 0.05
    """Widest mask of SpecAugment over frames, as a share of the utterance."""

    def __post_init__(self) -> None:
        _require(len(self.speeds) > 0, "speeds must not be empty; [1.0] changes nothing")
        _require(self.snr[0] <= self.snr[1], "snr must be the least, then the greatest")


@dataclass(frozen=True)
class Phones:
    """A second CTC loss over phones (ARPAbet without stress) beside that over letters.

    Krishna et al. 2018, "Hierarchical multitask learning for CTC-based speech recognition".
    The head that it needs is dropped from the finished model.
    """

    weight: NotNegative = 0.3


@dataclass(frozen=True)
class Distill:
    """What a finished CTC model hears in each frame, learnt beside the texts.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", frame by frame.
    """

    teacher: str
    """A model that writes English letters by CTC, by name or file."""
    weight: NotNegative = 1.0


@dataclass(frozen=True)
class Rounding:
    """Training through the rounding to few bits, see ``train/rounding.py``."""

    bits: tuple[Width, ...]
    """Widths that the weights are to serve; of several, each batch draws one. The first is
    scored."""
    group: GroupSize = 32
    """Inputs that share a step; 0: a whole row."""
    keep: tuple[str, ...] = (POSITIONS,)
    """Patterns of tensors that stay in 8 bits."""

    def __post_init__(self) -> None:
        _require(len(self.bits) > 0, "bits must not be empty")


@dataclass(frozen=True)
class Optimizer:
    """AdamW, linear warm-up, a constant rate, and a linear way down to zero at the end."""

    epochs: AtLeastOne
    lr: Positive = 1e-3
    warmup_steps: Count = 500
    cooldown: BelowOne = 0.3
    """Share of all steps over which the rate falls to zero."""
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    average: BelowOne = 0.999
    """Decay per step of the running average of the weights, which is what gets scored."""
    patience: Count = 0
    """Stop after so many epochs without a better dev CER; 0: never."""
    consistency: NotNegative = 0.0
    """Weight of the consistency loss between two views (CR-CTC, Yao et al. 2024); 0: one view."""
    consistency_start: Share = 0.0
    """Share of all epochs after which the second view joins."""
    precision: Precision = "bf16"
    """``bf16`` (autocast; ``f32`` on a CPU that has none) or ``f32``."""
    seed: Count = 42


@dataclass(frozen=True)
class NGram:
    """The language model that the finished model carries, trained on the transcripts."""

    order: Order = 3
    prune: tuple[Count, ...] = (0, 0, 1)
    """N-grams of each order that are seen no more often than this are left out; what is
    beyond ``order`` is not used."""
    beam_size: AtLeastOne = 32
    tune_utterances: AtLeastOne = 150
    """Weights are chosen by WER on about so many dev utterances."""

    def __post_init__(self) -> None:
        rising = all(a <= b for a, b in pairwise(self.prune))
        _require(rising and self.prune[:1] == (0,), "prune must begin with 0 and never fall")


@dataclass(frozen=True)
class Recipe:
    """A whole run."""

    name: FileName
    family: Family
    model: Mapping[str, Any]
    frontend: Mapping[str, Any]
    data: Data
    optimizer: Optimizer
    augment: Augment = field(default_factory=Augment)
    phones: Phones | None = None
    distill: Distill | None = None
    rounding: Rounding | None = None
    lm: NGram | None = None
    tokens: Tokens = 500
    """Byte pairs that a model with a decoder learns from its texts; 256 of them are the bytes."""
    bits: Bits = 8
    """Of the weights in the finished file; see ``docs/format.md``."""
    language: Language = "en"
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for key in ("bins", "vocab"):
            _require(key not in self.model, f"model.{key} follows from the rest: take it out")
        if head_of(family(self.family)).decodes:
            for section in ("lm", "augment.splice", "optimizer.consistency"):
                value = functools.reduce(getattr, section.split("."), self)
                _require(not value, f"{section} is for CTC, not for {self.family}: take it out")
        _require(
            self.augment.noise == 0 or self.data.noise is not None,
            "augment.noise needs data.noise, a manifest of background sounds; or set it to 0",
        )
        _require(
            self.lm is None or any(source.lm for source in self.data.train),
            "[lm] has nothing to learn from: set lm = true for a source, or take [lm] out",
        )


_SECTIONS: dict[str, type] = {
    "data": Data,
    "optimizer": Optimizer,
    "augment": Augment,
    "phones": Phones,
    "distill": Distill,
    "rounding": Rounding,
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
        except UnicodeDecodeError:
            raise TyndaError(f"recipe {name} is not UTF-8 text: save it as such") from None
        except (OSError, ValueError):  # a name with a NUL is a ValueError
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
    hints = schema(kind)
    for name, value in filled.items():
        if not fits(value, hints[name]):
            raise TyndaError(
                f"setting {name!r} in {where} cannot be {values[name]!r}: "
                f"it must be {describe(hints[name])}"
            )
    try:
        return kind(**filled)
    except TyndaError as error:
        raise TyndaError(f"{where}: {error}") from None


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise TyndaError(rule)
