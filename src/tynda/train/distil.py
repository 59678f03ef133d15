"""Label-free distillation: a model in few bits learns from its own full precision.

The student follows the teacher's texts; the Kullback-Leibler divergence of its distributions of the
next token from the teacher's is minimised (Hinton et al. 2015, "Distilling the knowledge in a
neural network"; Liu et al. 2023, "LLM-QAT", for rounded weights and generated texts). Where the
encoder learns, the squared error of its states is minimised as well.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from tynda import manifest
from tynda.compile.engine import open_engine
from tynda.compile.trace import Value, trace_call
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.heads import head_of
from tynda.ops.torch import RoundActivations, TorchOps, retain_freed_memory
from tynda.store import checkpoint, library
from tynda.train.damped import DampedAdam
from tynda.train.data import Corpus, Sounds, plan_epoch
from tynda.train.distil_recipe import Distillation
from tynda.train.recipe import Augment
from tynda.train.student import Student
from tynda.train.windows import Teacher, Window, Windows
from tynda.weights.weight import dequantize_all

__all__ = ["Distiller"]

# Updates over which the rate rises from 0: Adam's averages are noise at first.
_WARMUP = 20


class Distiller:
    """A run of ``recipe`` on the manifests under ``folder``, stored in ``output``."""

    def __init__(
        self,
        recipe: Distillation,
        folder: Path,
        output: Path,
        *,
        init: Path,
        device: str = "cpu",
        threads: int | None = None,
        command: str = "",
        resume: bool = False,
    ) -> None:
        self.recipe, self.output, self.command = recipe, output, command
        self.device, self.threads = torch.device(device), threads
        self.console = Console(stderr=True)
        self.teacher, self.start = library.load(recipe.teacher), checkpoint.load(init)
        self._check_models(init)
        encoder = self._encoder_names()
        self.learns_encoder = "encoder" in recipe.learn
        learning = encoder if self.learns_encoder else set[str]()
        if "decoder" in recipe.learn:
            learning = learning | (set(self.start.weights) - encoder)
        exact = dequantize_all(self.teacher.weights)
        self.student = Student(self.start, exact, learning, self.device)
        # The teacher's output layer: all that is needed of it once the windows are prepared.
        self.exact = {
            name: torch.from_numpy(exact[name]).to(self.device) for name in self._logits_names()
        }
        self.optimizer = DampedAdam(self.student.parameter_groups(), recipe.damping)
        self.rates = [group["lr"] * recipe.rate for group in self.optimizer.param_groups]
        self.at, self.history = 0, list[dict[str, float]]()
        last = output / "last.pt"
        if resume:
            self._resume(last)
        elif last.exists():
            raise TyndaError(f"{output} has a run already: --resume it or choose another")
        self._open_data(folder)

    def _check_models(self, init: Path) -> None:
        teacher, start = self.teacher, self.start
        if not head_of(start.family).has_decoder or start.config.frames is None:
            raise TyndaError(f"{init} has no decoder with windows: only such models are distilled")
        if teacher.family is not start.family or teacher.config != start.config:
            raise TyndaError(f"{self.recipe.teacher} is not the model that {init} was made from")

    def _encoder_names(self) -> set[str]:
        """Return the names of the weights that the encoder uses."""
        config = self.start.config
        features = Value((1, config.frames * config.stride, config.bins))
        return self._names("encode", features, Value((1,), is_integer=True))

    def _logits_names(self) -> set[str]:
        return self._names("logits", Value((1, self.start.config.channels)))

    def _names(self, program: str, *inputs: Value) -> set[str]:
        family, config = self.start.family, self.start.config
        traced, _ = trace_call(family.programs[program], family.shapes(config), config, *inputs)
        return {value.name for step in traced.steps for value in step.weights}

    def _open_data(self, folder: Path) -> None:
        d, recipe, cache = self.recipe.data, self.recipe, self.output / "cache"
        utterances, members = [], []
        for source in d.train:
            found = manifest.read(folder / source.manifest)
            members.append(list(range(len(utterances), len(utterances) + len(found))))
            utterances += found
        corpus = Corpus(utterances, cache)
        rng = np.random.default_rng(recipe.seed)
        examples = plan_epoch(corpus, d.train, members, d.max_seconds, rng)
        rng.shuffle(examples)
        noises: Sequence[Any] = ()
        if d.noise:
            noises = Sounds(Corpus(manifest.read(folder / d.noise), cache))
        self.windows = self._windows("train", corpus, examples, recipe.augment, noises)
        dev = [u for m in d.dev for u in manifest.read(folder / m)]
        count = min(d.dev_utterances or len(dev), len(dev))
        dev = [dev[i * len(dev) // count] for i in range(count)]
        singles = [(i,) for i in range(len(dev))]
        self.dev = self._windows("dev", Corpus(dev, cache), singles, Augment(), ()) if dev else None

    def _windows(
        self,
        name: str,
        corpus: Corpus,
        examples: Sequence[tuple[int, ...]],
        augment: Augment,
        noises: Sequence[Any],
    ) -> Windows:
        """Open the windows of a part of the data, and prepare those that are missing."""
        recipe = self.recipe
        audio = [str(u.audio) for u in corpus.utterances]
        identity = repr((recipe.teacher, recipe.samples, self.learns_encoder, audio))
        windows = Windows(
            corpus,
            examples,
            augment,
            noises,
            recipe.seed,
            self.teacher,
            self.output / "cache" / name,
            identity,
        )
        if len(windows.texts) == len(windows):
            return windows
        trainable = self.start.family.trainable(self.start.config)
        student = None
        if not self.learns_encoder:
            student = open_engine(self.start.weights, trainable, bits=8, threads=self.threads)
        teacher = Teacher(self.teacher, recipe.samples if name == "train" else 0, self.threads)
        started, begun = time.monotonic(), len(windows.texts)

        def report(done: int) -> None:
            if done % 50 == 0 or done == len(windows):
                seconds = (time.monotonic() - started) / (done - begun)
                self._say(f"{name}: {done} of {len(windows)} windows, {seconds:.2f} s each")

        windows.prepare(teacher, student, report)
        return windows

    def run(self) -> Path:
        """Learn to the end of the recipe; return the path of the model file."""
        retain_freed_memory()
        path = self.output / f"{self.recipe.name}.safetensors"
        recipe = self.recipe
        if self.dev and not self.at:
            self._say(f"before: dev {self.divergence():.4f} nats per token")
        started, losses = time.monotonic(), list[tuple[float, float]]()
        while self.at < recipe.updates:
            losses.append(self._update())
            self.at += 1
            if self.at % recipe.report == 0 or self.at == recipe.updates:
                seconds = (time.monotonic() - started) / len(losses)
                loss, error = (float(x) for x in np.mean(losses, axis=0))
                entry: dict[str, float] = {"update": self.at, "loss": loss}
                if self.learns_encoder:
                    entry["states"] = error
                if self.dev:
                    entry["dev"] = self.divergence()
                self.history.append({**entry, "seconds": seconds})
                self._say("  ".join(f"{k} {v:.4g}" for k, v in self.history[-1].items()))
                self._save()
                self.export(path)
                started, losses = time.monotonic(), []
        if not path.exists():
            self.export(path)
        return path

    def _update(self) -> tuple[float, float]:
        """Make one update; return the divergence per token, and the relative error of states."""
        recipe = self.recipe
        warm, left = min(1.0, (self.at + 1) / _WARMUP), 1 - self.at / recipe.updates
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm * left
        values, rounded = self.student.values()
        # The gradients of several windows are summed before they reach the parameters.
        leaves = {name: value.detach().requires_grad_() for name, value in rounded.items()}
        weights = {**values, **leaves}
        chosen = self._chosen(self.at)
        tokens = sum(sum(map(len, self.windows.texts[i])) for i in chosen)
        divergence, error = 0.0, 0.0
        for index in chosen:
            window = self.windows.get(index, features=self.learns_encoder)
            one, other = self._losses(window, weights)
            loss = one / tokens + recipe.states * other / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            divergence += float(one.detach()) / tokens
            error += float(other.detach()) / len(chosen)
        used = [(v, leaves[n].grad) for n, v in rounded.items() if leaves[n].grad is not None]
        torch.autograd.backward([v for v, _ in used], [g for _, g in used])
        if not np.isfinite(divergence):
            raise TyndaError(f"the distillation diverged at update {self.at + 1}: lower rate")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return divergence, error

    def _chosen(self, update: int) -> list[int]:
        """Return the windows of an update: each pass has all windows in another order."""
        size, count = self.recipe.batch, len(self.windows)
        chosen = []
        for i in range(update * size, (update + 1) * size):
            order = np.random.default_rng([self.recipe.seed, i // count]).permutation(count)
            chosen.append(int(order[i % count]))
        return chosen

    def _losses(self, window: Window, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the divergence, summed over tokens, and the relative squared error of states."""
        family, config = self.start.family, self.start.config
        ops = RoundActivations()
        target = torch.tensor(window.states, device=self.device).float()[None]
        lengths = torch.tensor([target.shape[1]], device=self.device)
        states, error = target, target.new_zeros(())
        if window.features is not None:
            features = torch.from_numpy(window.features)[None].to(self.device)
            size = torch.tensor([features.shape[1]], device=self.device)
            states, _ = family.programs["encode"](ops, weights, config, features, size)
            error = (states - target).square().mean() / target.square().mean()
        cross = family.programs["cross_kv"](ops, weights, config, states, lengths)
        longest = max(map(len, window.texts))
        tokens = torch.tensor([t + t[-1:] * (longest - len(t)) for t in window.texts])
        starts = torch.zeros(len(tokens), dtype=torch.long)
        tokens, starts = tokens.to(self.device), starts.to(self.device)
        decoded, _ = family.programs["decode"](ops, weights, config, tokens, starts, cross)
        rows = torch.cat([x[: len(t)] for x, t in zip(decoded, window.texts, strict=True)])
        found = family.programs["logits"](ops, weights, config, rows).log_softmax(-1)
        with torch.no_grad():
            expected = torch.tensor(window.decoded, device=self.device).float()
            logits = family.programs["logits"](TorchOps(), self.exact, config, expected)
            expected = logits.log_softmax(-1)
        divergence = torch.nn.functional.kl_div(found, expected, reduction="sum", log_target=True)
        return divergence, error

    @torch.no_grad()
    def divergence(self) -> float:
        """Return the divergence from the teacher on the dev windows, in nats for each token."""
        assert self.dev is not None
        weights, _ = self.student.values()
        total, tokens = 0.0, 0
        for index in range(len(self.dev)):
            window = self.dev.get(index, features=self.learns_encoder)
            total += float(self._losses(window, weights)[0])
            tokens += len(window.decoded)
        return total / tokens

    def export(self, path: Path) -> None:
        """Write the student as a model file."""
        start = self.start
        header = replace(
            start.header,
            tokenizer=start.tokenizer.to_dict(),
            scores={},
            training=start.header.training
            | {"distilled": {"command": self.command, **asdict(self.recipe)}},
        )
        checkpoint.save_model(path, header, self.student.weights(), bits=16)

    def _save(self) -> None:
        parameters = [p.detach() for g in self.optimizer.param_groups for p in g["params"]]
        state = {
            "parameters": parameters,
            "optimizer": self.optimizer.state_dict(),
            "at": self.at,
            "history": self.history,
        }
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(self.output / "last.pt", file.getvalue())
        log = {"command": self.command, "recipe": asdict(self.recipe), "updates": self.history}
        write_whole(self.output / "log.json", json.dumps(log, indent=1).encode())

    def _resume(self, last: Path) -> None:
        if not last.exists():
            raise TyndaError(f"nothing to resume: {last} does not exist")
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        try:
            state = torch.load(last, map_location=self.device, weights_only=True)
            with torch.no_grad():
                for mine, stored in zip(parameters, state["parameters"], strict=True):
                    mine.copy_(stored)
            self.optimizer.load_state_dict(state["optimizer"])
            self.at, self.history = int(state["at"]), list(state["history"])
        except Exception:  # a damaged file may raise any exception
            raise TyndaError(
                f"{last} is damaged, or the run began with another model: start again in another "
                "folder"
            ) from None

    def _say(self, line: str) -> None:
        """Print one line without wrapping or markup."""
        self.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)
