"""Recipes: everything except the data that defines a training run, in one TOML file."""

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

from tynda.checks import MAX_COUNT, Range, Rule, describe, fits, schema
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.models import FAMILIES, family
from tynda.weights.grid import GroupSize, Width
from tynda.weights.weight import POSITIONS

__all__ = [
    "Augment",
    "Data",
    "Distill",
    "MarginLoss",
    "NGram",
    "Optimizer",
    "Phones",
    "Recipe",
    "Rounding",
    "Source",
    "build",
    "bundled",
    "from_table",
    "load",
    "read_table",
]

C = TypeVar("C")


Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Speed = Annotated[float, Range(0.5, 2)]
CropSeconds = Annotated[float, Range(0.1, 60)]
Count = Annotated[int, Range(0)]
AtLeastOne = Annotated[int, Range(1)]
BeamSize = Annotated[int, Range(1, MAX_COUNT)]
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
    """Share of the manifest's utterances used in one epoch; above 1 they are repeated."""
    join: AtLeastOne = 1
    """Maximum number of utterances joined into one, with pauses between them."""
    words: tuple[str, ...] = ()
    """Use only utterances that consist of these words; empty means all utterances."""
    lm: bool = True
    """Whether the transcripts also train the n-gram."""


@dataclass(frozen=True)
class Data:
    """The recordings. Paths are relative to the data folder."""

    train: tuple[Source, ...]
    dev: tuple[str, ...]
    noise: str | None = None
    rooms: str | None = None
    batch_seconds: Positive = 100.0
    """Maximum duration of a batch, including padding."""
    exclude_speakers: tuple[str, ...] = ()
    """Speakers left out of training, for leave-one-out tests."""
    window: Window = "exact"
    """The input window of a family that has one (Whisper). ``exact`` pads every example with
    silence to the full window; ``fit`` pads to the longest of a batch, which is faster."""
    max_seconds: Positive = 20.0
    """Longer utterances are left out of training."""
    dev_utterances: Count = 0
    """Number of dev utterances, evenly spaced, that are scored in training; 0 means all."""


@dataclass(frozen=True)
class Augment:
    """Data augmentation; its random values are drawn again for every use of an utterance."""

    speeds: tuple[Speed, ...] = (1.0,)
    """Factors of tempo and pitch, one drawn at random (Ko et al. 2015)."""
    filter: Share = 0.0
    """Probability of another microphone's frequency response (Nam et al. 2022)."""
    filter_db: NotNegative = 10.0
    """Maximum boost or cut of the frequency response, in decibels."""
    noise: Share = 0.0
    """Probability of background noise."""
    snr: tuple[float, float] = (3.0, 25.0)
    """Range of signal-to-noise ratios of background noise, in decibels."""
    rooms: Share = 0.0
    """Probability of a room's reverberation."""
    gain_db: NotNegative = 0.0
    """Maximum change of the level, in decibels, for a front end that depends on it."""
    codecs: Share = 0.0
    """Probability of a lossy codec: a telephone, a call over the internet, an MP3."""
    splice: Share = 0.0
    """Probability that words of a sentence are replaced by other words of the same speaker (see
    ``train/splice.py``). The model that training starts from aligns the words."""
    freq_masks: Count = 0
    freq_width: Count = 27
    """Maximum width of SpecAugment's masks over bins (Park et al. 2019)."""
    time_masks: Count = 0
    time_share: Share = 0.05
    """Maximum width of SpecAugment's masks over frames, as a share of the utterance."""

    def __post_init__(self) -> None:
        _require(len(self.speeds) > 0, "speeds must not be empty; [1.0] changes nothing")
        _require(self.snr[0] <= self.snr[1], "snr must be the minimum, then the maximum")


@dataclass(frozen=True)
class Phones:
    """A second CTC loss over phones (ARPAbet without stress) beside the one over letters.

    Source: Krishna et al. 2018, "Hierarchical multitask learning for CTC-based speech
    recognition". The head for this loss is not part of the finished model.
    """

    weight: NotNegative = 0.3


@dataclass(frozen=True)
class Distill:
    """Distillation of a finished CTC model's output in each frame, in addition to the texts.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", frame by frame.
    """

    teacher: str
    """Name or file of a CTC model whose symbols are English letters."""
    weight: NotNegative = 1.0


