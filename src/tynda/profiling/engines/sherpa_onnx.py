"""sherpa-onnx: Whisper, as its own script ``scripts/whisper/export-onnx.py`` exports it.

It hears one recording after another, and shows one stage only. Two things cannot be asked of it,
so that its work differs from the others': a decoder says as much as it likes, at most 6 tokens a
second of sound (with weights of chance it says all of them); and sound is followed by 10 s of
silence instead of being filled up to 30 s. It leaves out what comes after 29.5 s, so that longer
recordings are cut before.

Of CTC models it runs those of icefall, NeMo, WeNet and others, for each of which it has a loader
of its own. It has none for wav2vec 2.0 as transformers has it.
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
"""Seconds: what is longer is cut by whoever calls it."""


class SherpaOnnx(Engine):
    """``8``: weights, and activations as they come (dynamic quantisation by ONNX Runtime)."""

    name = "sherpa-onnx"
    bits: ClassVar = {"32": "float32", "8": "int8"}
    families = ("whisper",)
    modules: ClassVar = {"sherpa_onnx": "sherpa-onnx"}
    converters: ClassVar = {
        **{"torch": "torch", "transformers": "transformers"},
        **{"onnx": "onnx", "onnxruntime": "onnxruntime"},
    }

    def format(self, case: Case) -> str:
        """A folder with ``encoder.onnx``, ``decoder.onnx`` and ``tokens.txt``."""
        return f"sherpa-onnx-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """What the script writes, of a folder of the hub's."""
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
        """As users open it; it finds the language of words itself, as others do."""
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
        """All in one stage; ``tokens`` are not heeded, nor those counted that were said: where
        weights are random they are no UTF-8, which the binding does not read."""
        for one in samples:
            self._hear(one)

    def transcribe(self, samples: Floats) -> str:
        """Piece by piece."""
        return " ".join(" ".join(x.text for x in self._hear(samples)).split())

    def _hear(self, samples: Floats) -> list[Any]:
        found = []
        for part, _ in parts(samples[None], WINDOW, 0):
            stream = self._recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE, part[0])
            self._recognizer.decode_stream(stream)
            found.append(stream.result)
        return found
