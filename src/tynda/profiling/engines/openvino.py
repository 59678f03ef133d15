"""OpenVINO: Whisper's encoder, or the whole of a CTC model.

It is given neither a front end nor a decoder: those are transformers' (`exported`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tynda.audio import SAMPLE_RATE
from tynda.profiling.case import Case
from tynda.profiling.engines import exported
from tynda.profiling.engines.base import Engine, Session

__all__ = ["OpenVino"]

SEEN = 3
"""Recordings of noise that activations are scaled by: enough for time, energy and memory. Word
errors in 8 bits would be less with speech."""


class OpenVino(Engine):
    """``8``: weights and activations, by NNCF."""

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
        """A folder with ``model.xml``."""
        return f"openvino-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Any batch, and for CTC any length."""
        import openvino
        import torch

        exported.keep_companions(model, path)
        x = exported.example(model)
        graph = openvino.convert_model(exported.module(model), example_input=torch.from_numpy(x))
        graph.reshape([-1, *x.shape[1:]] if exported.is_whisper(model) else [-1, -1])
        if case.bits == "8":
            import nncf

            data = nncf.Dataset([exported.example(model, seed) for seed in range(SEEN)])
            options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER}
            graph = nncf.quantize(graph, data, subset_size=SEEN, **options)
        openvino.save_model(graph, path / "model.xml", compress_to_fp16=False)

    def open(self, case: Case, path: Path) -> Session:
        """For the case's batch and length, where it has one."""
        import openvino

        core = openvino.Core()
        graph = core.read_model(path / "model.xml")
        if exported.is_whisper(path):
            graph.reshape([case.batch, *list(graph.input(0).partial_shape)[1:]])
        elif case.seconds:
            graph.reshape([case.batch, round(case.seconds * SAMPLE_RATE)])
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": case.threads}
        if case.bits == "32":  # or it may take bf16
            config["INFERENCE_PRECISION_HINT"] = "f32"
        model = core.compile_model(graph, "CPU", config)
        return exported.Exported(lambda x: model(x)[0], path, self.bits[case.bits])
