"""The engine whisper.cpp, through pywhispercpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines import ggml
from tynda.profiling.engines.base import Engine, Session

__all__ = ["WhisperCpp"]

Floats = NDArray[np.float32]
WINDOW = 30.0
"""The input window in seconds, a constant of whisper.cpp."""
ANY_TOKEN = 0
"""An arbitrary token of text."""


class WhisperCpp(Engine):
    """Whisper with weights in f16, or quantised in blocks of 32."""

    name = "whisper.cpp"
    bits: ClassVar = {"16": "f16", "8": "q8_0", "5": "q5_0", "4": "q4_0"}
    families = ("whisper",)
    modules: ClassVar = {"_pywhispercpp": "pywhispercpp", "pywhispercpp.model": "pywhispercpp"}

    def format(self, case: Case) -> str:
        """Return the name of a ggml file."""
        return f"ggml-{self.bits[case.bits]}.bin"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Convert the model as whisper.cpp's own tools do."""
        ggml.write(model, path, self.bits[case.bits])

    def open(self, case: Case, path: Path) -> Session:
        """Load the model as its users do."""
        return _Whisper(path, self.bits[case.bits], case.threads)


class _Whisper(Session):
    """Whisper. The binding accepts one token at a time, also of the prompt, and returns no logits:
    the decoder gets its prompt and then one token repeatedly. Its work does not depend on the
    tokens, except that the maximum of the logits is not searched."""

    batched = False
    window = WINDOW

    def __init__(self, path: Path, kind: str, threads: int) -> None:
        import _pywhispercpp as core
        from pywhispercpp.model import Model

        self.kind, self._threads, self._core = kind, threads, core
        quiet: dict[str, Any] = {"print_progress": False, "redirect_whispercpp_logs_to": None}
        self._model = Model(str(path), n_threads=threads, **quiet)
        context = self._model._ctx
        self._start = [core.whisper_token_sot(context)]
        if core.whisper_is_multilingual(context):
            language = core.whisper_token_lang(context, core.whisper_lang_id("en"))
            self._start += [language, core.whisper_token_transcribe(context)]
        self._start.append(core.whisper_token_not(context))
        self._room = core.whisper_n_text_ctx(context) - len(self._start)

    def frontend(self, samples: Floats) -> None:
        """Compute log-mel features of ``samples [1, n]`` and 30 s of silence, inside the engine."""
        (one,) = samples
        self._check(self._core.whisper_pcm_to_mel(self._model._ctx, one, len(one), self._threads))

    def encoder(self, features: None) -> None:
        """Compute states and cross-attention keys and values, which stay inside the engine."""
        self._check(self._core.whisper_encode(self._model._ctx, 0, self._threads))

    def decoder(self, states: None, count: int) -> int:
        """Run the decoder for ``count`` tokens after the prompt."""
        count = min(count, self._room)
        for at, token in enumerate([*self._start, *[ANY_TOKEN] * (count - 1)]):
            self._check(self._core.whisper_decode(self._model._ctx, token, 1, at, self._threads))
        return count

    def transcribe(self, samples: Floats) -> str:
        """Call `Model.transcribe`; the language of a multilingual model is detected."""
        several = self._core.whisper_is_multilingual(self._model._ctx)
        segments = self._model.transcribe(samples, language="auto" if several else "en")
        return " ".join(" ".join(x.text for x in segments).split())

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"whisper.cpp failed with {status}")