@dataclass(frozen=True)
class MarginLoss:
    """The additive angular margin between the people of a model of voices (Deng et al. 2019)."""

    size: AtLeastOne = 128
    """Size of the embedding."""
    margin: Share = 0.2
    """Angle in radians by which a voice has to be nearer to its own class."""
    scale: Positive = 30.0
    """Factor of the cosines in the softmax."""
    rise: Share = 0.25
    """Share of all epochs over which the margin grows from 0."""
    crops: AtLeastOne = 20
    """Average number of crops of each person in an epoch; a source's ``weight`` multiplies it."""
    shortest: CropSeconds = 1.5
    """Minimum duration of a crop, in seconds; the crops of a batch have one duration."""
    longest: CropSeconds = 3.0
    """Maximum duration of a crop, in seconds."""
    discriminant: Count = 0
    """Average number of crops of each person from which linear discriminant analysis finds the
    last layer after training, and before it from those of an epoch; 0 means that the layer is only
    trained."""
    discriminant_codecs: Share = 0.0
    """Share of those crops that go through a codec, and of the dev recordings. The network trains
    with `Augment.codecs`."""
    cohort: AtLeastOne = 300
    """Maximum number of people whose mean embeddings normalise scores, in the finished model."""

    def __post_init__(self) -> None:
        _require(self.shortest <= self.longest, "shortest must not be above longest")


@dataclass(frozen=True)
class Mixing:
    """The conversations that a model of overlap learns from, of recordings of single people."""

    seconds: CropSeconds = 10.0
    """Duration of a conversation."""
    hours: Positive = 2.0
    """Duration of all conversations of an epoch."""
    turn: tuple[Positive, Positive] = (1.0, 5.0)
    """Range of the seconds that a person speaks; a recording may be shorter."""
    pause: NotNegative = 0.4
    """Mean of the seconds between two turns."""
    overlap: Share = 0.6
    """Share of the turns that begin while another person speaks."""
    shortest: NotNegative = 0.2
    """Minimum of the seconds during which both speak."""
    longest: NotNegative = 3.0
    """Maximum of these seconds."""

    def __post_init__(self) -> None:
        _require(self.turn[0] <= self.turn[1], "turn must be the minimum, then the maximum")
        _require(self.shortest <= self.longest, "shortest must not be above longest")


