"""Training of a network on the states of an alignment, by the cross-entropy of frames.

Source: Hinton et al. 2012, "Deep neural networks for acoustic modeling in speech recognition".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tynda.models.base import Family
from tynda.ops.torch import TorchOps, has_bfloat16
from tynda.train.augment import mask_spectrum
from tynda.train.recipe import Augment, Optimizer, Rounding
from tynda.train.rounding import Rounder
from tynda.train.start import adam, initial_weights, learning_rate
from tynda.weights.weight import Weight, floats

__all__ = ["Example", "log_priors", "train", "without_priors"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

Example = Sequence[tuple[Floats, Integers]]
"""Views of an utterance, such as other speeds: features ``[frames, bins]`` and the state of each
frame ``[frames]``."""

_IGNORED = -100
"""The label of padding."""


def train(
    model: tuple[Family, Any],
    examples: Sequence[Example],
    optimizer: Optimizer,
    augment: Augment,
    batch_frames: int,
    start: Mapping[str, Tensor | Floats] | None = None,
    rounding: Rounding | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Floats | Weight]:
    """Return the weights of a network that tells states apart.

    ``model`` is the family and its config. In each epoch, a view of each example is drawn, and
    masked as ``augment`` says; a batch has up to ``batch_frames``. ``start`` are weights to begin
    with; the others are random. The running average of the weights is returned, where ``rounding``
    says so in few bits.
    """
    torch.manual_seed(optimizer.seed)
    rng = np.random.default_rng(optimizer.seed)
    family, config = model
    specs = family.specs(config)
    rounder = Rounder(rounding, specs) if rounding else None
    weights = initial_weights(specs, optimizer.seed)
    weights |= {name: torch.as_tensor(w).clone() for name, w in (start or {}).items()}
    factors = rounder.factors if rounder else {}
    weights |= factors
    averages = {name: w.clone() for name, w in weights.items()}
    trained = {n: w for n, w in weights.items() if n in factors or specs[n].trainable}
    for w in trained.values():
        w.requires_grad_()
    bf16 = optimizer.precision == "bf16" and has_bfloat16("cpu")
    descent = adam(trained, specs, optimizer)
    lengths = [len(views[0][0]) for views in examples]
    steps = optimizer.epochs * len(_batches(lengths, batch_frames, np.random.default_rng(0)))
    step = 0
    for epoch in range(optimizer.epochs):
        total, right, frames = 0.0, 0, 0
        for batch in _batches(lengths, batch_frames, rng):
            for group in descent.param_groups:
                group["lr"] = learning_rate(step, steps, optimizer)
            chosen = [examples[i][int(rng.integers(len(examples[i])))] for i in batch]
            masked = [(mask_spectrum(x, augment, rng), states) for x, states in chosen]
            features, sizes, labels = _collate(masked, config.stride)
            encode = family.programs["encode"]
            used = rounder(weights, rounder.grids[0]) if rounder else weights
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                log_probs = encode(TorchOps(training=True), used, config, features, sizes)[0]
            log_probs = log_probs.flatten(0, 1)
            loss = F.nll_loss(log_probs, labels, ignore_index=_IGNORED)
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained.values(), optimizer.clip)
            descent.step()
            step += 1
            decay = min(optimizer.average, step / (step + 10))
            with torch.no_grad():
                for name, weight in trained.items():
                    averages[name].lerp_(weight, 1 - decay)
                counted = labels != _IGNORED
                right += int((log_probs.argmax(-1) == labels)[counted].sum())
            frames += int(counted.sum())
            total += float(loss.detach()) * int(counted.sum())
        report(
            f"epoch {epoch + 1} of {optimizer.epochs}: cross-entropy {total / frames:.3f}, "
            f"states right {right / frames:.3f}"
        )
    found: dict[str, Floats | Weight] = {name: averages[name].numpy() for name in specs}
    if rounder:
        found.update(rounder.coded(averages, rounder.grids[0]))
    return found


def without_priors(
    weights: Mapping[str, Floats | Weight], log_priors: Floats
) -> dict[str, Floats | Weight]:
    """Return weights whose outputs are as if all states were equally frequent.

    The logarithm of its frequency is taken from each state's bias: by Bayes' rule, the rest is its
    log-likelihood, up to a number that is the same for all states of a frame (Bourlard & Morgan
    1994, "Connectionist speech recognition").
    """
    return {**weights, "head.bias": floats(weights["head.bias"]) - log_priors}


def log_priors(paths: Iterable[Integers], states: int) -> Floats:
    """Return the logarithm of the frequency of each state ``[states]`` in alignments."""
    counts = np.bincount(np.concatenate([*paths]), minlength=states) + 1.0
    found: Floats = np.log(counts / counts.sum()).astype(np.float32)
    return found


def _batches(lengths: Sequence[int], frames: int, rng: np.random.Generator) -> list[list[int]]:
    """Return utterances of similar length in batches of so many frames, in random order."""
    noisy = np.array(lengths) * rng.uniform(0.9, 1.1, len(lengths))
    batches: list[list[int]] = [[]]
    longest = 0
    for i in np.argsort(noisy).tolist():
        longest = max(longest, lengths[i])
        if batches[-1] and longest * (len(batches[-1]) + 1) > frames:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return [batches[i] for i in rng.permutation(len(batches))]


def _collate(
    chosen: Sequence[tuple[Floats, Integers]], stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features ``[batch, frames, bins]``, their lengths, and the labels of all output
    frames, one after the other."""
    frames = max(len(features) for features, _ in chosen)
    frames += -frames % stride
    values = np.zeros((len(chosen), frames, chosen[0][0].shape[1]), np.float32)
    labels = np.full((len(chosen), frames // stride), _IGNORED, np.int64)
    for row, label, (features, states) in zip(values, labels, chosen, strict=True):
        row[: len(features)] = features
        label[: -(-len(states) // stride)] = states[::stride]
    sizes = torch.tensor([len(features) for features, _ in chosen])
    return torch.from_numpy(values), sizes, torch.from_numpy(labels).flatten()
