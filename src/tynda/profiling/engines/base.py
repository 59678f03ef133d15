"""The interface of speech recognition engines."""

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
    """Accumulates the time of the stages of a run."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        """``wait`` returns when the device has finished all submitted work."""
        self.stages: dict[str, float] = {}
        self.tokens = 0
        """Tokens generated for each recording, accumulated by the session."""
        self._wait = wait

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block: ``with clock.stage("encoder"): ...``; for names see `Row.values`."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started


class Session:
    """A model that an engine has loaded."""

    kind: str
    """The engine's own name of the precision."""
    batched: bool = True
    """Whether a batch is computed at once."""
    window: float | None = None
    """The model's fixed input window in seconds; None means any length."""
    max_tokens: int = 224
    """Maximum number of tokens that a decoder generates for a window."""

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """Recognise ``samples [batch, n]`` at 16 kHz greedily, stage by stage.

        A decoder generates ``tokens`` for each second of audio (`parts`), and never ends before; a
        CTC model has no tokens. This method is for sessions that have the three stages below.
        """
        for at, recordings in enumerate([samples] if self.batched else samples[:, None]):
            for part, count in parts(recordings, self.window, tokens):
                with clock.stage("frontend"):
                    features = self.frontend(part)
                with clock.stage("encoder"):
                    states = self.encoder(features)
                with clock.stage("decoder"):
                    said = self.decoder(states, count)
                clock.tokens += 0 if at else said

    def frontend(self, samples: Floats) -> Any:
        """Return the encoder's input for ``samples [batch, n]``."""
        raise NotImplementedError

    def encoder(self, features: Any) -> Any:
        """Return the decoder's input."""
        raise NotImplementedError

    def decoder(self, states: Any, count: int) -> int:
        """Generate ``count`` tokens and convert them to text; return their number, 0 for CTC."""
        raise NotImplementedError

    def transcribe(self, samples: Floats) -> str:
        """Return the text of ``samples [n]``, decoded with the engine's default settings."""
        raise NotImplementedError

    def operations(self, samples: Floats, tokens: float) -> dict[str, list[Operation]]:
        """Return the operations of ``encoder`` and ``decoder`` in `run` with the same arguments.
        Raises NotImplementedError where the engine cannot list them."""
        raise NotImplementedError

    def steps(self, samples: Floats, positions: Sequence[int], cached: bool) -> list[float]:
        """Return the seconds that a decoder takes for the token at each of ``positions``, rising
        from 1 on, in the first window of ``samples [1, n]``.

        With ``cached``, keys and values of the tokens before it are cached; otherwise the decoder
        runs on all of them again. Cross-attention keys and values are cached in both cases. Raises
        NotImplementedError where there is no decoder, or no choice.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Return the bytes that the engine can report after a run: see `Row.values`' memory."""
        return {}

    def wait(self) -> None:
        """Return when the device has finished; a CPU has when a call returns."""


class Engine(ABC):
    """A library that recognises speech."""

    name: ClassVar[str]
    """The engine's name in options."""
    bits: ClassVar[Mapping[str, str]]
    """`Case.bits` -> the engine's own name."""
    families: ClassVar[tuple[str, ...]]
    """The families of models (``header.family``) that the engine can run."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    modules: ClassVar[Mapping[str, str]] = {}
    """Required modules -> packages to install."""
    works: ClassVar[tuple[Work, ...]] = ("speed", "words")
    """The measurements that the engine supports."""
    converters: ClassVar[Mapping[str, str]] = {}
    """Further modules that only `prepare` requires -> packages to install."""
    needs_folder: ClassVar[bool] = True
    """Whether the model must be a Hugging Face folder, not a tynda model file."""

    @property
    def version(self) -> str:
        """The version of the files that `prepare` writes: another version writes them again."""
        libraries = {*self.modules.values(), *self.converters.values(), "tynda"}
        return digest({name: library_version(name) for name in libraries})

    def missing(self, case: Case) -> str | None:
        """Return the reason why this machine cannot run a case, or None where it can."""
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
        """Return the predicted bytes of memory of a case, without the libraries, or None where
        there is no prediction; ``path`` is as for `open`."""
        return None

    def format(self, case: Case) -> str | None:
        """Return the name of the format that the model is converted to for a case, once for all
        cases with this name; None means that the model is not converted."""
        return None

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Write ``model`` to ``path``, a file or folder that does not exist, in the format that
        `format` names."""
        raise NotImplementedError

    def load(self) -> None:
        """Import the required modules, so that their memory is not counted as the model's."""
        for module in self.modules:
            __import__(module)

    @abstractmethod
    def open(self, case: Case, path: Path) -> Session:
        """Load the model at ``path``, as `prepare` wrote it or unconverted."""


def parts(samples: Floats, window: float | None, tokens: float) -> Iterator[tuple[Floats, int]]:
    """Split ``samples [batch, n]`` into windows of ``window`` seconds; yield each window and the
    number of tokens to generate for it.

    The last window may be shorter: each engine pads it in its own way.
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
