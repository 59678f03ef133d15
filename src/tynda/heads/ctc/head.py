"""The CTC head: chunks of audio are encoded, and their log-probabilities searched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.compile.engine import Engine
from tynda.compile.runs import Work
from tynda.errors import TyndaError
from tynda.heads.base import (
    AlignedWord,
    CommandDecoder,
    Exported,
    Head,
    LiveDecoder,
    LiveWord,
    Session,
)
from tynda.heads.ctc import chunks, forced, ngram, paths, programs
from tynda.heads.ctc.beam import beam_search
from tynda.heads.ctc.commands import CTCCommands
from tynda.heads.ctc.incremental import IncrementalLiveDecoder, live_words, with_look_ahead
from tynda.heads.ctc.ngram import LanguageModel
from tynda.heads.ctc.options import CTCOptions
from tynda.sound import silero
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.frontend import Raw
from tynda.store.checkpoint import Checkpoint
from tynda.text.normalize import normalizer_of
from tynda.transcript import Segment, Word

__all__ = ["CTCHead", "Network"]

Floats = NDArray[np.float32]
# The default of the maximum duration, in seconds, of an exported model's recordings.
_EXPORTED_SECONDS = 30.0
# The maximum number of log-probabilities for each second of audio: outputs times symbols. Published
# models have up to 13,000.
_MAX_RATE = 10_000_000
# The width of a beam search that options require where neither they nor the model file set it.
_BEAM_SIZE = 32
# Seconds by which the times of words may be wrong.
_SPEECH_MARGIN = 0.5


@dataclass(frozen=True)
class Network:
    """A CTC model in one of its languages, with its engine."""

    model: Checkpoint
    engine: Engine

    @property
    def samples_per_frame(self) -> int:
        """Number of samples for each frame of log-probabilities."""
        return int(self.model.frontend.hop * self.model.config.stride)

    def log_probs(self, samples: Floats) -> Floats:
        """Return log-probabilities ``[frames, vocab]`` of float32 samples ``[n]`` at 16 kHz."""
        front, config = self.model.frontend, self.model.config
        features = front(samples)
        if not len(features):
            return np.zeros((0, config.vocab), np.float32)
        # A backend makes a plan for each length: rounding up to half seconds limits their number.
        step = max(1, SAMPLE_RATE // 2 // front.hop)
        padded = np.pad(features, ((0, -len(features) % step), (0, 0)))
        encode, lengths = self.model.family.programs["encode"], np.array([len(features)])
        log_probs, frames = self.engine.run(encode, config, padded[None], lengths)
        result: Floats = self.engine.array(log_probs)[0, : int(self.engine.array(frames)[0])]
        if not np.isfinite(result.max(1)).all():
            raise TyndaError(
                f"{self.model.path or self.model.header.name}: the model computes no numbers (NaN) "
                "from this recording: its weights are damaged, or too large for float32"
            )
        return result

    def is_silent(self, log_probs: Floats) -> NDArray[np.bool_]:
        """Return whether blank or space is the most likely symbol of each frame ``[frames]``."""
        tokenizer = self.model.tokenizer
        spaces = [i for i, text in enumerate(tokenizer.symbols) if text == " "]
        return np.isin(log_probs.argmax(1), [tokenizer.blank, *spaces])


class CTCHead(Head[CTCOptions]):
    """The head of a CTC model: greedy search, or beam search with n-gram and hot words."""

    options_type = CTCOptions
    default_speech_threshold = 0.1
    has_decoder = False
    options_without_lm = MappingProxyType({"beam_size": 1})
    runs = staticmethod(programs.runs)
    forced = staticmethod(programs.forced)

    def __init__(self, model: Checkpoint, open_engine: Callable[[Checkpoint], Engine]) -> None:
        frame = model.frontend.hop * model.config.stride
        if _MAX_RATE * frame < SAMPLE_RATE * model.config.vocab:
            raise TyndaError(
                f"{model.path or model.header.name}: front end, strides and symbols make more than "
                f"{_MAX_RATE} log-probabilities for each second of audio; the model is damaged"
            )
        super().__init__(model, open_engine)
        self._open_engine = open_engine
        self._lock = threading.RLock()
        languages = model.header.languages
        has_adapters = bool(languages) and getattr(model.config, "adapter", None) is not None
        self._own_language = languages[0] if has_adapters or len(languages) == 1 else None
        """The language of the model's own output layer, where it is known."""
        self._has_adapters = has_adapters
        self._networks = {self._own_language: Network(model, self.engine)}
        self._lms: dict[str | None, LanguageModel | None] = {}

    @staticmethod
    def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
        """See `Head.work`: whole recordings."""
        return Work(model.frontend.frames(samples), batch)

    @staticmethod
    def working_bytes(model: Checkpoint, work: Work, samples: int) -> int:
        """See `Head.working_bytes`.

        Features are computed for one recording at a time, with copies of its samples and features,
        and then collected in a batch.
        """
        features = 4 * work.frames * model.config.bins
        copies = 0 if isinstance(model.frontend, Raw) else 4 * samples + features
        return int(2 * work.batch * features + copies)

    @staticmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """See `Head.exported`: a whole recording."""
        samples = round((_EXPORTED_SECONDS if seconds is None else seconds) * SAMPLE_RATE)
        if not (frames := model.frontend.frames(samples)):
            raise TyndaError(f"{seconds:g} seconds are too short for the model's front end")
        runs = programs.runs(model.family, model.config, Work(frames))
        return Exported(runs, samples, frames, numbers={"blank": model.tokenizer.blank})

    @staticmethod
    def features(model: Checkpoint, samples: Floats) -> Floats:
        """See `Head.features`; there is no window."""
        return model.frontend(samples)

    window_features = features

    @staticmethod
    def reference_tokens(model: Checkpoint, text: str) -> list[list[int]]:
        """See `Head.reference_tokens`."""
        return []

    def generated_tokens(
        self, features: Floats, count: int, language: str | None = None
    ) -> list[list[int]]:
        """See `Head.generated_tokens`."""
        return []

    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Return log-probabilities ``[frames, vocab]``, with the adapters of the language if the
        model has any."""
        return self.network(language)[0].log_probs(samples)

    def network(self, language: str | None = None) -> tuple[Network, str | None]:
        """Return the network for a language, and that language; None means the model's own.

        Raises `TyndaError` for a language that the model does not have.
        """
        self.model.check_language(language)
        if not self._has_adapters or language is None:
            language = self._own_language
        with self._lock:
            if language not in self._networks:
                from tynda.store import huggingface  # Few models have adapters.

                assert language is not None
                model = huggingface.adapt(self.model, language)
                self._networks[language] = Network(model, self._open_engine(model))
            return self._networks[language], language

    def _network(self, options: CTCOptions) -> tuple[Network, str | None]:
        """Return the network for the language and the look-ahead of ``options``; see `network`."""
        network, language = self.network(options.language)
        model = with_look_ahead(network.model, options.look_ahead)
        return Network(model, network.engine), language

    def prepare(self, options: CTCOptions) -> None:
        """Load adapters and language model; see `Head.prepare`."""
        network, _ = self._network(options)
        vocab = network.model.config.vocab
        self.decode(np.zeros((0, vocab), np.float32), options)

    def session(self, options: CTCOptions) -> Session:
        """See `Head.session`."""
        network, language = self._network(options)
        return _Session(self, network, language, options)

    def live(self, options: CTCOptions) -> LiveDecoder:
        """See `Head.live`."""
        self.prepare(options)
        network, language = self._network(options)
        if network.model.family.streaming is None:
            return _LiveDecoder(self, network, language, options)

        def search(log_probs: Floats) -> Sequence[paths.Hypothesis]:
            return self.decode(log_probs, options, network.model)

        return IncrementalLiveDecoder(network.model, network.engine, language, search)

    def commands(self, graph: WordGraph, options: CTCOptions) -> CommandDecoder:
        """See `Head.commands`."""
        network, _ = self._network(options)
        tokenizer = network.model.tokenizer

        def encode(text: str) -> list[int]:
            tokens: list[int] = tokenizer.encode(self._in_case(text, tokenizer))
            return tokens

        return CTCCommands(graph, tokenizer, encode, network.log_probs)

    def align(
        self, samples: Floats, words: Sequence[str], language: str | None = None
    ) -> list[AlignedWord]:
        """See `Head.align`: by the best path of the text through all frames."""
        network, _ = self.network(language)
        tokenizer = network.model.tokenizer

        def spelling(word: str) -> str:
            return self._in_case(word, tokenizer)

        frame = network.samples_per_frame
        return forced.align(samples, words, network.log_probs, frame, tokenizer, spelling)

    def spelling_doubt(self, word: str) -> str | None:
        """See `Head.spelling_doubt`: a word needs the model's letters."""
        try:
            self.model.tokenizer.encode(self._in_case(word, self.model.tokenizer))
        except TyndaError as error:
            return str(error)
        return None

    def decode(
        self, log_probs: Floats, options: CTCOptions, model: Checkpoint | None = None
    ) -> Sequence[paths.Hypothesis]:
        """Return hypotheses for log-probabilities ``[frames, vocab]``, best first.

        ``model`` is the model in the language of the recording; the default is the head's model.
        Raises `TyndaError` for options that exclude each other, and for a damaged n-gram.
        """
        tokenizer, defaults = (model or self.model).tokenizer, self.model.header.decoding
        hotwords: Sequence[str] = options.hotwords
        if isinstance(hotwords, str):
            hotwords = hotwords.split(",")
        hotwords = [w for word in hotwords if (w := self._spelling(word, tokenizer))]
        beam_size = options.beam_size or defaults.get("beam_size", 1)
        sets_lm_weights = options.alpha is not None or options.beta is not None
        if hotwords or options.n_best > 1 or options.lm not in (None, "none") or sets_lm_weights:
            if options.beam_size == 1:
                raise TyndaError(
                    "a beam size of 1 is greedy, without n-gram and its weights, hot words or "
                    "alternatives: use a larger beam size or omit them"
                )
            beam_size = _BEAM_SIZE if beam_size == 1 else beam_size
        if beam_size == 1:
            return [paths.greedy(log_probs, tokenizer)]
        lm = (
            None
            if options.lm == "none"
            else self._lm(None if options.lm is None else str(options.lm))
        )
        if sets_lm_weights and lm is None:
            raise TyndaError(
                "alpha and beta are the weights of an n-gram, and there is none: "
                "omit them, or name one (--lm FILE)"
            )
        return beam_search(
            log_probs,
            tokenizer,
            beam_size=max(beam_size, options.n_best),
            lm=lm,
            alpha=defaults.get("alpha", 0.5) if options.alpha is None else options.alpha,
            beta=defaults.get("beta", 0.5) if options.beta is None else options.beta,
            unknown_penalty=defaults.get("unknown_penalty", 5.0),
            hotwords=hotwords,
            hotword_boost=options.hotword_boost,
            n_best=options.n_best,
        )

    def _spelling(self, text: str, tokenizer: Any) -> str:
        """Normalise a text to the symbols of the model."""
        return self._in_case(normalizer_of(self.model.header.languages)(text), tokenizer)

    @staticmethod
    def _in_case(text: str, tokenizer: Any) -> str:
        """Write a text in capitals where the model has no other letters."""
        written: str = tokenizer.in_case(text)
        return written

    def _lm(self, path: str | Path | None) -> LanguageModel | None:
        """Return the n-gram in a file, or the model's own (None); each is loaded once."""
        name = None if path is None else str(path)
        with self._lock:
            if name not in self._lms:
                self._lms[name] = self._own_lm() if name is None else LanguageModel.load(name)
            return self._lms[name]

    def _own_lm(self) -> LanguageModel | None:
        if self.model.lm is None:
            return None
        try:
            return LanguageModel.from_arpa(ngram.unpack(self.model.lm))
        except TyndaError:
            raise TyndaError(
                f"{self.model.path or self.model.header.name}: its n-gram is damaged: get the "
                "model again, or decode without the n-gram (--lm none)"
            ) from None


