"""What engines share that run graphs exported from PyTorch, and have nothing else of their own.

A CTC model is one graph; Whisper is its encoder and the two of `whisper_graphs`. Features and text
come from transformers, as optimum's users get them.
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
from tynda.profiling.engines.transformers import companions, line, start_tokens
from tynda.sound.audio import SAMPLE_RATE

__all__ = [
    *("CONVERTERS", "CTC", "Graph", "Whisper"),
    *("decoder_names", "example", "graphs", "is_whisper", "keep_companions"),
    *("quantize_onnx", "write_onnx"),
]

Floats = NDArray[np.float32]
CONVERTERS = {"torch": "torch", "transformers": "transformers", "onnx": "onnx"}
"""As `Engine.converters`."""


class _Exported(Session):
    """A graph with its feature extractor and its tokenizer."""

    def __init__(self, run: Callable[[Floats], Floats], path: Path, kind: str) -> None:
        """``run``: what the encoder takes -> states or logits ``[batch, frames, n]``."""
        self.kind, self._run = kind, run
        self._front, self._tokenizer = companions(path)

    def frontend(self, samples: Floats) -> Floats:
        """That of transformers."""
        found = self._front(list(samples), sampling_rate=SAMPLE_RATE, return_tensors="np")
        features: Floats = found[self._front.model_input_names[0]]
        return np.ascontiguousarray(features, np.float32)

    def encoder(self, features: Floats) -> Floats:
        """The graph."""
        return self._run(features)


class CTC(_Exported):
    """Of any length."""

    def decoder(self, states: Floats, count: int) -> int:
        """The likeliest symbol of each frame."""
        self._tokenizer.batch_decode(states.argmax(-1))
        return 0

    def transcribe(self, samples: Floats) -> str:
        """The likeliest symbol of each frame."""
        logits = self._run(self.frontend(samples[None]))
        return line(self._tokenizer.batch_decode(logits.argmax(-1))[0])


class Whisper(_Exported):
    """Without the rules of transformers' ``generate`` about what may be said."""

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
        """Greedily, with keys and values remembered; never the end."""
        said = list(self._say(states, self._start, min(count, self._room), ends=False))
        self._text(said)
        return len(said)

    def transcribe(self, samples: Floats) -> str:
        """Window by window, in the language of the first."""
        start, found = None, []
        for part, _ in parts(samples[None], self.window, 0.0):
            states = self.encoder(self.frontend(part))
            start = start or self._detect(states)
            found.append(self._text(list(self._say(states, start, self.most))))
        return line(" ".join(found))

    def _detect(self, states: Floats) -> list[int]:
        """The start for the likeliest language, where the model knows several."""
        sot, *rest = self._start
        if len(rest) == 1:
            return self._start
        self._decoder.begin(states)
        logits = self._decoder.advance(np.array([[sot]]))[0]
        ending: int = self._tokenizer.convert_tokens_to_ids("<|translate|>")
        return [sot, sot + 1 + int(logits[sot + 1 : ending].argmax()), *rest[1:]]

    def _say(
        self, states: Floats, start: list[int], count: int, ends: bool = True
    ) -> Iterator[Any]:
        """Tokens ``[batch, 1]``, so many at the most; all of the batch end where the first does."""
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


def is_whisper(path: Path) -> bool:
    """Whether a folder has Whisper's settings."""
    return read_json(path / "config.json").get("model_type") == "whisper"


def keep_companions(model: Path, path: Path) -> None:
    """Write to ``path`` what of a model's folder is needed beside the graph."""
    from transformers import AutoConfig

    for part in (*companions(model), AutoConfig.from_pretrained(model)):
        part.save_pretrained(path)


class Graph(NamedTuple):
    """A module of PyTorch's, and what describes the graph that it becomes."""

    module: Any
    given: tuple[Any, ...]
    """An example."""
    names: dict[str, tuple[int, ...]]
    """Of what it is given, then of what it gives, each with the axes that may have any length."""


def graphs(model: Path) -> dict[str, Graph]:
    """By the name of the file, without its ending."""
    import torch
    from transformers import AutoModelForCTC, WhisperForConditionalGeneration

    class First(torch.nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, x: Any) -> Any:
            return self.whole(x)[0]

    torch.set_grad_enabled(False)
    x = torch.from_numpy(example(model))
    if not is_whisper(model):
        whole = AutoModelForCTC.from_pretrained(model).eval()
        return {"model": Graph(First(whole), (x,), {"x": (0, 1), "y": (0, 1)})}
    kind: Any = WhisperForConditionalGeneration
    whole = kind.from_pretrained(model).eval()
    encoder, hear, advance = First(whole.get_encoder()), *whisper_graphs.modules(whole)
    states, names = encoder(x), decoder_names(model)
    heard, tokens = hear(states), torch.ones(1, 2, dtype=torch.int64)
    past = tuple(y[:, :, :3] for y in heard)
    every, grows = (0,), (0, 2)

    def axes(some: Sequence[str], which: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(some, which)

    sound, before = axes(names.heard, every), axes(names.past, grows)
    after = axes(["logits"], every) | axes(names.present, grows)
    return {
        "model": Graph(encoder, (x,), axes(["x", "y"], every)),
        "hear": Graph(hear, (states,), axes(["states"], every) | sound),
        "advance": Graph(
            advance, (tokens, *heard, *past), axes(["tokens"], (0, 1)) | sound | before | after
        ),
    }


def decoder_names(path: Path) -> whisper_graphs.Names:
    """Of keys and values, for the decoder of a folder."""
    return whisper_graphs.Names(read_json(path / "config.json")["decoder_layers"])


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
