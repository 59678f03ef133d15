"""OpenVINO: Whisper or a CTC model, whose front end, tokenizer and greedy decoding are those of
transformers (`exported`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines import exported
from tynda.profiling.engines.base import Engine, Session
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["OpenVino"]

Floats = NDArray[np.float32]
SEEN = 3
"""Recordings of noise that activations are scaled by: enough for time, energy and memory. Word
errors in 8 bits would be less with speech."""


class OpenVino(Engine):
    """``8``: weights and activations, by NNCF; of Whisper's decoder weights alone."""

    name = "openvino"
    bits: ClassVar = {"32": "float32", "8": "int8 (NNCF)"}
    families = ("whisper", "wav2vec2")
    modules: ClassVar = {"openvino": "openvino", "transformers": "transformers"}
    converters: ClassVar = {"torch": "torch", "nncf": "nncf"}

    def load(self) -> None:
        """As `Engine.load`, with the classes of transformers that are needed."""
        import openvino  # noqa: F401
        from transformers import AutoFeatureExtractor, AutoTokenizer  # noqa: F401

    def format(self, case: Case) -> str:
        """A folder with the graphs of `exported.graphs`."""
        return f"openvino-graphs-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Any batch, and for CTC any length."""
        import openvino

        exported.keep_companions(model, path)
        for name, (module, given, names) in exported.graphs(model).items():
            only = given if len(given) > 1 else given[0]
            graph = openvino.convert_model(module, example_input=only)
            shapes = {}
            for port, key in zip([*graph.inputs, *graph.outputs], names, strict=True):
                port.get_tensor().set_names({key})
            for port, key, x in zip(graph.inputs, names, given, strict=False):
                shapes[port] = [-1 if i in names[key] else n for i, n in enumerate(x.shape)]
            graph.reshape(shapes)
            if case.bits == "8":
                graph = _quantized(graph, model if name == "model" else None)
            openvino.save_model(graph, path / f"{name}.xml", compress_to_fp16=False)

    def open(self, case: Case, path: Path) -> Session:
        """For the case's batch and length, where it has one."""
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        core = openvino.Core()
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": case.threads}
        if case.bits == "32":  # or it may take bf16, and 8 bits for keys and values
            config |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}

        def load(name: str, remembers: Mapping[str, str] | None = None) -> Any:
            graph = core.read_model(path / f"{name}.xml")
            sized = {x: [case.batch, *list(x.partial_shape)[1:]] for x in graph.inputs}
            if case.seconds and not exported.is_whisper(path):
                sized = {graph.input(0): [case.batch, round(case.seconds * SAMPLE_RATE)]}
            graph.reshape(sized)
            if remembers:
                apply_make_stateful_transformation(graph, remembers)
            return core.compile_model(graph, "CPU", config)

        model, kind = load("model"), self.bits[case.bits]

        def run(x: Floats) -> Floats:
            found: Floats = model(x)[0]
            return found

        if not exported.is_whisper(path):
            return exported.CTC(run, path, kind)
        names = exported.decoder_names(path)
        advance = load("advance", dict(zip(names.past, names.present, strict=True)))
        return exported.Whisper(run, _Decoder(load("hear"), advance, names), path, kind)


class _Decoder:
    """See `whisper_graphs.Decoder`; what was said is remembered by OpenVINO."""

    def __init__(self, hear: Any, advance: Any, names: Any) -> None:
        self._hear, self._advance = hear.create_infer_request(), advance.create_infer_request()
        self._names = names

    def begin(self, states: Floats) -> None:
        self._advance.reset_state()
        self._hear.infer({"states": states}, share_inputs=True)
        for name in self._names.heard:
            self._advance.set_tensor(name, self._hear.get_tensor(name))

    def advance(self, tokens: NDArray[np.int64]) -> Floats:
        found: Floats = self._advance.infer({"tokens": tokens})["logits"]
        return found


def _quantized(graph: Any, model: Path | None) -> Any:
    """In 8 bits; ``model``: the folder of one whose activations are, too."""
    import nncf

    if model is None:
        return nncf.compress_weights(graph)
    data = nncf.Dataset([exported.example(model, seed) for seed in range(SEEN)])
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER}
    return nncf.quantize(graph, data, subset_size=SEEN, **options)
