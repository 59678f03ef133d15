"""The model file: one ``.safetensors`` file with tensors and a JSON header.

The header is the value of ``tynda`` in the safetensors metadata. ``tynda.weights.stored`` defines
the layout of weights; the language model, if any, is the byte tensor ``lm``; arrays in the
description of the tokenizer are tensors ``tokenizer.KEY``. Nothing in a file is executed, and no
size in its header is used before it is checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tynda import models
from tynda.checks import MAX_COUNT, MAX_NUMBER, Range, Rule, describe, fits, is_whole, schema
from tynda.errors import TyndaError, listed
from tynda.files import check_readable, write_whole
from tynda.models.base import Family
from tynda.sound import frontend
from tynda.sound.frontend import FrontEnd
from tynda.weights.stored import TensorReader, to_tensors
from tynda.weights.weight import Tensor, floats

__all__ = [
    "FALSE_ACCEPTANCE",
    "FORMAT",
    "Checkpoint",
    "Header",
    "load",
    "load_tensors",
    "read_header",
    "save_model",
]

FORMAT = 3
"""Version of the header's layout; newer versions are rejected."""

_LM = "lm"
_TABLE_ERROR = 2**-11
"""Maximum error of a constant table that is computed instead of stored: published tables were
rounded to f16, with an error of up to 2**-12 for numbers below 1."""
_TOKENIZER = {"pieces": "U8", "ends": "I32", "merges": "I32"}
"""Arrays that the description of a tokenizer may have, and their types."""


Rate = Annotated[float, Range(0)]
Weighting = Annotated[float, Range(0, MAX_NUMBER)]
Place = Annotated[int, Range(0, MAX_COUNT)]

FALSE_ACCEPTANCE = (0.0001, 0.001, 0.01, 0.1)
"""Rates of accepted strangers for which a model of voices may have thresholds."""

_DECODING: Mapping[str, Any] = {
    "beam_size": Annotated[int, Range(1, MAX_COUNT)],
    "alpha": Weighting,
    "beta": Annotated[float, Range(-MAX_NUMBER, MAX_NUMBER)],
    "unknown_penalty": Weighting,
    "speech_threshold": Annotated[float, Range(0, 1)],
    "slope": Annotated[float, Range(-MAX_NUMBER, MAX_NUMBER)],
    "offset": Annotated[float, Range(-MAX_NUMBER, MAX_NUMBER)],
    **{
        f"threshold_{rate:g}": Annotated[float, Range(-MAX_NUMBER, MAX_NUMBER)]
        for rate in FALSE_ACCEPTANCE
    },
    "alignment_heads": Sequence[Annotated[Sequence[Place], Rule("two", lambda x: len(x) == 2)]],
}
"""Decoder settings that a file may have."""


def _are_rates(scores: dict[str, Any]) -> bool:
    """Return whether each source has a table of error rates, None where there were no words."""
    return all(
        isinstance(rates, dict) and all(fits(rate, Rate | None) for rate in rates.values())
        for rates in scores.values()
    )


@dataclass
class Header:
    """The description of a model in its file."""

    name: str
    family: str
    config: dict[str, Any]
    frontend: dict[str, Any]
    tokenizer: dict[str, Any]
    languages: Annotated[list[str], Rule("of names", lambda x: all(isinstance(y, str) for y in x))]
    licence: str
    decoding: dict[str, Any] = field(default_factory=dict)
    """Settings of the beam search, tuned for the language model."""
    training: dict[str, Any] = field(default_factory=dict)
    """Recipe, command, seed and data."""
    scores: Annotated[dict[str, Any], Rule("of error rates by source", _are_rates)] = field(
        default_factory=dict
    )
    """Word and character error rates, by manifest."""
    grids: dict[str, Any] = field(default_factory=dict)
    """The grid of each tensor in few bits or with an entropy code, as `save_model` writes it."""
    format: int = 1
    """The version of the format: 2 where there are grids, 3 where codes are entropy-coded."""


@dataclass
class Checkpoint:
    """A model file, read and checked."""

    header: Header
    config: Any
    """The family's ``Config``."""
    frontend: FrontEnd
    tokenizer: Any
    """The family's tokenizer; see `Family.tokenizer`."""
    weights: Mapping[str, Tensor]
    """Weights by name: quantised ones, whose codes stay in the file, and float32 arrays."""
    lm: bytes | None
    """A packed language model; see ``tynda.heads.ctc.ngram.unpack``."""
    bytes: int
    """Size of the file."""
    path: Path | None = None
    """The file or folder, for messages."""

    @property
    def family(self) -> Family:
        """The family that the header names."""
        return models.family(self.header.family)

    def check_language(self, language: str | None) -> None:
        """Raise `TyndaError` for a language that the model does not support; None is allowed."""
        name, known = self.header.name, self.header.languages
        if language is None or language in known:
            return
        raise TyndaError(
            f"{name} does not know the language {language!r}; it knows {listed(known)}"
            if known
            else f"{name} does not state which languages it knows: leave the language out"
        )


