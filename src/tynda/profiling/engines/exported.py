"""Shared code of engines that only run graphs exported from PyTorch.

A CTC model is one graph; Whisper is its encoder and the two graphs of `whisper_graphs`. Features
and text come from transformers, as for users of optimum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tynda.files import read_json
from tynda.profiling.engines import whisper_graphs
from tynda.profiling.engines.base import Session, parts
from tynda.profiling.engines.transformers import companions, has_decoder, line, start_tokens
from tynda.sound.audio import SAMPLE_RATE

__all__ = [
    *("CONVERTERS", "CTC", "Graph", "Whisper"),
    *("decoder_names", "example", "graphs", "keep_companions"),
    *("quantize_onnx", "write_onnx"),
]

Floats = NDArray[np.float32]
CONVERTERS = {"torch": "torch", "transformers": "transformers", "onnx": "onnx"}
"""The value of `Engine.converters` for these engines."""


class _Exported(Session):
    """A graph with its feature extractor and its tokenizer."""

    def __init__(self, run: Callable[[Floats], Floats], path: Path, kind: str) -> None:
        """``run`` maps the encoder's input to states or logits ``[batch, frames, n]``."""
        self.kind, self._run = kind, run
        self._front, self._tokenizer = companions(path)

    def frontend(self, samples: Floats) -> Floats:
        """Compute features with transformers."""
        found = self._front(list(samples), sampling_rate=SAMPLE_RATE, return_tensors="np")
        features: Floats = found[self._front.model_input_names[0]]
        return np.ascontiguousarray(features, np.float32)

    def encoder(self, features: Floats) -> Floats:
        """Run the graph."""
        return self._run(features)


class CTC(_Exported):
    """A CTC model, for recordings of any length."""

    def decoder(self, states: Floats, count: int) -> int:
        """Decode the most likely symbol of each frame."""
        self._tokenizer.batch_decode(states.argmax(-1))
        return 0

    def transcribe(self, samples: Floats) -> str:
        """Decode the most likely symbol of each frame."""
        logits = self._run(self.frontend(samples[None]))
        return line(self._tokenizer.batch_decode(logits.argmax(-1))[0])


class Whisper(_Exported):
    """Whisper, without the rules of transformers' ``generate`` that suppress tokens."""

    def __init__(
        self,
        run: Callable[[Floats], Floats],
        decoder: whisper_graphs.Decoder,
        path: Path,
        kind: str,
    ) -> None:
        super().__init__(run, path, kind)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(path)
        self.window = float(self._front.n_samples / SAMPLE_RATE)
        self._decoder, self._end = decoder, config.eos_token_id
        self._start = start_tokens(self._tokenizer, config)
        self._room = config.max_target_positions - len(self._start)

    def decoder(self, states: Floats, count: int) -> int:
        """Decode greedily, with a KV cache; the end token is suppressed."""
        said = list(self._generate(states, self._start, min(count, self._room), ends=False))
        self._text(said)
        return len(said)

    def transcribe(self, samples: Floats) -> str:
        """Decode window by window, in the language of the first."""
        start, found = None, []
        for part, _ in parts(samples[None], self.window, 0.0):
            states = self.encoder(self.frontend(part))
            start = start or self._detect(states)
            found.append(self._text(list(self._generate(states, start, self.max_tokens))))
        return line(" ".join(found))

    def _detect(self, states: Floats) -> list[int]:
        """Return the start tokens for the most likely language, where the model has several."""
        sot, *rest = self._start
        if len(rest) == 1:
            return self._start
        self._decoder.begin(states)
        logits = self._decoder.advance(np.array([[sot]]))[0]
        ending: int = self._tokenizer.convert_tokens_to_ids("<|translate|>")
        return [sot, sot + 1 + int(logits[sot + 1 : ending].argmax()), *rest[1:]]

    def _generate(
        self, states: Floats, start: list[int], count: int, ends: bool = True
    ) -> Iterator[Any]:
        """Yield at most ``count`` tokens ``[batch, 1]``; the whole batch ends with the first."""
        self._decoder.begin(states)
        tokens = np.array([start] * len(states))
        for _ in range(count):
            logits = self._decoder.advance(tokens)
            if not ends:
                logits[:, self._end] = -np.inf
            tokens = logits.argmax(-1)[:, None]
            if ends and tokens[0, 0] == self._end:
                return
            yield tokens

    def _text(self, said: list[Any]) -> str:
        tokens = np.concatenate(said, 1) if said else np.zeros((1, 0), np.int64)
        found: str = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
        return found


