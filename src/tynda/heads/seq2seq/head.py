"""The head of encoder-decoder models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.compile.engine import Engine
from tynda.compile.runs import Work
from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord, CommandDecoder, Exported, Head, LiveDecoder, Session
from tynda.heads.seq2seq import batched, forced, pieces, programs, sliding
from tynda.heads.seq2seq.activity import Activity
from tynda.heads.seq2seq.commands import Seq2SeqCommands
from tynda.heads.seq2seq.live import PieceLiveDecoder, WindowLiveDecoder
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.prompt import warn_of_cuts
from tynda.heads.seq2seq.recording import Recording, padded_features
from tynda.heads.seq2seq.rules import SECONDS_PER_FRAME, Rules, suppressed_tokens
from tynda.heads.seq2seq.search import Network, decode, spoken_languages, start_tokens
from tynda.heads.seq2seq.windows import short_windows
from tynda.heads.seq2seq.words import TimedSegment
from tynda.sound import vad
from tynda.sound.audio import SAMPLE_RATE
from tynda.store.checkpoint import Checkpoint
from tynda.text.normalize import normalizer_of
from tynda.transcript import Segment, Word

__all__ = ["Seq2SeqHead"]

Floats = NDArray[np.float32]

_SILENCE = 1 << 14
"""Samples of silence after a recording, more than a window of any front end has: what follows does
not change Whisper's features of the recording."""
_LOGITS_COPIES = 4
"""Number of copies of a step's logits that the search needs."""


