"""Any model as a file of its own, its weights in fewer bits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tynda import library, models
from tynda.checkpoint import Checkpoint, Header, load_tensors, save_model
from tynda.errors import TyndaError
from tynda.files import read_json, write_whole
from tynda.quant.grid import BITS, Grid
from tynda.quant.methods import CALIBRATED, METHODS
from tynda.quant.weight import dense, is_product, quantize_all

__all__ = ["STORED", "choose", "quantize", "read_plan", "save_plan"]

STORED = (*BITS, 16, 32)
"""Widths that a file's weights can have."""
# Positions are added, not multiplied: there is little of them, and all depends on it.
_KEPT = "*embed_positions*"

Plan = Mapping[str, Grid]


def quantize(
    name: str | Path,
    output: Path,
    bits: float | Plan = 8,
    *,
    method: str | None = None,
    group: int = 32,
    calibration: Path | None = None,
    utterances: int = 48,
    overrides: Sequence[tuple[str, float]] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the model that `library.find` knows by ``name`` as a model file.

    ``bits``: 16 or 32, of all weights; 8, the codes and scales that a model is computed with at
    ``bits=8``; fewer, or a plan with a grid for each tensor. Without a ``method`` (one of
    `METHODS`) that is gptq where there is a ``calibration``, a manifest of which so many
    ``utterances`` are heard, else clip, or for 8 bits rtn. ``overrides``: other bits for the
    tensors whose names match a pattern, the last that does. Tensors that no product is made
    with stay as they are. Of an MMS model, the file has the language of its own head.

    What is finished is kept in ``OUTPUT.partial``, from which the same call goes on. Raises
    `TyndaError` where `library.load` and `save_model` do, when ``output`` is there, and for what
    does not go together.
    """
    if os.path.lexists(output):
        raise TyndaError(f"{output} is there already: choose another name, or remove it first")
    if method not in (None, *METHODS):
        raise TyndaError(f"no method {method!r}: take one of {', '.join(METHODS)}")
    model = library.load(name)
    header = _header(model)
    if bits in (16, 32):
        if method or overrides or calibration:
            raise TyndaError(f"{bits:g} bits are not rounded: leave method and overrides out")
        save_model(output, header, dense(model.weights), bits=int(bits), lm=model.lm)
        return
    plan = bits if isinstance(bits, Mapping) else choose(model, bits, group, overrides)
    if method is None:
        method = "gptq" if calibration else "clip"
        if bits == 8 and not overrides and not calibration:
            method = "rtn"
    if method in CALIBRATED and calibration is None:
        raise TyndaError(f"{method} needs speech to listen to: --calibration MANIFEST")
    if calibration is not None and method not in CALIBRATED:
        raise TyndaError(f"{method} listens to nothing: leave --calibration out")
    others = {name: weight for name, weight in model.weights.items() if name not in plan}
    weights = quantize_all(others, _trainable(model)) | _few(
        model, plan, method, calibration, utterances, output, on_progress
    )
    # What is rounded so much has no use for norms and biases in 32 bits.
    few = any(grid.bits < 8 for grid in plan.values())
    save_model(output, header, weights, bits=16 if few else 32, lm=model.lm)
    _partial(output).unlink(missing_ok=True)


def choose(
    model: Checkpoint, bits: float, group: int = 32, overrides: Sequence[tuple[str, float]] = ()
) -> dict[str, Grid]:
    """A grid for each tensor that products are made with.

    Raises `TyndaError` for widths that are none, and for a pattern that no tensor matches.
    """
    plan = {}
    names = [name for name, fits in _products(model).items() if fits]
    for pattern, _ in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TyndaError(f"no weight is called {pattern}: names are such as {names[0]}")
    for name in names:
        width = 8 if fnmatchcase(name, _KEPT) else bits
        for pattern, other in overrides:
            if fnmatchcase(name, pattern):
                width = other
        plan[name] = Grid(width, group if width < 8 else 0)
    return plan


def read_plan(path: Path, model: Checkpoint) -> dict[str, Grid]:
    """The plan in a JSON file, as `save_plan` wrote it. Raises `TyndaError` for any other."""
    found = read_json(path)
    known = _products(model)
    plan = {}
    for name, about in found.items():
        if not known.get(name):
            raise TyndaError(f"{path}: the model has no weight {name} that can be in few bits")
        try:
            plan[name] = Grid(about["bits"], about["group"])
        except (TyndaError, TypeError, KeyError):
            raise TyndaError(
                f"{path}: {name} should be like " + json.dumps({"bits": 4, "group": 32})
            ) from None
    return plan


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON: name -> bits and group, to be read and edited."""
    lines = {name: {"bits": grid.bits, "group": grid.group} for name, grid in plan.items()}
    write_whole(path, (json.dumps(lines, indent=1) + "\n").encode())


def _header(model: Checkpoint) -> Header:
    header = replace(model.header, config=asdict(model.config), tokenizer=model.tokenizer.to_dict())
    if getattr(model.config, "adapter", None) is not None:
        header.languages = header.languages[:1]
    return header


def _trainable(model: Checkpoint) -> dict[str, bool]:
    specs = models.family(model.header.family).specs(model.config)
    return {name: spec.trainable for name, spec in specs.items()}


def _products(model: Checkpoint) -> dict[str, bool]:
    """Whether each tensor is one that products are made with."""
    trainable = _trainable(model)
    return {name: is_product(w.shape, trainable[name]) for name, w in model.weights.items()}


def _few(
    model: Checkpoint,
    plan: Plan,
    method: str,
    calibration: Path | None,
    utterances: int,
    output: Path,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The tensors of a plan, and those that had to change with them."""
    if method == "rtn" and all(grid.bits == 8 for grid in plan.values()):
        return quantize_all({name: model.weights[name] for name in plan}, _trainable(model))
    from tynda.quant import methods  # what calibrates needs all of tynda
    from tynda.quant.calibrate import Calibration

    partial, settings = _partial(output), _settings(model, plan, method, calibration, utterances)
    done = _read_partial(partial, model, settings)

    def finished(tensors: dict[str, Any]) -> None:
        if on_progress:
            on_progress(sum(name in tensors for name in plan), len(plan))
        if method in CALIBRATED:
            header = replace(model.header, training={"quantizing": settings}, tokenizer={})
            save_model(partial, header, tensors)

    heard = Calibration(model, calibration, utterances) if calibration else None
    return methods.quantize(model, plan, method, heard, done, finished)


def _partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def _settings(model: Checkpoint, *others: Any) -> str:
    """All that the result depends on, in a line."""
    plan, *rest = others
    grids = sorted((name, grid.bits, grid.group) for name, grid in plan.items())
    return json.dumps([model.header.name, model.bytes, grids, *map(str, rest)])


def _read_partial(path: Path, model: Checkpoint, settings: str) -> dict[str, Any]:
    """What an earlier run with the same settings finished."""
    if not path.exists():
        return {}
    try:
        header, tensors = load_tensors(path, model)
    except TyndaError:
        return {}
    return tensors if header.training.get("quantizing") == settings else {}
