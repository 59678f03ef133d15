"""A speaker embedding: a small Conformer, of which all blocks are pooled over time.

The source is Zhang et al. 2022, "MFA-Conformer: Multi-scale Feature Aggregation Conformer for
Automatic Speaker Verification": the outputs of all blocks stand side by side, are normalised, and
pooled with attention into one vector. The blocks are those of ``models/conformer.py``, so that
training can start from a recogniser of words (Cai et al. 2023, "Pretraining Conformer with ASR for
Speaker Verification"), which matters where the people to learn from are few.

Pooling gives the weighted mean and variance of each channel (Okabe et al. 2018, "Attentive
Statistics Pooling"), where each group of channels has its own weights (India et al. 2019, "Self
Multi-Head Attention for Speaker Recognition"). The variance enters as its inverse hyperbolic sine,
which grows like a logarithm.

Beside the blocks, the bins of the front end are pooled in the same way: the average spectrum of a
voice is known at once, where the people to learn from are too few to find it again behind a
recogniser's layers. The front end must therefore not remove it, as a normalisation of each
utterance does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tynda.models import conformer
from tynda.models.base import Family, Spec
from tynda.models.layers import Specs, check_voices, layer_norm, linear
from tynda.ops.base import Ops, T, Tap, Weights
from tynda.text.wordless import Wordless

__all__ = ["FAMILY", "Config", "encode", "specs", "statistics"]

_VARIANCE_SCALE = 10.0
"""Factor of a variance before its inverse hyperbolic sine; variances are at most about 1."""


@dataclass(frozen=True)
class Config(conformer.Config):
    """The dimensions of the model."""

    vocab: int = 128
    """Size of the embedding."""
    layers: int = 3
    stride: int = 8
    upsample: int = 1
    """There is one frame for each frame of the blocks."""
    pool_heads: int = 8
    """Number of groups of channels that are pooled with weights of their own."""
    pool_width: int = 16
    """Width of the keys of each group."""
    cohort: int = 1
    """Number of people of the training set whose embeddings the model file holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upsample != 1:
            raise ValueError("upsample is not 1: an embedding has no frames")
        for pooled in (self.bins, self.layers * self.channels):
            if pooled % self.pool_heads:
                raise ValueError(f"{pooled} channels do not divide into {self.pool_heads} groups")


def specs(config: Config) -> dict[str, Spec]:
    """Return the `Spec` of every tensor of the model, by name."""
    out, width = Specs(), config.layers * config.channels
    conformer.add_blocks(out, config)
    out.layer_norm("aggregate.norm", width)
    for pool, channels in (("bins", config.bins), ("pool", width)):
        out.linear(f"{pool}.keys", config.pool_heads * config.pool_width, channels)
        out[f"{pool}.query"] = Spec((1, config.pool_heads * config.pool_width))
    pooled = 2 * (width + config.bins)
    out.layer_norm("pooled.norm", pooled)
    out.linear("embedding", config.vocab, pooled)
    out.cohort(config.cohort, config.vocab)
    return out


def encode(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> T:
    """Return the embeddings ``[batch, size]`` of features ``[batch, frames, bins]``.

    ``lengths [batch]``, integers, are the numbers of frames of the items. The embeddings are not
    normalised.
    """
    x = linear(ops, weights, "embedding", statistics(ops, weights, config, features, lengths, tap))
    return ops.reshape(x, ops.shape(x)[0], config.vocab)


def statistics(
    ops: Ops[T],
    weights: Weights[T],
    config: Config,
    features: T,
    lengths: T,
    tap: Tap[T] | None = None,
) -> T:
    """Return the input of the last layer, ``[batch, 1, 2 (bins + layers * channels)]``."""
    bins = _pool(ops, weights, config, "bins", features, lengths)
    x, lengths = conformer.stem(ops, weights, config, features, lengths)
    together: T | None = None
    for i in range(config.layers):
        x = conformer.block(ops, weights, config, f"blocks.{i}", x, lengths)
        together = x if together is None else ops.concat(together, x)
        if tap is not None:
            tap(i, x)
    assert together is not None
    x = layer_norm(ops, weights, "aggregate.norm", together)
    x = ops.concat(_pool(ops, weights, config, "pool", x, lengths), bins)
    return layer_norm(ops, weights, "pooled.norm", x)


def _pool(ops: Ops[T], weights: Weights[T], config: Config, name: str, x: T, lengths: T) -> T:
    """Return mean and variance ``[batch, 1, 2 channels]`` of ``x [batch, frames, channels]``."""
    keys = ops.tanh(linear(ops, weights, f"{name}.keys", x))
    first = ops.positions(ops.multiply_lengths(lengths, 0), 1)
    query = ops.embedding(first, weights[f"{name}.query"])
    heads = config.pool_heads
    mean = ops.attention(query, keys, x, heads=heads, lengths=lengths)
    squares = ops.attention(query, keys, _square(ops, x), heads=heads, lengths=lengths)
    variance = ops.add(squares, ops.scale(_square(ops, mean), -1.0))
    return ops.concat(mean, ops.asinh(ops.scale(variance, _VARIANCE_SCALE)))


def _square(ops: Ops[T], x: T) -> T:
    """Return the square of each element: x² sigmoid(x) + x² sigmoid(-x)."""
    opposite = ops.scale(x, -1.0)
    return ops.add(ops.swiglu(ops.concat(x, x)), ops.swiglu(ops.concat(opposite, opposite)))


FAMILY = Family(
    name="mfa_conformer",
    config=Config,
    specs=specs,
    head="embedding",
    programs={"encode": encode, "statistics": statistics},
    tokenizer=Wordless.from_dict,
    check=check_voices,
    same_tensors=("conformer",),
)
