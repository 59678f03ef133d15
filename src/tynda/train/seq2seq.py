"""Text tokens by a decoder that listens: Whisper's way of training, on a smaller scale.

Radford et al. 2022, section 2.3: windows of one length, zeros behind the speech; of each
window either the text alone or its segments between time stamps; a segment that the window
cuts off has its beginning only; noise is answered by a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tynda import models
from tynda.compile.engine import Eager
from tynda.errors import TyndaError
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.programs import forced_logits
from tynda.heads.seq2seq.search import SECONDS_PER_FRAME, Network, decode
from tynda.models.layers import Specs
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import SAMPLE_RATE, FrontEnd
from tynda.text.normalize import english_letters
from tynda.text.whisper import WhisperTokenizer
from tynda.train.data import Batch, Corpus, Said
from tynda.train.objective import Objective, Weights
from tynda.train.recipe import Recipe
from tynda.train.teacher import Teacher
from tynda.train.tokens import learn_tokens

__all__ = ["Seq2Seq"]

_SMOOTHING = 0.1
"""Share of the target that all tokens divide among them (Szegedy et al. 2016, section 7)."""
_NO_TARGET = -100
_TAUGHT = "taught"
_GREEDY = Options(without_timestamps=True)


class Seq2Seq(Objective):
    """Cross-entropy of the next token, the right ones before it."""

    tokenizer: WhisperTokenizer

    def __init__(
        self,
        recipe: Recipe,
        front: FrontEnd,
        texts: Sequence[str],
        teacher: Teacher | None = None,
    ) -> None:
        """``texts`` are what the tokens are learnt from."""
        sizes = models.family(recipe.family).config
        if sizes.frames is None:
            raise TyndaError(f"{recipe.family} cannot be trained: its decoder has no time stamps")
        hop = round(SECONDS_PER_FRAME * SAMPLE_RATE) // sizes.stride
        if front.hop != hop:
            raise TyndaError(f"time stamps need a frontend.hop of {hop} samples, not {front.hop}")
        # As many encoder frames as the recipe says, so as many time stamps.
        frames = recipe.model.get("frames", sizes.frames)
        stamps = frames + 1 if isinstance(frames, int) else 1
        self.tokenizer = learn_tokens(texts, recipe.tokens)
        super().__init__(recipe, front, self.tokenizer.timestamp_begin + stamps, teacher)
        if teacher is not None and teacher.frame % self.frame:
            raise TyndaError(
                f"{teacher.name} cannot teach this model: its frames have {teacher.frame} samples, "
                f"no multiple of the model's {self.frame}"
            )
        self.window = self.config.frames * self.config.stride

    def specs(self) -> Specs:
        """And a head that answers the teacher."""
        specs = super().specs()
        if self.teacher is not None:
            specs.dense(_TAUGHT, self.teacher.symbols, self.config.channels)
        return specs

    @property
    def decoding(self) -> dict[str, list[tuple[int, int]]]:
        """All heads of the upper half of the layers follow the sound, it is assumed."""
        layers, heads = self.config.decoder_layers, self.config.decoder_heads
        return {
            "alignment_heads": [(i, h) for i in range(layers // 2, layers) for h in range(heads)]
        }

    def check(self, corpus: Corpus) -> None:
        """Refuse texts that the decoder has no room for."""
        room = self.config.context - 4  # start, two time stamps, end
        texts = [
            english_letters(u.text)
            for i, u in enumerate(corpus.utterances)
            if corpus.seconds(i) <= self.recipe.data.max_seconds
        ]
        longest = max((len(self.tokenizer.encode(f" {text}")) for text in texts), default=0)
        if longest > room:
            raise TyndaError(
                f"a text has {longest} tokens, model.context leaves room for {room}: raise it"
            )

    def labels(self, said: Sequence[Said], rng: np.random.Generator) -> list[int]:
        """Start, the text with or without time stamps, end.

        What the window, or the decoder's context, has no room for is left out, from a whole
        utterance on, of which the beginning alone is told.
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
            # Behind it come the end and, if this is not the last one, the next one's beginning.
            if s.end > window or len(tokens) + len(segment) + 1 + (s is not said[-1]) > room:
                tokens.append(self._stamp(s.start))
                break
            tokens += segment
        return [*tokens, t.eot]

    def _stamp(self, seconds: float) -> int:
        return self.tokenizer.timestamp_begin + round(seconds / SECONDS_PER_FRAME)

    def loss(self, weights: Weights, batch: Batch, views: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy over tokens, CTC over phones."""
        tapped: list[Tensor] = []
        ops = TorchOps(training=True)
        states, lengths = self._encode(ops, weights, batch, tapped)
        logits = self._logits(ops, weights, batch, states, lengths)
        log_probs, targets = F.log_softmax(logits.float(), -1), _rows(batch)[:, 1:]
        plain = F.nll_loss(log_probs.flatten(0, 1), targets.flatten(), ignore_index=_NO_TARGET)
        spread = -log_probs.mean(-1)[targets != _NO_TARGET].mean()
        loss = (1 - _SMOOTHING) * plain + _SMOOTHING * spread
        # Half as many frames are enough for phones, and find their places sooner.
        halves = _fewer(tapped[-1], 2)
        phones = batch.phone_lengths.sum().clamp(min=1)
        loss = loss + self.phone_loss(weights, halves, lengths // 2, batch) / phones
        if self.teacher is not None:
            ratio = self.teacher.frame // self.frame
            w, b = (weights[f"{_TAUGHT}.{part}"] for part in ("weight", "bias"))
            taught = F.log_softmax(F.linear(_fewer(tapped[-1], ratio).float(), w, b), -1)
            heard = batch.heard_lengths.sum() * self.teacher.frontend.hop / self.teacher.frame
            loss = loss + self.distill_loss(taught, lengths // ratio, batch) / heard.clamp(min=1)
        return loss, plain

    def hear(self, weights: Weights, batch: Batch) -> tuple[float, int, list[str]]:
        """The most likely token, one after another."""
        ops = TorchOps()
        states, lengths = self._encode(ops, weights, batch, [])
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

    def _encode(
        self, ops: TorchOps, weights: Weights, batch: Batch, tapped: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """States ``[batch, frames, channels]`` and frames of the encoder."""
        with self.autocast(batch):
            encoded: tuple[Tensor, Tensor] = self.family.programs["encode"](
                ops,
                weights,
                self.config,
                batch.features,
                batch.lengths,
                lambda _, x: tapped.append(x),
            )
            return encoded

    def _logits(
        self, ops: TorchOps, weights: Weights, batch: Batch, states: Tensor, lengths: Tensor
    ) -> Tensor:
        """``[batch, n - 1, vocab]`` behind the right tokens."""
        with self.autocast(batch):
            tokens = _rows(batch)[:, :-1].clamp(min=0)
            starts = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
            settings = self.family, self.config
            return forced_logits(ops, weights, settings, states, lengths, tokens, starts)


def _fewer(states: Tensor, ratio: int) -> Tensor:
    """Means of ``ratio`` neighbours: ``[batch, frames // ratio, channels]``."""
    return F.avg_pool1d(states.transpose(1, 2), ratio).transpose(1, 2)


def _rows(batch: Batch) -> Tensor:
    """The labels as ``[batch, n]``, padded with `_NO_TARGET`."""
    rows = list(torch.split(batch.labels, batch.label_lengths.tolist()))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_NO_TARGET)
