"""The interface of all heads: the programs that a recording needs, options and sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tynda.commands.graph import WordGraph
from tynda.compile.engine import Engine
from tynda.compile.runs import Runs, Work
from tynda.errors import TyndaError
from tynda.models.base import Family, MergedFrames
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment, Transcript

__all__ = [
    "AlignedWord",
    "CommandDecoder",
    "CommandMatch",
    "Exported",
    "Head",
    "LiveDecoder",
    "LiveWord",
    "Session",
    "ShortWindow",
    "forced_inputs",
    "pad_tokens",
]

Floats = NDArray[np.float32]
O = TypeVar("O")  # noqa: E741 - the options of a head


@dataclass(frozen=True)
class ShortWindow:
    """Programs for recordings that are shorter than the longest one that an export takes."""

    samples: int
    """Maximum number of samples of a recording."""
    frames: int
    """Number of front end frames in a run of the encoder."""
    merged: MergedFrames[NDArray[Any]]
    """The frames that the encoder computes."""


@dataclass(frozen=True)
class Exported:
    """The programs, and the settings of greedy decoding, with which native code recognises
    recordings up to one length; ``docs/native.md`` documents each setting."""

    runs: Runs
    """One run of each program; the names of those for the first of the ``windows`` end in ``.1``,
    and so on."""
    samples: int
    """Maximum number of samples of a recording."""
    frames: int
    """Number of front end frames in every run of the encoder; zeros follow those of the audio."""
    padding_samples: int = 0
    """Number of samples of silence that are appended to a recording before the front end."""
    attends_to_padding: bool = False
    """Whether the encoder's length includes the padding, and not only the audio."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Integers of greedy decoding, by the names of ``docs/native.md``."""
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Lists of tokens of greedy decoding, by the names of ``docs/native.md``."""
    timestamps: Mapping[str, int] = field(default_factory=dict)
    """The tokens of a decoder's timestamps, by the names of ``docs/native.md``; empty where it has
    none."""
    windows: Sequence[ShortWindow] = ()
    """The windows for recordings that are shorter than the longest, by their lengths."""


class Session(ABC):
    """The state of one recording; only one thread at a time may use it.

    Sessions share the model and its weights; each has its own decoder state, caches and results.
    """

    def __init__(self) -> None:
        self.language: str | None = None
        """Code of the recording's language; None until it is known."""
        self.language_probability: float | None = None
        """Probability of the language; None where it was not detected."""
        self.seconds = 0.0
        """Duration of the audio that has been read so far."""
        self.text = ""
        """The text of all segments so far."""

    @abstractmethod
    def segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of a recording, each as soon as it is final.

        ``blocks`` are consecutive float32 mono samples ``[n]`` at 16 kHz, of any lengths.
        ``on_progress`` is called with the number of seconds that have been processed.
        """

    def transcribe(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Transcript:
        """Return all segments and their text; the arguments are those of `segments`."""
        segments = list(self.segments(blocks, on_progress))
        probability = self.language_probability
        return Transcript(self.text, segments, self.language, self.seconds, probability)


@dataclass(frozen=True)
class LiveWord:
    """A word of an utterance that has not ended."""

    text: str
    """The word as the text has it, with the space before it where there is one."""
    start: float
    """Seconds from the beginning of the utterance's audio."""
    end: float
    confidence: float | None
    tokens: Sequence[int] = ()
    """The word's tokens, with which a decoder continues."""


