"""Quantisation of any model to one model file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tynda.errors import TyndaError
from tynda.files import temporary_folder
from tynda.quantization.settings import CALIBRATED, Method, Settings
from tynda.store import library
from tynda.store.checkpoint import Checkpoint, Header, load_tensors, save_model
from tynda.weights.grid import INT8, Grid
from tynda.weights.tensors import release_memory
from tynda.weights.weight import (
    POSITIONS,
    Tensor,
    dequantize_all,
    floats,
    is_matrix_product,
    quantize_all,
)
from tynda.weights.weight import quantize as to_8_bits

if TYPE_CHECKING:
    from tynda.quantization.calibrate import Calibration

__all__ = [
    "check_new",
    "matrix_names",
    "new_header",
    "override_plan",
    "quantize",
    "rest_bytes",
    "trainable",
    "uniform_plan",
]

Plan = Mapping[str, Grid]
Overrides = Sequence[tuple[str, float]]
Progress = Callable[[int, int], None]


def quantize(
    name: str | Path,
    output: str | Path,
    bits: float | Plan = 8,
    *,
    method: Method | None = None,
    group: int = 32,
    calibration: str | Path | Calibration | None = None,
    utterances: int = 128,
    overrides: Overrides = (),
    on_progress: Progress | None = None,
) -> None:
    """Write the model that `library.find` knows by ``name`` as a model file.

    - ``bits``: 16 or 32 for floats; 8 for the codes and scales with which the model computes at
      ``bits=8``; fewer bits; or a plan with a grid for some tensors (others get 8 bits).
    - ``method``: by default gptq with a ``calibration``, else clip, or rtn for 8 bits and relative
      steps, which only these two support.
    - ``group``: the number of inputs that share a scale, or 0 for a whole row.
    - ``calibration``: a manifest, of which ``utterances`` are used, or a `Calibration`.
    - ``overrides``: pairs of a pattern and the bits of the tensors whose names match it; the last
      matching pattern decides.

    Tensors that are not matrices of products are not rounded; if others have fewer than 8 bits,
    they are stored in f16, and learnt positional embeddings in 8 bits. The file of an MMS model has
    the language of its own head. Finished tensors of calibrated methods are stored in
    ``OUTPUT.partial``, from which the same call continues after an interruption.

    Raises `TyndaError` as `library.load` and `save_model` do, if ``output`` exists, and for
    arguments that contradict each other.
    """
    output = Path(output)
    Settings(method=method, group=group, utterances=utterances)
    check_new(output)
    model = library.load(name)
    if bits in (16, 32):
        if method or overrides or calibration:
            raise TyndaError(f"{bits:g} bits are not rounded: leave method and overrides out")
        save_model(
            output, new_header(model), dequantize_all(model.weights), bits=int(bits), lm=model.lm
        )
        return
    plan = dict(bits) if isinstance(bits, Mapping) else uniform_plan(model, bits, group)
    plan |= override_plan(model, group, overrides)
    plain = all(grid == INT8 for grid in plan.values())
    coded = any(grid.relative_step for grid in plan.values())
    if method is None:
        method = "gptq" if calibration else "rtn" if plain or coded else "clip"
    if calibration is not None and method not in CALIBRATED:
        raise TyndaError(f"{method} uses no calibration set: leave --calibration out")
    if coded and method not in ("rtn", "gptq"):
        raise TyndaError(f"steps for entropy coding are not fitted by {method}: use rtn or gptq")
    if method == "rtn" and plain:
        weights = quantize_all(model.weights, trainable(model))
    else:
        rounded = _round_by_plan(model, plan, method, calibration, utterances, output, on_progress)
        weights = (_rest if plain else _small_rest)(model, plan) | rounded
    # Where weights have few bits, norms and biases in 32 bits would not make the model better.
    header = new_header(model)
    if not (plain and method == "rtn"):
        header.scores = {}  # The scores are those of the original weights.
        widths = sorted({grid.bits for grid in plan.values()})
        how = {"method": method, "bits": widths} | ({"entropy_coded": True} if coded else {})
        header.training = header.training | {"quantized": how}
    save_model(output, header, weights, bits=32 if plain else 16, lm=model.lm)
    if method in CALIBRATED:
        _partial(output).unlink(missing_ok=True)


def rest_bytes(model: Checkpoint, plan: Plan) -> int:
    """Return the bytes of a file of few bits without the codes and scales of a plan's tensors."""
    with temporary_folder() as folder:
        path = folder / "rest"
        save_model(path, new_header(model), _small_rest(model, plan), bits=16, lm=model.lm)
        # The header describes each tensor, its scales and its grid.
        return path.stat().st_size + sum(4 * len(name) + 350 for name in plan)


