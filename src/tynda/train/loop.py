"""The training loop: one recipe in, one model file out, resumable after every epoch."""

from __future__ import annotations

import io
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from tynda import checkpoint, frontend, manifest, models
from tynda.decode import ctc
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.manifest import Utterance
from tynda.ops.torch import TorchOps
from tynda.recognizers import CTCRecognizer
from tynda.score import score
from tynda.text.normalize import english_letters
from tynda.text.tokenizer import ENGLISH
from tynda.train import data as train_data
from tynda.train.curve import draw
from tynda.train.phones import PHONES, Lexicon
from tynda.train.recipe import Optimizer, Recipe
from tynda.train.splice import Splicer, find_words

__all__ = ["Trainer", "initial_weights", "learning_rate"]

_PHONE_HEAD = "phones"


def learning_rate(step: int, total: int, o: Optimizer) -> float:
    """Rate of a step: linear warm-up, constant, linear to zero over the last ``cooldown``."""
    warm = min(1.0, (step + 1) / max(1, o.warmup_steps))
    cool = min(1.0, (total - step) / max(1.0, total * o.cooldown))
    return o.lr * warm * cool


def initial_weights(specs: dict[str, models.Spec], seed: int) -> dict[str, Tensor]:
    """Fresh weights, drawn as the specs say."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, spec in specs.items():
        value = torch.empty(spec.shape)
        if spec.init == "sinusoids":
            value = torch.from_numpy(models.sinusoids(*spec.shape))
        elif spec.init == "uniform":
            bound = 1 / math.sqrt(math.prod(spec.shape[1:]))
            value.uniform_(-bound, bound, generator=generator)
        else:
            value.fill_(1.0 if spec.init == "ones" else 0.0)
        out[name] = value
    return out


@dataclass
class Progressed:
    """Where a run stands; saved with the weights."""

    epoch: int = 0
    step: int = 0
    best_score: tuple[float, float] = (math.inf, math.inf)
    """Dev CER, and the loss to tell equals apart; without dev, the training loss twice."""
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises when it cannot be true, as of a damaged file."""
        epochs = [entry["epoch"] for entry in self.history]
        if epochs != list(range(1, self.epoch + 1)) or not 0 <= self.best_epoch <= self.epoch:
            raise ValueError("epochs and history do not agree")
        cer, loss = map(float, self.best_score)
        self.best_score = cer, loss
        if self.step < self.epoch:
            raise ValueError("an epoch has a step at least")


