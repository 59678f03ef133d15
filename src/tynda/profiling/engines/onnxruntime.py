"""The engine ONNX Runtime, for Whisper or CTC models.

Front end, tokenizer and greedy decoding are those of transformers (`exported`), since ONNX Runtime
has none for speech.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines import exported
from tynda.profiling.engines.base import Engine, Session
from tynda.profiling.engines.transformers import has_decoder

__all__ = ["OnnxRuntime"]

Floats = NDArray[np.float32]


class OnnxRuntime(Engine):
    """ONNX Runtime; ``8`` quantises weights and activations of products dynamically."""

    name = "onnxruntime"
    bits: ClassVar = {"32": "float32", "8": "dynamic int8"}
    families = ("whisper", "wav2vec2")
    modules: ClassVar = {"onnxruntime": "onnxruntime", "transformers": "transformers"}
    converters: ClassVar = exported.CONVERTERS

    def load(self) -> None:
        """Import ONNX Runtime and the required classes of transformers; see `Engine.load`."""
        import onnxruntime  # noqa: F401
        from transformers import AutoFeatureExtractor, AutoTokenizer  # noqa: F401

    def format(self, case: Case) -> str:
        """Return the name of a folder with the graphs of `exported.graphs`."""
        return f"onnxruntime-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Write graphs for any batch and, for CTC, any length."""
        exported.keep_companions(model, path)
        for name, graph in exported.graphs(model).items():
            file = path / f"{name}.onnx"
            exported.write_onnx(*graph[:2], file, graph.names)
            if case.bits == "8":
                exported.quantize_onnx(file)

    def open(self, case: Case, path: Path) -> Session:
        """Load the graphs, with the threads of the case."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads

        def load(name: str) -> Any:
            return onnxruntime.InferenceSession(str(path / f"{name}.onnx"), options)

        model, kind = load("model"), self.bits[case.bits]

        def run(x: Floats) -> Floats:
            found: Floats = model.run(None, {"x": x})[0]
            return found

        if not has_decoder(path):
            return exported.CTC(run, path, kind)
        decoder = _Decoder(load("cross_kv"), load("advance"), exported.decoder_names(path))
        return exported.Whisper(run, decoder, path, kind)


class _Decoder:
    """See `whisper_graphs.Decoder`."""

    def __init__(self, cross: Any, advance: Any, names: Any) -> None:
        self._cross, self._advance, self._names = cross, advance, names
        shape = next(x.shape for x in advance.get_inputs() if x.name == names.past[0])
        self._heads, self._width = shape[1], shape[3]

    def begin(self, states: Floats) -> None:
        nothing = np.zeros((len(states), self._heads, 0, self._width), np.float32)
        cross_kv = self._cross.run(self._names.cross, {"states": states})
        self._cross_kv = dict(zip(self._names.cross, cross_kv, strict=True))
        self._past = dict.fromkeys(self._names.past, nothing)

    def advance(self, tokens: NDArray[np.int64]) -> Floats:
        given = {"tokens": tokens, **self._cross_kv, **self._past}
        logits, *present = self._advance.run(["logits", *self._names.present], given)
        self._past = dict(zip(self._names.past, present, strict=True))
        found: Floats = logits
        return found
