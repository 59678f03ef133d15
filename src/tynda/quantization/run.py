"""Any model as a file of its own, its weights in fewer bits."""

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
from tynda.quantization.settings import CALIBRATED, Method, Settings
from tynda.store import library
from tynda.store.checkpoint import Checkpoint, Header, load_tensors, save_model
from tynda.weights.grid import Grid
from tynda.weights.tensors import release_memory
from tynda.weights.weight import POSITIONS, dequantize_all, floats, is_matrix_product, quantize_all
from tynda.weights.weight import quantize as to_8_bits

if TYPE_CHECKING:
    from tynda.quantization.calibrate import Calibration

__all__ = [
    "check_new",
    "choose",
    "new_header",
    "overridden",
    "products",
    "quantize",
    "trainable",
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

    ``bits``: 16 or 32, of all weights; 8, the codes and scales that a model is computed with at
    ``bits=8``; fewer, or a plan with a grid for some tensors (the others get 8). ``method``: by
    default gptq with a ``calibration``, else clip, or rtn for 8 bits. ``group``: inputs that share
    a step. ``calibration``: a manifest, of which so many ``utterances`` are used, or a
    `Calibration`. ``overrides``: pairs of a pattern and other bits for the tensors whose names
    match it; the last pattern that matches counts. Tensors that no product is made with stay as
    they are; where others have fewer than 8 bits, they become f16, and constant positions 8 bits.
    The file of an MMS model has the language of its own head.

    What is finished is kept in ``OUTPUT.partial``, from which the same call goes on. Raises
    `TyndaError` where `library.load` and `save_model` do, when ``output`` is there, and for what
    does not go together.
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
    plan = dict(bits) if isinstance(bits, Mapping) else choose(model, bits, group)
    plan |= overridden(model, group, overrides)
    plain = all(grid.bits == 8 for grid in plan.values())
    if method is None:
        method = "gptq" if calibration else "rtn" if plain else "clip"
    if calibration is not None and method not in CALIBRATED:
        raise TyndaError(f"{method} uses no calibration set: leave --calibration out")
    if method == "rtn" and plain:
        weights = quantize_all(model.weights, trainable(model))
    else:
        rest = {name: weight for name, weight in model.weights.items() if name not in plan}
        few = _few(model, plan, method, calibration, utterances, output, on_progress)
        weights = quantize_all(rest, trainable(model)) | few
        if not plain:
            places = [name for name in rest if fnmatchcase(name, POSITIONS)]
            weights |= {name: to_8_bits(floats(rest[name])) for name in places}
    # Beside weights in few bits, norms and biases in 32 bits would be of no use.
    header = new_header(model)
    if not (plain and method == "rtn"):
        header.scores = {}  # they were another file's
        widths = sorted({grid.bits for grid in plan.values()})
        header.training = header.training | {"quantized": {"method": method, "bits": widths}}
    save_model(output, header, weights, bits=32 if plain else 16, lm=model.lm)
    if method in CALIBRATED:
        _partial(output).unlink(missing_ok=True)


def check_new(output: Path) -> None:
    """Raise `TyndaError` where there is something already, or nothing can be written."""
    if not output.name:
        raise TyndaError("the output has no name: give a file")
    if os.path.lexists(output):
        raise TyndaError(f"{output} is there already: choose another name, or remove it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise TyndaError(f"cannot write {output}: its folder is missing or may not be written to")


def choose(model: Checkpoint, bits: float, group: int = 32) -> dict[str, Grid]:
    """A grid for each tensor that products are made with."""
    grid = Grid(bits, group if bits < 8 else 0)
    return {name: grid for name in products(model) if not fnmatchcase(name, POSITIONS)}


def products(model: Checkpoint) -> list[str]:
    """The tensors that products are made with."""
    learnt = trainable(model)
    return [name for name, w in model.weights.items() if is_matrix_product(w.shape, learnt[name])]


def trainable(model: Checkpoint) -> dict[str, bool]:
    """Whether each tensor is learnt."""
    return model.family.trainable(model.config)


def overridden(model: Checkpoint, group: int, overrides: Overrides) -> dict[str, Grid]:
    """The grids of the tensors that match a pattern, the last that does.

    Raises `TyndaError` for one that none matches.
    """
    plan: dict[str, Grid] = {}
    names = products(model)
    for pattern, bits in overrides:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise TyndaError(f"no weight is called {pattern}: names are such as {names[0]}")
        plan |= dict.fromkeys(matched, Grid(bits, group if bits < 8 else 0))
    return plan


def new_header(model: Checkpoint) -> Header:
    """Return the header of a file of the model."""
    header = replace(model.header, config=asdict(model.config), tokenizer=model.tokenizer.to_dict())
    if getattr(model.config, "adapter", None) is not None:
        header.languages = header.languages[:1]
    return header


def _few(
    model: Checkpoint,
    plan: Plan,
    method: Method,
    calibration: str | Path | Calibration | None,
    utterances: int,
    output: Path,
    on_progress: Progress | None,
) -> dict[str, Any]:
    """The tensors of a plan, and those that had to change with them."""
    from tynda.quantization import methods
    from tynda.quantization.calibrate import Calibration

    if calibration is None or isinstance(calibration, Calibration):
        used = calibration
    else:
        used = Calibration(model, Path(calibration), utterances)
    partial, settings, done = _partial(output), "", {}
    if used:
        settings = _settings(model, plan, method, used)
        done = _read_partial(partial, model, settings)

    def finished(tensors: dict[str, Any]) -> None:
        if used:
            header = replace(model.header, training={"quantizing": settings}, tokenizer={})
            save_model(partial, header, tensors)
        if on_progress:
            on_progress(sum(name in tensors for name in plan), len(plan))

    return methods.quantize(model, plan, method, used, done, finished)


def _partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def _settings(model: Checkpoint, plan: Plan, method: str, used: Calibration) -> str:
    """All that the result depends on, as a digest."""
    digest = hashlib.sha256(repr((method, sorted(plan.items()))).encode())
    for name, weight in sorted(model.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(floats(weight)).tobytes())
        release_memory(weight)
    for features in used.inputs:
        digest.update(np.ascontiguousarray(features).tobytes())
    return digest.hexdigest()


def _read_partial(path: Path, model: Checkpoint, settings: str) -> dict[str, Any]:
    """Read what an earlier run with the same settings finished.

    Raises `TyndaError` where the file is none of ours.
    """
    if not os.path.lexists(path):
        return {}
    try:
        header, tensors = load_tensors(path, model)
        begun = header.training["quantizing"]
    except (TyndaError, KeyError):
        raise TyndaError(f"{path} is in the way: move it, or choose another output") from None
    return tensors if begun == settings else {}
