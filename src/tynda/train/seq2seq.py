"""The objective of an attention decoder over text tokens: Whisper's training at a smaller scale.

As in Radford et al. 2022, section 2.3, windows have one length, with zeros after the speech. The
labels of a window are either its text alone or its segments between timestamps; a segment that
the window cuts off has its start timestamp only; noise has a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tynda.compile.engine import Eager
from tynda.errors import TyndaError
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.programs import forced_logits
from tynda.heads.seq2seq.rules import SECONDS_PER_FRAME
from tynda.heads.seq2seq.search import Network, decode
from tynda.models.layers import Specs
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import SAMPLE_RATE
from tynda.text.normalize import english_letters
from tynda.text.whisper import WhisperTokenizer
from tynda.train.data import Batch, Corpus, Said
from tynda.train.objective import Objective, Weights
from tynda.train.tokens import learn_tokens

__all__ = ["Seq2Seq"]

_SMOOTHING = 0.1
"""Weight of label smoothing (Szegedy et al. 2016, section 7)."""
_NO_TARGET = -100
_TAUGHT = "taught"
_GREEDY = Options(without_timestamps=True)


class Seq2Seq(Objective):
    """Cross-entropy of the next token, with teacher forcing."""

    tokenizer: WhisperTokenizer

    def choose_tokens(self, texts: Sequence[str]) -> int:
        """Learn the vocabulary from the texts; see `Objective.choose_tokens`."""
        recipe, hop, sizes = self.recipe, self.frontend.hop, self.family.config
        if sizes.frames is None:
            raise TyndaError(f"{recipe.family} cannot be trained: its decoder has no timestamps")
        needed = round(SECONDS_PER_FRAME * SAMPLE_RATE) // sizes.stride
        if hop != needed:
            raise TyndaError(f"timestamps need a frontend.hop of {needed} samples, not {hop}")
        # There is a timestamp for each encoder frame of the window, and one for its end.
        frames = recipe.model.get("frames", sizes.frames)
        stamps = frames + 1 if isinstance(frames, int) else 1
        self.tokenizer = learn_tokens(texts, recipe.tokens)
        return int(self.tokenizer.timestamp_begin) + stamps

    def frame_mismatch(self, samples: int) -> str:
        """See `Objective.frame_mismatch`; the model's frames are averaged to the teacher's."""
        fits = samples % self.frame == 0
        return "" if fits else f"which is not a multiple of the model's {self.frame}"

    @property
    def window(self) -> int:
        """See `Objective.window`."""
        return int(self.config.frames * self.config.stride)

    def specs(self) -> Specs:
        """Return the tensors of `Objective.specs`, and a head for distillation."""
        specs = super().specs()
        if self.teacher is not None:
            specs.linear(_TAUGHT, self.teacher.symbols, self.config.channels)
        return specs

    @property
    def decoding(self) -> dict[str, list[tuple[int, int]]]:
        """The alignment heads: all heads of the upper half of the layers, by assumption."""
        layers, heads = self.config.decoder_layers, self.config.decoder_heads
        return {
            "alignment_heads": [(i, h) for i in range(layers // 2, layers) for h in range(heads)]
        }

    def check(self, corpus: Corpus) -> None:
        """Raise `TyndaError` for texts that exceed the decoder's context."""
        room = self.config.context - 4  # start, two timestamps, end
        texts = [
            english_letters(u.text)
            for i, u in enumerate(corpus.utterances)
            if corpus.seconds(i) <= self.recipe.data.max_seconds
        ]
        longest = max((len(self.tokenizer.encode(f" {text}")) for text in texts), default=0)
        if longest > room:
            raise TyndaError(
                f"a text has {longest} tokens, but model.context has space for {room}: raise it"
            )

    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """Return start token, text with or without timestamps, and end token.

        The first utterance that does not fit into the window or the decoder's context has only
        its start timestamp, and all later ones are left out.
        """
        t, room = self.tokenizer, self.config.context
        window = self.config.frames * SECONDS_PER_FRAME
        said = [s for s in said if s.text and s.start < window]
        if not said:
            return [t.sot, t.no_speech, t.eot]
        if rng.random() < 0.5 and said[-1].end <= window:
            tokens = [t.sot, t.no_timestamps, *t.encode("".join(f" {s.text}" for s in said))]
            if len(tokens) < room:
                return [*tokens, t.eot]
        tokens = [t.sot]
        for s in said:
            segment = [self._stamp(s.start), *t.encode(f" {s.text}"), self._stamp(s.end)]
            # The end token follows and, unless this is the last utterance, a start timestamp.
            if s.end > window or len(tokens) + len(segment) + 1 + (s is not said[-1]) > room:
                tokens.append(self._stamp(s.start))
                break
            tokens += segment
        return [*tokens, t.eot]

    def _stamp(self, seconds: float) -> int:
        return self.tokenizer.timestamp_begin + round(seconds / SECONDS_PER_FRAME)

    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Return the loss: cross-entropy over tokens, CTC over phones, distillation."""
        tapped: list[Tensor] = []
        ops = TorchOps(training=True)
        states, lengths = self.encode(ops, weights, batch, tapped)
        logits = self._logits(ops, weights, batch, states, lengths)
        log_probs, targets = F.log_softmax(logits.float(), -1), _rows(batch)[:, 1:]
        plain = F.nll_loss(log_probs.flatten(0, 1), targets.flatten(), ignore_index=_NO_TARGET)
        spread = -log_probs.mean(-1)[targets != _NO_TARGET].mean()
        loss = (1 - _SMOOTHING) * plain + _SMOOTHING * spread
        # Half as many frames are enough for phones, and their alignment is learnt sooner.
        halves = _fewer(tapped[-1], 2)
        phones = batch.phone_lengths.sum().clamp(min=1)
        loss = loss + self.phone_loss(weights, halves, lengths // 2, batch) / phones
        if self.teacher is not None:
            ratio = self.teacher.frame // self.frame
            w, b = (weights[f"{_TAUGHT}.{part}"] for part in ("weight", "bias"))
            taught = F.log_softmax(F.linear(_fewer(tapped[-1], ratio).float(), w, b), -1)
            frames = batch.teacher_lengths.sum() * self.teacher.frontend.hop / self.teacher.frame
            loss = loss + self.distill_loss(taught, lengths // ratio, batch) / frames.clamp(min=1)
        return loss, plain

    def evaluate(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """Decode greedily, by the most likely next token; see `Objective.evaluate`."""
        ops = TorchOps()
        states, lengths = self.encode(ops, weights, batch)
        logits = self._logits(ops, weights, batch, states, lengths)
        if not logits.isfinite().all():
            raise FloatingPointError
        targets = _rows(batch)[:, 1:]
        loss = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            ignore_index=_NO_TARGET,
            reduction="sum",
        )
        device = batch.features.device

        def tensor(x: Any) -> Tensor:
            return torch.from_numpy(x).to(device) if isinstance(x, np.ndarray) else x

        engine = Eager(ops, weights, tensor, lambda x: x.cpu().numpy())
        network = Network(engine, self.family, self.config, self.tokenizer, ())
        cross = network.cross_kv(states.float(), lengths)
        texts = [w.text for w in decode(network, cross, _GREEDY, [None] * len(states))]
        return float(loss), int((targets != _NO_TARGET).sum()), texts

    def _logits(
        self, ops: TorchOps, weights: Weights, batch: Batch, states: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return logits ``[batch, n - 1, vocab]`` with teacher forcing."""
        with self.autocast(batch):
            tokens = _rows(batch)[:, :-1].clamp(min=0)
            starts = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
            settings = self.family, self.config
            return forced_logits(ops, weights, settings, states, lengths, tokens, starts)


def _fewer(states: Tensor, ratio: int) -> Tensor:
    """Average ``ratio`` adjacent frames: ``[batch, frames // ratio, channels]``."""
    return F.avg_pool1d(states.transpose(1, 2), ratio).transpose(1, 2)


def _rows(batch: Batch) -> Tensor:
    """Return the labels as ``[batch, n]``, padded with `_NO_TARGET`."""
    rows = list(torch.split(batch.labels, batch.label_lengths.tolist()))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_NO_TARGET)