class Trainer:
    """A run of ``recipe`` on the manifests under ``folder``, kept in ``output``.

    The weights start at random, or as in the model file ``init``. ``output`` holds ``last.pt``
    (to resume), ``best.safetensors`` (the averaged weights with the best dev CER so far),
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
        self.tokenizer = ENGLISH
        self.frontend = frontend.from_config(dict(recipe.frontend))
        self.family = models.family(recipe.family)
        self.config = models.configure(
            self.family,
            {**recipe.model, "bins": self.frontend.bins, "vocab": len(self.tokenizer.symbols)},
        )
        self.lexicon = Lexicon() if recipe.phones else None
        self._open_state(init, resume)
        self._open_data(folder)
        self.splicer = self._find_words(init) if recipe.augment.splice else None

    def _open_data(self, folder: Path) -> None:
        d, cache = self.recipe.data, self.output / "cache"
        utterances, self.members = train_data.read_sources(folder, d.train, d.exclude_speakers)
        noises, rooms = (manifest.read(folder / m) if m else None for m in (d.noise, d.rooms))
        dev = [u for m in d.dev for u in manifest.read(folder / m)]
        if d.dev_utterances and len(dev) > d.dev_utterances:
            dev = [dev[i * len(dev) // d.dev_utterances] for i in range(d.dev_utterances)]
        for part, heard in (("data.train", utterances), ("data.dev", dev)):
            if heard and not any(english_letters(u.text) for u in heard):
                raise TyndaError(f"no text of {part} has an English letter: write what is said")
        self._say(f"{len(utterances)} utterances to train on; decoding them once")
        self.corpus = train_data.Corpus(utterances, cache)
        self._check_lengths()
        self.noises = train_data.Corpus(noises, cache) if noises else None
        self.rooms = train_data.Corpus(rooms, cache) if rooms else None
        self.dev = DevSet(train_data.Corpus(dev, cache), self.frontend) if dev else None

    def _check_lengths(self) -> None:
        """CTC needs a frame for each letter, and one between two that are the same."""
        frame = self.frontend.hop * self.config.stride / frontend.SAMPLE_RATE
        longest = self.recipe.data.max_seconds
        spoken = short = 0
        for i, utterance in enumerate(self.corpus.utterances):
            letters = self.tokenizer.encode(english_letters(utterance.text))
            seconds = self.corpus.seconds(i)
            if letters and train_data.SHORTEST <= seconds <= longest:
                spoken += 1
                short += len(letters) + sum(a == b for a, b in pairwise(letters)) > seconds / frame
        told = f"{short} of {spoken} texts are too long for their recordings"
        if spoken and short == spoken:
            raise TyndaError(f"{told}: check the manifests, or lower the model's stride")
        if short:
            warnings.warn(f"{told} and teach nothing: check them", stacklevel=2)

    def _find_words(self, init: Path | None) -> Splicer:
        if init is None:
            raise TyndaError("augment.splice needs a model that finds the words: --init MODEL")
        model = CTCRecognizer(checkpoint.load(init))
        self._say("finding the words")
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
        specs = self.family.specs(self.config)
        if self.recipe.phones:
            head = models.Spec((len(PHONES) + 1, self.config.channels))
            specs = specs | {
                f"{_PHONE_HEAD}.weight": head,
                f"{_PHONE_HEAD}.bias": models.Spec(head.shape[:1], "zeros"),
            }
        fresh = initial_weights(specs, o.seed)
        if init is not None:
            fresh |= self._initial_model(init)
        self.weights = {k: v.to(self.device) for k, v in fresh.items()}
        trained = {k: v for k, v in self.weights.items() if specs[k].trainable}
        # Norms and biases are not decayed, as is usual (Loshchilov & Hutter 2019 leave it open).
        groups = [
            {"params": [v for v in trained.values() if v.ndim > 1], "weight_decay": o.weight_decay},
            {"params": [v for v in trained.values() if v.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, fused=True)
        self.average = {k: v.clone() for k, v in self.weights.items()}
        self.trained = list(trained.values())
        for v in self.trained:
            v.requires_grad_()
        self.at = Progressed()
        last = self.output / "last.pt"
        if resume:
            self._resume(last)
        elif last.exists():
            raise TyndaError(f"{self.output} holds a run already: --resume it or choose another")

    def _initial_model(self, path: Path) -> dict[str, Tensor]:
        """The weights of a model file of the same shape."""
        model = checkpoint.load(path)
        # Dropout alone may differ: it has no weights.
        shape = replace(model.config, dropout=self.config.dropout)
        if model.header.family != self.recipe.family or shape != self.config:
            raise TyndaError(f"{path} has another shape than the recipe's model")
        return {k: torch.from_numpy(v) for k, v in model.weights.items()}

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
        except Exception:  # there is no end to what a damaged file may raise
            raise TyndaError(f"{last} is damaged: begin anew in another folder") from None
        if not shapes == averaged == expected:
            raise TyndaError(f"{last} comes from another recipe; resume with the one it began with")
        # The optimizer's state holds its old settings too, but the recipe's are to be obeyed.
        for group, mine in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(mine)
        self._tell_changes()

    def _tell_changes(self) -> None:
        """Say which settings of the recipe are not those that the run had so far."""
        try:
            before = _settings(json.loads((self.output / "log.json").read_text())["recipe"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        now = _settings(json.loads(json.dumps(asdict(self.recipe))))
        changed = sorted(k for k in before | now if before.get(k) != now.get(k))
        if changed := [k for k in changed if k != "optimizer.epochs"]:
            self._say(f"settings that are not those of the run so far: {', '.join(changed)}")

    def run(self, max_epochs: int | None = None) -> Path:
        """Train to the end of the recipe (or ``max_epochs`` more); gives the best model's path."""
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
            loss = entry["loss"]
            score = entry.get("dev_cer", loss), entry.get("dev_loss", loss)
            if score < self.at.best_score:
                self.at.best_score, self.at.best_epoch = score, self.at.epoch
                self.export(self.output / "best.safetensors", entry)
            entry["seconds"] = round(time.monotonic() - started, 1)
            self.at.history.append(entry)
            self._save()
            self._say("  ".join(f"{k} {_short(v)}" for k, v in entry.items()))
        return self.output / "best.safetensors"

    def _train_epoch(self) -> dict[str, float]:
        o, d = self.recipe.optimizer, self.recipe.data
        rng = np.random.default_rng([o.seed, self.at.epoch])
        # Dropout too depends on the epoch alone, so that a resumed run is the same run.
        torch.manual_seed(int(rng.spawn(1)[0].integers(1 << 63)))
        examples = train_data.plan_epoch(self.corpus, d.train, self.members, d.max_seconds, rng)
        seconds = [sum(map(self.corpus.seconds, e)) for e in examples]
        views = 2 if o.consistency and self.at.epoch >= o.consistency_start * o.epochs else 1
        # Short ones first, once: CTC finds its first alignments sooner (SortaGrad, Amodei et
        # al. 2016).
        shuffle = self.at.epoch > 0
        batches = [
            [examples[i] for i in b]
            for b in train_data.buckets(seconds, d.batch_seconds / views, rng, shuffle=shuffle)
        ]
        dataset = train_data.Examples(
            self.corpus,
            batches,
            self.frontend,
            self.tokenizer,
            self.lexicon,
            self.recipe.augment,
            self.noises,
            self.rooms,
            views,
            (o.seed, self.at.epoch),
            self.splicer,
        )
        # Steps that remain are counted at this epoch's length, so that a resumed run with
        # another number of epochs or batches still cools down at its end.
        total = self.at.step + len(batches) * (o.epochs - self.at.epoch)
        losses: list[float] = []
        with self._progress() as progress:
            title = f"epoch {self.at.epoch + 1}/{o.epochs}"
            task = progress.add_task(title, total=len(batches), loss="")
            for batch in train_data.iterate(dataset, self.workers):
                rate = learning_rate(self.at.step, total, o)
                losses.append(self._step(batch.to(self.device), rate, views))
                self.at.step += 1
                progress.update(task, advance=1, loss=f"loss {np.mean(losses[-50:]):.3f}")
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite or not all(bool(v.isfinite().all()) for v in self.average.values()):
            raise self._diverged()
        return {"loss": float(np.mean(finite)), "lr": rate, "steps": self.at.step}

    def _diverged(self) -> TyndaError:
        return TyndaError(
            f"the training diverged in epoch {self.at.epoch + 1}: lower optimizer.lr "
            f"({self.recipe.optimizer.lr:g}); what was saved before stays"
        )

    def _step(self, batch: train_data.Batch, rate: float, views: int) -> float:
        o = self.recipe.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, ctc_loss = self._loss(batch, views)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.trained, o.clip)
        if torch.isfinite(norm):  # one broken batch must not spoil the run
            self.optimizer.step()
        decay = min(o.average, (self.at.step + 1) / (self.at.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), list(self.weights.values()), 1 - decay
            )
        return float(ctc_loss.detach())

    def _loss(self, batch: train_data.Batch, views: int) -> tuple[Tensor, Tensor]:
        """The loss to minimise, and the plain CTC loss per letter to look at."""
        tapped: list[Tensor] = []  # the last one is what the letters' head sees as well
        with self._autocast():
            log_probs, lengths = self.family.encode(
                TorchOps(training=True),
                self.weights,
                self.config,
                batch.features,
                batch.lengths,
                lambda _, x: tapped.append(x),
            )
        letters = batch.label_lengths.sum().clamp(min=1)
        ctc_loss = _ctc(log_probs, lengths, batch.labels, batch.label_lengths) / letters
        loss = ctc_loss
        known = batch.phone_lengths > 0
        if self.recipe.phones and known.any():
            w, b = (self.weights[f"{_PHONE_HEAD}.{part}"] for part in ("weight", "bias"))
            phone_log_probs = F.log_softmax(F.linear(tapped[-1][known].float(), w, b), -1)
            phone_loss = _ctc(
                phone_log_probs, lengths[known], batch.phones, batch.phone_lengths[known]
            )
            loss = loss + self.recipe.phones.weight * phone_loss / letters
        if views == 2:
            loss = (
                loss
                + self.recipe.optimizer.consistency * _consistency(log_probs, lengths) / letters
            )
        return loss, ctc_loss

    def _autocast(self) -> torch.autocast:
        bf16 = self.recipe.optimizer.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    @torch.no_grad()
    def _score_dev(self) -> dict[str, float]:
        """CTC loss per letter, WER and CER of the averaged weights, greedy decoding."""
        assert self.dev is not None
        pairs, loss, letters = [], 0.0, 0
        for features, utterances in self.dev.batches(self.recipe.data.batch_seconds * 2):
            texts = [english_letters(u.text) for u in utterances]
            batch = train_data.collate(
                features, [self.tokenizer.encode(t) for t in texts], [[] for _ in texts]
            ).to(self.device)
            with self._autocast():
                log_probs, lengths = self.family.encode(
                    TorchOps(), self.average, self.config, batch.features, batch.lengths
                )
            if not log_probs.isfinite().all():
                raise self._diverged()
            loss += float(_ctc(log_probs, lengths, batch.labels, batch.label_lengths))
            letters += int(batch.label_lengths.sum())
            for row, length, text in zip(log_probs.cpu().numpy(), lengths, texts, strict=True):
                pairs.append((text, ctc.greedy(row[: int(length)], self.tokenizer).text))
        result = score(pairs)
        return {
            "dev_loss": loss / max(1, letters),
            "dev_wer": result.wer or 0,
            "dev_cer": result.cer or 0,
        }

    def export(self, path: Path, scores: dict[str, float]) -> None:
        """Write the averaged weights as a model file in f32."""
        recipe = self.recipe
        header = checkpoint.Header(
            name=recipe.name,
            family=recipe.family,
            config=asdict(self.config),
            frontend=self.frontend.config,
            tokenizer=self.tokenizer.to_dict(),
            languages=[recipe.language],
            licence=recipe.licence,
            training={"command": self.command, "recipe": asdict(recipe), **scores},
        )
        names = self.family.specs(self.config)
        weights = {k: self.average[k].detach().cpu().numpy() for k in names}
        checkpoint.save_model(path, header, weights)

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
        """One line, however long, as it is."""
        self.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


