"""Commands with a CTC model: the best path through a grammar against the best path of all.

Viterbi search over the graph of a grammar, whose tokens have blanks between them (Graves et al.
2006, section 4.1). The filler model is a loop of all tokens: its best path is that of the most
probable symbol of each frame. The difference of both scores, for each token, gives the confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import Arc, WordGraph
from tynda.commands.tokens import TokenGraph, compile_tokens
from tynda.heads.base import CommandDecoder, CommandMatch
from tynda.heads.ctc.chunks import MAX_SECONDS
from tynda.heads.ctc.paths import LogProbs, spell
from tynda.text.tokenizer import CTCTokenizer
from tynda.text.tokenlines import token_sum

__all__ = ["CTCCommands", "Path", "Paths"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Path:
    """The best path of frames through a grammar."""

    tokens: list[int]
    score: float
    """Natural logarithm of the path's probability."""


class Paths:
    """All paths of frames through a graph of tokens."""

    def __init__(self, graph: TokenGraph, blank: int) -> None:
        self._blank = blank
        # A state of this search is a state of the graph with the token that led to it, so that a
        # repeated token is known by its state. State 0 is the beginning, which has no token.
        numbers, pending, arcs = {(0, -1): 0}, [(0, -1)], list[tuple[int, int]]()
        while pending:
            source = pending.pop()
            for token, target in graph.arcs[source[0]].items():
                key = (target, token)
                if key not in numbers:
                    numbers[key] = len(numbers)
                    pending.append(key)
                arcs.append((numbers[key], numbers[source]))
        # Arcs are in the order of their targets: the best one of each target is found at once.
        self._targets, self._sources = np.array(sorted(arcs), np.int64).reshape(-1, 2).T
        self._first = np.searchsorted(self._targets, np.arange(1, len(numbers)))
        self._tokens = np.array([token for _, token in numbers], np.int64)
        self._repeats = self._tokens[self._sources] == self._tokens[self._targets]
        self._ends = np.array([i for (s, _), i in numbers.items() if s in graph.ends], np.int64)

    def best(self, log_probs: LogProbs) -> Path | None:
        """Return the best path of ``log_probs [frames, vocab]``, natural logs; None where the
        frames are too few for any."""
        frames, count = len(log_probs), len(self._tokens)
        if not frames:
            return None
        # Scores before the first frame and after each: [0] after a token, [1] after its blanks.
        scores = np.full((frames + 1, 2, count), -np.inf, np.float32)
        scores[0, 1, 0] = 0.0
        own = self._tokens.clip(0)
        for t, row in enumerate(log_probs):
            token, blank = scores[t]
            arcs = np.where(self._repeats, -np.inf, token[self._sources])
            np.maximum(arcs, blank[self._sources], out=arcs)
            scores[t + 1, 0, 1:] = np.maximum(token[1:], np.maximum.reduceat(arcs, self._first))
            scores[t + 1, 0] += row[own]
            scores[t + 1, 1] = np.maximum(token, blank) + row[self._blank]
        ends = scores[-1][:, self._ends]
        score = float(ends.max())
        if score == -np.inf:
            return None
        after_blank, at = divmod(int(ends.argmax()), len(self._ends))
        state, tokens = int(self._ends[at]), list[int]()
        for token, blank in scores[-2::-1]:  # from the end
            if after_blank:
                after_blank = int(blank[state] >= token[state])
                continue
            begin, stop = np.searchsorted(self._targets, [state, state + 1])
            sources, repeats = self._sources[begin:stop], self._repeats[begin:stop]
            found = np.stack([np.where(repeats, -np.inf, token[sources]), blank[sources]])
            if token[state] < found.max():
                tokens.append(int(self._tokens[state]))
                after_blank, at = divmod(int(found.argmax()), len(sources))
                state = int(sources[at])
        return Path(tokens[::-1], score)

    def exported(self) -> dict[str, list[int]]:
        """Return the graph of the search, whose arcs are in the order of their targets."""
        arrays = {
            "tokens": self._tokens,
            "targets": self._targets,
            "sources": self._sources,
            "ends": self._ends,
        }
        return {name: array.tolist() for name, array in arrays.items()}


class CTCCommands(CommandDecoder):
    """Recognises the sentences of a grammar with a CTC model."""

    max_seconds = MAX_SECONDS
    threshold = 0.5

    def __init__(
        self,
        graph: WordGraph,
        tokenizer: CTCTokenizer,
        encode: Callable[[str], list[int]],
        log_probs: Callable[[Floats], LogProbs],
    ) -> None:
        """``encode`` gives the tokens of words; ``log_probs`` are those of samples."""

        def spellings(arc: Arc, begins: bool) -> list[list[int]]:
            text = " ".join(arc.words)
            return [encode(text if begins else f" {text}")]

        self._tokenizer, self._log_probs = tokenizer, log_probs
        self._paths = Paths(compile_tokens(graph, spellings), tokenizer.blank)

    def find(self, samples: Floats) -> CommandMatch | None:
        """See `CommandDecoder.find`."""
        log_probs = self._log_probs(samples)
        path = self._paths.best(log_probs)
        if path is None:
            return None
        filler = float(log_probs.max(1).sum(dtype=np.float64))
        confidence = math.exp(min(0.0, path.score - filler) / len(path.tokens))
        return CommandMatch(spell(self._tokenizer, path.tokens), confidence)

    def exported(self) -> dict[str, Any]:
        """See `CommandDecoder.exported`."""
        paths, pieces = self._paths.exported(), self._tokenizer.token_bytes()
        used = sorted({*paths["tokens"]} - {-1})
        texts = {str(i): pieces[i].decode(errors="replace") for i in used}
        return {
            "blank": self._tokenizer.blank,
            "vocab": len(pieces),
            "tokens": token_sum(pieces, len(pieces)),
            "texts": texts,
            "paths": paths,
        }
