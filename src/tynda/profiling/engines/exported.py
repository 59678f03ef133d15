"""What engines share that run a graph exported from PyTorch, and have nothing else of their own.

Such a graph is Whisper's encoder, or the whole of a CTC model. Features and text come from
transformers, as optimum's users get them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.audio import SAMPLE_RATE
from tynda.files import read_json
from tynda.profiling.engines.base import Session
from tynda.profiling.engines.transformers import companions, line

__all__ = [
    "CONVERTERS",
    "Exported",
    "example",
    "is_whisper",
    "keep_companions",
    "module",
    "quantize_onnx",
    "write_onnx",
]

Floats = NDArray[np.float32]
CONVERTERS = {"torch": "torch", "transformers": "transformers", "onnx": "onnx"}
"""As `Engine.converters`."""


class Exported(Session):
    """A graph with its feature extractor and its tokenizer."""

    def __init__(self, run: Callable[[Floats], Floats], path: Path, kind: str) -> None:
        """``run``: what the encoder takes -> states or logits ``[batch, frames, n]``."""
        self.kind, self._run = kind, run
        self._front, self._tokenizer = companions(path)
        self.complete = not is_whisper(path)
        if not self.complete:
            self.window = float(self._front.n_samples / SAMPLE_RATE)

    def frontend(self, samples: Floats) -> Floats:
        """That of transformers."""
        found = self._front(list(samples), sampling_rate=SAMPLE_RATE, return_tensors="np")
        features: Floats = found[self._front.model_input_names[0]]
        return np.ascontiguousarray(features, np.float32)

    def encoder(self, features: Floats) -> Floats:
        """The graph."""
        return self._run(features)

    def decoder(self, states: Floats, count: int) -> int:
        """The likeliest symbol of each frame."""
        self._tokenizer.batch_decode(states.argmax(-1))
        return 0

    def transcribe(self, samples: Floats) -> str:
        """The likeliest symbol of each frame; no text comes of an encoder."""
        if not self.complete:
            raise NotImplementedError
        logits = self._run(self.frontend(samples[None]))
        return line(self._tokenizer.batch_decode(logits.argmax(-1))[0])


def is_whisper(path: Path) -> bool:
    """Whether a folder has Whisper's settings."""
    return read_json(path / "config.json").get("model_type") == "whisper"


def keep_companions(model: Path, path: Path) -> None:
    """Write to ``path`` what of a model's folder is needed beside the graph."""
    from transformers import AutoConfig

    for part in (*companions(model), AutoConfig.from_pretrained(model)):
        part.save_pretrained(path)


def module(model: Path) -> Any:
    """The network in PyTorch: one tensor in, one out."""
    import torch
    from transformers import AutoModelForCTC, WhisperForConditionalGeneration

    class First(torch.nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, x: Any) -> Any:
            return self.whole(x)[0]

    torch.set_grad_enabled(False)
    if is_whisper(model):
        return First(WhisperForConditionalGeneration.from_pretrained(model).get_encoder()).eval()
    return First(AutoModelForCTC.from_pretrained(model)).eval()


def example(model: Path, seed: int = 0) -> Floats:
    """Features of noise: a whole window of Whisper's, 5 s of a CTC model's."""
    front, _ = companions(model)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(5 * SAMPLE_RATE)
    found = front(noise.astype(np.float32), sampling_rate=SAMPLE_RATE, return_tensors="np")
    features: Floats = found[front.model_input_names[0]]
    return features.astype(np.float32)


def write_onnx(
    module: Any, given: tuple[Any, ...], path: Path, names: Mapping[str, Sequence[int]]
) -> None:
    """Write a module of PyTorch's. ``names`` are of what it is given, then of what it gives,
    each with the axes that may have any length."""
    import torch

    # PyTorch's new exporter needs one more library, and does not let a length be 1 and more.
    options: dict[str, Any] = {"dynamo": False, "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            given,
            str(path),
            input_names=list(names)[: len(given)],
            output_names=list(names)[len(given) :],
            dynamic_axes={name: {i: f"{name}_{i}" for i in axes} for name, axes in names.items()},
            **options,
        )


def quantize_onnx(path: Path) -> None:
    """Weights of products, and activations as they come, in 8 bits; of convolutions it would be
    slower."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.rename(path.with_name("whole.onnx"))
    only: dict[str, Any] = {"op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, **only)
    whole.unlink()
