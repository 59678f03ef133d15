"""A model on disk: one ``.safetensors`` file, tensors and a JSON header.

The header stands under the key ``tynda`` of the safetensors metadata. Weights of two or more
axes are stored in 8 bits (symmetric, one scale for each output row, beside the codes as
``NAME.scale``), in fewer on a grid (``tynda.weights.grid``), or as they are; the language model,
if any, is the byte tensor ``lm``; arrays in the description of the tokenizer are tensors
``tokenizer.KEY``. Nothing in a file is ever executed, and no size in its header is trusted
before it is checked.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tynda import models
from tynda.checks import is_number, is_whole
from tynda.errors import TyndaError, listed
from tynda.files import check_readable, write_whole
from tynda.models.base import Family
from tynda.sound import frontend
from tynda.sound.frontend import FrontEnd
from tynda.weights.coded import Coded, Steps, symmetric
from tynda.weights.grid import LEAST_SCALE, Grid
from tynda.weights.pack import row_bytes
from tynda.weights.tensors import Stored, places
from tynda.weights.weight import Quantized

__all__ = ["FORMAT", "Checkpoint", "Header", "load", "load_tensors", "read_header", "save_model"]

FORMAT = 2
"""Version of the header's layout; a newer one is refused."""

_LM = "lm"
_STEPS = {"scale": "F16", "step": "U8", "offset": "I8"}
"""What there is of a tensor in few bits beside its codes, and their types."""
_TOKENIZER = {"pieces": "U8", "ends": "I32", "merges": "I32"}
"""Arrays that may be in its description, and their types."""
# f16 ends at 65504. In 8 bits the scales and vectors are f16.
_LARGEST = {8: 65504.0, 16: 65504.0, 32: float(np.finfo(np.float32).max)}


@dataclass
class Header:
    """What a model file says of itself."""

    name: str
    family: str
    config: dict[str, Any]
    frontend: dict[str, Any]
    tokenizer: dict[str, Any]
    languages: list[str]
    licence: str
    decoding: dict[str, Any] = field(default_factory=dict)
    """Settings of the beam search that suit the language model."""
    training: dict[str, Any] = field(default_factory=dict)
    """Recipe, command, seed and data."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Word and character error rates, by manifest."""
    grids: dict[str, Any] = field(default_factory=dict)
    """Of each tensor in few bits; `save_model` sees to it."""
    format: int = 1
    """2 where there are grids."""


@dataclass
class Checkpoint:
    """A model file, read and checked."""

    header: Header
    config: Any
    """The family's ``Config``."""
    frontend: FrontEnd
    tokenizer: Any
    """The family's, see `Family.tokenizer`."""
    weights: Mapping[str, NDArray[np.float32] | Quantized]
    """As they are stored, but for those in f16."""
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
        """Raise `TyndaError` for a language that the model does not know; None is any."""
        name, known = self.header.name, self.header.languages
        if language is None or language in known:
            return
        raise TyndaError(
            f"{name} does not know the language {language!r}; it knows {listed(known)}"
            if known
            else f"{name} does not say which languages it knows: leave it out"
        )


def save_model(
    path: Path,
    header: Header,
    weights: Mapping[str, NDArray[np.float32] | Quantized],
    *,
    bits: int = 32,
    lm: bytes | None = None,
) -> None:
    """Write a model file, whole or not at all.

    ``bits`` is 8 (rows in 8 bits, the rest in f16), 16 (f16) or 32 (f32); a weight that is in
    8 bits or fewer already stays as it is. Raises ValueError for other widths; `TyndaError` when
    a weight is not finite, or too great for its width, and when the file cannot be written.
    """
    if bits not in (8, 16, 32):
        raise ValueError(f"weights are stored in 8, 16 or 32 bits, not {bits}")
    tensors: dict[str, NDArray[Any]] = {}
    grids: dict[str, Any] = {}
    for name, value in weights.items():
        if isinstance(value, Coded):
            scale, step, offset = value.steps
            tensors |= {name: value.packed, f"{name}.scale": scale.astype(np.float16)}
            if (step != value.grid.largest).any():
                tensors[f"{name}.step"] = step
            if (offset != symmetric(value.grid, step)).any():
                tensors[f"{name}.offset"] = offset
            grids[name] = asdict(value.grid)
            continue
        if isinstance(value, Quantized):
            tensors[name], tensors[f"{name}.scale"] = value.codes, value.scale
            continue
        if not np.abs(value).max(initial=0) <= _LARGEST[bits]:
            raise TyndaError(f"tensor {name} has values that {bits} bits cannot hold, or NaN")
        if bits == 8 and value.ndim > 1:
            tensors[name], tensors[f"{name}.scale"] = _to_8_bits(value)
        else:
            tensors[name] = value.astype(np.float32 if bits == 32 else np.float16)
    if lm is not None:
        tensors[_LM] = np.frombuffer(lm, np.uint8)
    plain = dict(header.tokenizer)
    for key in _TOKENIZER:
        if isinstance(plain.get(key), np.ndarray):
            tensors[f"tokenizer.{key}"] = plain.pop(key)
    # What has no grid is read by those who know none.
    stated = asdict(replace(header, tokenizer=plain, grids=grids, format=2 if grids else 1))
    if not grids:
        del stated["grids"]
    metadata = {"tynda": json.dumps(stated, ensure_ascii=False, sort_keys=True)}
    # safetensors writes an array's memory as it lies, whatever its strides.
    write_whole(path, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata))


