"""What all recognisers have in common: sound in, transcript out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.compile.engine import Engine, open_engine
from tynda.errors import TyndaError, listed
from tynda.sound import audio
from tynda.sound.audio import Source
from tynda.store.checkpoint import Checkpoint
from tynda.transcript import Transcript

__all__ = ["Recognizer"]

Floats = NDArray[np.float32]
O = TypeVar("O")  # noqa: E741 - a recogniser's options


class Recognizer(ABC, Generic[O]):
    """A model with its front end and decoder. Not safe to share between threads."""

    options_type: ClassVar[type]
    """The dataclass of what can be asked of the decoder."""

    def __init__(self, model: Checkpoint, **compute: Any) -> None:
        """``compute``: how, as `open_engine` takes it."""
        self.header, self.bytes = model.header, model.bytes
        self._model, self._compute = model, compute
        self._engine = self._open(model)

    def _open(self, model: Checkpoint) -> Engine:
        trainable = models.trainable(models.family(model.header.family), model.config)
        return open_engine(model.weights, trainable, **self._compute)

    def options(self, **given: Any) -> O:
        """The decoder's options, those that are not ``given`` as they are by default.

        Raises `TyndaError` for one that this kind of model does not have.
        """
        known = [f.name for f in fields(self.options_type)]
        if unknown := [name for name in given if name not in known]:
            raise TyndaError(
                f"{self.header.name} has no option {unknown[0]}; its options: {', '.join(known)}"
            )
        options: O = self.options_type(**given)
        return options

    def transcribe(
        self,
        source: Source,
        options: O | None = None,
        *,
        on_progress: Callable[[float], None] | None = None,
        **given: Any,
    ) -> Transcript:
        """The words in ``source``: a path, bytes, a binary file, or ``"-"`` for stdin.

        ``options`` may also be ``given`` one by one. ``on_progress`` hears how many seconds
        are done. Raises `TyndaError` where `audio.stream`, `options` or the decoder does.
        """
        if isinstance(source, np.ndarray):
            raise TyndaError("transcribe takes a recording: give samples to transcribe_samples")
        chosen = self.options(**given) if options is None else options
        return self._transcribe(audio.stream(source), chosen, on_progress)

    def transcribe_samples(
        self, samples: Floats, options: O | None = None, **given: Any
    ) -> Transcript:
        """The same for float mono samples ``[n]`` at 16 kHz, full scale at ±1.

        Raises `TyndaError` where they are anything else.
        """
        chosen = self.options(**given) if options is None else options
        return self._transcribe([_samples(samples)], chosen, None)

    @abstractmethod
    def _transcribe(
        self,
        blocks: Iterable[Floats],
        options: O,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript: ...

    @abstractmethod
    def prepare(self, options: O | None = None) -> None:
        """Do now what the first recording would wait for.

        Raises `TyndaError` where decoding by these options would.
        """

    def check_language(self, language: str | None) -> None:
        """Raise `TyndaError` for a language that the model does not know; None is any."""
        known = self.header.languages
        if language is None or language in known:
            return
        raise TyndaError(
            f"{self.header.name} does not know the language {language!r}; it knows {listed(known)}"
            if known
            else f"{self.header.name} does not say which languages it knows: leave it out"
        )

    @property
    def normalize(self) -> Callable[[str], str]:
        """Brings a text to the spelling in which it is scored."""
        from tynda.text.normalize import basic, english_letters

        return english_letters if self.header.languages == ["en"] else basic


def _samples(given: Any) -> Floats:
    samples = np.asarray(given)
    if samples.dtype.kind != "f":
        raise TyndaError(
            f"samples must be floats, full scale at ±1, not {samples.dtype}: "
            "divide those of 16 bits by 32768"
        )
    if samples.ndim != 1:
        raise TyndaError(
            f"samples must have one axis, [n], not {list(samples.shape)}: average the channels"
        )
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise TyndaError("samples must be finite: some are NaN or infinite")
    return samples