class DevSet:
    """Dev features, made once and kept in half precision."""

    def __init__(self, corpus: train_data.Corpus, front: frontend.FrontEnd) -> None:
        heard = [i for i in range(len(corpus)) if corpus.seconds(i) >= train_data.SHORTEST]
        if not heard:
            raise TyndaError(f"no dev recording lasts {train_data.SHORTEST} s: check data.dev")
        self.utterances = [corpus.utterances[i] for i in heard]
        self.seconds = [corpus.seconds(i) for i in heard]
        self.features = [front(corpus.samples(i)).astype(np.float16) for i in heard]

    def batches(
        self, seconds: float
    ) -> Sequence[tuple[list[np.ndarray[Any, Any]], list[Utterance]]]:
        """Batches of at most so many padded seconds, shortest first."""
        batches = train_data.pack(np.argsort(self.seconds).tolist(), self.seconds, seconds)
        return [
            ([self.features[i] for i in part], [self.utterances[i] for i in part])
            for part in batches
        ]


def _ctc(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        labels,
        lengths,
        label_lengths,
        reduction="sum",
        zero_infinity=True,
    )


def _consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Each view learns from the other's posteriors (CR-CTC, Yao et al. 2024, equation 5)."""
    first, second = log_probs.chunk(2)
    targets = torch.cat([second, first]).detach()
    divergence = F.kl_div(log_probs, targets, reduction="none", log_target=True).sum(-1)
    frames = torch.arange(divergence.shape[1], device=divergence.device)
    return (divergence * (frames < lengths[:, None])).sum()


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe as one level: ``section.key`` -> value."""
    out: dict[str, Any] = {}
    for name, value in recipe.items():
        section = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        out |= section or {name: value}
    return out


def _short(value: float) -> str:
    return f"{value:.4g}"
