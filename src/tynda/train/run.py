"""The implementation of ``tynda train``: a recipe, overrides and a folder for the run."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tynda.errors import TyndaError
from tynda.files import make_folder
from tynda.hybrid import recipe as hybrid_recipe
from tynda.hybrid.run import Run as HybridRun
from tynda.train import distil_recipe
from tynda.train import recipe as recipes
from tynda.train.distil import Distiller
from tynda.train.finish import check, finish
from tynda.train.finish_speakers import finish_speakers
from tynda.train.loop import Trainer
from tynda.train.overlap import OverlapTrainer
from tynda.train.speakers import SpeakerTrainer

__all__ = ["train"]


def train(
    recipe: str,
    data: Path,
    output: Path | None = None,
    settings: Sequence[str] = (),
    *,
    init: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 1,
) -> Path:
    """Train by a recipe (bundled name or file) on the manifests under ``data``.

    ``settings`` are ``section.key=value`` in TOML syntax and override the recipe. Returns the
    path of the finished model. Raises `TyndaError` for an invalid recipe, setting, device or
    manifest, and for a run folder that is in use.
    """
    if threads:
        torch.set_num_threads(threads)
    _check_device(device)
    table = recipes.read_table(recipe, dict(_setting(s) for s in settings))
    # The command leaves out folders: they are private, and the model file stores the command.
    command = shlex.join(["tynda", "train", recipe, *(f"--set={s}" for s in settings)])
    if distil_recipe.is_distillation(table):
        distillation = distil_recipe.load(recipe, table)
        folder = _folder(output, distillation.name)
        if init is None:
            raise TyndaError(f"{recipe} begins with a model in few bits: --init FILE")
        distiller = Distiller(
            distillation,
            data,
            folder,
            init=init,
            device=device,
            threads=threads,
            command=command,
            resume=resume,
        )
        with _without_denormals():
            return distiller.run()
    if hybrid_recipe.is_hybrid(table):
        hybrid = hybrid_recipe.load(recipe, table)
        folder = _folder(output, hybrid.name)
        with _without_denormals():
            return HybridRun(hybrid, data, folder, command=command, init=init, resume=resume).run()
    loaded = recipes.from_table(recipe, table)
    check(loaded, data)
    folder = _folder(output, loaded.name)
    kind = SpeakerTrainer if loaded.margin else OverlapTrainer if loaded.mixing else Trainer
    trainer = kind(
        loaded,
        data,
        folder,
        device=device,
        workers=workers,
        command=command,
        init=init,
        resume=resume,
    )
    with _without_denormals():
        trained = trainer.run()
    if isinstance(trainer, SpeakerTrainer):
        return finish_speakers(loaded, data, trained, folder)
    path = finish(loaded, data, trained, folder)
    for grid in trainer.grids[1:]:
        finish(loaded, data, trainer.best(grid), folder)
    return path


def _folder(output: Path | None, name: str) -> Path:
    """Create the folder of a run, and return it."""
    output = output or Path("runs") / name
    make_folder(output)
    return output


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Compute with zeros instead of denormal numbers, which are slow on a CPU and not needed.

    The mode applies to the whole process, so it is reset afterwards.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _check_device(device: str) -> None:
    try:
        float(torch.zeros(1, device=device))  # fails for the device "meta", which has no data
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            pass
    except (RuntimeError, AssertionError, ImportError):  # depends on the build of torch
        raise TyndaError(f"no device {device!r} on this machine: try --device cpu") from None


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise TyndaError(f"--set {text}: write it as KEY=VALUE, such as optimizer.epochs=5")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise TyndaError(f"--set {text}: the value must be valid TOML, text in quotes") from None
