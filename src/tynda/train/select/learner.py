"""A finished model as training sees it: its loss of one recording, with gradients."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tynda.compile.engine import Eager
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.heads.seq2seq.head import first_language
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.pieces import max_samples
from tynda.heads.seq2seq.search import Network, start_tokens
from tynda.heads.seq2seq.windows import encode_windows, merge_padding
from tynda.models.base import CrossKV, MergedFrames
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.text.normalize import normalizer_of
from tynda.train.data import SHORTEST
from tynda.train.objective import ctc_loss
from tynda.weights.weight import dequantize_all

__all__ = ["Learner", "UnusableError", "learner_of"]

Floats = NDArray[np.float32]

# Maximum duration in seconds of a recording for CTC, whose attention needs memory for each pair of
# frames.
_LONGEST = 40.0


class UnusableError(Exception):
    """A recording from which the model cannot learn; the message is the reason, in a few words."""


class Learner(ABC):
    """A finished model in full precision, without dropout. ``weights`` are those that learn."""

    def __init__(self, model: Checkpoint) -> None:
        self.model = model
        self._head, self._ops = head_of(model.family), TorchOps()
        trained = model.family.trainable(model.config)
        self._all = {
            name: torch.from_numpy(value) for name, value in dequantize_all(model.weights).items()
        }
        self.weights = {
            name: value.requires_grad_() for name, value in self._all.items() if trained[name]
        }

    @property
    def digest(self) -> str:
        """The digest of name and weights, which tells models apart that have the same name."""
        found = hashlib.sha256(self.model.header.name.encode())
        for name in sorted(self._all):
            found.update(name.encode())
            found.update(self._all[name].detach().contiguous().numpy().data)
        return found.hexdigest()

    @abstractmethod
    def loss(self, samples: Floats, text: str, language: str | None = None) -> Tensor:
        """Return the mean loss for each symbol of the text, with gradients to `weights`.

        ``samples [n]`` are float32 at 16 kHz; ``language`` is that of the recording, where it is
        known. Raises `UnusableError` where audio or text are not ones to learn from.
        """

    @abstractmethod
    def states(self, samples: Floats) -> Tensor:
        """Return the states ``[frames, channels]`` of the encoder's last layer, without gradients.

        Raises `UnusableError` as `loss` does.
        """

    def gradients(
        self, samples: Floats, text: str, language: str | None = None
    ) -> Mapping[str, Tensor]:
        """Return the gradients of `loss`, by the names of `weights`; unused weights have none.

        Raises `UnusableError` as `loss` does, and for gradients that are not finite.
        """
        names, values = zip(*self.weights.items(), strict=True)
        loss = self.loss(samples, text, language)
        found = torch.autograd.grad(loss, values, allow_unused=True)
        used = {n: g for n, g in zip(names, found, strict=True) if g is not None}
        if not all(bool(g.isfinite().all()) for g in used.values()):
            raise UnusableError("gradients are not finite")
        return used

    def _features(self, samples: Floats, longest: float) -> Floats:
        seconds = len(samples) / SAMPLE_RATE
        if seconds > longest:
            raise UnusableError(f"longer than {longest:g} s")
        features = self._head.features(self.model, samples)
        if seconds < SHORTEST or not len(features):
            raise UnusableError("too short")
        return features


class _CTC(Learner):
    """The loss is connectionist temporal classification, as in training."""

    def loss(self, samples: Floats, text: str, language: str | None = None) -> Tensor:
        labels = self._labels(text)
        log_probs, lengths, _ = self._encode(samples)
        # CTC needs a frame for each symbol, and one between equal ones.
        if len(labels) + sum(a == b for a, b in pairwise(labels)) > int(lengths[0]):
            raise UnusableError("too short for its text")
        counts = torch.tensor([len(labels)])
        return ctc_loss(log_probs, lengths, torch.tensor(labels), counts) / len(labels)

    @torch.no_grad()
    def states(self, samples: Floats) -> Tensor:
        return self._encode(samples)[2][0]

    def _labels(self, text: str) -> list[int]:
        tokenizer = self.model.tokenizer
        spoken = normalizer_of(self.model.header.languages)(text)
        try:
            labels: list[int] = tokenizer.encode(tokenizer.in_case(spoken))
        except TyndaError:
            raise UnusableError("the model cannot spell its text") from None
        if not labels:
            raise UnusableError("no words in its text")
        return labels

    def _encode(self, samples: Floats) -> tuple[Tensor, Tensor, Tensor]:
        features = torch.from_numpy(self._features(samples, _LONGEST))[None]
        tapped: list[Tensor] = []  # The last one is the input of the output layer.
        log_probs, lengths = self.model.family.programs["encode"](
            self._ops,
            self._all,
            self.model.config,
            features,
            torch.tensor([features.shape[1]]),
            lambda _, x: tapped.append(x),
        )
        if not int(lengths[0]):
            raise UnusableError("too short")
        return log_probs, lengths, tapped[-1]


class _Seq2Seq(Learner):
    """The loss is the cross-entropy of the text's tokens and the end, after the prompt.

    The decoder attends to a window as in decoding, where a few frames stand for its padding.
    """

    def __init__(self, model: Checkpoint) -> None:
        super().__init__(model)

        def tensor(x: Any) -> Tensor:
            return torch.from_numpy(x) if isinstance(x, np.ndarray) else x

        engine = Eager(self._ops, self._all, tensor, lambda x: x.detach().numpy())
        self._network = Network(engine, model.family, model.config, model.tokenizer, ())
        config = model.config
        self._longest = (
            max_samples(model)
            if config.frames is None
            else config.frames * config.stride * model.frontend.hop
        ) / SAMPLE_RATE

    def loss(self, samples: Floats, text: str, language: str | None = None) -> Tensor:
        prompt, tokens = self._tokens(text, language)
        cross = self._cross(self._features(samples, self._longest))
        network = self._network
        programs, config = network.family.programs, network.config
        row, starts = np.array([prompt + tokens[:-1]]), np.zeros(1, np.int64)
        states, _ = network.engine.run(programs["decode"], config, row, starts, cross)
        logits = network.engine.run(programs["logits"], config, states[:, len(prompt) - 1 :])
        return F.cross_entropy(logits[0], torch.tensor(tokens))

    @torch.no_grad()
    def states(self, samples: Floats) -> Tensor:
        features = self._features(samples, self._longest)
        config, merged = self.model.config, tuple[MergedFrames[Any], ...]()
        frames = -(-len(features) // config.stride)
        if config.frames is not None:  # The states are those of the same window as in `loss`.
            size, representing = merge_padding([frames], config.frames)
            merged = () if representing is None else (representing,)
            features = np.pad(features, ((0, size - len(features)), (0, 0)))
        lengths = np.array([len(features)])
        states, counts = self._network.encode(features[None], lengths, *merged)
        if not int(counts[0]):
            raise UnusableError("too short")
        found: Tensor = states[0, : min(frames, int(counts[0]))]
        return found

    def _tokens(self, text: str, language: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of the prompt, and those of the text with the end token."""
        tokenizer, spoken = self.model.tokenizer, text.strip()
        if not spoken:
            raise UnusableError("no words in its text")
        if language not in tokenizer.languages:
            language = first_language(tokenizer)
        prompt = start_tokens(tokenizer, language, "transcribe")
        if tokenizer.timestamp_begin is not None:
            prompt, spoken = [*prompt, tokenizer.no_timestamps], f" {spoken}"
        tokens = [*tokenizer.encode(spoken), tokenizer.eot]
        if len(prompt) + len(tokens) - 1 > self.model.config.context:
            raise UnusableError("its text is too long for the decoder")
        return prompt, tokens

    def _cross(self, features: Floats) -> CrossKV[Any]:
        network = self._network
        if self.model.config.frames is not None:
            return encode_windows(network, [features], Options())
        states, lengths = network.encode(features[None], np.array([len(features)]))
        if not int(lengths[0]):
            raise UnusableError("too short")
        return network.cross_kv(states, lengths)


_LEARNERS: dict[str, type[Learner]] = {"ctc": _CTC, "seq2seq": _Seq2Seq}
"""The class for each kind of head."""


def learner_of(model: Checkpoint) -> Learner:
    """Return the learner of a model.

    Raises `TyndaError` for a model whose head has no loss here, or whose weights are not finite.
    """
    if (kind := _LEARNERS.get(model.family.head)) is None:
        raise TyndaError(
            f"{model.header.name} ({model.header.family}) does not learn from recordings with "
            "texts by gradients: choose by a CTC model or one with a decoder"
        )
    learner = kind(model)
    if not all(math.isfinite(float(w.detach().sum())) for w in learner.weights.values()):
        raise TyndaError(f"{model.header.name} has weights that are no numbers: it is damaged")
    return learner
