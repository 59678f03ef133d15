"""The engines by name; each library has one file."""

from __future__ import annotations

from importlib import import_module

from tynda.errors import TyndaError
from tynda.profiling.engines.base import Engine

__all__ = ["ENGINES", "engine"]

ENGINES = {
    "tynda": ("tynda", "Native"),
    "tynda-numpy": ("tynda", "Numpy"),
    "transformers": ("transformers", "Transformers"),
    "faster-whisper": ("faster_whisper", "FasterWhisper"),
    "whisper.cpp": ("whisper_cpp", "WhisperCpp"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "openvino": ("openvino", "OpenVino"),
    "sherpa-onnx": ("sherpa_onnx", "SherpaOnnx"),
}
"""Name -> module in this package, and class."""


def engine(name: str) -> Engine:
    """Return an engine. Raises `TyndaError` for a name that is not in `ENGINES`."""
    if name not in ENGINES:
        raise TyndaError(f"no engine {name!r}: choose one of {', '.join(ENGINES)}")
    module, kind = ENGINES[name]
    found: Engine = getattr(import_module(f"tynda.profiling.engines.{module}"), kind)()
    return found