class Seq2SeqHead(Head[Options]):
    """The head of a model whose decoder generates tokens."""

    options_type = Options
    default_speech_threshold = 0.4
    has_decoder = True
    runs = staticmethod(programs.runs)
    forced = staticmethod(programs.forced)

    def __init__(self, model: Checkpoint, open_engine: Callable[[Checkpoint], Engine]) -> None:
        super().__init__(model, open_engine)
        heads = model.header.decoding.get("alignment_heads", ())
        self.network = Network(self.engine, model.family, model.config, model.tokenizer, heads)

    @staticmethod
    def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
        """See `Head.work`: one whole window, or the longest piece where a model has no window."""
        config = model.config
        if config.frames is None:
            return pieces.work(model, samples, tokens, batch)
        frames = config.stride * config.frames
        seconds = min(samples, frames * model.frontend.hop) / SAMPLE_RATE
        count = min(max(1, round(tokens * seconds)), config.context // 2)
        prompt = 4 if model.tokenizer.multilingual else 2
        return Work(frames, batch, prompt, min(count, config.context - prompt))

    @staticmethod
    def working_bytes(model: Checkpoint, work: Work, samples: int) -> int:
        """See `Head.working_bytes`: one padded window, all features, and copies of a step's
        logits."""
        window = work.frames * model.frontend.hop
        features = work.batch * work.frames * model.config.bins
        return int(4 * (window + features + _LOGITS_COPIES * work.batch * model.config.vocab))

    @staticmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """See `Head.exported`: windows, decoded greedily as by `search.decode`, with timestamps
        where the model has them, in English or else in the model's first language."""
        config, tokenizer, hop = model.config, model.tokenizer, model.frontend.hop
        if config.frames is None:
            raise TyndaError(f"{model.family.name} has no window: it cannot be exported yet")
        frames = config.stride * config.frames
        if seconds is not None:
            wanted = math.ceil(seconds * SAMPLE_RATE / hop / config.stride) * config.stride
            frames = min(frames, wanted)
        prompt = start_tokens(tokenizer, first_language(tokenizer), "transcribe")
        rules = Rules(tokenizer, config.vocab, Options())
        never, first = suppressed_tokens(tokenizer, config.vocab, Options())
        max_tokens = min(config.context // 2, config.context - len(prompt) + 1)
        silence = frames * hop
        if getattr(model.frontend, "normalize", None) == "whisper":
            silence = min(silence, _SILENCE)
        windows = short_windows(config, hop) if frames == config.stride * config.frames else []
        merged = [(window.frames, len(window.merged.rows)) for window in windows]
        work = Work(frames, prompt=len(prompt))
        return Exported(
            programs.exported(model.family, config, work, merged),
            samples=frames * hop,
            frames=frames,
            padding_samples=silence,
            attends_to_padding=True,
            numbers={"end": tokenizer.eot, "max_tokens": max_tokens},
            tokens={"prompt": prompt, "never": never, "first": first},
            timestamps=rules.timestamps(),
            windows=windows,
        )

    @staticmethod
    def features(model: Checkpoint, samples: Floats) -> Floats:
        """See `Head.features`: at most a window, padded to whole frames of the encoder, or at most
        one piece where a model has no window."""
        if model.config.frames is None:
            piece: Floats = model.frontend(samples[: pieces.max_samples(model)])
            return piece
        features: Floats = model.frontend(samples)
        stride = model.config.stride
        features = features[: stride * model.config.frames]
        return np.pad(features, ((0, -len(features) % stride), (0, 0)))

    @staticmethod
    def window_features(model: Checkpoint, samples: Floats) -> Floats:
        """See `Head.window_features`: published weights were trained on full windows only."""
        size = model.config.stride * model.config.frames
        return padded_features(model.frontend, samples, size)

    @staticmethod
    def reference_tokens(model: Checkpoint, text: str) -> list[list[int]]:
        """See `Head.reference_tokens`: start, language, task, and the text without timestamps."""
        tokenizer = model.tokenizer
        tokens = start_tokens(tokenizer, first_language(tokenizer), "transcribe")
        if tokenizer.timestamp_begin is None:
            tokens += tokenizer.encode(text.strip())
        else:
            tokens += [tokenizer.no_timestamps, *tokenizer.encode(" " + text.strip())]
        return [tokens[: model.config.context]]

    def generated_tokens(
        self, features: Floats, count: int, language: str | None = None
    ) -> list[list[int]]:
        """See `Head.generated_tokens`: with timestamps where the model generates them."""
        network, config = self.network, self.model.config
        states = network.encode(features[None], np.array([len(features)]))
        max_tokens = config.context // 2 if config.frames else config.context - 1
        options = Options(max_new_tokens=min(count, max_tokens))
        cross = network.cross_kv(*states)
        if language not in network.tokenizer.languages:
            (language,) = spoken_languages(network, cross)
        (result,) = decode(network, cross, options, [language])
        tokens = start_tokens(network.tokenizer, language, "transcribe") + result.tokens
        return [tokens[: config.context]]

    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Return states ``[frames, channels]`` of the first window; they do not depend on the
        language."""
        features = self.features(self.model, samples)
        states, lengths = self.network.encode(features[None], np.array([len(features)]))
        encoded: Floats = self.engine.array(states)[0, : int(self.engine.array(lengths)[0])]
        return encoded

    def prepare(self, options: Options) -> None:
        """Check that the model knows the language and supports the options."""
        self.model.check_language(options.language)
        if self.model.config.frames is None:
            pieces.check_options(self.model, options)
            return
        if options.multilingual and not self.network.tokenizer.multilingual:
            raise TyndaError(
                f"{self.model.header.name} has one language: multilingual needs a model of several"
            )
        warn_of_cuts(self.network.tokenizer, self.model.config.context, options)
        if options.window == "fit" and not _is_trained_for_short_windows(self.model):
            warnings.warn(
                f"{self.model.header.name} was trained on full windows only: with the window fit "
                "it may lose or invent words",
                stacklevel=3,
            )

    def with_word_times(self, options: Options) -> Options:
        """See `Head.with_word_times`: a model without a window has none."""
        return (
            options if self.model.config.frames is None else replace(options, word_timestamps=True)
        )

    def session(self, options: Options) -> Session:
        """See `Head.session`."""
        self.prepare(options)
        if self.model.config.frames is None:
            return pieces.Session(self.model, self.network, options)
        return _Session(self, options)

    def live(self, options: Options) -> LiveDecoder:
        """See `Head.live`."""
        self.prepare(options)
        if options.multilingual:
            raise TyndaError("multilingual is for recordings: a live session has one language")
        decoder = WindowLiveDecoder if self.model.config.frames else PieceLiveDecoder
        return decoder(self.model, self.network, options)

    def commands(self, graph: WordGraph, options: Options) -> CommandDecoder:
        """See `Head.commands`."""
        self.prepare(options)
        tokenizer = self.network.tokenizer
        language = options.language or graph.grammar.language
        if not tokenizer.multilingual:
            language = None
        elif language is None:
            language = first_language(tokenizer)
        normalize = normalizer_of(self.model.header.languages)
        if self.model.config.frames:  # Others do not have this option.
            options = replace(options, without_timestamps=True)
        return Seq2SeqCommands(graph, self.model, self.network, options, language, normalize)

    def align(
        self, samples: Floats, words: Sequence[str], language: str | None = None
    ) -> list[AlignedWord]:
        """See `Head.align`: by the attention of the decoder in one window."""
        self.model.check_language(language)
        known = language or first_language(self.network.tokenizer)
        return forced.align(self.network, self.model.frontend, samples, words, known)

    def spelling_doubt(self, word: str) -> str | None:
        """See `Head.spelling_doubt`: a known word has few tokens, and any other one many."""
        count = len(self.network.tokenizer.encode(f" {word}"))
        if count > 2 and 2 * count > len(word):
            return f"{word!r} is spelled with {count} tokens: it is probably not a word"
        return None


class _Session(Session):
    """A session of a model with a window, in bounded memory."""

    def __init__(self, head: Seq2SeqHead, options: Options) -> None:
        super().__init__()
        self._head, self._options = head, options

    def segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Iterator[Segment]:
        """See `Session.segments`."""
        text = ""
        for found in self._timed_segments(blocks, on_progress):
            text += found.text
            self.text = text.strip()
            end = self.seconds  # Times that the decoder writes may lie in the silence after it.
            yield found.result.segment(
                min(found.start, end),
                min(found.end, end),
                found.text.strip(),
                found.tokens,
                [
                    Word(w.word.strip(), min(w.start, end), min(w.end, end), w.probability)
                    for w in found.words
                ],
                **({"language": found.language} if self._options.multilingual else {}),
                seek=found.seek,
                no_speech_prob=round(found.result.no_speech_prob, 4),
            )

    def _timed_segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None
    ) -> Iterator[TimedSegment]:
        head, options = self._head, self._options
        front, config = head.model.frontend, head.model.config
        counted = self._counted(blocks)
        if options.vad_filter:
            speech = vad.SpeechDetector(config.frames * SECONDS_PER_FRAME)
            return batched.transcribe(
                head.network, front, counted, speech, options, self._set_language, on_progress
            )
        threshold = head.speech_threshold(options.speech_threshold)
        listens = threshold > 0
        size = config.stride * config.frames
        recording = Recording(counted, front, size, holds_samples=listens)
        activity = Activity(recording.samples, threshold) if listens else None
        return sliding.transcribe(
            head.network, recording, options, self._set_language, on_progress, activity
        )

    def _counted(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """Yield the blocks, and count their seconds."""
        samples = 0
        for block in blocks:
            samples += len(block)
            self.seconds = samples / SAMPLE_RATE
            yield block

    def _set_language(self, language: str | None, probability: float | None) -> None:
        self.language = language if self._head.network.tokenizer.multilingual else "en"
        self.language_probability = probability


def _is_trained_for_short_windows(model: Checkpoint) -> bool:
    """Return whether the recipe in the header of a model file pads to the longest utterance."""
    recipe = model.header.training.get("recipe")
    data = recipe.get("data") if isinstance(recipe, dict) else None
    return isinstance(data, dict) and data.get("window") == "fit"


def first_language(tokenizer: Any) -> str | None:
    """Return English, or else the model's first language; None for a model without language
    tokens."""
    known = list(tokenizer.languages)
    return None if not known else "en" if "en" in known else known[0]