def keep_companions(model: Path, path: Path) -> None:
    """Write to ``path`` the files of a model's folder that are needed in addition to the graph."""
    from transformers import AutoConfig

    for part in (*companions(model), AutoConfig.from_pretrained(model)):
        part.save_pretrained(path)


class Graph(NamedTuple):
    """A PyTorch module, and the description of the graph exported from it."""

    module: Any
    given: tuple[Any, ...]
    """Example inputs."""
    names: dict[str, tuple[int, ...]]
    """The names of inputs, then of outputs, each with its axes of variable length."""


def graphs(model: Path) -> dict[str, Graph]:
    """Return the graphs of a model by file name without suffix."""
    import torch
    from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

    class First(torch.nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, x: Any) -> Any:
            return self.whole(x)[0]

    torch.set_grad_enabled(False)
    x = torch.from_numpy(example(model))
    if not has_decoder(model):
        whole = AutoModelForCTC.from_pretrained(model, dtype=torch.float32).eval()
        return {"model": Graph(First(whole), (x,), {"x": (0, 1), "y": (0, 1)})}
    # Published weights are often in f16, which transformers would compute with.
    whole = AutoModelForSpeechSeq2Seq.from_pretrained(model, dtype=torch.float32).eval()
    encoder, cross, advance = First(whole.get_encoder()), *whisper_graphs.modules(whole)
    states, names = encoder(x), decoder_names(model)
    cross_kv, tokens = cross(states), torch.ones(1, 2, dtype=torch.int64)
    past = tuple(y[:, :, :3] for y in cross_kv)
    every, grows = (0,), (0, 2)

    def axes(some: Sequence[str], which: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(some, which)

    sound, before = axes(names.cross, every), axes(names.past, grows)
    after = axes(["logits"], every) | axes(names.present, grows)
    return {
        "model": Graph(encoder, (x,), axes(["x", "y"], every)),
        "cross_kv": Graph(cross, (states,), axes(["states"], every) | sound),
        "advance": Graph(
            advance, (tokens, *cross_kv, *past), axes(["tokens"], (0, 1)) | sound | before | after
        ),
    }


def decoder_names(path: Path) -> whisper_graphs.Names:
    """Return the names of keys and values for the decoder of a folder."""
    return whisper_graphs.Names(read_json(path / "config.json")["decoder_layers"])


def example(model: Path, seed: int = 0) -> Floats:
    """Return features of noise: a whole window for Whisper, 5 s for a CTC model."""
    front, _ = companions(model)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(5 * SAMPLE_RATE)
    found = front(noise.astype(np.float32), sampling_rate=SAMPLE_RATE, return_tensors="np")
    features: Floats = found[front.model_input_names[0]]
    return features.astype(np.float32)


def write_onnx(
    module: Any, given: tuple[Any, ...], path: Path, names: Mapping[str, Sequence[int]]
) -> None:
    """Write a PyTorch module as ONNX. ``names`` are those of inputs, then of outputs, each with
    its axes of variable length."""
    import torch

    # PyTorch's new exporter needs another library, and treats an axis of length 1 as fixed.
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
    """Quantise weights of matrix products, and activations dynamically, to 8 bits; quantised
    convolutions would be slower."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.rename(path.with_name("whole.onnx"))
    only: dict[str, Any] = {"op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, **only)
    whole.unlink()