def read_header(path: Path) -> Header:
    """The header alone, without tensors, not even the tokenizer's.

    Raises `TyndaError` as `load` does.
    """
    with _open(path) as file:
        return _parse_header(path, file.metadata())


def load(path: Path) -> Checkpoint:
    """Read a model file.

    Raises `TyndaError`, naming the file, when it is missing, truncated, no safetensors file,
    no tynda model, of a newer format, or when a tensor is missing or has a wrong shape.
    """
    with _open(path) as file:
        header = _parse_header(path, file.metadata())
        stored = set(file.keys())
        for key, kind in _TOKENIZER.items():
            if (name := f"tokenizer.{key}") in stored:
                header.tokenizer[key] = _typed(path, file, name, kind)
        try:
            family = models.family(header.family)
            config = family.configure(header.config)
            front = frontend.from_config(header.frontend)
            tokenizer = family.tokenizer(header.tokenizer)
            family.check(config, tokenizer, front, header.decoding)
        except TyndaError as error:
            raise TyndaError(f"{path}: {error}") from None
        layers = config.layers + getattr(config, "decoder_layers", 0)
        if layers > len(stored):  # before as many specs are made
            raise TyndaError(f"{path}: most of the {layers} layers are missing")
        specs = family.specs(config)
        if lacking := next((name for name in specs if name not in stored), None):
            raise TyndaError(f"{path}: tensor {lacking} is missing; the file is damaged")
        if foreign := next((name for name in header.grids if name not in specs), None):
            raise TyndaError(f"{path}: the header has a grid for {foreign}, which is no tensor")
        weights = _tensors(path, file, header, {k: v.shape for k, v in specs.items()})
        lm = _typed(path, file, _LM, "U8").tobytes() if _LM in stored else None
    return Checkpoint(header, config, front, tokenizer, weights, lm, path.stat().st_size, path)


def load_tensors(path: Path, model: Checkpoint) -> tuple[Header, dict[str, Any]]:
    """Header and weights of a model file that has but some of those of ``model``.

    Raises `TyndaError` as `load` does.
    """
    with _open(path) as file:
        header = _parse_header(path, file.metadata())
        stored = set(file.keys())
        shapes = {k: tuple(v.shape) for k, v in model.weights.items() if k in stored}
        return header, _tensors(path, file, header, shapes)