def _rest(model: Checkpoint, plan: Plan) -> dict[str, Tensor]:
    """Return the tensors that a plan does not have, their matrices in 8 bits."""
    others = {name: weight for name, weight in model.weights.items() if name not in plan}
    return quantize_all(others, trainable(model))


def _small_rest(model: Checkpoint, plan: Plan) -> dict[str, Tensor]:
    """Return the tensors that a plan does not have, as in files of few bits: learnt positional
    embeddings are in 8 bits as well."""
    rest, trained = _rest(model, plan), trainable(model)
    positions = [name for name in rest if fnmatchcase(name, POSITIONS) and trained[name]]
    return rest | {name: to_8_bits(floats(rest[name])) for name in positions}


def check_new(output: Path) -> None:
    """Raise `TyndaError` if the path exists or cannot be written."""
    if not output.name:
        raise TyndaError("the output has no name: give a file")
    if os.path.lexists(output):
        raise TyndaError(f"{output} is there already: choose another name, or remove it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise TyndaError(f"cannot write {output}: its folder is missing or may not be written to")


def uniform_plan(model: Checkpoint, bits: float, group: int = 32) -> dict[str, Grid]:
    """Return a plan with the same grid for all matrices of products, except positions."""
    grid = Grid(bits, group if bits < 8 else 0)
    return {name: grid for name in matrix_names(model) if not fnmatchcase(name, POSITIONS)}


def matrix_names(model: Checkpoint) -> list[str]:
    """Return the names of the matrices that products use (`is_matrix_product`)."""
    trained = trainable(model)
    return [name for name, w in model.weights.items() if is_matrix_product(w.shape, trained[name])]


def trainable(model: Checkpoint) -> dict[str, bool]:
    """Return whether each tensor is trained."""
    return model.family.trainable(model.config)


def override_plan(model: Checkpoint, group: int, overrides: Overrides) -> dict[str, Grid]:
    """Return the grids of the tensors that match patterns; the last matching one decides.

    Raises `TyndaError` for a pattern that no tensor matches.
    """
    plan: dict[str, Grid] = {}
    names = matrix_names(model)
    for pattern, bits in overrides:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise TyndaError(f"no weight is called {pattern}: names are such as {names[0]}")
        plan |= dict.fromkeys(matched, Grid(bits, group if bits < 8 else 0))
    return plan


def new_header(model: Checkpoint) -> Header:
    """Return the header of a new file of the model."""
    header = replace(model.header, config=asdict(model.config), tokenizer=model.tokenizer.to_dict())
    if getattr(model.config, "adapter", None) is not None:
        header.languages = header.languages[:1]
    return header


def _round_by_plan(
    model: Checkpoint,
    plan: Plan,
    method: Method,
    calibration: str | Path | Calibration | None,
    utterances: int,
    output: Path,
    on_progress: Progress | None,
) -> dict[str, Any]:
    """Return the rounded tensors of a plan, and others that had to change with them."""
    from tynda.quantization import methods
    from tynda.quantization.calibrate import Calibration

    if calibration is None or isinstance(calibration, Calibration):
        used = calibration
    else:
        used = Calibration(model, Path(calibration), utterances)
    partial, digest, done = _partial(output), "", {}
    if used:
        digest = _digest(model, plan, method, used)
        done = _read_partial(partial, model, digest)

    def save_progress(tensors: dict[str, Any]) -> None:
        if used:
            header = replace(model.header, training={"quantizing": digest}, tokenizer={})
            save_model(partial, header, tensors)
        if on_progress:
            on_progress(sum(name in tensors for name in plan), len(plan))

    return methods.quantize(model, plan, method, used, done, save_progress)


def _partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def _digest(model: Checkpoint, plan: Plan, method: str, used: Calibration) -> str:
    """Return a digest of all that the result depends on."""
    digest = hashlib.sha256(repr((method, sorted(plan.items()))).encode())
    for name, weight in sorted(model.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(floats(weight)).tobytes())
        release_memory(weight)
    for features in used.inputs:
        digest.update(np.ascontiguousarray(features).tobytes())
    return digest.hexdigest()


def _read_partial(path: Path, model: Checkpoint, digest: str) -> dict[str, Any]:
    """Return the tensors that an earlier run with the same settings finished, if any.

    Raises `TyndaError` if another program wrote the file.
    """
    if not os.path.lexists(path):
        return {}
    try:
        header, tensors = load_tensors(path, model)
        begun = header.training["quantizing"]
    except (TyndaError, KeyError):
        raise TyndaError(f"{path} is in the way: move it, or choose another output") from None
    return tensors if begun == digest else {}
