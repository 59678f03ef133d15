"""The base of all heads: programs that a recording needs, options, sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine
from tynda.compile.runs import Runs, Work
from tynda.models.base import Family
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Segment, Transcript

__all__ = ["Exported", "Head", "Session", "forced_inputs"]

Floats = NDArray[np.float32]
O = TypeVar("O")  # noqa: E741 - the options of a head


@dataclass(frozen=True)
class Exported:
    """Programs that run without Python for recordings up to one length, and what greedy decoding
    needs beside them; ``docs/native.md`` explains each number."""

    runs: Runs
    """Each program once."""
    samples: int
    """The longest recording."""
    frames: int
    """Frames of the front end in every run of the encoder, zeros behind those of the sound."""
    padding_samples: int = 0
    """Samples of silence that the front end finds behind a recording."""
    attends_to_padding: bool = False
    """Whether all frames count, and not only those of the sound."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)


class Session(ABC):
    """One recording on its way through a model; for one thread at a time.

    The model and its weights are shared; decoder state, caches and what is known so far are the
    session's own.
    """

    def __init__(self) -> None:
        self.language: str | None = None
        """The recording's language, as soon as it is known."""
        self.seconds = 0.0
        """Sound that has been read so far."""
        self.text = ""
        """The text of all segments so far."""

    @abstractmethod
    def segments(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Iterator[Segment]:
        """The segments of a recording, each as soon as it is final.

        ``blocks``: float32 mono samples at 16 kHz, in consecutive parts of any length.
        ``on_progress`` is called with the seconds that are done.
        """

    def transcribe(
        self, blocks: Iterable[Floats], on_progress: Callable[[float], None] | None = None
    ) -> Transcript:
        """All segments, and what they say together."""
        segments = list(self.segments(blocks, on_progress))
        return Transcript(self.text, segments, self.language, self.seconds)


class Head(ABC, Generic[O]):
    """A model's decoder: immutable, and safe to share between threads."""

    options_type: ClassVar[type]
    """The dataclass of what can be asked of the decoder."""
    has_decoder: ClassVar[bool]
    """Whether a decoder writes tokens after an encoder has run."""

    options_without_lm: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options of a search without any language model, where the default is another."""

    def __init__(self, model: Checkpoint, open_engine: Callable[[Checkpoint], Engine]) -> None:
        """``open_engine`` hands a model's weights to the backend."""
        self.model = model
        self.engine = open_engine(model)

    @staticmethod
    @abstractmethod
    def runs(family: Family, config: Any, work: Work) -> Runs:
        """The programs that a recording needs, with the shapes of their inputs."""

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
        """A program: the scores ``[batch, n, vocab]`` of every output, from the features.

        ``settings`` are the family and its config; ``tokens`` are those that a decoder is
        made to follow ``[batch, n]`` and a zero for each row of them. This is what a model is
        calibrated, compared and trained by.
        """

    @staticmethod
    @abstractmethod
    def work(model: Checkpoint, samples: int, tokens: float, batch: int) -> Work:
        """The costliest part of recordings of so many ``samples``, a ``batch`` of them: all of
        each, or a window. A decoder writes ``tokens`` for each second."""

    @staticmethod
    @abstractmethod
    def working_bytes(model: Checkpoint, work: Work, samples: int) -> int:
        """Bytes that the front end and the choice of tokens hold beside the programs' tensors."""

    @staticmethod
    @abstractmethod
    def exported(model: Checkpoint, seconds: float | None) -> Exported:
        """Return what native code needs for up to ``seconds`` of sound, by default a window or 30.

        Raises `TyndaError` where so little sound has no frames.
        """

    @staticmethod
    @abstractmethod
    def features(model: Checkpoint, samples: Floats) -> Floats:
        """Features ``[frames, bins]`` as `forced` takes them, of at most one window."""

    @staticmethod
    @abstractmethod
    def window_features(model: Checkpoint, samples: Floats) -> Floats:
        """Likewise, but as decoding has them by default: where there is a window all of it,
        silence behind the speech included."""

    @staticmethod
    @abstractmethod
    def reference_tokens(model: Checkpoint, text: str) -> list[list[int]]:
        """The tokens of the right ``text`` that `forced` is given: one row, or none where there is
        no decoder."""

    @abstractmethod
    def generated_tokens(self, features: Floats, count: int) -> list[list[int]]:
        """Likewise the tokens that the model writes itself, at most ``count`` of text."""

    @abstractmethod
    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Run the family's ``encode`` on float32 samples ``[n]`` at 16 kHz.

        With CTC these are log-probabilities ``[frames, vocab]``, with a decoder states
        ``[frames, channels]``. ``language``: as the options have it.
        """

    @abstractmethod
    def prepare(self, options: O) -> None:
        """Do now what the first recording would wait for.

        Raises `TyndaError` where decoding by these options would.
        """

    @abstractmethod
    def session(self, options: O) -> Session:
        """A session for one recording. Raises `TyndaError` as `prepare` does."""


def forced_inputs(features: Floats, texts: list[list[int]]) -> tuple[list[NDArray[Any]], list[int]]:
    """The inputs of `Head.forced` for one recording, and how many tokens of each text count.

    ``features [frames, bins]``; ``texts`` are rows of tokens, none where there is no decoder.
    Shorter texts are filled up with their last token.
    """
    inputs: list[NDArray[Any]] = [features[None], np.array([len(features)])]
    if texts:
        longest = max(map(len, texts))
        ids = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in texts]
        inputs += [np.array(ids, np.int64), np.zeros(len(ids), np.int64)]
    return inputs, [*map(len, texts)]
