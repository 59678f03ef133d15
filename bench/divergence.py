"""How far files in few bits are from the model that they were made from, token by token.

    python bench/divergence.py MODEL MANIFEST FILE... [--utterances N]

The model in full precision writes its own text of each utterance, as it does when it is used. It
and each file are then made to follow that text, and the distributions of the next token held
against each other: the mean Kullback-Leibler divergence, in nats for each token, and how often
the likeliest token is another. It is finer than words, and needs no transcripts. Each file is run
with products in 32 bits (what its weights lose) and in 8 bits (what is lost in use). Words are
counted by ``bench/words_of_files.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from tynda.model import Model
from tynda.quantization.calibrate import Calibration
from tynda.store import library


def log_probabilities(calibration: Calibration, engine: Any, index: int) -> Any:
    scores = calibration.outputs(engine, index).astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(-1, keepdims=True))).astype(np.float32)


def divergence(calibration: Calibration, engine: Any, expected: list[Any]) -> tuple[float, float]:
    """Return nats for each token, and the share of tokens of which another is the likeliest."""
    nats, other = 0.0, 0
    for i, exact in enumerate(expected):
        found = log_probabilities(calibration, engine, i)
        nats += float((np.exp(exact) * (exact - found)).sum())
        other += int((exact.argmax(-1) != found.argmax(-1)).sum())
    tokens = sum(map(len, expected))
    return nats / tokens, other / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--utterances", type=int, default=56)
    args = parser.parse_args()
    checkpoint = library.load(args.model)
    calibration = Calibration(checkpoint, args.manifest, args.utterances)
    own = Model(checkpoint, bits=32).head.engine
    expected = [log_probabilities(calibration, own, i) for i in range(len(calibration.inputs))]
    print(f"{len(calibration.inputs)} utterances, {sum(map(len, expected))} tokens")
    for name in args.files:
        cells = [f"{Path(name).name} {Path(name).stat().st_size / 1e6:.2f} MB"]
        for bits in (32, 8):
            engine = Model(library.load(name), bits=bits).head.engine
            nats, other = divergence(calibration, engine, expected)
            cells.append(f"products in {bits}: {nats:.4f} nats, {other:.2%} other")
        print("; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
