"""Label-free distillation: a model in few bits learns from its own full precision.

The student is forced to follow texts that the teacher generated, and the Kullback-Leibler
divergence of its distributions of the next token from the teacher's is minimised (Hinton et al.
2015, "Distilling the knowledge in a neural network"; Liu et al. 2023, "LLM-QAT", with generated
texts and rounded weights). Where the encoder learns, so is the squared error of its states.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
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
from tynda.heads.base import pad_tokens
from tynda.heads.seq2seq.search import Network
from tynda.ops.torch import TorchOps, retain_freed_memory
from tynda.ops.torch_rounded import RoundActivations
from tynda.store import checkpoint, library
from tynda.train.damped import DampedAdam
from tynda.train.data import Corpus, Sounds, plan_epoch
from tynda.train.distil_recipe import Distillation
from tynda.train.output_layer import MAX_STATES, fit_output_layer, output_divergence
from tynda.train.recipe import Augment
from tynda.train.student import Student
from tynda.train.windows import Encoded, Teacher, Windows
from tynda.weights.weight import dequantize_all, floats, in_few_bits

__all__ = ["Distiller"]

# Updates over which the rate rises from 0: the averages of Adam are noise at first.
_WARMUP = 20
# A report for the user while windows are prepared, after this number of windows.
_WINDOWS_REPORTED = 48
# The same while rows of the output layer are rounded.
_ROWS_REPORTED = 8192

Item = tuple[Windows, Encoded | None, int]
"""A window: where it is, the states of the student's encoder if that is fixed, and its index."""


