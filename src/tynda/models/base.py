"""The description of a model family, and the tensors that its programs exchange."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Generic, Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.models.foreign import Translated
from tynda.ops.base import T
from tynda.sound.frontend import FrontEnd

__all__ = [
    "Array",
    "CheckpointFolder",
    "CrossKV",
    "Family",
    "KVCache",
    "LoadAdapter",
    "MergedFrames",
    "Program",
    "PublishedCheckpoint",
    "Spec",
    "Streaming",
    "check_sizes",
    "sinusoids",
]

Array = NDArray[Any]

Program = Callable[..., Any]
"""``program(ops, weights, config, *inputs)`` maps tensors to tensors with ``tynda.ops``."""

# A model file may come from anywhere, so that no number in it may request gigabytes.
_MAX_SETTING = 1 << 16
# The number of frames whose sines and cosines those of all others are products of.
_FRAMES = 40


@dataclass(frozen=True)
class Spec:
    """The shape of a tensor, and its initialisation before training.

    ``uniform`` draws ``gain`` U(-1, 1) / sqrt(fan_in), where fan_in is the product of all axes
    except the first (PyTorch's default for linear and convolution layers). ``sinusoids`` is the
    table of `sinusoids`. A tensor that is not ``trainable`` is a constant or a running statistic.
    """

    shape: tuple[int, ...]
    init: Literal["uniform", "zeros", "ones", "sinusoids", "trainable"] = "uniform"
    trainable: bool = True
    gain: float = 1.0

    @property
    def table(self) -> NDArray[np.float32] | None:
        """The values of a tensor that is a constant table, which a file need not contain."""
        is_table = self.init == "sinusoids" and not self.trainable
        return sinusoids(*self.shape) if is_table else None


@dataclass(frozen=True)
class CrossKV(Generic[T]):
    """Keys and values of a decoder's cross-attention, computed once from the encoder's states."""

    keys: Sequence[T]
    """``[items, frames, channels]`` for each decoder layer, packed by `Ops.pack_keys`."""
    values: Sequence[T]
    lengths: T
    """``[items]``: the number of frames of each item, without padding."""
    log_counts: T | None = None
    """``[items, frames]``: the ``log_counts`` of `MergedFrames`; None without merged frames."""


@dataclass(frozen=True)
class MergedFrames(Generic[T]):
    """Frames that represent a window of which most is padding.

    An encoder computes only these; each stands for one or several frames of the window.
    """

    rows: T
    """``[batch * frames]``: the frame that each one equals, of those that the convolutions compute
    of all items, before positions are added."""
    positions: T
    """``[batch, frames]``: the position of each frame in the window."""
    log_counts: T
    """``[batch, frames]``: the logarithm of the number of frames that each one stands for."""
    lengths: T
    """``[batch]``: the number of frames, for each item."""


@dataclass(frozen=True)
class KVCache(Generic[T]):
    """Keys and values of a decoder's self-attention for the previous tokens."""

    keys: Sequence[T]
    """``[batch, capacity, channels]`` for each decoder layer."""
    values: Sequence[T]


class CheckpointFolder(Protocol):
    """The JSON files of a published checkpoint. Methods raise `TyndaError` for a damaged file."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return the object in a file, or ``{}`` for a missing ``optional`` file."""
        ...

    def card_values(self, key: str) -> list[str]:
        """Return the words under a key of the model card's front matter; there may be none."""
        ...


@dataclass
class PublishedCheckpoint:
    """A published checkpoint, converted by its family."""

    tokenizer: Any
    frontend: FrontEnd
    languages: list[str]
    tensors: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    """Converts the checkpoint's tensors to the names and layouts of `Family.specs`."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """Settings of the decoder, for the header of a model file."""


class LoadAdapter(Protocol):
    """Switches a model to another of its languages."""

    def __call__(
        self,
        folder: CheckpointFolder,
        language: str,
        config: Any,
        weights: Mapping[str, Array],
        adapter: Mapping[str, Array],
    ) -> tuple[Any, Any, Mapping[str, Array]]:
        """Return config, tokenizer and weights, with the ``adapter``'s tensors for the language.

        Raises ValueError where a tensor does not match the model, and `TyndaError` where the
        symbols do not match the output layer.
        """
        ...


@dataclass(frozen=True, eq=False)
class Streaming:
    """The description of an encoder that can continue while audio is recorded.

    Its family has the program ``encode_chunks(ops, weights, config, features, state)``, which maps
    the features ``[batch, frames, bins]`` of whole chunks, and the state after the chunks before
    them, to log-probabilities and the state after these chunks. Chunks of any number at a time give
    the same log-probabilities as ``encode`` for the whole recording, to the last bit.
    """

    variants: Callable[[Any], Sequence[Any]]
    """Maps a config to those that the same weights are trained for, with other look-aheads."""
    frames: Callable[[Any], int]
    """Maps a config to the number of front end frames in a chunk, which is the look-ahead."""
    reduction: Callable[[Any], int]
    """Maps a config to the number of front end frames for each frame of the encoder's blocks."""
    start: Callable[[Any, int], Any]
    """Maps a config and a batch size to the state before the first chunk, arrays of zeros."""


@dataclass(frozen=True, eq=False)
class Family:
    """The description of a model family, from which all other packages read what they need."""

    name: str
    """The name in model files."""
    config: type[Any]
    """A frozen dataclass with the model's dimensions. Every config has ``bins`` (of the front
    end), ``vocab``, ``layers``, ``channels`` (the width of the tensors that ``tap`` receives) and
    ``stride`` (the number of front end frames for each frame of the encoder)."""
    specs: Callable[[Any], dict[str, Spec]]
    """Maps a config to the `Spec` of every tensor of the model, by name."""
    head: str
    """The kind of decoding: a name in ``tynda.heads.HEADS``. It determines which `programs` a
    family has."""
    programs: Mapping[str, Program]
    tokenizer: Callable[[Mapping[str, Any]], Any]
    """Builds the tokenizer that a model file describes. Raises `TyndaError` for a damaged
    description."""
    check: Callable[[Any, Any, FrontEnd, Mapping[str, Any]], None]
    """Checks config, tokenizer, front end and decoding settings of a model file. Raises
    `TyndaError` where they do not match each other."""
    model_types: tuple[str, ...] = ()
    """The values of ``model_type`` in a published ``config.json`` that `settings` and `read`
    accept."""
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """Maps a published ``config.json`` to the argument of `configure`. Raises KeyError for a
    missing setting, and ValueError for a variant that the family does not support."""
    read: Callable[[CheckpointFolder, Mapping[str, Any], Any], PublishedCheckpoint] | None = None
    """Reads a checkpoint from its folder, its ``config.json`` and its `config`. Raises
    `TyndaError` for a damaged or unsupported checkpoint."""
    foreign: Mapping[str, Callable[[Any], Translated]] = field(default_factory=dict)
    """Maps a format of another program, ``ggml``, the name of a class of CTranslate2 or of an
    architecture of ``store.voices``, to the function that translates the description in a file, a
    `Ggml`, `CTranslate2` or `Voices` of ``models.foreign``. It raises KeyError with the
    name of what is missing, and ValueError for a variant that the family does not support."""
    adapt: LoadAdapter | None = None
    """Switches the language, in families with a small set of tensors for each language."""
    streaming: Streaming | None = None
    """How the encoder continues while audio is recorded, in families whose encoder can do so."""
    same_tensors: tuple[str, ...] = ()
    """The names of other families with the same tensors, from which training may start."""

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Return the family's ``Config`` with these values; the others have their defaults.

        Raises `TyndaError` for a setting that is unknown, of a wrong type or out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(self.config)}
        if unknown := set(values) - set(fields):
            raise TyndaError(
                f"unknown model setting {sorted(unknown)[0]!r}; known: {', '.join(fields)}"
            )
        hints = get_type_hints(self.config)
        checked = {name: _check(name, value, hints[name]) for name, value in values.items()}
        try:
            return self.config(**checked)
        except (TypeError, ValueError) as error:
            raise TyndaError(f"model settings do not fit: {error}") from None

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, by name."""
        return {name: spec.shape for name, spec in self.specs(config).items()}

    def trainable(self, config: Any) -> dict[str, bool]:
        """Return whether training changes each tensor, by name."""
        return {name: spec.trainable for name, spec in self.specs(config).items()}


def sinusoids(count: int, channels: int) -> NDArray[np.float32]:
    """Return sinusoidal positional encodings ``[count, channels]``: sines, then cosines.

    The wavelengths form a geometric series from 2 pi to 20000 pi frames (Vaswani et al. 2017,
    section 3.5, in the order of Whisper). ``channels`` must be even and at least 4.
    """
    waves = np.exp(-np.log(10000.0) / (channels // 2 - 1) * np.arange(channels // 2))
    # A sum of angles is a product of complex numbers, which takes a tenth of a sine's time.
    fine = np.exp(1j * np.arange(_FRAMES)[:, None] * waves)
    coarse = np.exp(1j * np.arange(0, count, _FRAMES)[:, None] * waves)
    turns = (coarse[:, None] * fine).reshape(-1, len(waves))[:count]
    return np.concatenate([turns.imag, turns.real], axis=1, dtype=np.float32, casting="same_kind")


def check_sizes(config: Any, front: FrontEnd, symbols: int) -> None:
    """Raise `TyndaError` unless the front end has the model's bins and ``symbols`` its outputs."""
    if symbols != config.vocab or front.bins != config.bins:
        raise TyndaError(
            f"the model's {config.bins} bins and {config.vocab} symbols do not fit its front end "
            f"({front.bins}) and tokenizer ({symbols})"
        )


def _check(name: str, value: Any, hint: Any) -> Any:
    """Check a setting's type and range; a list, from JSON or TOML, becomes a tuple.

    Raises `TyndaError`, naming the setting.
    """
    if get_origin(hint) is UnionType:  # The hint is a type or None.
        return None if value is None else _check(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TyndaError(f"model setting {name} must be a list, not {value!r}")
        return tuple(_check(name, item, get_args(hint)[0]) for item in value)
    if hint is int and not (type(value) is int and 1 <= value <= _MAX_SETTING):
        raise TyndaError(
            f"model setting {name} must be a whole number from 1 to {_MAX_SETTING}, not {value!r}"
        )
    if hint is float and type(value) not in (int, float):
        raise TyndaError(f"model setting {name} must be a number, not {value!r}")
    if hint is bool and type(value) is not bool:
        raise TyndaError(f"model setting {name} must be true or false, not {value!r}")
    return value
