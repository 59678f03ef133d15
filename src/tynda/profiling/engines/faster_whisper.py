"""The engine faster-whisper, which runs on CTranslate2."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines.base import Engine, Session
from tynda.profiling.engines.transformers import companions

__all__ = ["FasterWhisper"]

Floats = NDArray[np.float32]


class FasterWhisper(Engine):
    """Whisper in the format of CTranslate2's converter."""

    name = "faster-whisper"
    bits: ClassVar = {"32": "float32", "16": "float16", "8": "int8"}
    families = ("whisper",)
    modules: ClassVar = {"ctranslate2": "ctranslate2", "faster_whisper": "faster-whisper"}
    converters: ClassVar = {"torch": "torch", "transformers": "transformers"}

    def missing(self, case: Case) -> str | None:
        """See `Engine.missing`; few processors compute in float16."""
        why = super().missing(case)
        if why is None:
            import ctranslate2

            kinds = ctranslate2.get_supported_compute_types(case.device)
            if self.bits[case.bits] not in kinds:
                return (
                    f"CTranslate2 does not compute in {self.bits[case.bits]} on this "
                    f"{case.device}: it has {', '.join(sorted(kinds))}"
                )
        return why

    def format(self, case: Case) -> str:
        """Return the name of a CTranslate2 folder."""
        return f"ctranslate2-{self.bits[case.bits]}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Convert, and add the tokenizer and front end settings, as in faster-whisper's models."""
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(str(model))
        converter.convert(str(path), quantization=self.bits[case.bits])
        for part in companions(model):
            part.save_pretrained(path)

    def open(self, case: Case, path: Path) -> Session:
        """Load the model as faster-whisper's documentation does."""
        from faster_whisper import WhisperModel

        model = WhisperModel(
            str(path),
            device=case.device,
            compute_type=self.bits[case.bits],
            cpu_threads=case.threads,
        )
        return _Whisper(model, self.bits[case.bits])


class _Whisper(Session):
    def __init__(self, model: Any, kind: str) -> None:
        from faster_whisper.tokenizer import Tokenizer

        self._model, self.kind = model, kind
        self.window = float(model.feature_extractor.chunk_length)
        multilingual = model.model.is_multilingual
        self._tokenizer: Any = Tokenizer(
            model.hf_tokenizer, multilingual, task="transcribe", language="en"
        )
        self._start = [*self._tokenizer.sot_sequence, self._tokenizer.no_timestamps]

    def frontend(self, samples: Floats) -> Floats:
        """Return log-mel features ``[batch, bins, frames]``, padded with zeros to a window."""
        from faster_whisper.audio import pad_or_trim

        features = [self._model.feature_extractor(x)[:, :-1] for x in samples]
        return np.stack([pad_or_trim(x) for x in features])

    def encoder(self, features: Floats) -> Any:
        """Return the states as an object of CTranslate2."""
        return self._model.encode(features)

    def decoder(self, states: Any, count: int) -> int:
        """Decode greedily; the end token is suppressed."""
        prompt = len(self._start)
        # Generated tokens may use half of max_length, or the rest after the prompt if it is less.
        found = self._model.model.generate(
            states,
            [self._start] * states.shape[0],
            beam_size=1,
            max_length=min(max(2 * count, count + prompt), self._model.max_length),
            suppress_tokens=[self._tokenizer.eot],
        )
        for result in found:
            self._tokenizer.decode(result.sequences_ids[0])
        return len(found[0].sequences_ids[0])

    def transcribe(self, samples: Floats) -> str:
        """Call `WhisperModel.transcribe`."""
        return " ".join("".join(x.text for x in self._model.transcribe(samples)[0]).split())