class Distiller:
    """A run of ``recipe`` on the manifests under ``folder``, stored in ``output``.

    ``init`` is a model file in few bits. ``output`` holds ``NAME.safetensors``, the model so far;
    ``last.pt``, to resume; ``start-N.safetensors``, the model with which a later part began;
    ``log.json``; and ``cache``, the sound and the windows.
    """

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
        self.teacher = library.load(recipe.teacher)
        self.exact = dequantize_all(self.teacher.weights)
        self.history = list[dict[str, Any]]()
        last = output / "last.pt"
        if not resume and last.exists():
            raise TyndaError(f"{output} has a run already: --resume it or choose another")
        state = self._read_state(last) if resume else None
        self.part = int(state["part"]) if state else 0
        self._open_part(init if self.part == 0 else self._start(self.part))
        if state:
            self._restore(last, state)
        self._open_data(folder)

    def _start(self, part: int) -> Path:
        return self.output / f"start-{part}.safetensors"

    def _open_part(self, path: Path) -> None:
        """Begin with the next part of the model that learns, from the model file at ``path``."""
        self.model = checkpoint.load(path)
        self._digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._check_model(path)
        config = self.model.config
        features = Value((1, config.frames * config.stride, config.bins))
        encoder = self._names("encode", features, Value((1,), is_integer=True))
        names = encoder if self._learns == "encoder" else set(self.model.weights) - encoder
        # This is all that is needed of the teacher once the windows are prepared.
        self._output_layer = {
            name: torch.from_numpy(self.exact[name]).to(self.device)
            for name in self._names("logits", Value((1, config.channels)))
        }
        self.student = Student(self.model, self.exact, names, self.device)
        self.optimizer = DampedAdam(self.student.parameter_groups(), self.recipe.damping)
        self.rates = [group["lr"] * self.recipe.rate for group in self.optimizer.param_groups]
        self.at = 0

    @property
    def _learns(self) -> str:
        """The part of the model that learns now."""
        return self.recipe.learn[self.part]

    def _check_model(self, path: Path) -> None:
        teacher, model = self.teacher, self.model
        if not head_of(model.family).has_decoder or model.config.frames is None:
            raise TyndaError(f"{path} has no decoder with windows: only such models are distilled")
        if teacher.family is not model.family or teacher.config != model.config:
            raise TyndaError(f"{self.recipe.teacher} is not the model that {path} was made from")

    def _names(self, program: str, *inputs: Value) -> set[str]:
        """Return the names of the weights that a program of the family uses."""
        family, config = self.model.family, self.model.config
        traced, _ = trace_call(family.programs[program], family.shapes(config), config, *inputs)
        return {value.name for step in traced.steps for value in step.weights}

    def _open_data(self, folder: Path) -> None:
        d, recipe, cache = self.recipe.data, self.recipe, self.output / "cache"
        utterances = [manifest.read(folder / source.manifest) for source in d.train]
        ends = np.cumsum([0, *map(len, utterances)])
        members = [list(range(a, b)) for a, b in pairwise(ends)]
        corpus = Corpus([u for part in utterances for u in part], cache)
        rng = np.random.default_rng(recipe.seed)
        examples = plan_epoch(corpus, d.train, members, d.max_seconds, rng)
        rng.shuffle(examples)
        noises = Sounds(Corpus(manifest.read(folder / d.noise), cache) if d.noise else None)
        self.train = self._windows("train", corpus, examples, recipe.augment, noises)
        dev = [u for m in d.dev for u in manifest.read(folder / m)]
        count = min(d.dev_utterances or len(dev), len(dev))
        dev = [dev[i * len(dev) // count] for i in range(count)]
        singles = [(i,) for i in range(count)]
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
        recipe, folder = self.recipe, self.output / "cache" / name
        audio = [str(u.audio) for u in corpus.utterances]
        identity = repr((recipe.teacher, recipe.samples, audio))
        windows = Windows(
            corpus, examples, augment, noises, recipe.seed, self.teacher, folder, identity
        )
        if len(windows.texts) < len(windows):
            teacher = Teacher(self.teacher, recipe.samples if name == "train" else 0, self.threads)
            windows.prepare(teacher, self._report_windows(f"{name}: texts of", len(windows)))
        return windows

    def _report_windows(self, title: str, count: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            if done % _WINDOWS_REPORTED == 0 or done == count:
                self._say(f"{title} {done} of {count} windows")

        return report

    def _items(self, name: str, windows: Windows | None) -> list[Item]:
        """Return the windows of a part of the data, with states of the student's encoder."""
        if windows is None:
            return []
        if self._learns == "encoder":
            return [(windows, None, i) for i in range(len(windows))]
        model = self.model
        trainable = model.family.trainable(model.config)
        engine = open_engine(model.weights, trainable, bits=8, threads=self.threads)
        network = Network(engine, model.family, model.config, model.tokenizer, ())
        report = self._report_windows(f"{name}: states of", len(windows))
        encoded = windows.encode(network, f"student-{self._digest}", report)
        return [(windows, encoded, i) for i in range(len(windows))]

    def run(self) -> Path:
        """Learn to the end of the recipe; return the path of the model file."""
        retain_freed_memory()
        path = self.output / f"{self.recipe.name}.safetensors"
        while True:
            if self._learns == "output":
                weights = self._fit_output()
            else:
                self._run_part(path)
                weights = self.student.weights()
            if self.part + 1 == len(self.recipe.learn):
                self.export(path, weights)
                self._save()
                return path
            self.part += 1
            self.export(self._start(self.part), weights)
            self._open_part(self._start(self.part))
            self._save()

    def _fit_output(self) -> dict[str, Any]:
        """Round the matrices of the output layer again; return all weights as they are stored."""
        weights = dict(self.model.weights)
        states = self._decoded(self.train)
        dev = None if self.dev is None else self._decoded(self.dev)
        for name, exact in self._output_layer.items():
            if (few := in_few_bits(weights[name])) is None:
                continue
            weights[name] = fit_output_layer(exact, few[0], states, self._report_rows)
            if dev is not None:
                before, after = (
                    output_divergence(exact, torch.from_numpy(floats(x)).to(exact), dev)
                    for x in (few[0], weights[name])
                )
                self.history.append({"part": "output", "before": before, "dev": after})
                self._say(f"output: dev {after:.4f} nats per token, {before:.4f} before")
        return weights

    def _decoded(self, windows: Windows) -> Tensor:
        """Return the states of the teacher's decoder, evenly spaced where there are many."""
        step = -(-len(windows.decoded) // MAX_STATES)
        return torch.from_numpy(windows.decoded[::step].astype(np.float32)).to(self.device)

    def _report_rows(self, done: int, count: int) -> None:
        if done == count or done % _ROWS_REPORTED == 0:
            self._say(f"output: {done} of {count} rows")

    def _run_part(self, path: Path) -> None:
        recipe, losses = self.recipe, list[tuple[float, float]]()
        train, dev = self._items("train", self.train), self._items("dev", self.dev)
        if dev and not self.at:
            self._say(f"{recipe.learn[self.part]}: dev {self.divergence(dev):.4f} nats per token")
        started = time.monotonic()
        while self.at < recipe.updates:
            losses.append(self._update(train))
            self.at += 1
            if self.at % recipe.report == 0 or self.at == recipe.updates:
                loss, error = (float(x) for x in np.mean(losses, axis=0))
                entry: dict[str, Any] = {"part": recipe.learn[self.part], "update": self.at}
                entry |= {"loss": loss} | ({"states": error} if self._learns == "encoder" else {})
                entry |= {"dev": self.divergence(dev)} if dev else {}
                seconds = (time.monotonic() - started) / len(losses)
                self.history.append({**entry, "seconds": round(seconds, 2)})
                self._say("  ".join(f"{k} {_short(v)}" for k, v in self.history[-1].items()))
                self._save()
                self.export(path, self.student.weights())
                started, losses = time.monotonic(), []

    def _update(self, items: Sequence[Item]) -> tuple[float, float]:
        """Make one update; return the divergence per token, and the relative error of states."""
        recipe = self.recipe
        warm, left = min(1.0, (self.at + 1) / _WARMUP), 1 - self.at / recipe.updates
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm * left
        values, rounded = self.student.values()
        # The gradients of several windows are summed before they reach the parameters.
        leaves = {name: value.detach().requires_grad_() for name, value in rounded.items()}
        chosen = [items[i] for i in self._chosen(len(items))]
        tokens = sum(len(windows[i].decoded) for windows, _, i in chosen)
        divergence, error = 0.0, 0.0
        for item in chosen:
            one, other = self._losses(item, {**values, **leaves})
            one, other = one / tokens, other / len(chosen)
            (one + recipe.states * other).backward()  # type: ignore[no-untyped-call]
            divergence, error = divergence + float(one.detach()), error + float(other.detach())
        if not math.isfinite(divergence + error):
            raise TyndaError(f"the distillation diverged at update {self.at + 1}: lower rate")
        used = [(v, leaf.grad) for n, v in rounded.items() if (leaf := leaves[n]).grad is not None]
        torch.autograd.backward([v for v, _ in used], [g for _, g in used])
        self.optimizer.step()
        self.optimizer.zero_grad()
        return divergence, error

    def _chosen(self, count: int) -> list[int]:
        """Return the windows of an update; each pass has all of them in another order."""
        size, chosen = self.recipe.batch, list[int]()
        for i in range(self.at * size, (self.at + 1) * size):
            order = np.random.default_rng([self.recipe.seed, i // count]).permutation(count)
            chosen.append(int(order[i % count]))
        return chosen

    def _losses(self, item: Item, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the divergence, summed over tokens, and the relative squared error of states."""
        windows, encoded, index = item
        window, (programs, config) = windows[index], self._settings
        ops, device = RoundActivations(), self.device

        def tensor(x: Any) -> Tensor:
            return torch.tensor(x, device=device)

        target = tensor(window.states if encoded is None else encoded[index]).float()[None]
        states, error = target, target.new_zeros(())
        if encoded is None:
            features = tensor(windows.features(index))[None]
            length = tensor([features.shape[1]])
            states, _ = programs["encode"](ops, weights, config, features, length)
            error = (states - target).square().mean() / target.square().mean()
        cross = programs["cross_kv"](ops, weights, config, states, tensor([states.shape[1]]))
        tokens, starts = tensor(pad_tokens(window.texts)), tensor([0] * len(window.texts))
        decoded, _ = programs["decode"](ops, weights, config, tokens, starts, cross)
        rows = torch.cat([x[: len(t)] for x, t in zip(decoded, window.texts, strict=True)])
        found = programs["logits"](ops, weights, config, rows).log_softmax(-1)
        with torch.no_grad():
            exact = tensor(window.decoded).float()
            logits = programs["logits"](TorchOps(), self._output_layer, config, exact)
            expected = logits.log_softmax(-1)
        divergence = torch.nn.functional.kl_div(found, expected, reduction="sum", log_target=True)
        return divergence, error

    @property
    def _settings(self) -> tuple[Any, Any]:
        return self.model.family.programs, self.model.config

    @torch.no_grad()
    def divergence(self, items: Sequence[Item]) -> float:
        """Return the divergence from the teacher, in nats for each token."""
        weights, _ = self.student.values()
        total = sum(float(self._losses(item, weights)[0]) for item in items)
        return total / sum(len(windows[i].decoded) for windows, _, i in items)

    def export(self, path: Path, weights: Mapping[str, Any]) -> None:
        """Write a model file with the ``weights``."""
        model = self.model
        about = {"command": self.command, **asdict(self.recipe)}
        header = replace(
            model.header,
            tokenizer=model.tokenizer.to_dict(),
            scores={},
            training=model.header.training | {"distilled": about},
        )
        checkpoint.save_model(path, header, weights, bits=16)

    def _save(self) -> None:
        state = {
            "parameters": [p.detach() for p in self._parameters],
            "optimizer": self.optimizer.state_dict(),
            "part": self.part,
            "at": self.at,
            "history": self.history,
        }
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(self.output / "last.pt", file.getvalue())
        log = {"command": self.command, "recipe": asdict(self.recipe), "updates": self.history}
        write_whole(self.output / "log.json", json.dumps(log, indent=1).encode())

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _read_state(self, last: Path) -> dict[str, Any]:
        if not last.exists():
            raise TyndaError(f"nothing to resume: {last} does not exist")
        try:
            state: dict[str, Any] = torch.load(last, map_location=self.device, weights_only=True)
            if not 0 <= state["part"] < len(self.recipe.learn):
                raise ValueError
            return state
        except Exception:  # a damaged file may raise any exception
            raise TyndaError(f"{last} is damaged: start again in another folder") from None

    def _restore(self, last: Path, state: dict[str, Any]) -> None:
        try:
            with torch.no_grad():
                for mine, stored in zip(self._parameters, state["parameters"], strict=True):
                    mine.copy_(stored)
            self.optimizer.load_state_dict(state["optimizer"])
            self.at, self.history = int(state["at"]), list(state["history"])
        except Exception:
            raise TyndaError(
                f"{last} does not fit: resume with the recipe and the --init of its first call"
            ) from None

    def _say(self, line: str) -> None:
        """Print one line without wrapping or markup."""
        self.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
