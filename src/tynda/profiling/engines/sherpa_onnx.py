"""The engine sherpa-onnx, for Whisper as its script ``scripts/whisper/export-onnx.py`` exports it.

It recognises one recording after another, and reports one stage only. Two settings cannot be
controlled, so that its work differs from that of other engines: the decoder generates up to 6
tokens for each second of audio (random weights give all of them), and 10 s of silence follow the
audio instead of padding to 30 s. It ignores audio after 29.5 s, so that longer recordings are
split before.

sherpa-onnx runs CTC models of icefall, NeMo, WeNet and others, with a loader for each. It has no
loader for wav2vec 2.0 of transformers.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines import exported, sherpa_export
from tynda.profiling.engines.base import Clock, Engine, Session, parts
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["SherpaOnnx"]

Floats = NDArray[np.float32]
WINDOW = 29.0
"""Maximum length of a piece in seconds; longer recordings are split before the call."""


class SherpaOnnx(Engine):
    """sherpa-onnx; ``8`` quantises weights and activations dynamically, by ONNX Runtime."""

    name = "sherpa-onnx"
    bits: ClassVar = {"32": "float32", "8": "int8"}
    families = ("whisper",)
    modules: ClassVar = {"sherpa_onnx": "sherpa-onnx"}
    converters: ClassVar = {
        **{"torch": "torch", "transformers": "transformers"},
        **{"onnx": "onnx", "onnxruntime": "onnxruntime"},
    }

    def format(self, case: Case) -> str:
        """Return the name of a folder with ``encoder.onnx``, ``decoder.onnx``, ``tokens.txt``."""
        return f"sherpa-onnx-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Write the files that the script writes, from a Hugging Face folder."""
        path.mkdir()
        tokenizer = sherpa_export.export(model, path)
        pieces = tokenizer.to_dict()
        tokens = np.split(pieces["pieces"], pieces["ends"][: tokenizer.eot])[:-1]
        spelt = (base64.b64encode(token.tobytes()).decode() for token in tokens)
        lines = [f"{token} {i}\n" for i, token in enumerate(spelt)]
        (path / "tokens.txt").write_text("".join(lines))
        if case.bits == "8":
            for part in ("encoder.onnx", "decoder.onnx"):
                exported.quantize_onnx(path / part)

    def open(self, case: Case, path: Path) -> Session:
        """Load the model as its users do; for words, the language is detected, as by others."""
        import sherpa_onnx

        recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
            encoder=str(path / "encoder.onnx"),
            decoder=str(path / "decoder.onnx"),
            tokens=str(path / "tokens.txt"),
            num_threads=case.threads,
            language="" if case.work == "words" else "en",
        )
        return _Whisper(recognizer, self.bits[case.bits])


class _Whisper(Session):
    batched = False
    window = WINDOW

    def __init__(self, recognizer: Any, kind: str) -> None:
        self._recognizer, self.kind = recognizer, kind

    def run(self, samples: Floats, tokens: float, clock: Clock) -> None:
        """Run in one stage. ``tokens`` are ignored, and generated tokens are not counted: with
        random weights they are not UTF-8, which the binding cannot read."""
        for one in samples:
            self._recognise(one)

    def transcribe(self, samples: Floats) -> str:
        """Recognise piece by piece."""
        return " ".join(" ".join(x.text for x in self._recognise(samples)).split())

    def _recognise(self, samples: Floats) -> list[Any]:
        found = []
        for part, _ in parts(samples[None], WINDOW, 0):
            stream = self._recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE, part[0])
            self._recognizer.decode_stream(stream)
            found.append(stream.result)
        return found