def save_model(
    path: Path,
    header: Header,
    weights: Mapping[str, Tensor],
    *,
    bits: int = 32,
    lm: bytes | None = None,
) -> None:
    """Write a model file atomically.

    ``bits`` is 8 (rows in 8 bits, the rest in f16), 16 (f16) or 32 (f32); a weight that has 8
    bits or fewer already is not changed. Below 32 bits, constant tables (`Spec.table`) are left
    out. Raises ValueError for other values; `TyndaError` when a
    weight is not finite, or too large for its format, and when the file cannot be written.
    """
    if bits not in (8, 16, 32):
        raise ValueError(f"weights are stored in 8, 16 or 32 bits, not {bits}")
    if bits < 32:
        weights = _without_tables(header, weights)
    tensors, grids = to_tensors(weights, bits)
    if lm is not None:
        tensors[_LM] = np.frombuffer(lm, np.uint8)
    plain = dict(header.tokenizer)
    for key in _TOKENIZER:
        if isinstance(plain.get(key), np.ndarray):
            tensors[f"tokenizer.{key}"] = plain.pop(key)
    # A file has the oldest format that can express it, so that older versions can read it.
    coded = any("relative_step" in grid for grid in grids.values())
    version = 3 if coded else 2 if grids else 1
    stated = asdict(replace(header, tokenizer=plain, grids=grids, format=version))
    if not grids:
        del stated["grids"]
    metadata = {"tynda": json.dumps(stated, ensure_ascii=False, sort_keys=True)}
    # safetensors ignores strides and writes the memory of an array, so it must be contiguous.
    write_whole(path, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata))


def _without_tables(header: Header, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the tensors that are equal to their constant tables."""
    family = models.family(header.family)
    specs = family.specs(family.configure(header.config))
    found = {name: spec.table for name, spec in specs.items() if name in weights}

    def is_table(name: str) -> bool:
        table = found.get(name)
        return table is not None and bool(
            (np.abs(floats(weights[name]) - table) <= _TABLE_ERROR).all()
        )

    return {name: weight for name, weight in weights.items() if not is_table(name)}


def read_header(path: Path) -> Header:
    """Read the header only, without any tensors, including the tokenizer's.

    Raises `TyndaError` as `load` does.
    """
    with _open(path) as file:
        return _parse_header(path, file.metadata())


def load(path: Path) -> Checkpoint:
    """Read a model file.

    Raises `TyndaError`, naming the file, when it is missing, truncated, not a safetensors file,
    not a tynda model, of a newer format, or when a tensor is missing or has a wrong shape.
    """
    with _open(path) as file:
        header = _parse_header(path, file.metadata())
        reader = TensorReader(path, file)
        for key, kind in _TOKENIZER.items():
            if (name := f"tokenizer.{key}") in reader.names:
                header.tokenizer[key] = reader.tensor(name, kind)
        try:
            family = models.family(header.family)
            config = family.configure(header.config)
            front = frontend.from_config(header.frontend)
            tokenizer = family.tokenizer(header.tokenizer)
            family.check(config, tokenizer, front, header.decoding)
        except TyndaError as error:
            raise TyndaError(f"{path}: {error}") from None
        layers = config.layers + getattr(config, "decoder_layers", 0)
        if layers > len(reader.names):  # checked before creating specs for all layers
            raise TyndaError(f"{path}: most of the {layers} layers are missing")
        specs = family.specs(config)
        tables = {
            name: table
            for name, spec in specs.items()
            if name not in reader.names and (table := spec.table) is not None
        }
        if lacking := next((k for k in specs if k not in reader.names and k not in tables), None):
            raise TyndaError(f"{path}: tensor {lacking} is missing; the file is damaged")
        if foreign := next((name for name in header.grids if name not in specs), None):
            raise TyndaError(f"{path}: the header has a grid for {foreign}, which is no tensor")
        shapes = {name: spec.shape for name, spec in specs.items() if name not in tables}
        weights = _weights(reader, header, shapes) | tables
        lm = reader.tensor(_LM, "U8").tobytes() if _LM in reader.names else None
    return Checkpoint(header, config, front, tokenizer, weights, lm, path.stat().st_size, path)


def load_tensors(path: Path, model: Checkpoint) -> tuple[Header, dict[str, Any]]:
    """Read header and weights of a model file that has only some of the weights of ``model``.

    Raises `TyndaError` as `load` does.
    """
    with _open(path) as file:
        header = _parse_header(path, file.metadata())
        reader = TensorReader(path, file)
        shapes = {k: tuple(v.shape) for k, v in model.weights.items() if k in reader.names}
        return header, _weights(reader, header, shapes)


def _weights(
    reader: TensorReader, header: Header, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Read the weights of these names, all of which are in the file."""
    grids = header.grids
    return {
        name: reader.quantized(name, shape, grids[name])
        if name in grids
        else reader.weight(name, shape)
        for name, shape in shapes.items()
    }


def _open(path: Path) -> Any:
    check_readable(path, "model file")
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError):
        raise TyndaError(f"{path} is damaged or no .safetensors file: get it again") from None


def _parse_header(path: Path, metadata: dict[str, str] | None) -> Header:
    try:
        values = json.loads((metadata or {})["tynda"])
        json.dumps(values, ensure_ascii=False).encode()  # fails for lone surrogates
        version = values["format"]
    except KeyError:
        raise TyndaError(f"{path} is a .safetensors file, but not a tynda model") from None
    except (ValueError, TypeError, RecursionError):
        raise TyndaError(f"{path}: the header is damaged") from None
    if not is_whole(version, 1, sys.maxsize):
        raise TyndaError(f"{path}: format in the header should be 1 or more, not {version!r}")
    if version > FORMAT:
        raise TyndaError(
            f"{path} has format {version}; this version reads up to {FORMAT}: upgrade tynda"
        )
    try:
        header = Header(**values)
    except TypeError:
        raise TyndaError(f"{path}: the header is damaged") from None
    for key, hint in schema(Header).items():
        if not fits(getattr(header, key), hint):
            raise TyndaError(f"{path}: {key} in the header should be {describe(hint)}")
    if header.grids and version < 2:
        raise TyndaError(f"{path}: grids in the header need format 2, not {version}")
    for key, value in header.decoding.items():
        if not (key in _DECODING and fits(value, _DECODING[key])):
            raise TyndaError(f"{path}: the decoder cannot be set to {key} {value!r}")
    return header