@dataclass(frozen=True)
class Rounding:
    """Quantisation-aware training for few bits, see ``train/rounding.py``."""

    bits: tuple[Width, ...]
    """Bit widths that the weights are trained for; each batch draws one of them. The first is
    scored."""
    group: GroupSize = 32
    """Number of inputs that share a scale; 0 means a whole row."""
    keep: tuple[str, ...] = (POSITIONS,)
    """Patterns of the names of tensors that stay in 8 bits."""

    def __post_init__(self) -> None:
        _require(len(self.bits) > 0, "bits must not be empty")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up, a constant rate, and a linear decay to zero at the end."""

    epochs: AtLeastOne
    lr: Positive = 1e-3
    warmup_steps: Count = 500
    cooldown: BelowOne = 0.3
    """Share of all steps over which the rate decays to zero."""
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    clip: Positive = 1.0
    """Maximum norm of the gradient."""
    average: BelowOne = 0.999
    """Decay per step of the running average of the weights; the average is scored and stored."""
    patience: Count = 0
    """Number of epochs without a better dev CER after which training stops; 0 means never."""
    consistency: NotNegative = 0.0
    """Weight of the consistency loss of two views (CR-CTC, Yao et al. 2024); 0 means one view."""
    consistency_start: Share = 0.0
    """Share of all epochs after which the second view is used."""
    precision: Precision = "bf16"
    """``bf16`` (autocast; ``f32`` on a CPU that does not support it) or ``f32``."""
    seed: Count = 42


@dataclass(frozen=True)
class NGram:
    """The language model inside the finished model, trained on the transcripts."""

    order: Order = 3
    prune: tuple[Count, ...] = (0, 0, 1)
    """Maximum count, by order, of n-grams that are pruned; entries beyond ``order`` are
    ignored."""
    beam_size: BeamSize = 32
    tune_utterances: AtLeastOne = 150
    """Approximate number of dev utterances on which the decoder's settings are tuned by WER."""

    def __post_init__(self) -> None:
        rising = all(a <= b for a, b in pairwise(self.prune))
        _require(rising and self.prune[:1] == (0,), "prune must begin with 0 and never fall")


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run."""

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
    margin: MarginLoss | None = None
    mixing: Mixing | None = None
    lm: NGram | None = None
    tokens: Tokens = 500
    """Vocabulary size of byte pairs for a model with a decoder; 256 of them are the bytes."""
    bits: Bits = 8
    """Bit width of the weights in the finished file; see ``docs/format.md``."""
    language: Language = "en"
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for key in ("bins", "vocab"):
            _require(key not in self.model, f"model.{key} follows from other settings: remove it")
        head = family(self.family).head
        for section, own, kind in (
            ("margin", "embedding", "voices"),
            ("mixing", "overlap", "overlap"),
        ):
            _require(
                (head == own) == (getattr(self, section) is not None),
                f"{self.family} needs a section [{section}]"
                if head == own
                else f"[{section}] is for models of {kind}, not for {self.family}: remove it",
            )
        if head in ("embedding", "overlap"):
            for section in ("lm", "phones", "distill", "augment.splice", "optimizer.consistency"):
                value = functools.reduce(getattr, section.split("."), self)
                _require(not value, f"{section} is for models of words: remove it")
        if head_of(family(self.family)).has_decoder:
            for section in ("lm", "augment.splice", "optimizer.consistency"):
                value = functools.reduce(getattr, section.split("."), self)
                _require(not value, f"{section} is for CTC, not for {self.family}: remove it")
        _require(
            self.augment.noise == 0 or self.data.noise is not None,
            "augment.noise needs data.noise, a manifest of background sounds; or set it to 0",
        )
        _require(
            self.lm is None or any(source.lm for source in self.data.train),
            "[lm] has no training texts: set lm = true for a source, or remove [lm]",
        )


_FOLDERS = ("recipes", "distillations", "hybrids")
"""The folders of bundled recipes."""
_SECTIONS: dict[str, type] = {
    "data": Data,
    "optimizer": Optimizer,
    "augment": Augment,
    "phones": Phones,
    "distill": Distill,
    "rounding": Rounding,
    "margin": MarginLoss,
    "mixing": Mixing,
    "lm": NGram,
}


def bundled(kind: str = "recipes") -> list[str]:
    """Return the names of the recipes that are installed with tynda; ``kind`` is their folder:
    ``recipes``, ``distillations`` of finished models, or ``hybrids`` with Markov models."""
    folder = resources.files("tynda.train") / kind
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith("toml"))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by bundled name or by path; ``overrides`` maps ``section.key`` to a value.

    Raises `TyndaError` for a missing file, invalid TOML, and unknown or missing settings.
    """
    return from_table(name, read_table(name, overrides))


def from_table(name: str, table: dict[str, Any]) -> Recipe:
    """Return the recipe of a table of `read_table`; errors are those of `build`."""
    return build(Recipe, name, table, _SECTIONS)


def read_table(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a recipe as TOML has it; arguments and errors are those of `load`."""
    known = {known: kind for kind in _FOLDERS for known in bundled(kind)}
    if name in known:
        text = (resources.files("tynda.train") / known[name] / f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).read_text("utf-8")
        except UnicodeDecodeError:
            raise TyndaError(f"recipe {name} is not UTF-8 text: save it in UTF-8") from None
        except (OSError, ValueError):  # a name with a NUL raises ValueError
            raise TyndaError(
                f"no recipe {name!r}: give a TOML file or one of {', '.join(known)}"
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
    return table


def build(kind: type[C], name: str, table: dict[str, Any], sections: Mapping[str, type]) -> C:
    """Return the recipe of a ``kind`` from its table; ``sections`` are the kinds of its sections.

    Raises `TyndaError` for unknown, missing or invalid settings.
    """
    try:
        data = table.get("data")
        if isinstance(data, dict) and isinstance(data.get("train"), list):
            data["train"] = [_fill(Source, s, "data.train") for s in data["train"]]
        for key, section in sections.items():
            if key in table:
                table[key] = _fill(section, table[key], key)
        return _fill(kind, table, "the recipe")
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
