"""The teacher of a distillation: a finished CTC model that gives targets for each frame."""

from __future__ import annotations

import torch
from torch import Tensor

from tynda.errors import TyndaError
from tynda.ops.torch import TorchOps
from tynda.store import library
from tynda.text.tokenizer import ENGLISH, CharTokenizer
from tynda.weights.weight import dequantize_all

__all__ = ["Teacher"]


class Teacher:
    """The model of a name or file, on ``device``.

    Raises `TyndaError` where there is no such model, or where it is not a CTC model whose symbols
    are English letters.
    """

    symbols = len(ENGLISH)

    def __init__(self, name: str, device: torch.device) -> None:
        model = library.load(name)
        tokenizer = model.tokenizer
        if not isinstance(tokenizer, CharTokenizer) or tokenizer.symbols != ENGLISH.symbols:
            raise TyndaError(f"{name} cannot teach: it does not write English letters by CTC")
        self.name, self.frontend = name, model.frontend
        self.frame = model.frontend.hop * model.config.stride
        """The number of samples for one frame of the output."""
        self._encode, self._config = model.family.programs["encode"], model.config
        self._weights = {
            k: torch.from_numpy(v).to(device) for k, v in dequantize_all(model.weights).items()
        }

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[batch, frames, symbols]`` and frames for its own features."""
        log_probs, frames = self._encode(TorchOps(), self._weights, self._config, features, lengths)
        return log_probs.float(), frames
