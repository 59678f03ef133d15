"""Commands with an encoder-decoder: the decoder may only write sentences of a grammar.

Beam search over the graph of a grammar. The filler model is the decoder without a grammar: the
differences of the log-probabilities of both texts, in all and in the mean, give the confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import Arc, WordGraph
from tynda.commands.tokens import TokenGraph, compile_tokens
from tynda.heads.base import CommandDecoder, CommandMatch
from tynda.heads.seq2seq import pieces
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import log_softmax
from tynda.heads.seq2seq.search import (
    Decoder,
    DecodingResult,
    Network,
    decode,
    start_tokens,
)
from tynda.heads.seq2seq.windows import encode_windows
from tynda.models.base import CrossKV
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["Hypothesis", "Seq2SeqCommands", "best_path", "spellings"]

Floats = NDArray[np.float32]

BEAMS = 4
"""Hypotheses that are continued together."""
_MAX_SECONDS = 8.0
"""Maximum duration of a command."""
_MARKS = ("", ",", ".", "!", "?")
"""Marks that a decoder may write after a word."""
_MAX_NUMBER = 100
"""Numbers up to this one are also written in figures where the grammar has their word."""


@dataclass(frozen=True)
class Hypothesis:
    """The tokens of a path through a grammar, and their log-probability."""

    tokens: list[int]
    total: float


class Seq2SeqCommands(CommandDecoder):
    """Recognises the sentences of a grammar with an encoder-decoder."""

    threshold = 0.4

    def __init__(
        self,
        graph: WordGraph,
        model: Checkpoint,
        network: Network,
        options: Options,
        language: str | None,
        normalize: Callable[[str], str],
    ) -> None:
        """``normalize`` is that of the graph; ``language`` is the code of the spoken language."""
        tokenizer = network.tokenizer
        self._model, self._network, self._options = model, network, options
        self._language = language
        self._prompt = start_tokens(tokenizer, language, "transcribe")
        if tokenizer.timestamp_begin is not None:
            self._prompt.append(tokenizer.no_timestamps)
        # The tokenizer of a model without timestamps adds the space before a word itself.
        space = "" if tokenizer.timestamp_begin is None else " "
        figures = {normalize(str(n)): str(n) for n in range(_MAX_NUMBER + 1)}

        @cache
        def encode(text: str) -> list[int]:
            tokens: list[int] = tokenizer.encode(space + text)
            return tokens

        def spell(arc: Arc, begins: bool) -> Iterator[Sequence[int]]:
            return map(encode, spellings(arc, figures))

        self._graph = compile_tokens(graph, spell)
        limit = model.config.context - len(self._prompt)
        self._max_tokens = min(limit, model.config.context // 2)
        self.max_seconds = _MAX_SECONDS
        if model.config.frames is None:
            self.max_seconds = min(_MAX_SECONDS, pieces.max_samples(model) / SAMPLE_RATE)

    def find(self, samples: Floats) -> CommandMatch | None:
        """See `CommandDecoder.find`."""
        network = self._network
        cross = self._encode(samples)
        if cross is None:
            return None
        found = best_path(network, cross, self._graph, self._prompt, self._max_tokens)
        if found is None:
            return None
        (free,) = decode(network, cross, self._options, [self._language])
        text = network.tokenizer.decode(found.tokens).strip()
        return CommandMatch(text, _confidence(found, free))

    def _encode(self, samples: Floats) -> CrossKV[Any] | None:
        """Return keys and values of the audio, or None where it is shorter than one frame."""
        model, network = self._model, self._network
        features = model.frontend(samples)
        if model.config.frames is not None:
            window = model.config.stride * model.config.frames
            return encode_windows(network, [features[:window]], self._options)
        states, lengths = network.encode(features[None], np.array([len(features)]))
        if not network.engine.array(lengths)[0]:
            return None
        return network.cross_kv(states, lengths)


def _confidence(found: Hypothesis, free: DecodingResult) -> float:
    """Return how probable the best sentence is beside the free text, from 0 to 1.

    Of texts with different numbers of tokens, the shorter one has the higher total, and a longer
    one that repeats itself the higher mean, whatever was spoken: both have to be near.
    """
    tokens, free_tokens = len(found.tokens) + 1, len(free.tokens) + 1
    total = found.total - free.avg_logprob * free_tokens
    mean = found.total / tokens - free.avg_logprob
    return math.exp(min(0.0, mean, total / max(tokens, free_tokens)))


def spellings(arc: Arc, figures: Mapping[str, str]) -> list[str]:
    """Return the texts that a decoder may write for words of the grammar: as they stand there or as
    they are spoken, with a capital, in ``figures`` (spoken -> written), with a mark after them."""
    spoken = " ".join(arc.words)
    texts = {arc.written.rstrip("".join(_MARKS)), spoken}
    if spoken in figures:
        texts.add(figures[spoken])
    texts |= {text[:1].upper() + text[1:] for text in texts}
    return sorted(text + mark for text in texts for mark in _MARKS)


def best_path(
    network: Network,
    cross: CrossKV[Any],
    graph: TokenGraph,
    prompt: Sequence[int],
    max_tokens: int,
) -> Hypothesis | None:
    """Return the most probable path that the beams find for the window of ``cross``, or None where
    every path has more than ``max_tokens``.

    The total is the log-probability of the tokens and of the end token.
    """
    end = network.tokenizer.eot
    decoder = Decoder(network, cross, 1, len(prompt) + max_tokens)
    logits = decoder.step([list(prompt)])
    live = [(0, Hypothesis([], 0.0))]
    best: Hypothesis | None = None
    for _ in range(max_tokens):
        log_probs = log_softmax(logits)
        candidates: list[tuple[float, int, int]] = []  # total, row, token
        for row, (state, hypothesis) in enumerate(live):
            if state in graph.ends:
                total = hypothesis.total + float(log_probs[row, end])
                if best is None or total > best.total:
                    best = Hypothesis(hypothesis.tokens, total)
            for token in graph.arcs[state]:
                candidates.append((hypothesis.total + float(log_probs[row, token]), row, token))
        candidates = sorted(candidates, reverse=True)[:BEAMS]
        if not candidates or (best is not None and candidates[0][0] <= best.total):
            break
        sources = [row for _, row, _ in candidates]
        live = [
            (graph.arcs[live[row][0]][token], Hypothesis([*live[row][1].tokens, token], total))
            for total, row, token in candidates
        ]
        # The number of rows is always the same, since a backend makes a plan for each.
        spare = BEAMS - len(live)
        logits = decoder.step(
            [[h.tokens[-1]] for _, h in live] + [[live[0][1].tokens[-1]]] * spare,
            sources + sources[:1] * spare,
        )
    return best