class LiveDecoder(ABC):
    """Decodes one utterance of a live recording again and again, while it grows."""

    max_seconds: float
    """Maximum duration of the audio."""
    uses_context: ClassVar[bool]
    """Whether the audio and words of utterances that have ended help with the next one."""
    is_incremental: ClassVar[bool] = False
    """Whether audio is encoded once, when it comes, so that decoding again costs little."""
    step: ClassVar[float] = 0.38
    """The default of the seconds between two decodings."""
    hold: ClassVar[float] = 0.6
    """The default of the seconds of audio after a word that two decodings agree on."""
    max_hold: ClassVar[float] = 1.2
    """The default of the seconds of audio after which any word but the last is final."""
    show: ClassVar[float] = 0.6
    """The default of the seconds of audio after which a word is shown."""
    language: str | None = None
    """Code of the language; None until it is known."""

    def restart(self) -> None:  # noqa: B027 - most decoders have no state of an utterance
        """Forget the utterance: the next samples are those of another one."""

    def last_words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """Return the words as `words` does, where the utterance has no more samples."""
        return self.words(samples, final)

    @abstractmethod
    def words(self, samples: Floats, final: Sequence[LiveWord]) -> list[LiveWord]:
        """Return the words of ``samples [n]``, float32 at 16 kHz, of which the first are
        ``final``."""


@dataclass(frozen=True)
class CommandMatch:
    """The sentence of a grammar that is most like an utterance."""

    text: str
    """The sentence as the model writes it."""
    confidence: float
    """From 0 to 1, where 1 means that the model would write the sentence without a grammar too."""


class CommandDecoder(ABC):
    """Finds the sentence of a grammar that was spoken; it may be shared between threads."""

    max_seconds: float
    """Maximum duration of the audio."""
    threshold: ClassVar[float]
    """The default of the confidence below which nothing of the grammar was spoken."""

    @abstractmethod
    def find(self, samples: Floats) -> CommandMatch | None:
        """Return the most probable sentence of ``samples [n]``, float32 at 16 kHz, or None where
        the audio is too short for any."""

    def exported(self) -> dict[str, Any]:
        """Return the search as JSON-able data, which the engine of a web page reads.

        Raises `TyndaError` where that engine has no such search.
        """
        raise TyndaError(
            "commands in a web page need a CTC model, such as sentences-en: this model has a "
            "decoder"
        )


@dataclass(frozen=True)
class AlignedWord:
    """A word of a known text, or one of its letters, and when it was spoken, in seconds."""

    text: str
    start: float
    end: float
    confidence: float
    """The probability of the word or letter there, from 0 to 1."""
    letters: Sequence[AlignedWord] = ()
    """The letters or pieces of the word; none where the model does not tell their times."""


