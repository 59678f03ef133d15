"""A loaded model, which transcribes audio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Backend, Engine, open_engine
from tynda.errors import TyndaError
from tynda.heads import head_of
from tynda.heads.base import Session, forced_inputs
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.sound.samples import as_samples, is_samples
from tynda.store import library
from tynda.store.checkpoint import Checkpoint
from tynda.text.normalize import normalizer_of
from tynda.transcript import Segment, Transcript

if TYPE_CHECKING:
    from tynda.commands.recognizer import CommandRecognizer
    from tynda.commands.templates import Grammar
    from tynda.live.session import LiveSession
    from tynda.live.settings import LiveSettings
    from tynda.speakers.diarize import Diarizer

__all__ = ["Model", "load"]

Floats = NDArray[np.float32]
Progress = Callable[[float], None]

_BLOCK = 30 * SAMPLE_RATE
"""Samples of a block of an array."""


def load(
    name: str | Path = library.DEFAULT,
    *,
    backend: Backend | None = None,
    bits: int | None = None,
    threads: int | None = None,
) -> Model:
    """Load a model: a bundled or cached name, a ``.safetensors`` file, or a checkpoint.

    A checkpoint is a folder of the Hugging Face hub, or a Whisper of other programs: a folder of
    CTranslate2, or a ``ggml-*.bin`` of whisper.cpp. The content tells which it is.

    ``backend`` is native by default, or NumPy where that is not available. ``bits``, 8 or 32, is
    the matmul precision; the default is 32, or 8 for a model with 8-bit weights. ``threads`` is
    the number of threads of the native backend; the default is one for each processor.

    Raises `TyndaError` when there is no such model or backend, or its files are damaged.
    """
    if not isinstance(name, str | PathLike):
        raise TyndaError(f"a model is named by a string or a path, not {name!r}")
    return Model(library.load(name), backend=backend, bits=bits, threads=threads)


def _load_again(
    path: Path, backend: Backend | None, bits: int | None, threads: int | None
) -> Model:
    return load(path, backend=backend, bits=bits, threads=threads)


class Model:
    """A recogniser: weights, front end and decoder, immutable and safe to share between threads.

    A recording is transcribed in a `Session`, which holds all state of this recording.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        backend: Backend | None = None,
        bits: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Create a model from a checkpoint; for ``backend``, ``bits``, ``threads`` see `load`.

        Raises `TyndaError` where there is no such backend or precision.
        """

        def opened(model: Checkpoint) -> Engine:
            trainable = model.family.trainable(model.config)
            return open_engine(model.weights, trainable, backend, bits, threads)

        self.checkpoint, self._arguments = checkpoint, (backend, bits, threads)
        self.header, self.bytes = checkpoint.header, checkpoint.bytes
        self.head = head_of(checkpoint.family)(checkpoint, opened)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a model as its file's path and arguments: another process loads it again.

        Raises `TyndaError` for a model without a file.
        """
        if self.checkpoint.path is None:
            raise TyndaError("a model that is in no file cannot be pickled: save it first")
        return _load_again, (self.checkpoint.path.absolute(), *self._arguments)

    def beside(self, name: str | Path) -> Model:
        """Load another model with this one's backend and threads; see `load`."""
        backend, _, threads = self._arguments
        return load(name, backend=backend, threads=threads)

    def options(self, **given: Any) -> Any:
        """Return the decoder's options; those that are not ``given`` have their defaults.

        Raises `TyndaError` for an option that this kind of model does not have.
        """
        known = [f.name for f in fields(self.head.options_type)]
        if unknown := [name for name in given if name not in known]:
            raise TyndaError(
                f"{self.header.name} has no option {unknown[0]}; its options: {', '.join(known)}"
            )
        return self.head.options_type(**given)

    def prepare(self, options: Any = None) -> None:
        """Load language models and adapters now, instead of with the first recording.

        Raises `TyndaError` where decoding with these options would.
        """
        self.head.prepare(self.options() if options is None else options)

    def session(self, options: Any = None, **given: Any) -> Session:
        """Return a session for one recording; ``options`` may also be ``given`` one by one.

        Raises `TyndaError` for options that do not fit the model.
        """
        return self.head.session(self._checked(options, given))

    def _checked(self, options: Any, given: dict[str, Any]) -> Any:
        if options is None:
            return self.options(**given)
        if not isinstance(options, self.head.options_type):
            kind = self.head.options_type.__name__
            raise TyndaError(f"{self.header.name} accepts options of type {kind}, not {options!r}")
        return options

    def live(
        self,
        options: Any = None,
        *,
        settings: LiveSettings | None = None,
        sample_rate: int = SAMPLE_RATE,
        speakers: bool | int | Diarizer = False,
        **given: Any,
    ) -> LiveSession:
        """Return a session that is fed while somebody speaks.

        ``settings`` say when words are decoded and final; ``options``, which may also be ``given``
        one by one, are those of `transcribe`. ``sample_rate``, in hertz, is that of the samples
        that will be fed. With ``speakers``, as of `transcribe`, the words of an utterance that has
        ended have the speaker. Raises `TyndaError` for options that do not fit the model, and where
        `Diarizer` does.
        """
        from tynda.live.session import LiveSession  # Files are transcribed without it.
        from tynda.live.settings import LiveSettings

        voices = None
        if speakers is not False:
            from tynda.speakers.live import LiveDiarization  # It imports this module.

            voices = LiveDiarization(_diarizer(speakers))
        decoder = self.head.live(self._checked(options, given))
        return LiveSession(decoder, settings or LiveSettings(), sample_rate, voices)

    def commands(
        self, grammar: str | PathLike[str] | Grammar, options: Any = None, **settings: Any
    ) -> CommandRecognizer:
        """Return a recogniser of the sentences of a grammar, which refuses everything else.

        ``grammar`` is a file, as for `tynda.commands.read.read`, or already read. ``options`` are
        those of `transcribe`, of which commands use few, such as the language; ``settings`` are
        the fields of `CommandSettings`. Raises `TyndaError` for a grammar that is not valid or too
        large, and for words that the model cannot spell.
        """
        from tynda.commands.graph import WordGraph  # Text is transcribed without it.
        from tynda.commands.read import read
        from tynda.commands.recognizer import CommandRecognizer
        from tynda.commands.settings import CommandSettings
        from tynda.commands.templates import Grammar

        chosen = CommandSettings(**settings)
        if not isinstance(grammar, Grammar):
            languages = self.header.languages
            grammar = read(grammar, languages[0] if len(languages) == 1 else None)
        graph = WordGraph(grammar, self.normalize)
        decoder = self.head.commands(graph, self._checked(options, {}))
        return CommandRecognizer(graph, decoder, chosen)

    @overload
    def transcribe(
        self,
        source: Any,
        options: Any = None,
        *,
        sample_rate: int = SAMPLE_RATE,
        audio_track: int | None = None,
        speakers: bool | int | Diarizer = False,
        stream: Literal[False] = False,
        on_progress: Progress | None = None,
        **given: Any,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        source: Any,
        options: Any = None,
        *,
        sample_rate: int = SAMPLE_RATE,
        audio_track: int | None = None,
        speakers: bool | int | Diarizer = False,
        stream: Literal[True],
        on_progress: Progress | None = None,
        **given: Any,
    ) -> Iterator[Segment]: ...

    def transcribe(
        self,
        source: Any,
        options: Any = None,
        *,
        sample_rate: int = SAMPLE_RATE,
        audio_track: int | None = None,
        speakers: bool | int | Diarizer = False,
        stream: bool = False,
        on_progress: Progress | None = None,
        **given: Any,
    ) -> Transcript | Iterator[Segment]:
        """Transcribe ``source``: a path, bytes, a binary file, ``"-"`` for stdin, or samples.

        Samples are an array or a tensor as for `as_samples`, at ``sample_rate`` hertz.
        ``audio_track`` is the number of the audio track of a file, counted from 1; by default that
        of `audio.stream`. ``options`` may also be ``given`` one by one. With ``stream``, the result
        is an iterator that yields each segment as soon as it is ready. ``on_progress`` is called
        with the seconds that are done.

        With ``speakers``, segments and words have the speaker, and segments are split where it
        changes: True, or the number of speakers where that is known, or a `Diarizer` with people to
        recognise. Words then have times where the model can find them. Who speaks is known when the
        recording has ended.

        Raises `TyndaError` where `audio.stream`, `as_samples`, `options`, `Diarizer` or the decoder
        does.
        """
        blocks = _blocks(source, sample_rate, audio_track)
        if speakers is not False:
            found = self._with_speakers(blocks, options, given, speakers, on_progress)
            return iter(found.segments) if stream else found
        session = self.session(options, **given)
        return (session.segments if stream else session.transcribe)(blocks, on_progress)

    def _with_speakers(
        self,
        blocks: Iterable[Floats],
        options: Any,
        given: dict[str, Any],
        speakers: bool | int | Diarizer,
        on_progress: Progress | None,
    ) -> Transcript:
        from tynda.speakers.attribution import transcribe  # It imports this module.

        timed = self.head.with_word_times(self._checked(options, given))
        return transcribe(self.head.session(timed), blocks, _diarizer(speakers), on_progress)

    def segments(
        self,
        source: Any,
        options: Any = None,
        *,
        sample_rate: int = SAMPLE_RATE,
        audio_track: int | None = None,
        on_progress: Progress | None = None,
        **given: Any,
    ) -> Iterator[Segment]:
        """Yield the segments of a recording, each as soon as it is ready; see `transcribe`."""
        blocks = _blocks(source, sample_rate, audio_track)
        return self.session(options, **given).segments(blocks, on_progress)

    def encode(self, samples: Floats, language: str | None = None) -> Floats:
        """Run the encoder on float32 mono samples ``[n]`` at 16 kHz.

        The result of a CTC model is log-probabilities ``[frames, vocab]``, that of others the
        states ``[frames, channels]`` of the first window. ``language`` selects the adapter of a
        model with several.
        """
        return self.head.encode(samples, language)

    def logits(self, samples: Floats, text: str) -> Floats:
        """Return the scores ``[n, vocab]`` of every output token, with ``text`` as forced input.

        For CTC, which has no decoder, they are the log-probabilities of the frames.
        """
        model, head = self.checkpoint, self.head
        features = head.features(model, samples)
        inputs, _ = forced_inputs(features, head.reference_tokens(model, text))
        scores = head.engine.run(head.forced, (model.family, model.config), *inputs)
        result: Floats = head.engine.array(scores)[0]
        return result

    @property
    def normalize(self) -> Callable[[str], str]:
        """The normaliser with which texts are scored."""
        return normalizer_of(self.header.languages)


def _diarizer(speakers: bool | int | Diarizer) -> Diarizer:
    """Return what tells speakers apart: an estimated number of them, a given one, or as it is."""
    from tynda.speakers.diarize import Diarizer  # It imports this module.

    if isinstance(speakers, Diarizer):
        return speakers
    return Diarizer(count=None if speakers is True else speakers)


def _blocks(source: Any, sample_rate: int, track: int | None) -> Iterable[Floats]:
    """Return the sound of a source in blocks; those of an array are views of it."""
    if not is_samples(source):
        return audio.stream(source, track=track)
    if track is not None:
        raise TyndaError("samples have no tracks: audio_track is for files")
    samples = as_samples(source, sample_rate)
    return (samples[i : i + _BLOCK] for i in range(0, len(samples), _BLOCK))
