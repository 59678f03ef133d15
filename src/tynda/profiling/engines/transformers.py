"""The engine PyTorch, through Hugging Face's transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.profiling.case import Case
from tynda.profiling.engines.base import Engine, Session
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["Transformers", "companions", "has_decoder", "line", "start_tokens"]

Floats = NDArray[np.float32]


class Transformers(Engine):
    """transformers, with its own front ends, models and tokenizers."""

    name = "transformers"
    bits: ClassVar = {"32": "float32", "16": "float16", "bf16": "bfloat16"}
    families = ("whisper", "wav2vec2")
    devices = ("cpu", "cuda")
    modules: ClassVar = {"torch": "torch", "transformers": "transformers"}

    def missing(self, case: Case) -> str | None:
        """See `Engine.missing`; for ``cuda`` PyTorch must find a GPU."""
        why = super().missing(case)
        if why is None and case.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                return "PyTorch finds no GPU: torch.cuda.is_available() is False"
        return why

    def load(self) -> None:
        """Import the classes by name: transformers imports them when they are first used."""
        from transformers import (  # noqa: F401
            AutoFeatureExtractor,
            AutoModelForCTC,
            AutoModelForSpeechSeq2Seq,
            AutoTokenizer,
        )

    def open(self, case: Case, path: Path) -> Session:
        """Load the model with the class that ``config.json`` names."""
        import torch
        from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

        torch.set_num_threads(case.threads)
        decodes = has_decoder(path)
        auto: Any = AutoModelForSpeechSeq2Seq if decodes else AutoModelForCTC
        model = auto.from_pretrained(path, dtype=getattr(torch, self.bits[case.bits]))
        model = model.to(case.device).eval()
        return (_Whisper if decodes else _CTC)(model, path, self.bits[case.bits])


class _Torch(Session):
    def __init__(self, model: Any, path: Path, kind: str) -> None:
        import torch

        torch.set_grad_enabled(False)
        self.kind, self._model, self._torch = kind, model, torch
        self._front, self._tokenizer = companions(path)

    def frontend(self, samples: Floats, **options: Any) -> Any:
        """Compute features on the CPU, then move them to the model's device."""
        features = self._front(
            list(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt", **options
        )
        return features.to(device=self._model.device, dtype=self._model.dtype)

    def memory(self) -> dict[str, int]:
        """Return the bytes of the parameters, and the GPU's peak."""
        found = {"weights": sum(x.nbytes for x in self._model.parameters())}
        if self._model.device.type == "cuda":
            found["gpu"] = int(self._torch.cuda.max_memory_allocated())
        return found

    def wait(self) -> None:
        """See `Session.wait`."""
        if self._model.device.type == "cuda":
            self._torch.cuda.synchronize()


class _Whisper(_Torch):
    """Whisper; the decoder is called token by token, without the rules of ``generate`` that
    suppress tokens and take additional time."""

    def __init__(self, model: Any, path: Path, kind: str) -> None:
        super().__init__(model, path, kind)
        self.window = float(self._front.n_samples / SAMPLE_RATE)
        self._start = start_tokens(self._tokenizer, model.config)

    def encoder(self, features: Any) -> Any:
        """Return the states ``[batch, frames, channels]``."""
        return self._model.get_encoder()(features.input_features)[0]

    def decoder(self, states: Any, count: int) -> int:
        """Decode greedily, with a KV cache; the end token is suppressed."""
        torch, model = self._torch, self._model
        count = min(count, model.config.max_target_positions - len(self._start))
        tokens = torch.tensor([self._start] * len(states), device=states.device)
        past, said = None, []
        for _ in range(count):
            out = model(
                encoder_outputs=(states,),
                decoder_input_ids=tokens,
                past_key_values=past,
                use_cache=True,
            )
            logits, past = out.logits[:, -1], out.past_key_values
            logits[:, model.config.eos_token_id] = -torch.inf
            tokens = logits.argmax(-1, keepdim=True)
            said.append(tokens)
        self._tokenizer.batch_decode(torch.cat(said, 1), skip_special_tokens=True)
        return len(said)

    def transcribe(self, samples: Floats) -> str:
        """Call ``generate``; audio longer than a window is decoded as its documentation shows."""
        long = len(samples) > self._front.n_samples
        options = {"truncation": False, "padding": "longest", "return_attention_mask": True}
        inputs = self.frontend(samples[None], **(options if long else {}))
        tokens = self._model.generate(**inputs, **({"return_timestamps": True} if long else {}))
        return line(self._tokenizer.batch_decode(tokens, skip_special_tokens=True)[0])


class _CTC(_Torch):
    def encoder(self, features: Any) -> Any:
        """Return the logits ``[batch, frames, symbols]``."""
        return self._model(**features).logits

    def decoder(self, states: Any, count: int) -> int:
        """Decode the most likely symbol of each frame."""
        self._text(states)
        return 0

    def transcribe(self, samples: Floats) -> str:
        """Decode the most likely symbol of each frame."""
        return line(self._text(self.encoder(self.frontend(samples[None])))[0])

    def _text(self, logits: Any) -> list[str]:
        found: list[str] = self._tokenizer.batch_decode(logits.argmax(-1))
        return found


def companions(path: Path) -> tuple[Any, Any]:
    """Return the feature extractor and the tokenizer of a folder."""
    import transformers

    kinds: tuple[Any, ...] = (transformers.AutoFeatureExtractor, transformers.AutoTokenizer)
    return kinds[0].from_pretrained(path), kinds[1].from_pretrained(path)


def has_decoder(path: Path) -> bool:
    """Return whether a folder has an encoder-decoder model, and not a CTC model."""
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(path).is_encoder_decoder)


def start_tokens(tokenizer: Any, config: Any) -> list[int]:
    """Return the start tokens with which Whisper transcribes English without timestamps."""
    names = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    if config.vocab_size < 51865:  # an English-only model has no tokens for language and task
        names = [names[0], names[-1]]
    found: list[int] = tokenizer.convert_tokens_to_ids(names)
    return found


def line(text: str) -> str:
    """Replace each run of whitespace by a single space."""
    return " ".join(text.split())