class _LiveDecoder(LiveDecoder):
    """Encodes and searches the whole utterance each time."""

    max_seconds = chunks.MAX_SECONDS
    uses_context = False

    def __init__(
        self, head: CTCHead, network: Network, language: str | None, options: CTCOptions
    ) -> None:
        self.language = language
        self._head, self._network, self._options = head, network, options

    def words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """See `LiveDecoder.words`: the frames after the final words are searched."""
        network, frame = self._network, self._network.samples_per_frame / SAMPLE_RATE
        first = round(final[-1].end / frame) if final else 0
        log_probs = network.log_probs(samples)[first:]
        best, *_ = self._head.decode(log_probs, self._options, network.model)
        return live_words(final, best, first, frame)


class _Session(Session):
    """A session that decodes chunk by chunk, in bounded memory."""

    def __init__(
        self, head: CTCHead, network: Network, language: str | None, options: CTCOptions
    ) -> None:
        super().__init__()
        self.language = language
        self._head, self._network, self._options = head, network, options

    def segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Iterator[Segment]:
        """See `Session.segments`: each chunk with words is a segment."""
        for chunk in self._chunks(blocks):
            best, *others = self._head.decode(chunk.log_probs, self._options, self._network.model)
            self.seconds = chunk.end / SAMPLE_RATE
            best = self._spoken(chunk, best)
            if best.words:
                self.text += f" {best.text}" if self.text else best.text
                yield self._segment(chunk, best, others)
            if on_progress:
                on_progress(self.seconds)

    def _chunks(self, blocks: Iterable[Floats]) -> Iterator[chunks.Chunk]:
        options, network = self._options, self._network
        if options.chunk_length is None:
            return chunks.quiet_chunks(blocks, network.log_probs)
        stride = options.stride_length
        return chunks.overlapping_chunks(
            blocks,
            network.log_probs,
            network.samples_per_frame,
            network.is_silent,
            options.chunk_length,
            options.chunk_length / 6 if stride is None else stride,
        )

    def _spoken(self, chunk: chunks.Chunk, best: paths.Hypothesis) -> paths.Hypothesis:
        """Return the text without the words where nobody speaks: a model writes some for noise."""
        threshold = self._head.speech_threshold(self._options.speech_threshold)
        if not best.words or threshold == 0:
            return best
        found = np.concatenate(list(silero.probabilities([chunk.samples])))
        margin = int(_SPEECH_MARGIN * SAMPLE_RATE) // silero.CHUNK

        def is_heard(word: paths.WordTiming) -> bool:
            start, end = (
                at * self._network.samples_per_frame // silero.CHUNK
                for at in (word.start, word.end)
            )
            return bool((found[max(0, start - margin) : end + margin + 1] >= threshold).any())

        words = [word for word in best.words if is_heard(word)]
        if len(words) == len(best.words):
            return best
        return replace(best, words=words, text=" ".join(word.text for word in words))

    def _segment(
        self, chunk: chunks.Chunk, best: paths.Hypothesis, others: Sequence[paths.Hypothesis]
    ) -> Segment:
        frame, start, end = self._network.samples_per_frame, chunk.start, chunk.end
        # The last frame may begin beyond the end of the audio.
        last = (end - start - 1) // frame
        words = [
            Word(
                w.text,
                (start + min(w.start, last) * frame) / SAMPLE_RATE,
                min(start + w.end * frame, end) / SAMPLE_RATE,
                w.confidence,
            )
            for w in best.words
        ]
        letters = [len(w.text) for w in words]
        confidence = float(np.average([w.confidence for w in best.words], weights=letters))
        return Segment(
            words[0].start,
            words[-1].end,
            best.text,
            words,
            confidence,
            [other.text for other in others],
        )
