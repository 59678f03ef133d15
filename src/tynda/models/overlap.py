"""How many people speak in each frame: a small Conformer with three outputs.

The outputs are nobody, one person, and several at once, as in Bullock et al. 2020,
"Overlap-Aware Diarization: Resegmentation Using Neural End-to-End Overlapped Speech Detection",
whose network is recurrent. The blocks are those of ``models/conformer.py``, so that training can
start from a recogniser of words.
"""

from __future__ import annotations

from dataclasses import dataclass

from tynda.models import conformer
from tynda.models.base import Family
from tynda.models.conformer import specs
from tynda.models.layers import check_voices
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.text.wordless import Wordless

__all__ = ["FAMILY", "SEVERAL", "Config", "encode", "specs"]

SEVERAL = 2
"""The output for several people; 0 is that for nobody, and 1 that for one person."""


@dataclass(frozen=True)
class Config(conformer.Config):
    """The dimensions of the model."""

    vocab: int = 3
    """Number of outputs."""
    layers: int = 2
    stride: int = 8
    upsample: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab != SEVERAL + 1:
            raise ValueError(f"vocab is not {SEVERAL + 1}: nobody, one person, several")


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> T:
    """Return log-probabilities ``[batch, frames / stride, 3]`` of ``[batch, frames, bins]``.

    ``lengths [batch]``, integers, are the numbers of frames of the items. Frames past the end of
    an item have no meaning.
    """
    return conformer.encode(ops, weights, config, features, lengths, tap)[0]


FAMILY = Family(
    name="overlap",
    config=Config,
    specs=specs,
    head="overlap",
    programs={"encode": encode},
    tokenizer=Wordless.from_dict,
    check=check_voices,
    same_tensors=("conformer", "mfa_conformer"),
)
