"""ONNX Runtime: Whisper's encoder, or the whole of a CTC model.

It has neither a front end nor a decoder for speech: those are transformers' (`exported`).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tynda.profiling.case import Case
from tynda.profiling.engines import exported
from tynda.profiling.engines.base import Engine, Session

__all__ = ["OnnxRuntime"]


class OnnxRuntime(Engine):
    """``8``: weights and, as they come, activations of products (dynamic quantisation)."""

    name = "onnxruntime"
    bits: ClassVar = {"32": "float32", "8": "dynamic int8"}
    families = ("whisper", "wav2vec2")
    modules: ClassVar = {"onnxruntime": "onnxruntime", "transformers": "transformers"}
    converters: ClassVar = exported.CONVERTERS

    def load(self) -> None:
        """As `Engine.load`, with the classes of transformers that are needed."""
        import onnxruntime  # noqa: F401
        from transformers import AutoFeatureExtractor, AutoTokenizer  # noqa: F401

    def format(self, case: Case) -> str:
        """A folder with ``model.onnx``."""
        return f"onnx-{case.bits}"

    def prepare(self, case: Case, model: Path, path: Path) -> None:
        """Any batch, and for CTC any length."""
        import torch

        exported.keep_companions(model, path)
        axes = (0,) if exported.is_whisper(model) else (0, 1)
        given = torch.from_numpy(exported.example(model))
        names = {"x": axes, "y": (0, 1)}
        exported.write_onnx(exported.module(model), (given,), path / "model.onnx", names)
        if case.bits == "8":
            exported.quantize_onnx(path / "model.onnx")

    def open(self, case: Case, path: Path) -> Session:
        """With as many threads as asked for."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        session = onnxruntime.InferenceSession(str(path / "model.onnx"), options)
        return exported.Exported(
            lambda x: session.run(None, {"x": x})[0], path, self.bits[case.bits]
        )
