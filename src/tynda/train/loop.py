"""The training loop: it turns a recipe into a model file and can resume after every epoch."""

from __future__ import annotations

import functools
import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from tynda import manifest, models
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.ops.torch import has_bfloat16, retain_freed_memory
from tynda.score import score
from tynda.sound import frontend
from tynda.store import checkpoint
from tynda.text.normalize import english_letters
from tynda.train import data as train_data
from tynda.train.ctc import CTC
from tynda.train.curve import draw
from tynda.train.dev import DevSet
from tynda.train.objective import Objective
from tynda.train.phones import Lexicon
from tynda.train.progress import Progressed, flattened
from tynda.train.recipe import Recipe
from tynda.train.rounding import Rounder
from tynda.train.seq2seq import Seq2Seq
from tynda.train.splice import Splicer, find_words
from tynda.train.start import adam, initial_weights, learning_rate
from tynda.train.teacher import Teacher
from tynda.weights.grid import Grid
from tynda.weights.weight import dequantize_all

__all__ = ["Trainer"]

OBJECTIVES: dict[str, type[CTC] | type[Seq2Seq]] = {"ctc": CTC, "seq2seq": Seq2Seq}
"""The training objective for each kind of head."""


class Trainer:
    """A run of ``recipe`` on the manifests under ``folder``, stored in ``output``.

    The weights start at random, or as in the model file ``init``. ``output`` holds ``last.pt``
    (to resume), ``best.safetensors`` (the averaged weights with the best dev CER so far; with
    quantisation-aware training, ``best-3bit.safetensors`` and the like for the other widths),
    ``log.json`` and ``curve.png``.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        output: Path,
        *,
        device: str = "cpu",
        workers: int = 1,
        command: str = "",
        init: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.recipe, self.output, self.command = recipe, output, command
        self.device, self.workers = torch.device(device), workers
        self.console = Console(stderr=True)
        self.frontend = frontend.from_config(dict(recipe.frontend))
        self.lexicon = Lexicon() if recipe.phones else None
        sources = self._read_sources(folder)
        self.objective = self._choose_objective(sources[0])
        if recipe.optimizer.precision == "bf16" and not has_bfloat16(self.device.type):
            self._say("this processor does not support bfloat16: training in float32")
        self._open_state(init, resume)
        self._open_data(folder, *sources)
        self.splicer = self._find_words(init) if recipe.augment.splice else None

    def _read_sources(self, folder: Path) -> tuple[list[Utterance], list[list[int]]]:
        d = self.recipe.data
        return train_data.read_sources(folder, d.train, d.exclude_speakers)

    def _choose_objective(self, utterances: Sequence[Utterance]) -> Objective:
        distill = self.recipe.distill
        teacher = Teacher(distill.teacher, self.device) if distill else None
        texts = sorted({english_letters(u.text) for u in utterances})
        objective = OBJECTIVES[models.family(self.recipe.family).head]
        return objective(self.recipe, self.frontend, texts, teacher)

    def _open_data(
        self, folder: Path, utterances: list[Utterance], members: list[list[int]]
    ) -> None:
        d, cache = self.recipe.data, self.output / "cache"
        self.members = members
        noises, rooms = (manifest.read(folder / m) if m else None for m in (d.noise, d.rooms))
        dev = [u for m in d.dev for u in manifest.read(folder / m)]
        if d.dev_utterances and len(dev) > d.dev_utterances:
            dev = [dev[i * len(dev) // d.dev_utterances] for i in range(d.dev_utterances)]
        for part, spoken in (("data.train", utterances), ("data.dev", dev)):
            if spoken and not any(english_letters(u.text) for u in spoken):
                raise TyndaError(f"no text of {part} has an English letter: check the manifests")
        self._say(f"{len(utterances)} utterances to train on; decoding them")
        self.corpus = train_data.Corpus(utterances, cache)
        self.frontend = self.objective.frontend = train_data.fitted(self.frontend, self.corpus)
        self.objective.check(self.corpus)
        self.noises = train_data.Corpus(noises, cache) if noises else None
        self.rooms = train_data.Corpus(rooms, cache) if rooms else None
        self.dev = DevSet(train_data.Corpus(dev, cache), self.objective) if dev else None

    def _find_words(self, init: Path | None) -> Splicer:
        if init is None:
            raise TyndaError("augment.splice needs a model that aligns the words: --init MODEL")
        model = Model(checkpoint.load(init))
        self._say("aligning the words")
        with self._progress() as progress:
            task = progress.add_task("words", total=len(self.corpus), loss="")
            cuts = find_words(
                model,
                self.corpus,
                self.output / "words.json",
                lambda done: progress.update(task, completed=done),
            )
        return Splicer(self.corpus, cuts)

    def _open_state(self, init: Path | None, resume: bool) -> None:
        o = self.recipe.optimizer
        torch.manual_seed(o.seed)
        specs = self.objective.specs()
        fresh = initial_weights(specs, o.seed)
        if init is not None:
            fresh |= self._initial_model(init)
        self.rounder = None
        if rounding := self.recipe.rounding:
            self.rounder = Rounder(rounding, self.objective.family.specs(self.objective.config))
            fresh |= self.rounder.factors
        self.weights = {k: v.to(self.device) for k, v in fresh.items()}
        fixed = {k for k, spec in specs.items() if not spec.trainable}
        trained = {k: v for k, v in self.weights.items() if k not in fixed}
        self.optimizer = adam(trained, specs, o)
        self.average = {k: v.clone() for k, v in self.weights.items()}
        self.trained = list(trained.values())
        for v in self.trained:
            v.requires_grad_()
        self.at = Progressed()
        last = self.output / "last.pt"
        if resume:
            self._resume(last)
        elif last.exists():
            raise TyndaError(f"{self.output} has a run already: --resume it or choose another")

    def _initial_model(self, path: Path) -> dict[str, Tensor]:
        """Read the weights of a model file of the same shape."""
        model = checkpoint.load(path)
        # Only dropout may differ, since it has no weights.
        config = self.objective.config
        shape = asdict(replace(model.config, dropout=config.dropout))
        if model.header.family not in (self.recipe.family, *self.objective.family.same_tensors):
            raise TyndaError(
                f"{path} is a {model.header.family}, but the recipe's is a {self.recipe.family}"
            )
        for name, mine in asdict(config).items():
            if (its := shape.get(name, mine)) != mine:
                raise TyndaError(f"{path} has a {name} of {its}, the recipe's model one of {mine}")
        return {k: torch.from_numpy(v) for k, v in dequantize_all(model.weights).items()}

    def _resume(self, last: Path) -> None:
        if not last.exists():
            raise TyndaError(f"nothing to resume: {last} does not exist")
        settings = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        try:
            state = torch.load(last, map_location=self.device, weights_only=True)
            shapes, averaged, expected = (
                {k: v.shape for k, v in w.items()}
                for w in (state["weights"], state["average"], self.weights)
            )
            if shapes == averaged == expected:
                with torch.no_grad():
                    for name, value in self.weights.items():
                        value.copy_(state["weights"][name])
                        self.average[name].copy_(state["average"][name])
                self.optimizer.load_state_dict(state["optimizer"])
            self.at = Progressed(**state["progress"])
        except Exception:  # a damaged file may raise any exception
            raise TyndaError(f"{last} is damaged: start again in another folder") from None
        if not shapes == averaged == expected:
            tensors = sorted(expected | shapes | averaged)
            other = next(
                k for k in tensors if not shapes.get(k) == averaged.get(k) == expected.get(k)
            )
            raise TyndaError(
                f"{last} comes from another recipe (its {other} differs): "
                "resume with the one it started with"
            )
        # The optimizer's state contains its old settings too, but those of the recipe apply.
        for group, mine in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(mine)
        self._report_changes()

    def _report_changes(self) -> None:
        """Report the settings of the recipe that differ from those of the run so far."""
        try:
            before = flattened(json.loads((self.output / "log.json").read_text())["recipe"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        now = flattened(json.loads(json.dumps(asdict(self.recipe))))
        # A setting that is missing in the log is newer than the run.
        changed = sorted(k for k in before if k not in now or before[k] != now[k])
        if changed := [k for k in changed if k != "optimizer.epochs"]:
            self._say(f"settings that differ from the run so far: {', '.join(changed)}")

    def run(self, max_epochs: int | None = None) -> Path:
        """Train to the end of the recipe or ``max_epochs`` more; return the best model's path."""
        retain_freed_memory()
        o = self.recipe.optimizer
        stop = o.epochs if max_epochs is None else min(o.epochs, self.at.epoch + max_epochs)
        while self.at.epoch < stop:
            if o.patience and self.at.epoch - self.at.best_epoch >= o.patience:
                self._say(f"no better dev CER in {o.patience} epochs: stopping early")
                break
            started = time.monotonic()
            entry: dict[str, float] = {"epoch": self.at.epoch + 1, **self._train_epoch()}
            if self.dev:
                entry |= self._score_dev()
            self.at.epoch += 1
            score = self._rank(entry)
            if score < self.at.best_score:
                self.at.best_score, self.at.best_epoch = score, self.at.epoch
                self.export(entry)
            entry["seconds"] = round(time.monotonic() - started, 1)
            self.at.history.append(entry)
            self._save()
            self._say("  ".join(f"{k} {_short(v)}" for k, v in entry.items()))
        return self.best(self.grids[0])

    def _rank(self, entry: dict[str, float]) -> tuple[float, float]:
        """Return the score of an epoch, of which the minimum is the best."""
        loss = entry["loss"]
        return entry.get("dev_cer", loss), entry.get("dev_loss", loss)

    def _train_epoch(self) -> dict[str, float]:
        o = self.recipe.optimizer
        rng = np.random.default_rng([o.seed, self.at.epoch])
        # Dropout too depends on the epoch alone, so that a resumed run gives the same result.
        torch.manual_seed(int(rng.spawn(1)[0].integers(1 << 63)))
        views = 2 if o.consistency and self.at.epoch >= o.consistency_start * o.epochs else 1
        dataset = self._examples(rng, views)
        # The remaining steps are counted with this epoch's length, so that a resumed run with
        # another number of epochs or batches still cools down at its end.
        total = self.at.step + len(dataset) * (o.epochs - self.at.epoch)
        losses: list[float] = []
        with self._progress() as progress:
            title = f"epoch {self.at.epoch + 1}/{o.epochs}"
            task = progress.add_task(title, total=len(dataset), loss="")
            for batch in train_data.iterate(dataset, self.workers):
                rate = learning_rate(self.at.step, total, o)
                grid = self.grids[int(rng.integers(len(self.grids)))]
                losses.append(self._step(batch.to(self.device), rate, views, grid))
                self.at.step += 1
                progress.update(task, advance=1, loss=f"loss {np.mean(losses[-50:]):.3f}")
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite or not all(bool(v.isfinite().all()) for v in self.average.values()):
            raise self._diverged()
        return {"loss": float(np.mean(finite)), "lr": rate, "steps": self.at.step}

    def _examples(self, rng: np.random.Generator, views: int) -> train_data.Batches:
        """Return the batches of an epoch."""
        o, d = self.recipe.optimizer, self.recipe.data
        examples = train_data.plan_epoch(self.corpus, d.train, self.members, d.max_seconds, rng)
        window = self.objective.window_seconds if d.window == "exact" else None
        seconds = [window or sum(map(self.corpus.seconds, e)) for e in examples]
        # The first epoch goes from short to long: CTC finds its first alignments sooner
        # (SortaGrad, Amodei et al. 2016).
        shuffle = self.at.epoch > 0
        batches = [
            [examples[i] for i in b]
            for b in train_data.buckets(seconds, d.batch_seconds / views, rng, shuffle=shuffle)
        ]
        return train_data.Examples(
            self.corpus,
            batches,
            self.frontend,
            self.objective.labels,
            functools.partial(self.objective.fit, window=d.window),
            self.lexicon,
            self.recipe.augment,
            self.noises,
            self.rooms,
            views,
            (o.seed, self.at.epoch),
            self.splicer,
            self.objective.window_seconds or math.inf,
            self.objective.teacher.frontend if self.objective.teacher else None,
        )

    def _diverged(self) -> TyndaError:
        return TyndaError(
            f"the training diverged in epoch {self.at.epoch + 1}: lower optimizer.lr "
            f"({self.recipe.optimizer.lr:g}); files saved before are kept"
        )

    def _step(self, batch: train_data.Batch, rate: float, views: int, grid: Grid | None) -> float:
        o = self.recipe.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, plain = self.objective.loss(self._rounded(self.weights, grid), batch, views)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.trained, o.clip)
        if torch.isfinite(norm):  # a single batch with infinite gradients must not ruin the run
            self.optimizer.step()
        decay = min(o.average, (self.at.step + 1) / (self.at.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), list(self.weights.values()), 1 - decay
            )
        return float(plain.detach())

    def _rounded(self, weights: dict[str, Tensor], grid: Grid | None) -> dict[str, Tensor]:
        """Return the weights as the model file will have them."""
        if self.rounder is None or grid is None:
            return weights
        return self.rounder(weights, grid)

    @torch.no_grad()
    def _score_dev(self) -> dict[str, float]:
        """Return plain loss per label, WER and CER of the averaged weights, decoded greedily."""
        assert self.dev is not None
        objective, rng = self.objective, np.random.default_rng(0)
        pairs: list[tuple[str, str]] = []
        loss, count = 0.0, 0
        weights = self._rounded(self.average, self.grids[0])
        for features, said in self.dev.batches(self.recipe.data.batch_seconds * 2):
            texts = [s.text for s in said]
            labels = [objective.labels([s], rng) for s in said]
            batch = train_data.collate(features, labels, [[] for _ in texts]).to(self.device)
            try:
                part, number, hypotheses = objective.evaluate(weights, batch)
            except FloatingPointError:
                raise self._diverged() from None
            loss, count = loss + part, count + number
            pairs += zip(texts, hypotheses, strict=True)
        result = score(pairs)
        return {
            "dev_loss": loss / max(1, count),
            "dev_wer": result.wer or 0,
            "dev_cer": result.cer or 0,
        }

    @property
    def grids(self) -> Sequence[Grid | None]:
        """The grids that weights are rounded to; the first is scored, None means no rounding."""
        return self.rounder.grids if self.rounder else [None]

    def best(self, grid: Grid | None) -> Path:
        """Return the path of the model file with the best weights so far."""
        width = f"-{grid.bits:g}bit" if grid and grid != self.grids[0] else ""
        return self.output / f"best{width}.safetensors"

    def export(self, scores: dict[str, float]) -> None:
        """Write the averaged weights as model files, in f32 or rounded to each grid."""
        recipe, objective = self.recipe, self.objective
        header = checkpoint.Header(
            name=recipe.name,
            family=recipe.family,
            config=asdict(objective.config),
            frontend=self.frontend.config,
            tokenizer=objective.tokenizer.to_dict(),
            languages=[recipe.language],
            licence=recipe.licence,
            decoding=objective.decoding,
            training={"command": self.command, "recipe": asdict(recipe), **scores},
        )
        names = objective.family.specs(objective.config)
        weights: dict[str, Any] = {k: self.average[k].detach().cpu().numpy() for k in names}
        for grid in self.grids:
            if self.rounder and grid:
                weights |= self.rounder.coded(self.average, grid)
            checkpoint.save_model(self.best(grid), header, weights)

    def _save(self) -> None:
        state = {
            "weights": self.weights,
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.at),
        }
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(self.output / "last.pt", file.getvalue())
        log = {"command": self.command, "recipe": asdict(self.recipe), "epochs": self.at.history}
        write_whole(self.output / "log.json", json.dumps(log, indent=1).encode())
        draw(self.at.history, self.output / "curve.png")

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def _say(self, line: str) -> None:
        """Print one line without wrapping or markup."""
        self.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _short(value: float) -> str:
    return f"{value:.4g}"
