"""The head of hybrid models: words of a lexicon are searched, and known texts aligned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.compile.engine import Engine
from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord, CommandDecoder, Exported
from tynda.heads.ctc import chunks
from tynda.heads.ctc.head import CTCHead
from tynda.heads.ctc.options import CTCOptions
from tynda.heads.ctc.paths import Hypothesis, WordTiming
from tynda.heads.hybrid.alignment import Graph, Span, TooShortError, best_path, spans
from tynda.heads.hybrid.lexicon import Spelling
from tynda.heads.hybrid.prefixes import PrefixTree
from tynda.heads.hybrid.search import Search
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint

__all__ = ["HybridHead"]

Floats = NDArray[np.float32]

_BEAM_SIZE = 500
_ALPHA = 8.0
_MARGIN = 12.0
"""Maximum distance of a hypothesis from the best one, in units of the n-gram's weight."""
_MAX_CELLS = 1 << 28
"""Frames times states of an alignment, of which each takes a byte."""


class HybridHead(CTCHead):
    """The head of a hybrid model, whose network has scores of states in place of letters.

    Audio is encoded, cut and assembled as for CTC; only the search and the alignment differ.
    """

    aligned_parts = "phones"
    # Without an n-gram, the search is the same.
    options_without_lm = MappingProxyType[str, Any]({})

    def __init__(self, model: Checkpoint, open_engine: Callable[[Checkpoint], Engine]) -> None:
        super().__init__(model, open_engine)
        self._tree: PrefixTree | None = None
        self._searches: dict[Any, Search] = {}

    @staticmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """See `Head.exported`: native code has no search of words."""
        raise TyndaError(
            f"{model.header.name} finds words in a lexicon, which native code alone cannot do: "
            "export a CTC model"
        )

    def decode(
        self, log_probs: Floats, options: CTCOptions, model: Checkpoint | None = None
    ) -> Sequence[Hypothesis]:
        """Return the best hypothesis for scores ``[frames, states]``.

        Raises `TyndaError` for alternatives, of which the search has none, for hot words without a
        pronunciation, and for a damaged n-gram.
        """
        search = self._search(options)
        if not len(log_probs):
            return [Hypothesis("", [], 0.0, [])]
        words, score = search.find(log_probs)
        timings = self._timings(log_probs, words)
        return [Hypothesis(" ".join(w.text for w in timings), [], score, timings)]

    def _search(self, options: CTCOptions) -> Search:
        if options.n_best > 1:
            raise TyndaError("a hybrid model finds one text, without alternatives: omit n_best")
        hotwords = options.hotwords
        if isinstance(hotwords, str):
            hotwords = hotwords.split(",")
        hot = [w for words in hotwords for w in self._spelling(words, self.spelling).split()]
        self.spelling.pronunciations(hot)  # Raises for a word without any.
        key = (
            None if options.lm is None else str(options.lm),
            options.alpha,
            options.beta,
            options.beam_size,
            tuple(hot),
            options.hotword_boost,
        )
        with self._lock:
            if key not in self._searches:
                if len(self._searches) >= 16:  # Requests to a server may have any settings.
                    self._searches.clear()
                self._searches[key] = self._new_search(options, hot)
            return self._searches[key]

    def _new_search(self, options: CTCOptions, hot: Sequence[str]) -> Search:
        if self._tree is None:
            self._tree = PrefixTree.of(self.spelling, skip=self._skip)
        defaults = self.model.header.decoding
        lm = (
            None
            if options.lm == "none"
            else self._lm(None if options.lm is None else str(options.lm))
        )
        alpha = defaults.get("alpha", _ALPHA) if options.alpha is None else options.alpha
        search = Search(
            self._tree,
            lm,
            alpha=alpha,
            beta=defaults.get("beta", 0.0) if options.beta is None else options.beta,
            unknown_penalty=defaults.get("unknown_penalty", 0.0),
            bonuses={word: options.hotword_boost * len(word) for word in hot},
            beam_size=options.beam_size or defaults.get("beam_size", _BEAM_SIZE),
            margin=_MARGIN * max(1.0, alpha),
        )
        _ = search.ahead  # The look-ahead is computed now, and not with the first recording.
        return search

    @property
    def spelling(self) -> Spelling:
        """The lexicon and the states of its words."""
        spelling: Spelling = self.model.tokenizer
        return spelling

    @property
    def _skip(self) -> bool:
        """Whether a phone may do without its middle state: frames of 20 ms are too few for all."""
        return bool(self.model.config.stride > 1)

    @staticmethod
    def _in_case(text: str, tokenizer: Any) -> str:
        """Return a normalised text as it is: the lexicon has normalised words."""
        return text

    def _timings(self, scores: Floats, words: Sequence[str]) -> list[WordTiming]:
        """Return when each of the words of a search is spoken, and how certainly."""
        if not words:
            return []
        graph = Graph.of(self.spelling.pronunciations(words), self.spelling.tying, skip=self._skip)
        try:
            path, _ = best_path(scores[:, graph.states], graph)
        except TooShortError:  # The last word has not been completed.
            return self._timings(scores, words[:-1])
        certainties = _certainties(scores, graph, path)
        timings = []
        for word, phones in zip(words, _of_words(spans(path, graph), len(words)), strict=True):
            start, end = phones[0].start, phones[-1].end
            timings.append(WordTiming(word, start, end, certainties(start, end)))
        return timings

    def align(
        self, samples: Floats, words: Sequence[str], language: str | None = None
    ) -> list[AlignedWord]:
        """See `Head.align`; the letters of a word are its phones."""
        pronunciations = self.spelling.pronunciations(words)
        network, _ = self.network(language)
        frame = network.samples_per_frame
        rows, starts = list[Floats](), list[NDArray[np.int64]]()
        for chunk in chunks.quiet_chunks([samples], network.log_probs):
            rows.append(chunk.log_probs)
            starts.append(chunk.start + frame * np.arange(len(chunk.log_probs)))
        scores = np.concatenate([np.zeros((0, len(self.spelling)), np.float32), *rows])
        graph = Graph.of(pronunciations, self.spelling.tying, skip=self._skip)
        seconds = len(samples) / SAMPLE_RATE
        if scores.shape[0] * len(graph.states) > _MAX_CELLS:
            raise TyndaError(
                f"{seconds:.0f} s of audio with {len(words)} words are too long to be aligned at "
                "once: cut the recording and its text"
            )
        try:
            path, _ = best_path(scores[:, graph.states], graph)
        except TooShortError:
            raise TyndaError(
                f"the text is too long for the audio: {len(words)} words in {seconds:.1f} s: check "
                "that it is the text of this recording"
            ) from None
        times = np.concatenate([*starts, [len(samples)]]) / SAMPLE_RATE
        ends = np.minimum(times + frame / SAMPLE_RATE, seconds)
        certainties = _certainties(scores, graph, path)

        def aligned(
            text: str, inside: Sequence[Span], phones: Sequence[AlignedWord]
        ) -> AlignedWord:
            start, end = inside[0].start, inside[-1].end
            return AlignedWord(
                text,
                float(times[start]),
                float(ends[end - 1]),
                certainties(start, end),
                tuple(phones),
            )

        result = []
        for word, inside in zip(words, _of_words(spans(path, graph), len(words)), strict=True):
            phones = [aligned(span.phone, [span], ()) for span in inside]
            result.append(aligned(word, inside, phones))
        return result

    def commands(self, graph: WordGraph, options: CTCOptions) -> CommandDecoder:
        """See `Head.commands`: there are none."""
        raise TyndaError(
            f"{self.model.header.name} finds words in a lexicon, and no sentences of a grammar: "
            "use a CTC model or a Whisper"
        )

    def spelling_doubt(self, word: str) -> str | None:
        """See `Head.spelling_doubt`: a word needs a pronunciation."""
        known = word in self.spelling.lexicon
        return None if known else f"the model has no pronunciation of {word!r}"


def _of_words(found: Sequence[Span], count: int) -> list[list[Span]]:
    """Return the spans of each of ``count`` words, without those of pauses."""
    inside: list[list[Span]] = [[] for _ in range(count)]
    for span in found:
        if span.word >= 0:
            inside[span.word].append(span)
    return inside


def _certainties(
    scores: Floats, graph: Graph, path: NDArray[np.int64]
) -> Callable[[int, int], float]:
    """Return a function of frames [start, end): how certain the path is there, from 0 to 1.

    It is the geometric mean over the frames of the likelihood of the path's state, relative to
    that of the frame's most likely one.
    """
    own = scores[np.arange(len(path)), graph.states[path]]
    behind = own - scores.max(1)

    def certainty(start: int, end: int) -> float:
        return math.exp(float(behind[start:end].mean()))

    return certainty
