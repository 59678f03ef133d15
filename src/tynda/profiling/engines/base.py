"""The interface of whatever recognises speech."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case, Work
from tynda.profiling.environment import digest, library_version
from tynda.profiling.operations import Operation
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["Clock", "Engine", "Session", "parts"]

Floats = NDArray[np.float32]


class Clock:
    """Adds up the time of the stages of a run."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        """``wait`` returns when the device has done what it was given."""
        self.stages: dict[str, float] = {}
        self.tokens = 0
        """Said by each recording, added up by the session."""
        self._wait = wait

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """``with clock.stage("encoder"): ...``; names are those of `Row.values`' stages."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started


class Session:
    """A model in an engine's hands."""

    kind: str
    """The engine's own name of the precision."""
    batched: bool = True
    """Whether a batch is computed as one."""
    window: float | None = None
    """Seconds that the model hears at once, whatever there is to hear; None: any length."""
    most: int = 224
    """Tokens that a decoder says for a window at the most."""

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """Recognise ``samples [batch, n]`` at 16 kHz greedily, stage by stage.

        A model with a decoder says ``tokens`` for each second of sound (`parts`), and never ends
        before; a CTC model has none. This is for sessions that have the three stages below.
        """
        for at, heard in enumerate([samples] if self.batched else samples[:, None]):
            for part, count in parts(heard, self.window, tokens):
                with clock.stage("frontend"):
                    features = self.frontend(part)
                with clock.stage("encoder"):
                    states = self.encoder(features)
                with clock.stage("decoder"):
                    said = self.decoder(states, count)
                clock.tokens += 0 if at else said

    def frontend(self, samples: Floats) -> Any:
        """What the encoder takes of ``samples [batch, n]``."""
        raise NotImplementedError

    def encoder(self, features: Any) -> Any:
        """What the decoder takes."""
        raise NotImplementedError

    def decoder(self, states: Any, count: int) -> int:
        """Say ``count`` tokens and make text of them; how many there were, 0 of a CTC model."""
        raise NotImplementedError

    def transcribe(self, samples: Floats) -> str:
        """The text of ``samples [n]``, decoded as the engine does it by default."""
        raise NotImplementedError

    def operations(self, samples: Floats, tokens: float) -> dict[str, list[Operation]]:
        """What `run` does with the same arguments, operation by operation: ``encoder`` and
        ``decoder``. Raises NotImplementedError where the engine cannot tell."""
        raise NotImplementedError

    def steps(self, samples: Floats, positions: Sequence[int], cached: bool) -> list[float]:
        """Seconds that a decoder takes for the token at each of ``positions``, which rise from 1
        on, of the first window of ``samples [1, n]``.

        ``cached``: with the keys and values of the tokens before it remembered; else all of them
        are run again. Those of the sound are remembered either way. Raises NotImplementedError
        where there is no decoder, or no choice.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Bytes, after a run, of what the engine can tell: see `Row.values`' memory."""
        return {}

    def wait(self) -> None:
        """Return when the device has done what it was given: a processor has, after a call."""


class Engine(ABC):
    """A library that recognises speech."""

    name: ClassVar[str]
    """As users name it."""
    bits: ClassVar[Mapping[str, str]]
    """`Case.bits` -> the engine's own name."""
    families: ClassVar[tuple[str, ...]]
    """Of models (``header.family``) that it can run."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    modules: ClassVar[Mapping[str, str]] = {}
    """Modules that it needs -> what to install."""
    works: ClassVar[tuple[Work, ...]] = ("speed", "words")
    """What can be measured of it."""
    converters: ClassVar[Mapping[str, str]] = {}
    """Likewise, what only `prepare` needs beside them."""
    needs_folder: ClassVar[bool] = True
    """Whether the model must be a Hugging Face folder, and no file of tynda's."""

    @property
    def version(self) -> str:
        """Of whatever `prepare` makes: another version makes its forms anew."""
        libraries = {*self.modules.values(), *self.converters.values(), "tynda"}
        return digest({name: library_version(name) for name in libraries})

    def missing(self, case: Case) -> str | None:
        """Why this machine cannot run a case, in a line; None where it can."""
        needed = {**self.modules, **self.converters}
        wanted = [package for module, package in needed.items() if not _is_there(module)]
        if wanted:
            return f"{self.name} is not installed: pip install {' '.join(dict.fromkeys(wanted))}"
        if case.device not in self.devices:
            return f"{self.name} does not run on {case.device}"
        if case.bits not in self.bits:
            return f"{self.name} has no {case.bits} bits: it has {', '.join(self.bits)}"
        return None

    def needs(self, case: Case, path: Path) -> int | None:
        """Bytes that a case takes beside the libraries, before it is tried, if that can be told;
        ``path`` as `open` takes it."""
        return None

    def format(self, case: Case) -> str | None:
        """The name of the form that the model is brought into for a case, once and for all cases
        of that name; None: it is taken as it is."""
        return None

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Write ``model`` to ``path``, a file or folder that is not there, in the form that
        `format` names."""
        raise NotImplementedError

    def load(self) -> None:
        """Import what is needed: what memory that takes is not the model's."""
        for module in self.modules:
            __import__(module)

    @abstractmethod
    def open(self, case: Case, path: Path) -> Session:
        """``path``: of the model as `prepare` left it, or as it is."""


def parts(samples: Floats, window: float | None, tokens: float) -> Iterator[tuple[Floats, int]]:
    """``samples [batch, n]`` in windows of so many seconds, and the tokens to say for each.

    The last is as long as what is left: an engine pads it as it does.
    """
    size = round(window * SAMPLE_RATE) if window else samples.shape[1]
    for start in range(0, samples.shape[1], size):
        part = samples[:, start : start + size]
        yield part, max(1, round(tokens * part.shape[1] / SAMPLE_RATE))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
