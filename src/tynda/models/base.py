"""The declaration of a model family, and the tensors that its programs hand to each other."""

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
    "Adapt",
    "Array",
    "CrossKV",
    "Family",
    "Folder",
    "KVCache",
    "Program",
    "Published",
    "Spec",
    "check_sizes",
    "sinusoids",
]

Array = NDArray[Any]

Program = Callable[..., Any]
"""``program(ops, weights, config, *inputs)``: tensors in, tensors out, over ``tynda.ops``."""

# A model file may come from anywhere: no number in it may ask for gigabytes.
_MAX_SETTING = 1 << 16


@dataclass(frozen=True)
class Spec:
    """Shape of one tensor and how training starts it.

    ``uniform``: ``gain`` U(-1, 1) / sqrt(fan_in), fan_in being the product of all axes but the
    first (PyTorch's default for linear and convolution layers). ``sinusoids``: as `sinusoids`
    gives them. A tensor that is not ``trainable`` is a constant or a running statistic.
    """

    shape: tuple[int, ...]
    init: Literal["uniform", "zeros", "ones", "sinusoids", "trainable"] = "uniform"
    trainable: bool = True
    gain: float = 1.0


@dataclass(frozen=True)
class CrossKV(Generic[T]):
    """Keys and values of a decoder's cross-attention, made once from the encoded sound."""

    keys: Sequence[T]
    """``[items, frames, channels]`` for each decoder layer, packed by `Ops.remember_keys`."""
    values: Sequence[T]
    lengths: T
    """``[items]``: frames that count."""


@dataclass(frozen=True)
class KVCache(Generic[T]):
    """Keys and values of a decoder's self-attention for the tokens seen so far."""

    keys: Sequence[T]
    """``[batch, capacity, channels]`` for each decoder layer."""
    values: Sequence[T]


class Folder(Protocol):
    """The JSON files of a published checkpoint; raises `TyndaError` for a damaged one."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """The object in a file; ``{}`` for a missing one that is ``optional``."""
        ...

    def card(self, key: str) -> list[str]:
        """Return the words under a key of the model card's front matter, one or several, or
        none."""
        ...


@dataclass
class Published:
    """A published checkpoint as its family understands it."""

    tokenizer: Any
    frontend: FrontEnd
    languages: list[str]
    tensors: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    """The checkpoint's tensors under the names, and in the layout, of `Family.specs`."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """Settings of the decoder that the model file carries."""


class Adapt(Protocol):
    """Changes a model to another of its languages."""

    def __call__(
        self,
        folder: Folder,
        language: str,
        config: Any,
        weights: Mapping[str, Array],
        adapter: Mapping[str, Array],
    ) -> tuple[Any, Any, Mapping[str, Array]]:
        """Config, tokenizer and weights with the ``adapter``'s tensors for that language.

        Raises ValueError for tensors that do not fit, `TyndaError` for symbols that do not.
        """
        ...


@dataclass(frozen=True, eq=False)
class Family:
    """Everything that readers of a model need to know of its family."""

    name: str
    """The name in model files."""
    config: type[Any]
    """A frozen dataclass, the numbers that shape the model. Among them are ``bins`` (of the front
    end), ``vocab``, ``layers``, ``channels`` (the width of what ``tap`` sees) and ``stride``
    (frames of the front end for each frame of the encoder)."""
    specs: Callable[[Any], dict[str, Spec]]
    """Config -> name -> `Spec` of every tensor of the model."""
    head: str
    """The kind of decoding, a name in ``tynda.heads.HEADS``; it says which `programs` there are."""
    programs: Mapping[str, Program]
    tokenizer: Callable[[Mapping[str, Any]], Any]
    """The tokenizer that a model file describes; raises `TyndaError` for a damaged description."""
    check: Callable[[Any, Any, FrontEnd, Mapping[str, Any]], None]
    """Config, tokenizer, front end and decoding settings of a model file; raises `TyndaError`
    where they do not fit each other."""
    model_types: tuple[str, ...] = ()
    """Values of ``model_type`` in a published ``config.json`` that `settings` and `read` take."""
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """A published ``config.json`` -> what `configure` takes; raises KeyError for a setting that is
    missing, ValueError for what the family does not cover."""
    read: Callable[[Folder, Mapping[str, Any], Any], Published] | None = None
    """Folder, ``config.json`` and `config` -> the checkpoint; raises `TyndaError`."""
    foreign: Mapping[str, Callable[[Any], Translated]] = field(default_factory=dict)
    """Other program's format -> the function that translates what its file states: ``ggml``, or
    the name of a class of CTranslate2, and a `Ggml` or `CTranslate2` of ``models.foreign``. It
    raises KeyError, naming what is missing, and ValueError for what the family does not cover."""
    adapt: Adapt | None = None
    """For families with a small set of tensors for each language."""

    def configure(self, values: Mapping[str, Any]) -> Any:
        """The family's ``Config`` from plain values.

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
        """Name -> shape of every tensor."""
        return {name: spec.shape for name, spec in self.specs(config).items()}

    def trainable(self, config: Any) -> dict[str, bool]:
        """Name -> whether training changes the tensor."""
        return {name: spec.trainable for name, spec in self.specs(config).items()}


def sinusoids(count: int, channels: int) -> NDArray[np.float32]:
    """Positions of a transformer ``[count, channels]``: sines, then cosines.

    The wave lengths run from 2 pi to 20000 pi frames in a geometric series (Vaswani et al.
    2017, section 3.5, ordered as in Whisper). ``channels`` is even, at least 4.
    """
    waves = np.exp(-np.log(10000.0) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(count)[:, None] * waves
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def check_sizes(config: Any, front: FrontEnd, symbols: int) -> None:
    """Raise `TyndaError` unless front end and tokenizer have the model's bins and symbols."""
    if symbols != config.vocab or front.bins != config.bins:
        raise TyndaError(
            f"the model's {config.bins} bins and {config.vocab} symbols do not fit its front end "
            f"({front.bins}) and tokenizer ({symbols})"
        )


def _check(name: str, value: Any, hint: Any) -> Any:
    """A setting as its field takes it; JSON and TOML have lists for tuples."""
    if get_origin(hint) is UnionType:  # a type or None
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