def _tensors(
    path: Path, file: Any, header: Header, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Weights of these names, all of which the file has."""
    weights: dict[str, Any] = {}
    stored, codes = set(file.keys()), _Codes(path)
    for name, shape in shapes.items():
        if name in header.grids:
            weights[name] = _read_coded(path, file, stored, header.grids[name], name, shape, codes)
            continue
        found = tuple(file.get_slice(name).get_shape())
        if found != shape:
            raise TyndaError(f"{path}: tensor {name} is {found}, should be {shape}")
        weights[name] = _read(path, file, stored, name, shape, codes)
    return weights


def _open(path: Path) -> Any:
    check_readable(path, "model file")
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError):
        raise TyndaError(f"{path} is damaged or no .safetensors file") from None


def _parse_header(path: Path, metadata: dict[str, str] | None) -> Header:
    try:
        values = json.loads((metadata or {})["tynda"])
        json.dumps(values, ensure_ascii=False).encode()  # no halves of characters
        version = values["format"]
    except KeyError:
        raise TyndaError(f"{path} is a .safetensors file, but no tynda model") from None
    except (ValueError, TypeError, RecursionError):
        raise TyndaError(f"{path}: the header is damaged") from None
    if not is_whole(version, 1, sys.maxsize):
        raise TyndaError(f"{path}: format in the header should be 1 or more, not {version!r}")
    if version > FORMAT:
        raise TyndaError(
            f"{path} has format {version}; this tynda reads up to {FORMAT}: upgrade tynda"
        )
    try:
        header = Header(**values)
    except TypeError:
        raise TyndaError(f"{path}: the header is damaged") from None
    kinds = {
        "name": str,
        "family": str,
        "config": dict,
        "frontend": dict,
        "tokenizer": dict,
        "languages": list,
        "licence": str,
        "decoding": dict,
        "training": dict,
        "scores": dict,
        "grids": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(getattr(header, key), kind):
            raise TyndaError(f"{path}: {key} in the header should be a {kind.__name__}")
    if not all(isinstance(language, str) for language in header.languages):
        raise TyndaError(f"{path}: languages in the header should be names")
    if header.grids and version < 2:
        raise TyndaError(f"{path}: grids in the header need format 2, not {version}")
    for key, value in header.decoding.items():
        if not (key in _DECODING and _DECODING[key](value)):
            raise TyndaError(f"{path}: the decoder cannot be set to {key} {value!r}")
    for source, rates in header.scores.items():
        if not (isinstance(rates, dict) and all(_is_rate(rate) for rate in rates.values())):
            raise TyndaError(f"{path}: the scores of {source} in the header are no error rates")
    return header


_DECODING: dict[str, Callable[[Any], bool]] = {
    "beam_size": lambda value: is_whole(value, 1),
    "alpha": lambda value: is_number(value, 0),
    "beta": is_number,
    "unknown_penalty": lambda value: is_number(value, 0),
    "alignment_heads": lambda value: (
        isinstance(value, list)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(is_whole(x, 0) for x in pair)
            for pair in value
        )
    ),
}


def _is_rate(value: Any) -> bool:
    return value is None or is_number(value, 0, sys.float_info.max)


def _to_8_bits(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Round to nearest, symmetric, one scale for each row of the first axis."""
    rows = value.reshape(len(value), -1)
    scale = np.maximum(np.abs(rows).max(1) / 127, LEAST_SCALE).astype(np.float16)
    codes = np.round(rows / scale[:, None].astype(np.float32))
    return np.clip(codes, -127, 127).astype(np.int8).reshape(value.shape), scale


class _Codes:
    """Weights in 8 bits, or codes of fewer, that stay in a model file."""

    def __init__(self, path: Path) -> None:
        self._file, self._places = path.open("rb"), places(path)

    def packed(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The bytes of a tensor, mapped."""
        return np.memmap(self._file, np.uint8, "r", self._places[name], shape)

    def __call__(self, name: str, shape: tuple[int, ...], scale: NDArray[np.float32]) -> Quantized:
        return Stored(self._file, self._places[name], shape, scale)


def _read(
    path: Path, file: Any, stored: set[str], name: str, shape: tuple[int, ...], codes: _Codes
) -> NDArray[np.float32] | Quantized:
    if file.get_slice(name).get_dtype() == "I8":
        if f"{name}.scale" not in stored:
            raise TyndaError(f"{path}: tensor {name}.scale is missing; the file is damaged")
        scale = _typed(path, file, f"{name}.scale", "F16", "F32")
        if scale.shape != shape[:1]:
            raise TyndaError(f"{path}: tensor {name}.scale does not fit {name}")
        if not np.isfinite(scale).all():
            raise TyndaError(f"{path}: tensor {name} has scales that are not finite; it is damaged")
        return codes(name, shape, scale.astype(np.float32))
    value = _typed(path, file, name, "I8", "F16", "F32")
    if not np.isfinite(value).all():
        raise TyndaError(f"{path}: tensor {name} has values that are not finite; it is damaged")
    return np.asarray(value, np.float32)


def _read_coded(
    path: Path,
    file: Any,
    stored: set[str],
    about: Any,
    name: str,
    shape: tuple[int, ...],
    codes: _Codes,
) -> Coded:
    """A weight in few bits, its codes mapped."""
    try:
        bits, group, table = (about[key] for key in ("bits", "group", "table"))
        if len(about) > 3:
            raise KeyError
        grid = Grid(bits, group, tuple(table))
    except (TyndaError, TypeError, KeyError):
        raise TyndaError(
            f"{path}: tensor {name} has a grid that cannot be; it is damaged"
        ) from None
    inputs = math.prod(shape[1:])
    counts = (shape[0], grid.groups(inputs))
    if len(shape) < 2 or not inputs:
        raise TyndaError(f"{path}: tensor {name} cannot be in few bits")
    parts: dict[str, Any] = {}
    for part, kind in _STEPS.items():
        if f"{name}.{part}" in stored:
            parts[part] = _typed(path, file, f"{name}.{part}", kind)
        elif part == "step":
            parts[part] = np.full(counts, grid.largest, np.uint8)
        elif part == "offset":
            parts[part] = symmetric(grid, parts["step"])
        else:
            raise TyndaError(f"{path}: tensor {name}.{part} is missing; the file is damaged")
        if parts[part].shape != (counts[:1] if part == "scale" else counts):
            raise TyndaError(f"{path}: tensor {name}.{part} does not fit {name}")
    room = (shape[0], row_bytes(grid.bits, inputs))
    if file.get_slice(name).get_dtype() != "U8" or tuple(file.get_slice(name).get_shape()) != room:
        raise TyndaError(f"{path}: tensor {name} should be U8 {room}; the file is damaged")
    steps = Steps(parts["scale"].astype(np.float32), parts["step"], parts["offset"])
    if not np.isfinite(steps.scale).all() or not steps.within(grid):
        raise TyndaError(f"{path}: tensor {name} has steps that cannot be; it is damaged")
    return Coded(shape, grid, steps, codes.packed(name, room))


def _typed(path: Path, file: Any, name: str, *types: str) -> NDArray[Any]:
    """One tensor, if it has one of the safetensors ``types``; NumPy does not know them all."""
    stored = file.get_slice(name).get_dtype()
    if stored not in types:
        raise TyndaError(f"{path}: tensor {name} is {stored}, should be {' or '.join(types)}")
    tensor: NDArray[Any] = file.get_tensor(name)
    return tensor