class Head(ABC, Generic[O]):
    """A model's decoding method: immutable, and safe to share between threads."""

    options_type: ClassVar[type]
    """The dataclass of the decoding options."""
    has_decoder: ClassVar[bool]
    """Whether a decoder network generates tokens from the encoder's states."""

    aligned_parts: ClassVar[str] = "letters"
    """The name of the parts of words that `align` finds."""
    default_speech_threshold: ClassVar[float] = 0.0
    """The probability of speech below which there is no text, where nothing else states one."""
    options_without_lm: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """The options of a search without a language model; empty where that is the default."""

    def __init__(self, model: Checkpoint, open_engine: Callable[[Checkpoint], Engine]) -> None:
        """``open_engine`` loads a model's weights into the backend."""
        self.model = model
        self.engine = open_engine(model)

    def speech_threshold(self, stated: float | None) -> float:
        """Return the probability of speech below which there is no text: the option's value as
        ``stated``, or that of the model file, or the default of the head."""
        if stated is not None:
            return stated
        default = self.default_speech_threshold
        return float(self.model.header.decoding.get("speech_threshold", default))

    def with_word_times(self, options: O) -> O:
        """Return the options with which words have times, or the same ones where they always or
        never do."""
        return options

    @staticmethod
    @abstractmethod
    def runs(family: Family, config: Any, work: Work) -> Runs:
        """Yield the programs that a recording needs, with the shapes of their inputs."""

    @staticmethod
    @abstractmethod
    def forced(
        ops: Any,
        weights: Any,
        settings: tuple[Family, Any],
        features: Any,
        lengths: Any,
        *tokens: Any,
    ) -> Any:
        """Run a program: the scores ``[batch, n, vocab]`` of all outputs from features.

        ``features [items, frames, bins]`` have ``lengths [items]``. ``settings`` are the family and
        its config. Where there is a decoder, ``tokens`` are the tokens ``[batch, n]`` that it is
        forced to follow (teacher forcing), and zeros ``[batch]``. Calibration, comparison and
        training of a model read these scores.
        """

    @staticmethod
    @abstractmethod
    def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
        """Return the most expensive run for a ``batch`` of recordings of ``samples`` each: the
        whole recordings, or one window. A decoder generates ``tokens`` for each second of audio."""

    @staticmethod
    @abstractmethod
    def working_bytes(model: Checkpoint, work: Work, samples: int) -> int:
        """Return the bytes that the front end and the search need in addition to the tensors of
        the programs."""

    @staticmethod
    @abstractmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """Return what native code needs to recognise up to ``seconds`` of audio; the default is a
        window, or 30 s.

        Raises `TyndaError` where audio of this length has no frames.
        """

    @staticmethod
    @abstractmethod
    def features(model: Checkpoint, samples: Floats) -> Floats:
        """Return features ``[frames, bins]`` for `forced`, of at most one window."""

    @staticmethod
    @abstractmethod
    def window_features(model: Checkpoint, samples: Floats) -> Floats:
        """Return features as decoding uses them by default: a model with a window gets a whole
        one, with silence after the speech."""

    @staticmethod
    @abstractmethod
    def reference_tokens(model: Checkpoint, text: str) -> list[list[int]]:
        """Return the tokens of a reference ``text`` for `forced`: one row, or none where there is
        no decoder."""

    @abstractmethod
    def generated_tokens(
        self, features: Floats, count: int, language: str | None = None
    ) -> list[list[int]]:
        """Return the tokens that the model generates itself from ``features [frames, bins]``, for
        `forced`: one row with at most ``count`` tokens of text, or none where there is no decoder.

        They are in ``language`` if the model knows it, and otherwise in the one that it detects.
        """

    @abstractmethod
    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Run the family's ``encode`` on float32 samples ``[n]`` at 16 kHz.

        Returns log-probabilities ``[frames, vocab]`` for CTC, and states ``[frames, channels]``
        where there is a decoder. ``language`` has the meaning of the option of this name.
        """

    @abstractmethod
    def prepare(self, options: O) -> None:
        """Load everything that the first recording needs.

        Raises `TyndaError` where decoding with these options would.
        """

    @abstractmethod
    def session(self, options: O) -> Session:
        """Return a session for one recording. Raises `TyndaError` as `prepare` does."""

    @abstractmethod
    def live(self, options: O) -> LiveDecoder:
        """Return a decoder for a live recording. Raises `TyndaError` as `prepare` does."""

    @abstractmethod
    def align(
        self, samples: Floats, words: Sequence[str], language: str | None = None
    ) -> list[AlignedWord]:
        """Return when each of the ``words``, which are normalised, is spoken in ``samples [n]``,
        float32 at 16 kHz.

        Raises `TyndaError` for words that the model cannot write, and for a text or a recording
        that is too long.
        """

    @abstractmethod
    def commands(self, graph: WordGraph, options: O) -> CommandDecoder:
        """Return a decoder for the sentences of a grammar. Raises `TyndaError` as `prepare` does,
        for a word that the model cannot spell, and for a grammar with too many tokens."""

    @abstractmethod
    def spelling_doubt(self, word: str) -> str | None:
        """Return why the model may not recognise a normalised ``word`` by its spelling, or None."""


def forced_inputs(features: Floats, texts: list[list[int]]) -> tuple[list[NDArray[Any]], list[int]]:
    """Return the inputs of `Head.forced` for one recording, and the number of tokens of each text.

    ``features`` are ``[frames, bins]``; ``texts`` are rows of tokens, none where there is no
    decoder. Shorter texts are padded with their last token.
    """
    inputs: list[NDArray[Any]] = [features[None], np.array([len(features)])]
    if texts:
        inputs += [np.array(pad_tokens(texts), np.int64), np.zeros(len(texts), np.int64)]
    return inputs, [*map(len, texts)]


def pad_tokens(texts: Sequence[list[int]]) -> list[list[int]]:
    """Return the texts with the length of the longest: the last token of shorter ones is
    repeated."""
    longest = max(map(len, texts))
    return [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in texts]
