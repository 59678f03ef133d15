"""The engine OpenVINO, for Whisper or CTC models.

Front end, tokenizer and greedy decoding are those of transformers (`exported`).
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
from tynda.profiling.engines.transformers import has_decoder
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["OpenVino"]

Floats = NDArray[np.float32]
SEEN = 3
"""Number of noise recordings that activations are calibrated on: enough for time, energy and
memory. Calibration with speech would give fewer word errors in 8 bits."""


class OpenVino(Engine):
    """OpenVINO; ``8`` quantises weights and activations by NNCF (Whisper's decoder: weights)."""

    name = "openvino"
    bits: ClassVar = {"32": "float32", "8": "int8 (NNCF)"}
    families = ("whisper", "wav2vec2")
    modules: ClassVar = {"openvino": "openvino", "transformers": "transformers"}
    converters: ClassVar = {"torch": "torch", "nncf": "nncf"}

    def load(self) -> None:
        """Import OpenVINO and the required classes of transformers; see `Engine.load`."""
        import openvino  # noqa: F401
        from transformers import AutoFeatureExtractor, AutoTokenizer  # noqa: F401

    def format(self, case: Case) -> str:
        """Return the name of a folder with the graphs of `exported.graphs`."""
        return f"openvino-graphs-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Write graphs for any batch and, for CTC, any length."""
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
        """Compile the graphs for the case's batch and, where it has one, length."""
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        core = openvino.Core()
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": case.threads}
        if case.bits == "32":  # OpenVINO may otherwise choose bf16, and 8 bits for the KV cache
            config |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}

        def load(name: str, states: Mapping[str, str] | None = None) -> Any:
            graph = core.read_model(path / f"{name}.xml")
            sized = {x: [case.batch, *list(x.partial_shape)[1:]] for x in graph.inputs}
            if case.seconds and not has_decoder(path):
                sized = {graph.input(0): [case.batch, round(case.seconds * SAMPLE_RATE)]}
            graph.reshape(sized)
            if states:
                apply_make_stateful_transformation(graph, states)
            return core.compile_model(graph, "CPU", config)

        model, kind = load("model"), self.bits[case.bits]

        def run(x: Floats) -> Floats:
            found: Floats = model(x)[0]
            return found

        if not has_decoder(path):
            return exported.CTC(run, path, kind)
        names = exported.decoder_names(path)
        advance = load("advance", dict(zip(names.past, names.present, strict=True)))
        return exported.Whisper(run, _Decoder(load("cross_kv"), advance, names), path, kind)


class _Decoder:
    """See `whisper_graphs.Decoder`; OpenVINO holds the KV cache as state."""

    def __init__(self, cross: Any, advance: Any, names: Any) -> None:
        self._cross, self._advance = cross.create_infer_request(), advance.create_infer_request()
        self._names = names

    def begin(self, states: Floats) -> None:
        self._advance.reset_state()
        self._cross.infer({"states": states}, share_inputs=True)
        for name in self._names.cross:
            self._advance.set_tensor(name, self._cross.get_tensor(name))

    def advance(self, tokens: NDArray[np.int64]) -> Floats:
        found: Floats = self._advance.infer({"tokens": tokens})["logits"]
        return found


def _quantized(graph: Any, model: Path | None) -> Any:
    """Quantise a graph to 8 bits; with ``model``, a folder, activations are quantised, too."""
    import nncf

    if model is None:
        return nncf.compress_weights(graph)
    data = nncf.Dataset([exported.example(model, seed) for seed in range(SEEN)])
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER}
    return nncf.quantize(graph, data, subset_size=SEEN, **options)
